"""Rules, cases, configurations and every panel's query, read by Prometheus' own promtool."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.cli.scrape import target_groups
from deploy.monitoring import yaml_text
from deploy.monitoring.writing import HERE
from tests.deploy_files import compose

Tool = Callable[[str, str], str]

# What Grafana puts in place of its variables; the length of a span does not matter here.
GRAFANAS = {
    "$__rate_interval": "5m",
    "$__range": "1h",
    "$job": ".*",
    "$instance": ".*",
    "$campaign": ".*",
}


@pytest.fixture(scope="session")
def promtool(tool: Tool) -> Callable[..., str]:
    """Run promtool; return what it says, and fail where it is not content."""
    path = tool("promtool", "prometheus")

    def run(*arguments: object) -> str:
        done = subprocess.run(
            [path, *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_rules_are_rules(promtool: Callable[..., str]) -> None:
    """With every lint that there is."""
    files = [*(HERE / "rules").glob("*.yaml"), *(HERE / "alerts").glob("*.yaml")]
    assert len(files) == 4
    said = promtool("check", "rules", "--lint=all", "--lint-fatal", *files)
    assert said.count("SUCCESS") == len(files)


@pytest.mark.parametrize("file", sorted((HERE / "tests").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_alert_fires_when_it_should_and_only_then(
    promtool: Callable[..., str], file: Path
) -> None:
    """The cases of deploy/monitoring/tests, in simulated time."""
    assert "SUCCESS" in promtool("test", "rules", file)


def test_prometheus_takes_its_configuration_and_the_targets_of_a_cluster(
    promtool: Callable[..., str], tmp_path: Path
) -> None:
    """As shipped, and with a file as `tidegate scrape-targets` writes it."""
    promtool("check", "config", HERE / "prometheus.yml")
    targets = tmp_path / "targets.json"
    groups = target_groups({"api": "http://127.0.0.1:1/metrics", "relay": "https://h:2/own"})
    targets.write_text(json.dumps(groups))
    text = (HERE / "prometheus.yml").read_text()
    text = text.replace("../../.tidegate/scrape-targets.json", str(targets))
    own = tmp_path / "prometheus.yml"
    own.write_text(re.sub(r"- (rules|alerts)/", rf"- {HERE}/\1/", text))
    assert "SUCCESS: 4 rule files found" in promtool("check", "config", own)
    found: list[dict[str, dict[str, str]]] = []
    for timeout in ("1s", "30s"):  # all of it is waited for, and nearly always the first will do
        if len(found) < len(groups):
            asked = ("check", "service-discovery", f"--timeout={timeout}", own, "tidegate")
            found = json.loads(promtool(*asked))
    labels = [one["labels"] for one in found]
    assert {(one["job"], one["instance"], one["__address__"]) for one in labels} == {
        ("tidegate-api", "api", "127.0.0.1:1"),
        ("tidegate-relay", "relay", "h:2"),
    }
    assert {(one["__scheme__"], one["__metrics_path__"]) for one in labels} == {
        ("http", "/metrics"),
        ("https", "/own"),
    }


def test_prometheus_takes_the_configuration_of_compose(
    promtool: Callable[..., str], tmp_path: Path
) -> None:
    """With what is mounted beside it."""
    service, given = compose()["services"]["prometheus"], compose()["configs"]["prometheus"]
    own = tmp_path / Path(service["configs"][0]["target"]).name
    own.write_text(given["content"])
    for volume in service["volumes"]:
        source, target, *_ = volume.split(":")
        if source.startswith("./"):
            (tmp_path / Path(target).name).symlink_to(HERE.parent / source)
    assert "SUCCESS: 4 rule files found" in promtool("check", "config", own)


def test_every_panels_query_is_promql(promtool: Callable[..., str], tmp_path: Path) -> None:
    """Each as a recording rule of its own, so that promtool names the one it cannot read."""
    rules = []
    for path in sorted((HERE / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                expr = target["expr"]
                for variable, value in GRAFANAS.items():
                    expr = expr.replace(variable, value)
                assert "$" not in expr
                name = re.sub(r"\W+", "_", f"{path.stem}:{panel['title']}:{target['refId']}")
                rules.append({"record": name, "expr": expr})
    file = tmp_path / "panels.yaml"
    file.write_text(yaml_text.document({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", "--lint=none", file)
