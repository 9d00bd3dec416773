"""DEPLOY.md says what is so: its commands, files, variables and figures."""

from __future__ import annotations

import re

import pytest
import yaml

from config.settings import Settings
from config.sources import env_name, leaves
from deploy.cli.examine import _LOOP_CONNECTIONS, _SPARE_CONNECTIONS, connections_needed
from deploy.cli.root import COMMANDS
from tests.deploy_files import CHART, DEPLOY, PROCESSES, ROOT, SYSTEMD, compose

GUIDE = (DEPLOY / "DEPLOY.md").read_text()
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def test_every_command_it_names_exists() -> None:
    named = set(re.findall(r"`tidegate ([a-z]+)", GUIDE))
    named |= set(re.findall(r"(?:run --rm (?:--volume \S+ )?operator|-- tidegate) ([a-z]+)", SHELL))
    assert {"doctor", "audit", "campaign", *PROCESSES} <= named
    assert named <= set(COMMANDS)


def test_every_file_it_names_exists() -> None:
    named = set(re.findall(r"(?:deploy|config|workers|tests)/[\w./@-]*\w", GUIDE))
    named -= {"deploy/.env", "deploy/secrets/master_key"}  # made by whoever deploys
    named -= {"deploy/shop-tidegate-operator"}  # kubectl's word for a Deployment
    named -= {"deploy/monitoring"} if not (DEPLOY / "monitoring").exists() else set()
    assert [path for path in sorted(named) if not list(ROOT.glob(f"{path}*"))] == []


def test_every_variable_it_names_is_a_setting() -> None:
    known = {env_name(key) for key in leaves(Settings)}
    named = {name.removesuffix("_FILE") for name in re.findall(r"TIDEGATE_\w+", GUIDE)}
    assert named
    assert named <= known


def test_every_value_of_the_chart_it_names_exists() -> None:
    named = re.findall(r"`((?:networkPolicy|podMonitor|keda|operator)\.[\w.]+)", GUIDE)
    assert named
    for path in named:
        value = VALUES
        for part in path.split("."):
            value = value[part]


def test_every_service_it_speaks_to_exists() -> None:
    document = compose()
    spoken_to = set(re.findall(r"docker compose (?:exec|kill \S+ \S+) (\w+)", SHELL))
    assert spoken_to == {"toxiproxy", "worker"}
    assert spoken_to <= set(document["services"])


def test_every_unit_it_copies_or_starts_exists() -> None:
    named = re.findall(r"deploy/systemd/([\w.-]+)", SHELL)
    assert named
    for name in named:
        assert (SYSTEMD / name).exists()
    assert (SYSTEMD / "tidegate-migrate.service").exists()


@pytest.mark.parametrize(
    ("apis", "workers", "told"),
    [
        (VALUES["api"]["replicas"], VALUES["worker"]["replicas"], 33),
        (VALUES["keda"]["api"]["maxReplicas"], VALUES["keda"]["worker"]["maxReplicas"], 87),
    ],
)
def test_connections_are_counted_as_the_doctor_counts_them(
    apis: int, workers: int, told: int
) -> None:
    """As the chart has it: two of each loop, but one exporter with its one."""
    one_of_each = connections_needed(Settings()) - _SPARE_CONNECTIONS - _LOOP_CONNECTIONS
    worker = 2 * Settings().worker.concurrency
    counted = apis * (one_of_each - worker) + workers * worker + 2 * _LOOP_CONNECTIONS - 1
    assert counted == told
    assert f"= {told}" in GUIDE
