"""Alertmanager's example and Prometheus' file: routes, and what mutes what."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from deploy.cli.scrape import target_groups
from deploy.monitoring import objectives
from deploy.monitoring.alert import Alert, as_rule
from deploy.monitoring.writing import HERE, alerts

OBJECTIVES = objectives.read(HERE / "objectives.toml")
ALERTS = {alert.name: alert for group in alerts(OBJECTIVES).values() for alert in group}
ROUTING: dict[str, Any] = yaml.safe_load((HERE / "alertmanager.yml").read_text())


def labels(alert: Alert) -> dict[str, str]:
    given: Any = as_rule(alert, OBJECTIVES.links)["labels"]
    return {"alertname": alert.name, **given}


def matches(matchers: list[str], of: dict[str, str]) -> bool:
    """As Alertmanager does: a label that is missing is empty."""
    for matcher in matchers:
        parts = re.fullmatch(r'(\w+)(=~|=)"(.+)"', matcher)
        assert parts, matcher
        label, operator, value = parts.groups()
        wanted = value if operator == "=~" else re.escape(value)
        if not re.fullmatch(wanted, of.get(label, "")):
            return False
    return True


def mutes(source: Alert, target: Alert) -> bool:
    """Tell whether the one, firing, keeps the other from being told."""
    from_, to = labels(source), labels(target)
    return source is not target and any(
        matches(rule["source_matchers"], from_)
        and matches(rule["target_matchers"], to)
        and all(from_.get(label, "") == to.get(label, "") for label in rule["equal"])
        for rule in ROUTING["inhibit_rules"]
    )


def test_pages_go_to_who_is_on_call_and_tickets_do_not() -> None:
    """One route of its own for what wakes somebody."""
    (route,) = ROUTING["route"]["routes"]
    paged = {a.name for a in ALERTS.values() if matches(route["matchers"], labels(a))}
    assert paged == {alert.name for alert in ALERTS.values() if alert.severity == "page"}
    known = {receiver["name"] for receiver in ROUTING["receivers"]}
    assert {route["receiver"], ROUTING["route"]["receiver"]} <= known


def test_causes_are_muted_under_symptoms_and_symptoms_under_nothing() -> None:
    """Users' trouble is told once; a page of a symptom is always told."""
    pages = [a for a in ALERTS.values() if a.role == "symptom" and a.severity == "page"]
    causes = [a for a in ALERTS.values() if a.role == "cause"]
    assert all(mutes(symptom, cause) for symptom in pages for cause in causes)
    assert not [(s.name, p.name) for s in ALERTS.values() for p in pages if mutes(s, p)]


def test_no_two_alerts_mute_each_other() -> None:
    """Then nobody would be told of either."""
    both = [
        (one.name, other.name)
        for one in ALERTS.values()
        for other in ALERTS.values()
        if mutes(one, other) and mutes(other, one)
    ]
    assert both == []


@pytest.mark.parametrize(
    ("source", "target", "muted"),
    [
        ("TidegateAnswersBurnFast", "TidegateAnswersBurnSlow", True),
        ("TidegateAnswersBurnFast", "TidegateShedsBurnSlow", False),
        ("TidegatePostgresAway", "TidegateExporterStale", True),
        ("TidegatePostgresAway", "TidegateBudgetNearlySpent", False),
        ("TidegateValkeyAway", "TidegateNoGovernorLeads", True),
        ("TidegateLedgerDrift", "TidegatePostgresAway", True),
        ("TidegateSheddingLong", "TidegateQueueLong", False),
    ],
)
def test_what_says_the_same_is_told_once(source: str, target: str, *, muted: bool) -> None:
    """A ticket under the page of its objective, and what follows from a dependency that is away."""
    assert mutes(ALERTS[source], ALERTS[target]) is muted


def test_every_alert_that_is_named_exists() -> None:
    """A misspelt name would mute nothing."""
    text = (HERE / "alertmanager.yml").read_text()
    named = re.findall(r"\bTidegate\w+", "\n".join(re.findall(r'alertname=~?"(.+)"', text)))
    assert named
    assert set(named) <= set(ALERTS)


def test_targets_of_a_cluster_have_the_jobs_that_alerts_ask_for() -> None:
    """Whatever a process's number is; what is not usual of its address is said."""
    assert target_groups(
        {
            "api": "http://127.0.0.1:8080/metrics",
            "worker-2": "http://127.0.0.1:9002/metrics",
            "exporter": "https://[::1]:9003/own",
        }
    ) == [
        {"targets": ["127.0.0.1:8080"], "labels": {"job": "tidegate-api", "instance": "api"}},
        {
            "targets": ["127.0.0.1:9002"],
            "labels": {"job": "tidegate-worker", "instance": "worker-2"},
        },
        {
            "targets": ["[::1]:9003"],
            "labels": {
                "job": "tidegate-exporter",
                "instance": "exporter",
                "__metrics_path__": "/own",
                "__scheme__": "https",
            },
        },
    ]
