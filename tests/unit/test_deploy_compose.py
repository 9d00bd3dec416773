"""compose.yaml: what a person starts on one machine, without opening it to the neighbours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.catalogue import metrics
from config.settings import Settings
from deploy.cli.root import COMMANDS
from deploy.monitoring import objectives
from tests.deploy_files import (
    DEPLOY,
    PROCESSES,
    PROJECT,
    compose,
    compose_text,
    compose_variables,
    make_secrets,
    run_tool,
    seconds,
    settings_of,
)
from workers.runtime.redispatcher import CLAIMS_OLDER_MS

FILE = compose()
SERVICES: dict[str, Any] = FILE["services"]
OURS = {name: one for name, one in SERVICES.items() if "build" in one}
ENDING = {"migrate", "operator"}  # run to their end
WITHOUT_VALKEY = {"migrate", "relay"}
LASTING = sorted(set(SERVICES) - ENDING)
CLOSING_S = 10  # what a process of ours takes beyond its drain


def test_the_schema_of_compose_allows_it() -> None:
    done = run_tool(
        "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml"
    )
    assert done.returncode == 0, done.stdout


def test_the_yaml_is_tidy() -> None:
    rules = "{extends: default, rules: {line-length: {max: 104}}}"
    done = run_tool("yamllint", "--strict", "-d", rules, DEPLOY / "compose.yaml")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_ports_are_published_on_loopback_only(name: str) -> None:
    assert [port for port in SERVICES[name].get("ports", []) if "127.0.0.1:" not in port[:10]] == []


def test_only_who_needs_it_reaches_the_world() -> None:
    """The servers are on a network without a way in or out."""
    assert FILE["networks"]["inside"] == {"internal": True}
    outside = {name for name, one in SERVICES.items() if "outside" in one["networks"]}
    published = {name for name, one in SERVICES.items() if "ports" in one}
    assert outside == published | {"relay"}
    assert "postgres" not in outside
    assert "valkey" not in outside


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_bounded(name: str) -> None:
    """Memory, processes and logs: none of them takes the machine from the others."""
    service = SERVICES[name]
    limits = service["deploy"]["resources"]["limits"]
    assert re.fullmatch(r"\d+[mg]", limits["memory"])
    assert limits["pids"] > 0
    assert service["logging"]["options"] == {"max-size": "20m", "max-file": "5"}


@pytest.mark.parametrize("name", LASTING)
def test_every_service_that_lasts_is_looked_after(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert seconds(check["timeout"]) <= seconds(check["interval"])
    assert SERVICES[name]["restart"] == "unless-stopped"
    assert seconds(SERVICES[name]["stop_grace_period"]) >= 5


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_image_is_pinned_to_a_version(name: str) -> None:
    assert re.search(r":v?\d+\.\d+\.\d+|:\d+\.\d+-", SERVICES[name]["image"])


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_processes_can_do_little(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service["image"] == f"tidegate:{PROJECT['version']}"


def test_every_process_of_ours_is_there() -> None:
    assert set(OURS) == {*PROCESSES, *ENDING}
    for name in PROCESSES:
        assert OURS[name]["command"] == [name]
    assert {word for one in OURS.values() for word in one["command"]} <= set(COMMANDS)


def test_what_a_person_did_not_ask_for_is_behind_a_profile() -> None:
    profiles = {name: one["profiles"] for name, one in SERVICES.items() if "profiles" in one}
    assert profiles == {
        "exporter": ["monitoring"],
        "operator": ["operator"],
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
        "toxiproxy": ["chaos"],
    }


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_secrets(tmp_path_factory.mktemp("made") / "secrets")


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_processes_take_their_settings(name: str, secrets: Path) -> None:
    """Each variable is one of ours, each secret a file that the service is given."""
    environ = OURS[name]["environment"]
    settings = settings_of(environ, secrets)
    owner = name in ENDING
    login = "tidegate" if owner else "tidegate_app"
    assert settings.postgres.dsn.startswith(f"postgresql://{login}:")
    if name not in WITHOUT_VALKEY:
        assert settings.valkey.url.startswith(f"redis://tidegate-{name}:")
    assert len(settings.secrets.master) == 64
    files = {Path(value).name for key, value in environ.items() if key.endswith("_FILE")}
    assert files == set(OURS[name]["secrets"])


@pytest.mark.parametrize("name", PROCESSES)
def test_metrics_are_shown_where_prometheus_looks(name: str, secrets: Path) -> None:
    section = getattr(settings_of(OURS[name]["environment"], secrets), name)
    assert (section.metrics_host, section.metrics_port) == ("0.0.0.0", 9100)


WATCHING = yaml.safe_load(FILE["configs"]["prometheus"]["content"])
MOUNTS = {
    name: dict(volume.removesuffix(":ro").split(":") for volume in SERVICES[name]["volumes"])
    for name in ("prometheus", "grafana")
}


def test_prometheus_looks_at_every_process() -> None:
    """Every replica of each, under the job that rules and dashboards go by."""
    looked_at = {}
    for job in WATCHING["scrape_configs"]:
        (place,) = job["dns_sd_configs"]
        looked_at[job["job_name"]] = (place["names"], place["port"])
    assert looked_at == {f"tidegate-{name}": ([name], 9100) for name in PROCESSES}


def test_prometheus_reads_as_it_does_beside_a_cluster_of_this_machine() -> None:
    """Intervals, rules and celery-exporter's job are those of monitoring/prometheus.yml."""
    shipped = yaml.safe_load((DEPLOY / "monitoring" / "prometheus.yml").read_text())
    assert WATCHING["global"] == shipped["global"]
    assert WATCHING["rule_files"] == shipped["rule_files"]
    (everything,) = shipped["scrape_configs"]
    for job in WATCHING["scrape_configs"]:
        source = job["job_name"].removeprefix("tidegate-")
        shows_celerys = any(
            one.name.startswith("celery_") for one in metrics().values() if one.source == source
        )
        relabelled = everything["metric_relabel_configs"] if shows_celerys else None
        assert job.get("metric_relabel_configs") == relabelled, source


def test_what_monitoring_reads_is_there() -> None:
    """Each folder is mounted where the configuration that is shipped with it looks for it."""
    reads = {
        "prometheus": ["rules", "alerts", "runbooks"],
        "grafana": ["provisioning", "dashboards"],
    }
    for name, folders in reads.items():
        here = [path for path in MOUNTS[name] if path.startswith("./")]
        assert [Path(path).name for path in here] == folders
        assert [path for path in here if not any((DEPLOY / path).iterdir())] == []
    (config,) = SERVICES["prometheus"]["configs"]
    for pattern in WATCHING["rule_files"]:
        folder = (Path(config["target"]).parent / pattern).parent
        assert str(folder) in MOUNTS["prometheus"].values()
    grafana = MOUNTS["grafana"]
    assert grafana["./monitoring/grafana/provisioning"] == "/etc/grafana/provisioning"
    environ = SERVICES["grafana"]["environment"]
    assert grafana["./monitoring/dashboards"] == environ["DASHBOARDS"]
    files = (DEPLOY / "monitoring" / "grafana").rglob("*.yaml")
    named = {name for file in files for name in re.findall(r"\$\{?([A-Z]\w*)", file.read_text())}
    assert named == {"DASHBOARDS", "PROMETHEUS_URL"}
    assert named <= set(environ)


def test_an_alerts_link_leads_to_its_runbook_on_this_host() -> None:
    """What objectives.toml writes into alerts is served by this Prometheus, at the published port."""
    given = dict(word.lstrip("-").split("=", 1) for word in SERVICES["prometheus"]["command"])
    assert given["web.user-assets"] == MOUNTS["prometheus"]["./runbooks"]
    (published,) = SERVICES["prometheus"]["ports"]
    assert given["web.external-url"] == f"http://{published.rpartition(':')[0]}"
    links = objectives.read(DEPLOY / "monitoring" / "objectives.toml").links
    assert links.runbooks == "{{ $externalURL }}/user"


def test_no_file_that_is_shipped_holds_a_secret() -> None:
    """A password in a variable would be in every listing of the container."""
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            spoken_of = re.search("PASSWORD|SECRET|DSN|VALKEY__URL|API_KEY", key)
            assert not spoken_of or value.startswith("/run/secrets/"), f"{name}: {key}"
    assert all(set(secret) == {"file"} for secret in FILE["secrets"].values())


def test_the_script_makes_every_secret(secrets: Path) -> None:
    for route in ("", "_chaos"):
        named = {Path(one["file"]).name for one in compose({"ROUTE": route})["secrets"].values()}
        assert named <= {path.name for path in secrets.iterdir()}


def test_secrets_are_closed_to_other_users_of_the_host_and_open_to_containers(
    secrets: Path,
) -> None:
    """Compose mounts a file as it is; nobody else may pass the folder above it."""
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in secrets.iterdir()} == {0o644}


def test_the_script_leaves_secrets_that_are_there(secrets: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    make_secrets(secrets)
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before


def test_git_knows_no_secret() -> None:
    named = ["deploy/secrets/master_key", "deploy/.env"]
    assert run_tool("git", "check-ignore", *named).stdout.split() == named


def test_the_example_names_every_variable_with_its_default() -> None:
    text = (DEPLOY / "compose.env.example").read_text()
    pairs = [line.split("=", 1) for line in text.splitlines() if re.match(r"\w+=", line)]
    assert {name: {value} for name, value in pairs} == compose_variables(compose_text())


def test_a_worker_is_given_more_time_than_any_batch_takes() -> None:
    longest_s = CLAIMS_OLDER_MS / 1_000
    assert seconds(SERVICES["worker"]["stop_grace_period"]) > longest_s + CLOSING_S


def test_the_api_is_given_time_to_drain(secrets: Path) -> None:
    settings = settings_of(OURS["api"]["environment"], secrets)
    grace_s = seconds(SERVICES["api"]["stop_grace_period"])
    assert grace_s >= settings.api.drain_timeout_s + 2 * CLOSING_S


def test_the_schema_is_there_before_any_process() -> None:
    for name in PROCESSES:
        after = SERVICES[name]["depends_on"]
        assert after["migrate"] == {"condition": "service_completed_successfully"}
        assert after["valkey"] == {"condition": "service_healthy"}
    assert SERVICES["migrate"]["depends_on"]["postgres"] == {"condition": "service_healthy"}


def test_the_servers_keep_what_was_promised() -> None:
    """What `tidegate doctor` asks of them is in their command lines."""
    postgres = SERVICES["postgres"]["command"]
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        assert f"{name}=on" in postgres
    valkey = " ".join(SERVICES["valkey"]["command"])
    assert "--maxmemory-policy noeviction" in valkey
    assert "--appendonly yes --appendfsync everysec" in valkey


def test_a_rewrite_of_the_append_only_file_fits_into_valkeys_memory() -> None:
    command = SERVICES["valkey"]["command"]
    memory_mb = int(command[command.index("--maxmemory") + 1].removesuffix("mb"))
    assert SERVICES["valkey"]["deploy"]["resources"]["limits"]["memory"] == "1g"
    assert 2 * memory_mb <= 1_024


def test_connections_of_all_processes_are_fewer_than_postgres_takes() -> None:
    from deploy.cli.examine import connections_needed

    beside_one_worker = connections_needed(Settings())
    more_workers = (SERVICES["worker"]["deploy"]["replicas"] - 1) * 2
    allowed = int(
        next(w for w in SERVICES["postgres"]["command"] if w.startswith("max_connections"))[16:]
    )
    assert beside_one_worker + more_workers < allowed
