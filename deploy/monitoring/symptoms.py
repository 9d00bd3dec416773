"""Alerts on what users feel: burning objectives, books that do not add up, nobody served."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.monitoring.alert import Alert
from deploy.monitoring.objectives import Objective, Objectives, Severity
from deploy.monitoring.recording import bad_count, error_ratio

# How many times as fast as it may the budget burns: over the long window to mean something, over the
# short one to end with the trouble. Shares of thirty days' budget: 2 % in an hour, 5 % in six; 10 % in
# a day, 10 % in three (Google's SRE workbook, chapter 5).
FAST = ((14.4, "1h", "5m"), (6, "6h", "30m"))
SLOW = ((3, "1d", "2h"), (1, "3d", "6h"))
# Of a few intents at night one is a large share; nobody is woken for less than so many.
BAD_MIN = 10

_SPEEDS = {"page": "Fast", "ticket": "Slow"}


def burning(objectives: Objectives) -> list[Alert]:
    """Return the burn alerts of every objective: one of each severity that it has."""
    return [
        _burn(objective, severity)
        for objective in objectives.objectives
        for severity in objective.severities
    ]


def _burn(objective: Objective, severity: Severity) -> Alert:
    fast = severity == "page"
    windows = FAST if fast else SLOW
    what = objective.name.capitalize()
    return Alert(
        name=f"Tidegate{what}Burn{_SPEEDS[severity]}",
        expr="\nor\n".join(_arms(objective, windows, BAD_MIN if fast else 0)),
        severity=severity,
        role="symptom",
        objective=objective.name,
        summary=f"{what}: the budget of thirty days burns {'fast' if fast else 'slowly'}.",
        description=(
            f"Promised: {objective.promise} Now {{{{ $value | humanizePercentage }}}} "
            f"{objective.unmet}."
        ),
        dashboard=objective.dashboard,
    )


def _arms(
    objective: Objective, windows: tuple[tuple[float, str, str], ...], bad_min: int
) -> Iterator[str]:
    for factor, long, short in windows:
        bound = f"{factor} * {objective.budget:f}".rstrip("0")
        arm = [
            f"{error_ratio(objective, short)} > {bound}",
            f"{error_ratio(objective, long)} > {bound}",
        ]
        if bad_min:
            arm.append(f"{bad_count(objective, long)} >= {bad_min}")
        yield "(\n  " + "\n  and ".join(arm) + "\n)"


SYMPTOMS = (
    Alert(
        name="TidegateLedgerDrift",
        expr="max by (check) (tidegate_ledger_drift) > 0",
        severity="page",
        role="symptom",
        summary="Stock or money does not add up.",
        description=(
            "{{ $value }} accounts or batches contradict the ledger (check {{ $labels.check }}). "
            "It must be none at any time."
        ),
        dashboard="campaign",
    ),
    Alert(
        name="TidegateHeartbeatMissing",
        # While orders are shed the heartbeat may be one of them: that says nothing new.
        expr=("min(tidegate_heartbeat_age_seconds) > 120\nunless on () max(tidegate_level) >= 2"),
        severity="page",
        role="symptom",
        lasting="1m",
        summary="No order of our own comes through any more.",
        description=(
            "The last heartbeat that was posted, decided and heard of was "
            "{{ $value | humanizeDuration }} ago. Users are probably not served."
        ),
        dashboard="service",
    ),
    Alert(
        name="TidegateOpenIntentsOld",
        expr="max(tidegate_open_oldest_age_seconds) > 60",
        severity="page",
        role="symptom",
        lasting="2m",
        summary="Receipts wait for their outcome.",
        description=(
            "The oldest intent without an outcome was accepted {{ $value | humanizeDuration }} ago. "
            "It is safe in the journal, but nobody decides it."
        ),
        dashboard="pipeline",
    ),
    Alert(
        name="TidegateLevelClosed",
        expr="max(tidegate_level) == 3\nunless on () max(tidegate_level_ordered) == 1",
        severity="page",
        role="symptom",
        lasting="2m",
        summary="The governor has closed the system; nothing is let in.",
        description=(
            "Nobody ordered it. The governor closes when PostgreSQL or Valkey is away or too slow, or "
            "hints are not dispatched; `tidegate level show` names the reason."
        ),
        dashboard="overload",
    ),
)
