"""Recording rules: for each objective, what share of events broke it over every window that is asked.

The two rates over five minutes are recorded, and the longer windows are sums of those: thirty days
cost as much as an hour, and hours with more events weigh more, as they should.
"""

from __future__ import annotations

from collections.abc import Iterator

from deploy.monitoring.objectives import Objective, Objectives

SHORTEST = "5m"
WINDOWS = ("30m", "1h", "2h", "6h", "1d", "3d", "30d")
# Windows over which a page counts bad events one by one; see `symptoms.BAD_MIN`.
COUNTED = {"1h": 3_600, "6h": 21_600}

Rule = dict[str, object]


def rules(objectives: Objectives) -> list[Rule]:
    """Return the recording rules, in the order in which they must be evaluated."""
    return [rule for one in objectives.objectives for rule in _of(one)]


def error_ratio(objective: Objective, window: str) -> str:
    """Return the recorded share of bad events over a window."""
    return _series(f"tidegate:objective_error:ratio_rate{window}", objective)


def bad_count(objective: Objective, window: str) -> str:
    """Return the recorded number of bad events over one of the `COUNTED` windows."""
    return _series(f"tidegate:objective_bad:increase{window}", objective)


def _of(objective: Objective) -> Iterator[Rule]:
    bad = f"tidegate:objective_bad:rate{SHORTEST}"
    events = f"tidegate:objective_events:rate{SHORTEST}"
    yield _rule("tidegate:objective_target:ratio", f"vector({objective.target})", objective)
    yield _rule(bad, objective.bad_rate(SHORTEST), objective)
    yield _rule(events, objective.event_rate(SHORTEST), objective)
    yield _rule(
        f"tidegate:objective_error:ratio_rate{SHORTEST}",
        f"{_series(bad, objective)}\n/ {_series(events, objective)}",
        objective,
    )
    for window in WINDOWS:
        yield _rule(
            f"tidegate:objective_error:ratio_rate{window}",
            f"sum_over_time({_series(bad, objective)}[{window}])\n"
            f"/ sum_over_time({_series(events, objective)}[{window}])",
            objective,
        )
    for window, seconds in COUNTED.items():
        yield _rule(
            f"tidegate:objective_bad:increase{window}",
            f"{seconds} * (\n{objective.bad_rate(window)}\n)",
            objective,
        )


def _rule(name: str, expr: str, objective: Objective) -> Rule:
    return {"record": name, "expr": expr, "labels": {"objective": objective.name}}


def _series(name: str, objective: Objective) -> str:
    return f'{name}{{objective="{objective.name}"}}'
