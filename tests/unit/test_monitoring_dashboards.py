"""Dashboards: what Grafana's own linter asks for, of series that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import promql_reading
import pytest
import yaml
from test_monitoring_rules import RECORDED

from config.catalogue import metrics
from deploy.monitoring.writing import BOARDS, HERE

MODELS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted((HERE / "dashboards").glob("*.json"))
}
PANELS = [
    pytest.param(name, panel, id=f"{name}: {panel['title']}")
    for name, model in MODELS.items()
    for panel in model["panels"]
    if panel["type"] != "row"
]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
UNITS = {"s", "short", "none", "percentunit", "reqps", "bytes", "suffix: /s"}

each_board = pytest.mark.parametrize("name", MODELS)
each_panel = pytest.mark.parametrize(("name", "panel"), PANELS)


def variables(name: str) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in MODELS[name]["templating"]["list"]}


def test_there_is_a_board_for_each_question() -> None:
    """Five, linked to each other."""
    assert set(MODELS) == {"service", "overload", "pipeline", "campaign", "dependencies"}
    for name, model in MODELS.items():
        linked = {link["url"].removeprefix("/d/tidegate-") for link in model["links"]}
        assert linked == set(MODELS) - {name}
        assert model["description"].endswith("?")


@each_board
def test_a_board_has_its_variables_and_is_changed_in_its_source_only(name: str) -> None:
    """Data source, job and instance are the reader's choice; an id of its own lets alerts link here."""
    model = MODELS[name]
    assert model["uid"] == f"tidegate-{name}"
    assert model["editable"] is False
    assert variables(name)["datasource"]["type"] == "datasource"
    for one in set(variables(name)) - {"datasource"}:
        choice = variables(name)[one]
        assert choice["datasource"] == SOURCE
        assert choice["multi"]
        assert choice["includeAll"]
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", choice["definition"])
        assert asked
        assert promql_reading.faults(asked[1], RECORDED, set(variables(name))) == []


@each_panel
def test_a_panel_says_what_it_shows_and_in_which_unit(name: str, panel: dict[str, Any]) -> None:
    """Who is woken by an alert reads this for the first time."""
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == SOURCE
    assert panel["targets"]


@each_panel
def test_a_query_asks_only_for_what_processes_show(name: str, panel: dict[str, Any]) -> None:
    """Every name, label and value is in the catalogue, or recorded by a rule."""
    known = set(variables(name))
    for target in panel["targets"]:
        assert target["datasource"] == SOURCE
        assert promql_reading.faults(target["expr"], RECORDED, known) == []


@each_panel
def test_a_query_follows_the_readers_choice_of_job_and_instance(
    name: str, panel: dict[str, Any]
) -> None:
    """Except for what rules have put together already."""
    for target in panel["targets"]:
        for selector in promql_reading.selectors(target["expr"]):
            if selector.name not in RECORDED:
                chosen = {one.label: (one.operator, one.value) for one in selector.matchers}
                assert chosen["job"] == ("=~", "$job")
                assert chosen["instance"] == ("=~", "$instance")


@each_panel
def test_counters_are_shown_as_what_they_gain(name: str, panel: dict[str, Any]) -> None:
    """Over the interval that Grafana works out, or over all that is shown."""
    for target in panel["targets"]:
        expr = target["expr"]
        for selector in promql_reading.selectors(expr):
            metric = promql_reading.catalogued(selector.name)
            if metric is None or metric.kind == "gauge":
                continue
            named = re.findall(rf"(\w+)\({selector.name}\{{[^}}]*\}}\[(\S+?)\]\)", expr)
            assert named
            assert set(named) <= {("rate", "$__rate_interval"), ("increase", "$__range")}


@each_panel
def test_lines_of_one_panel_can_be_told_apart(name: str, panel: dict[str, Any]) -> None:
    """Each has a legend; those of several labels name a label."""
    legends = [target["legendFormat"] for target in panel["targets"]]
    assert "__auto" not in legends
    assert len(set(legends)) == len(legends)


@each_board
def test_panels_lie_beside_each_other_and_not_on_each_other(name: str) -> None:
    """Each place of the grid holds one panel at most, and ids are their own."""
    places: dict[tuple[int, int], str] = {}
    ids = [panel["id"] for panel in MODELS[name]["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in MODELS[name]["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert places.setdefault((x, y), panel["title"]) == panel["title"]


def test_every_metric_of_ours_is_shown_or_alerts() -> None:
    """A series that nobody looks at is not worth its bytes."""
    exprs = [
        t["expr"]
        for model in MODELS.values()
        for p in model["panels"]
        for t in p.get("targets", ())
    ]
    for file in [*(HERE / "rules").glob("*.yaml"), *(HERE / "alerts").glob("*.yaml")]:
        for group in yaml.safe_load(file.read_text())["groups"]:
            exprs += [rule["expr"] for rule in group["rules"]]
    asked = {selector.name for expr in exprs for selector in promql_reading.selectors(expr)}
    used = {metric.name for name in asked if (metric := promql_reading.catalogued(name))}
    # Of celery-exporter's own series some are there for its dashboards only.
    ours = {name for name in metrics() if name.startswith("tidegate_")}
    assert ours - used == set()


def test_grafana_is_given_the_boards_by_its_provisioning() -> None:
    """A folder of files, and a data source; where both are is said by the environment."""
    folder = HERE / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((folder / "dashboards" / "tidegate.yaml").read_text())["providers"]
    assert (provider["type"], provider["options"]["path"]) == ("file", "${DASHBOARDS}")
    (source,) = yaml.safe_load((folder / "datasources" / "tidegate.yaml").read_text())[
        "datasources"
    ]
    assert (source["type"], source["url"]) == ("prometheus", "${PROMETHEUS_URL}")
    scraped = yaml.safe_load((HERE / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped


def test_boards_are_those_of_the_tables() -> None:
    """Names of files, of boards and of the folder agree."""
    assert {board.name for board in BOARDS} == set(MODELS)
    assert all(Path(HERE / "dashboards" / f"{board.name}.json").exists() for board in BOARDS)
