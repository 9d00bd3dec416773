"""The Helm chart: rendered by Helm's own code, held against Kubernetes' own schemas."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import yaml

from config.catalogue import metric
from config.settings import Settings
from tests.deploy_files import (
    CHART,
    DEPLOY,
    PROCESSES,
    PROJECT,
    Rendered,
    component_of,
    make_secrets,
    render,
    run_tool,
    settings_of,
)
from workers.runtime.redispatcher import CLAIMS_OLDER_MS

ALL_ON: dict[str, Any] = {
    "keda": {"enabled": True},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "operator": {"enabled": True},
    "secret": {"brokerUrl": "broker_url", "heartbeatKey": "heartbeat_key"},
    "image": {"repository": "registry.example/tidegate", "digest": "sha256:" + "0" * 64},
    "imagePullSecrets": [{"name": "registry"}],
    "settings": {"TIDEGATE_LOG__LEVEL": "debug"},
    "worker": {
        "podAnnotations": {"a": "b"},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "shop", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
    },
    "networkPolicy": {"apiFrom": [{"podSelector": {"matchLabels": {"app": "chat"}}}]},
}
WAYS = {"as it is": {}, "all on": ALL_ON}
CUSTOM = ("ScaledObject", "PodMonitor")  # Kubernetes itself knows nothing of these
LOOPS = ("governor", "redispatcher", "relay", "exporter")
CLOSING_S = 10  # what a process of ours takes beyond its drain


@cache
def rendered(way: str) -> Rendered:
    return render(WAYS[way])


@pytest.fixture(params=sorted(WAYS))
def chart(request: pytest.FixtureRequest) -> Rendered:
    return rendered(request.param)


@pytest.fixture
def plain() -> Rendered:
    return rendered("as it is")


@pytest.fixture
def full() -> Rendered:
    return rendered("all on")


def environ_of(pod: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in pod["containers"][0]["env"]}


def matches(labels: dict[str, str], selector: dict[str, Any]) -> bool:
    return selector["matchLabels"].items() <= labels.items()


# What Helm and Kubernetes say ----------------------------------------------------------------------


def test_the_linter_has_nothing_to_say(chart: Rendered) -> None:
    """But that there is no icon."""
    assert chart.refused == ""
    assert chart.lint["errors"] == []
    assert [one["error"] for one in chart.lint["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("version", ["1.30", "1.33", "1.37"])
def test_kubernetes_takes_every_object(chart: Rendered, version: str) -> None:
    """Strictly: a misspelled field would be dropped in silence."""
    known = [one for one in chart.objects if one["kind"] not in CUSTOM]
    assert len(known) > 20
    for one in known:
        kubernetes_validate.validate(one, version, strict=True)


def test_the_values_are_tidy() -> None:
    rules = "{extends: default, rules: {line-length: {max: 104}, document-start: disable}}"
    done = run_tool(
        "yamllint", "--strict", "-d", rules, CHART / "values.yaml", CHART / "Chart.yaml"
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_names_are_given_once(chart: Rendered) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in chart.objects]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "values",
    [
        {"wroker": {}},
        {"worker": {"replica": 3}},
        {"worker": {"terminationGraceSeconds": 60}},
        {"api": {"preStopSeconds": 0}},
        {"api": {"resources": {"limits": {"memory": None}}}},
        {"settings": {"TIDEGATE_SECRETS__MASTER": "0123"}},
        {"settings": {"TIDEGATE_POSTGRES__DSN": "postgresql://u:p@h/d"}},
        {"settings": {"LOG_LEVEL": "info"}},
        {"image": {"digest": "latest"}},
    ],
)
def test_values_that_cannot_be_meant_are_refused(values: dict[str, Any]) -> None:
    """A misspelling, a grace shorter than a batch, no bound of memory, a secret."""
    assert "schema" in render(values).refused


def test_the_chart_is_of_the_projects_version(plain: Rendered) -> None:
    described = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert described["version"] == described["appVersion"] == PROJECT["version"]
    images = {pod["containers"][0]["image"] for _, pod in plain.pods()}
    assert images == {f"tidegate:{PROJECT['version']}"}


def test_a_digest_pins_the_image(full: Rendered) -> None:
    images = {pod["containers"][0]["image"] for _, pod in full.pods()}
    assert images == {"registry.example/tidegate@sha256:" + "0" * 64}


# Processes -----------------------------------------------------------------------------------------


def processes(chart: Rendered) -> list[dict[str, Any]]:
    """The Deployments of what serves."""
    return [one for one in chart.all("Deployment") if component_of(one) != "operator"]


def test_every_process_is_deployed(chart: Rendered) -> None:
    assert {component_of(one) for one in processes(chart)} == set(PROCESSES)
    for component, pod in chart.pods():
        if component != "operator":
            assert pod["containers"][0]["args"] == [component]


def test_the_operators_pod_is_there_on_request_and_does_nothing(
    plain: Rendered, full: Rendered
) -> None:
    assert len(plain.all("Deployment")) == len(PROCESSES)
    pod = full.of("Deployment", "operator")["spec"]["template"]["spec"]
    assert pod["containers"][0]["command"] == ["sleep", "infinity"]
    assert "args" not in pod["containers"][0]


def test_our_processes_take_their_settings(chart: Rendered, tmp_path: Path) -> None:
    secrets = make_secrets(tmp_path / "secrets")
    (secrets / "broker_url").write_text("amqps://u:p@rabbit/tidegate")
    (secrets / "valkey_url").write_text("rediss://tidegate:p@valkey:6379/0")
    for component, pod in chart.pods():
        settings = settings_of(environ_of(pod), secrets)
        container = pod["containers"][0]
        if component == "api":
            assert settings.api.host == "0.0.0.0"
            assert container["ports"][0] == {"name": "http", "containerPort": settings.api.port}
        if component in PROCESSES:
            section = getattr(settings, component)
            assert section.metrics_host == "0.0.0.0"
            assert container["ports"][-1] == {
                "name": "metrics",
                "containerPort": section.metrics_port,
            }


def test_no_pod_can_do_more_than_it_must(chart: Rendered) -> None:
    assert len(list(chart.pods())) >= len(PROCESSES) + 2
    for _, pod in chart.pods():
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == 10001
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert "cpu" not in container["resources"]["limits"]  # it would only add latency


# Secrets -------------------------------------------------------------------------------------------


def test_secrets_are_referred_to_never_made(chart: Rendered) -> None:
    assert chart.all("Secret") == []
    assert chart.all("ConfigMap") == []
    for _, pod in chart.pods():
        for name, value in environ_of(pod).items():
            if re.search("DSN|VALKEY__URL|BROKER__URL|SECRETS|API_KEY", name):
                assert name.endswith("_FILE"), name
                assert value.startswith("/run/secrets/tidegate/")


def test_a_pod_is_given_the_secrets_it_needs_and_no_other(chart: Rendered) -> None:
    for component, pod in chart.pods():
        (mounted,) = [one["secret"] for one in pod["volumes"] if "secret" in one]
        keys = {item["key"] for item in mounted["items"]}
        named = {value for name, value in environ_of(pod).items() if name.endswith("_FILE")}
        assert {f"/run/secrets/tidegate/{key}" for key in keys} == named
        assert ("postgres_owner_dsn" in keys) == (component not in PROCESSES)
        assert ("postgres_dsn" in keys) == (component in PROCESSES)
        assert mounted["secretName"] == "tidegate"
        assert mounted["defaultMode"] == 0o440


# Life and death ------------------------------------------------------------------------------------


def test_probes_ask_the_process_and_no_dependency(chart: Rendered) -> None:
    for one in processes(chart):
        (container,) = one["spec"]["template"]["spec"]["containers"]
        api = component_of(one) == "api"
        alive = (
            {"path": "/livez", "port": "http"} if api else {"path": "/metrics", "port": "metrics"}
        )
        ready = {"path": "/readyz", "port": "http"} if api else alive
        assert container["startupProbe"]["httpGet"] == alive
        assert container["livenessProbe"]["httpGet"] == alive
        assert container["readinessProbe"]["httpGet"] == ready
        lives = container["livenessProbe"]
        assert lives["periodSeconds"] * lives["failureThreshold"] >= 60, "a pause is no death"


def test_a_worker_is_given_more_time_than_any_batch_takes(chart: Rendered) -> None:
    pod = chart.of("Deployment", "worker")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > CLAIMS_OLDER_MS / 1_000 + CLOSING_S


@pytest.mark.parametrize(("pre_stop_s", "drain_s"), [(5, 10), (20, 60)])
def test_the_api_is_given_time_to_leave_rotation_and_to_drain(
    pre_stop_s: int, drain_s: int
) -> None:
    chart = render({"api": {"preStopSeconds": pre_stop_s, "drainSeconds": drain_s}})
    pod = chart.of("Deployment", "api")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["lifecycle"]["preStop"] == {"sleep": {"seconds": pre_stop_s}}
    assert environ_of(pod)["TIDEGATE_API__DRAIN_TIMEOUT_S"] == str(drain_s)
    assert pod["terminationGracePeriodSeconds"] >= pre_stop_s + drain_s + CLOSING_S


def test_an_update_takes_no_process_away_before_its_successor_is_ready(chart: Rendered) -> None:
    """But the exporter: two of it would be added up."""
    for one in processes(chart):
        strategy = one["spec"]["strategy"]
        if component_of(one) == "exporter":
            assert strategy == {"type": "Recreate"}
        else:
            assert strategy == {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def test_a_drained_node_takes_one_of_each_at_a_time(chart: Rendered) -> None:
    deployed = {
        component_of(one): one["spec"]["template"]["metadata"]["labels"] for one in processes(chart)
    }
    for budget in chart.all("PodDisruptionBudget"):
        selector = budget["spec"]["selector"]
        chosen = [name for name, labels in deployed.items() if matches(labels, selector)]
        assert chosen == [component_of(budget)]
        assert budget["spec"]["maxUnavailable"] == 1
    assert len(chart.all("PodDisruptionBudget")) == len(deployed)


def test_no_single_pod_carries_a_process_alone(plain: Rendered) -> None:
    """But the exporter: nobody waits for it."""
    replicas = {component_of(one): one["spec"]["replicas"] for one in plain.all("Deployment")}
    assert replicas == {name: 1 if name == "exporter" else 2 for name in PROCESSES}


def test_the_schema_comes_first_and_needs_nothing_of_the_chart(chart: Rendered) -> None:
    """A hook runs before the release's own objects are made."""
    job = chart.of("Job", "migrate")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = job["spec"]["template"]["spec"]
    assert "serviceAccountName" not in pod
    assert not any("configMap" in volume for volume in pod["volumes"])
    way_out = chart.of("NetworkPolicy", "migrate")["metadata"]["annotations"]
    assert way_out["helm.sh/hook"] == "pre-install,pre-upgrade"
    weight = "helm.sh/hook-weight"
    assert int(way_out[weight]) < int(job["metadata"]["annotations"][weight])


def test_migrations_can_be_left_to_another() -> None:
    chart = render({"migrate": {"enabled": False}})
    assert chart.refused == ""
    assert len(chart.all("Deployment")) == len(PROCESSES)
    assert chart.all("Job") == []


# Who may talk to whom ------------------------------------------------------------------------------


def test_every_pod_has_one_network_policy_for_both_ways(chart: Rendered) -> None:
    labels = {
        component_of(one): one["spec"]["template"]["metadata"]["labels"]
        for kind in ("Deployment", "Job")
        for one in chart.all(kind)
    }
    labels["doctor"] = chart.of("Pod", "doctor")["metadata"]["labels"]
    for component, own in labels.items():
        (policy,) = [
            one for one in chart.all("NetworkPolicy") if matches(own, one["spec"]["podSelector"])
        ]
        assert component_of(policy) == component
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def ports_out(chart: Rendered, component: str) -> set[int]:
    policy = chart.of("NetworkPolicy", component)["spec"]
    return {port["port"] for rule in policy["egress"] for port in rule["ports"]}


def test_only_the_relay_reaches_the_world(plain: Rendered, full: Rendered) -> None:
    servers = {53, 5432, 6379}
    for component in (*PROCESSES, "migrate", "doctor", "operator"):
        more = {"relay": {443}, "exporter": {8080}}.get(component, set())
        assert ports_out(plain, component) == servers | more
        assert ports_out(full, component) == servers | more | {5671}
    (world,) = [
        rule["to"][0]["ipBlock"]
        for rule in plain.of("NetworkPolicy", "relay")["spec"]["egress"]
        if "to" in rule
    ]
    assert {"10.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16"} <= set(world["except"])


def test_only_the_api_is_called_and_only_metrics_are_read(full: Rendered) -> None:
    for component in (*LOOPS, "worker"):
        (rule,) = full.of("NetworkPolicy", component)["spec"]["ingress"]
        assert rule["ports"] == [{"protocol": "TCP", "port": "metrics"}]
        assert rule["from"] == [
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
        ]
    called, _ = full.of("NetworkPolicy", "api")["spec"]["ingress"]
    chat, exporter = called["from"]
    assert chat == {"podSelector": {"matchLabels": {"app": "chat"}}}
    labels = full.of("Deployment", "exporter")["spec"]["template"]["metadata"]["labels"]
    assert matches(labels, exporter["podSelector"])
    for component in ("migrate", "doctor", "operator"):
        assert full.of("NetworkPolicy", component)["spec"]["ingress"] == []


def test_the_service_finds_the_api(chart: Rendered) -> None:
    (service,) = chart.all("Service")
    for one in chart.all("Deployment"):
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert matches(labels, {"matchLabels": service["spec"]["selector"]}) == (
            component_of(one) == "api"
        )


# Scaling and monitoring ----------------------------------------------------------------------------


def test_who_is_scaled_has_no_number_of_its_own(plain: Rendered, full: Rendered) -> None:
    """Each upgrade would set it back."""
    scaled = {component_of(one) for one in full.all("ScaledObject")}
    assert scaled == {"api", "worker"}
    for one in processes(full):
        assert ("replicas" in one["spec"]) == (component_of(one) not in scaled)
    for one in full.all("ScaledObject"):
        component = component_of(one)
        target = one["spec"]["scaleTargetRef"]["name"]
        assert target == full.of("Deployment", component)["metadata"]["name"]
        assert 2 <= one["spec"]["minReplicaCount"] < one["spec"]["maxReplicaCount"]
    assert plain.all("ScaledObject") == []


def triggers(full: Rendered) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in full.all("ScaledObject"):
        for trigger in one["spec"]["triggers"]:
            assert trigger["type"] == "prometheus"
            assert all(isinstance(value, str) for value in trigger["metadata"].values())
            yield component_of(one), trigger


def test_workers_are_scaled_on_age_and_in_flight_and_apis_on_rate(full: Rendered) -> None:
    """Age is no sum that more pods would share: it is held against its target as it is."""
    found = {
        (component, trigger["name"]): (
            trigger["metricType"],
            float(trigger["metadata"]["threshold"]),
        )
        for component, trigger in triggers(full)
    }
    target_s = Settings().governor.target_wait_ms / 1_000
    assert found == {
        ("worker", "oldest-age"): ("Value", target_s / 2),
        ("worker", "in-flight"): ("AverageValue", target_s * 1_000),
        ("api", "answers"): ("AverageValue", 3_000),
    }


def test_what_is_asked_of_prometheus_is_there_to_be_answered(full: Rendered) -> None:
    """Every name is in the catalogue; every series is this release's."""
    asked = {}
    for component, trigger in triggers(full):
        query = trigger["metadata"]["query"]
        promql_parser.parse(query)
        names = re.findall(r"\b(tidegate_\w+)\{namespace=\"orders\"\}", query)
        assert names
        assert query.count("tidegate_") == len(names)
        asked[component, trigger["name"]] = {metric(name).source for name in names}
        assert trigger["metadata"]["ignoreNullValues"] == "false"  # no answer is no calm
    assert asked == {
        ("worker", "oldest-age"): {"exporter"},
        ("worker", "in-flight"): {"governor"},
        ("api", "answers"): {"api"},
    }


def test_a_prometheus_of_this_deployment_alone_needs_no_namespace() -> None:
    chart = render({"keda": {"enabled": True, "matchNamespace": False}})
    assert chart.refused == ""
    scaled = list(triggers(chart))
    assert {component for component, _ in scaled} == {"api", "worker"}
    for _, trigger in scaled:
        query = trigger["metadata"]["query"]
        promql_parser.parse(query)
        assert "namespace" not in query


def test_without_figures_nothing_is_scaled_down(full: Rendered) -> None:
    scaled = full.all("ScaledObject")
    assert {component_of(one) for one in scaled} == {"api", "worker"}
    for one in scaled:
        fallback = one["spec"]["fallback"]
        assert fallback["replicas"] == one["spec"]["maxReplicaCount"]
        assert fallback["behavior"] == "currentReplicasIfHigher"


def test_prometheus_finds_every_process(full: Rendered) -> None:
    """By the name of its port."""
    (monitor,) = full.all("PodMonitor")
    places = monitor["spec"]["podMetricsEndpoints"]
    assert [place["port"] for place in places] == ["metrics"]
    assert {place["path"] for place in places} == {"/metrics"}
    for one in processes(full):
        template = one["spec"]["template"]
        assert matches(template["metadata"]["labels"], monitor["spec"]["selector"])
        (container,) = template["spec"]["containers"]
        assert [port["name"] for port in container["ports"]].count("metrics") == 1
        (allowed,) = [
            rule
            for rule in full.of("NetworkPolicy", component_of(one))["spec"]["ingress"]
            if any("namespaceSelector" in peer for peer in rule["from"])
        ]
        assert allowed["ports"] == [{"protocol": "TCP", "port": "metrics"}]


def test_pods_are_named_for_rules_and_dashboards_as_in_any_other_deployment(full: Rendered) -> None:
    """The PodMonitor gives each its job and instance, and celery-exporter's series their own job."""
    shipped = yaml.safe_load((DEPLOY / "monitoring" / "prometheus.yml").read_text())
    (beside_a_cluster,) = shipped["scrape_configs"]
    (monitor,) = full.all("PodMonitor")
    for place in monitor["spec"]["podMetricsEndpoints"]:
        for one in processes(full):
            meta = one["spec"]["template"]["metadata"]["labels"]
            given = {
                f"__meta_kubernetes_pod_label_{re.sub(r'[^a-zA-Z0-9]', '_', name)}": value
                for name, value in meta.items()
            } | {"__meta_kubernetes_pod_name": "shop-7d9f-x2"}
            told = {
                rule["targetLabel"]: rule.get("replacement", "$1").replace(
                    "$1", ";".join(given[label] for label in rule["sourceLabels"])
                )
                for rule in place["relabelings"]
            }
            assert told == {"job": f"tidegate-{component_of(one)}", "instance": "shop-7d9f-x2"}
        spelled = [
            {
                re.sub("[A-Z]", lambda c: f"_{c[0].lower()}", key): value
                for key, value in rule.items()
            }
            for rule in place["metricRelabelings"]
        ]
        assert spelled == beside_a_cluster["metric_relabel_configs"]
