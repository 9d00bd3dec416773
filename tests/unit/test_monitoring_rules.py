"""Rules and alerts: written from the objectives, of series that exist, each with what it needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import promql_reading
import pytest
import yaml

from config.catalogue import metric
from deploy.monitoring import objectives, recording, symptoms, yaml_text
from deploy.monitoring.alert import Alert
from deploy.monitoring.writing import BOARDS, HERE, alerts, files, write
from deploy.runbooks import page
from producer.answers import CALLERS_LIMITS

OBJECTIVES = objectives.read(HERE / "objectives.toml")
ALERTS = [alert for group in alerts(OBJECTIVES).values() for alert in group]
RULES: list[dict[str, Any]] = [
    rule
    for file in [*(HERE / "rules").glob("*.yaml"), *(HERE / "alerts").glob("*.yaml")]
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
DAYS_S = 86_400
SECONDS = {"m": 60, "h": 3_600, "d": DAYS_S}

each_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)


def cases() -> Iterator[dict[str, Any]]:
    """Yield every group of cases for promtool."""
    for file in sorted((HERE / "tests").glob("*.yaml")):
        yield from yaml.safe_load(file.read_text())["tests"]


def test_what_is_committed_is_what_is_generated() -> None:
    """After a change of the tables: `python -m deploy.monitoring`."""
    texts = files(OBJECTIVES)
    stale = [name for name, text in texts.items() if (HERE / name).read_text() != text]
    assert stale == []
    folders = {name.partition("/")[0] for name in texts}
    there = {str(f.relative_to(HERE)) for one in folders for f in (HERE / one).iterdir()}
    assert there == set(texts)


def test_own_objectives_are_written_to_a_folder_of_ones_own(tmp_path) -> None:
    """Only what changed is written; the second time nothing."""
    own = msgspec.structs.replace(
        OBJECTIVES, links=objectives.Links("https://wiki.test/runbooks", "https://grafana.test/d")
    )
    written = list(write(files(own), tmp_path))
    assert len(written) == len(files(own))
    text = (tmp_path / "alerts" / "causes.yaml").read_text()
    assert "https://wiki.test/runbooks/TidegatePostgresAway.md" in text
    assert "https://grafana.test/d/tidegate-dependencies" in text
    assert list(write(files(own), tmp_path)) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("record") or rule["alert"])
def test_a_rule_asks_only_for_what_processes_show(rule: dict[str, Any]) -> None:
    """Every name, label and value is in the catalogue, or recorded by another rule."""
    assert promql_reading.faults(rule["expr"], RECORDED) == []


@pytest.mark.parametrize(
    "expr",
    [
        "sum(rate(tidegate_sold_total[5m]))",
        'tidegate_intents_answered_total{answer="refused"}',
        'tidegate_intents_answered_total{reply="accepted"}',
        'tidegate_sojourn_seconds_bucket{le="3"}',
        "tidegate_sojourn_seconds",
        "sum by (user) (tidegate_level)",
        'tidegate_verdicts_total{verdict=~"level|load"}',
        'tidegate_level{job=~"$jobs"}',
    ],
)
def test_what_no_process_shows_is_found_out(expr: str) -> None:
    """The check of the test above: each of these would be an empty panel or a dead alert."""
    assert len(promql_reading.faults(expr, RECORDED, {"job"})) == 1


@each_alert
def test_an_alert_says_all_that_who_is_called_needs(alert: Alert) -> None:
    """Name, severity, role, one line, more lines, a page and a picture."""
    assert re.fullmatch(r"Tidegate([A-Z][a-z]+)+", alert.name)
    assert alert.summary.endswith(".")
    assert "{{" not in alert.summary  # it groups repeats, so it holds no figures
    assert alert.description.endswith(".")
    assert alert.dashboard in {board.name for board in BOARDS}
    for label in re.findall(r"\$labels\.(\w+)", alert.description):
        assert re.search(rf"\b{label}\b", alert.expr) or alert.expr.startswith("up{"), label


@each_alert
def test_an_alert_has_a_runbook_that_begins_with_its_summary(alert: Alert) -> None:
    """By its name."""
    assert page.read(alert.name).about == alert.summary


@each_alert
def test_an_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(alert: Alert) -> None:
    """promtool runs them, in tests/integration/test_promtool.py."""
    asked = re.compile(rf'alertname="{alert.name}"')
    fires, rests = [], []
    for case in cases():
        for one in case.get("promql_expr_test", ()):
            if asked.search(one["expr"]):
                (fires if one["exp_samples"] else rests).append(case["name"])
    assert fires
    assert rests


def test_cases_feed_what_processes_show() -> None:
    """A case of a series that nobody shows would prove nothing."""
    series = [one["series"] for case in cases() for one in case["input_series"]]
    assert [fault for one in series for fault in promql_reading.faults(one, RECORDED)] == []


def test_pages_are_few_and_mostly_what_users_feel() -> None:
    """Shedding is the system working; sold out is no trouble at all."""
    pages = {alert.name for alert in ALERTS if alert.severity == "page"}
    assert {alert.name for alert in ALERTS if alert.name in pages and alert.role == "cause"} == {
        "TidegatePostgresAway",
        "TidegateValkeyAway",
    }
    assert not {name for name in pages if "Shed" in name}
    assert not {alert.name for alert in ALERTS if "sold_out" in alert.expr}


def test_burn_rates_are_those_of_the_workbook() -> None:
    """2 % in an hour, 5 % in six: a page. 10 % in a day, 10 % in three: a ticket."""
    shares = {
        severity: [round(factor * seconds(long) / (30 * DAYS_S), 4) for factor, long, _ in windows]
        for severity, windows in (("page", symptoms.FAST), ("ticket", symptoms.SLOW))
    }
    assert shares == {"page": [0.02, 0.05], "ticket": [0.1, 0.1]}
    for _, long, short in (*symptoms.FAST, *symptoms.SLOW):
        assert seconds(short) * 12 == seconds(long)
        assert {long, short} <= {recording.SHORTEST, *recording.WINDOWS}


@pytest.mark.parametrize("one", OBJECTIVES.objectives, ids=lambda one: one.name)
def test_an_objective_says_in_words_what_it_says_in_numbers(one: objectives.Objective) -> None:
    """The promise begins with its target."""
    assert one.promise.startswith(f"{round(one.target * 100, 9):g} % of ")
    assert "$window" in one.bad
    assert "$window" in one.events


def test_every_verdict_is_the_callers_ours_or_a_business_one() -> None:
    """What load or a limit of ours refused is bad for `sheds`; a caller's own limit is not counted."""
    (sheds,) = [one for one in OBJECTIVES.objectives if one.name == "sheds"]
    bad = re.search(r'verdict=~"([^"]+)"', sheds.bad)
    left_out = re.search(r'verdict!~"([^"]+)"', sheds.events)
    assert bad
    assert left_out
    told = set(metric("tidegate_verdicts_total").labels["verdict"])
    business = {"admitted", "stock", "budget", "merchant"}
    assert set(bad[1].split("|")) == told - business - set(CALLERS_LIMITS)
    assert set(left_out[1].split("|")) == set(CALLERS_LIMITS)


def test_yaml_is_read_back_as_it_was_meant() -> None:
    """Block scalars for expressions; whatever could be taken for something else is quoted."""
    texts = ["plain", "5m", "no", "true", "1.5", "- a", "a: b", "a #b", "'", '"', "{{ $value }}"]
    texts += ["0x10", "~", "", " padded ", "two\nlines\n  and more", "é…"]
    wanted = {"list": [{"a": text, "b": [text, 1]} for text in texts], "number": 0.5, "truth": True}
    assert yaml.safe_load(yaml_text.document(wanted)) == wanted


def seconds(window: str) -> int:
    return int(window[:-1]) * SECONDS[window[-1]]
