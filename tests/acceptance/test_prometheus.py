"""`deploy/monitoring` works: a real Prometheus beside a real `tidegate dev`, through calm and overload.

Two of them, both with the shipped files. One is started by the command that deploy/monitoring/README.md
prints, at the pace that is shipped. The other is in a hurry, or the test would take hours: it scrapes
and evaluates once a second, and every span of rules and alerts (windows, offsets, `for`) is a
`FACTOR`-th, so that the half hour of TidegateSheddingLong is 15 s. Expressions, thresholds and names
are the shipped ones. The overload is real: PostgreSQL takes 20 ms longer for each order, and three
times as many buyers come as are served then.
"""

from __future__ import annotations

import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from deploy.embedded.ports import free_port
from deploy.monitoring.writing import HERE
from tests.dashboards import boards
from tests.dashboards.pace import hurried
from tests.dashboards.prometheus import Prometheus, running
from tests.dashboards.shop import DATA, Shop, opened

FACTOR = 120
CALM_PER_S, CROWD_PER_S, SLOW_MS = 15, 150, 20
ALERT = "TidegateSheddingLong"
Key = tuple[str, str, str]  # board, panel, legend

# What is rightly empty while all is well, and must show something in overload.
EMPTY_IN_CALM: dict[Key, str] = {
    ("overload", "Offered, let in, served", "bound while shedding"): "nothing is shed",
    ("overload", "Came back in time", "kept"): "nobody was given an appointment",
    ("overload", "Returning, admitted", "admitted"): "nobody was given an appointment",
}
# Likewise, but one busy moment is enough to know it: either is right in calm.
KNOWN_ONCE_BUSY: Key = ("overload", "Offered, let in, served", "service rate")
# What is rightly empty in both.
EMPTY_ALWAYS: dict[Key, str] = {
    ("pipeline", "Tasks", "{{name}} raised"): "none raised, and it is shown once it counted",
    ("dependencies", "Valkey's memory", "used"): "the embedded Valkey has no maxmemory",
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


@pytest.fixture(scope="module")
def program(tool: Callable[[str, str], str]) -> str:
    return tool("prometheus", "prometheus")


@pytest.fixture(scope="module")
def shop(program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A `tidegate dev` in a checkout of its own, with people before it."""
    checkout: Path = tmp_path_factory.mktemp("checkout")
    for part in ("monitoring", "runbooks"):
        shutil.copytree(HERE.parent / part, checkout / "deploy" / part)
    pace = {
        "TIDEGATE_WORKER__BATCH_MAX": "20",
        "TIDEGATE_EXPORTER__INTERVAL_MS": "1000",
    }
    with opened(checkout, **pace) as opens:
        opens.issue(4_000)
        with opens.visited(CALM_PER_S, "calm", 1_000):
            yield opens


def printed() -> list[list[str]]:
    """The commands that the README prints, from `tidegate dev` to dashboards."""
    (block,) = re.findall(r"```sh\n(.*?)```", (HERE / "README.md").read_text(), re.DOTALL)
    return [shlex.split(line) for line in block.splitlines()]


@pytest.fixture(scope="module")
def newcomers(shop: Shop) -> Iterator[Prometheus]:
    """The first two commands as printed; only the port is the test's own."""
    (tidegate, *arguments), prometheus, (*_, grafana) = printed()
    assert (tidegate, prometheus[0], "grafana" in grafana) == ("tidegate", "prometheus", True)
    shop.tidegate(*arguments)
    own = [one.replace("127.0.0.1:9090", f"127.0.0.1:{free_port()}") for one in prometheus]
    assert own != prometheus
    with running(own, shop.folder) as found:
        yield found


@pytest.fixture(scope="module")
def prometheus(
    newcomers: Prometheus, shop: Shop, program: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """The one in a hurry."""
    folder: Path = tmp_path_factory.mktemp("prometheus")
    config = hurried(FACTOR, folder, shop.folder / DATA / "scrape-targets.json")
    command = (
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{free_port()}",
        f"--web.user-assets={HERE.parent / 'runbooks'}",
        "--log.level=warn",
    )
    with running(command, folder) as found:
        yield found


def comes_to(ask: Callable[[], Any], wanted: Any, within_s: float) -> None:
    """Wait until it is so; what it was instead is told."""
    until = time.monotonic() + within_s
    while (told := ask()) != wanted and time.monotonic() < until:
        time.sleep(0.5)
    assert told == wanted


def health(prometheus: Prometheus) -> dict[str, str]:
    """How the scraping of each process goes."""
    return {one["labels"]["instance"]: one["health"] for one in prometheus.targets()}


def empty(prometheus: Prometheus) -> set[Key]:
    """The queries of all panels that return nothing."""
    return {
        (panel.board, panel.title, query.legend)
        for panel in boards.every()
        for query in panel.queries
        if not prometheus.now(boards.filled(query.expr, rate_s=4, range_s=60))
    }


def shipped() -> Iterator[str]:
    """The names of all rules and alerts."""
    for file in (*HERE.glob("rules/*.yaml"), *HERE.glob("alerts/*.yaml")):
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from (rule.get("alert") or rule["record"] for rule in group["rules"])


def test_every_rule_and_every_panel_has_data_while_all_is_well(
    prometheus: Prometheus, shop: Shop
) -> None:
    """But for what must have none; and all that runs is scraped."""
    comes_to(lambda: health(prometheus), dict.fromkeys(shop.where.metrics, "up"), 30)
    comes_to(lambda: {rule["health"] for rule in prometheus.rules()}, {"ok"}, 30)
    rightly = EMPTY_IN_CALM.keys() | EMPTY_ALWAYS.keys()
    comes_to(lambda: empty(prometheus) - {KNOWN_ONCE_BUSY}, rightly, 40)
    assert [rule["lastError"] for rule in prometheus.rules() if rule.get("lastError")] == []
    recorded = {rule["name"] for rule in prometheus.rules() if rule["type"] == "recording"}
    assert len(recorded) > 10
    assert [name for name in recorded if not prometheus.now(name)] == []
    assert ALERT not in prometheus.firing()


def test_the_commands_of_the_readme_lead_to_a_prometheus_that_scrapes_all(
    newcomers: Prometheus, shop: Shop
) -> None:
    """With every rule, and with the runbooks where the alerts point to."""
    comes_to(lambda: health(newcomers), dict.fromkeys(shop.where.metrics, "up"), 45)
    loaded = newcomers.rules()
    assert sorted(rule["name"] for rule in loaded) == sorted(shipped())
    pages = {rule["annotations"]["runbook_url"] for rule in loaded if rule["type"] == "alerting"}
    assert "{{ $externalURL }}/user/TidegateLevelClosed.md" in pages
    for page in pages:
        assert newcomers.status(page.removeprefix("{{ $externalURL }}")) == 200, page


def test_the_overload_alert_fires_in_overload_and_is_resolved_after_it(
    prometheus: Prometheus, shop: Shop
) -> None:
    """And the panels that were empty show what they are for."""
    with shop.slow(SLOW_MS), shop.visited(CROWD_PER_S, "crowd", 2_500, at_fault=True):
        comes_to(lambda: ALERT in prometheus.firing(), True, 60)
        page = prometheus.firing()[ALERT]["annotations"]["runbook_url"]
        assert prometheus.status(urlsplit(page).path) == 200, page
        comes_to(lambda: empty(prometheus), EMPTY_ALWAYS.keys(), 20)
    comes_to(lambda: ALERT in prometheus.firing(), False, 60)
