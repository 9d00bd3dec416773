"""Troubles: what an operator should look at first, in sentences. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from deploy.top.figures import DependencyFigures, LevelFigures, PipelineFigures, SourceFigures
from deploy.top.words import count, span

HEARTBEAT_AGE_S_MAX: Final = 60.0


def troubles(
    level: LevelFigures,
    pipeline: PipelineFigures,
    dependencies: DependencyFigures,
    sources: Sequence[SourceFigures],
) -> list[str]:
    """List what is wrong, the worst first."""
    return [
        *_books(dependencies, pipeline),
        *_dependencies(dependencies),
        *_processes(level, pipeline, sources),
    ]


def _books(dependencies: DependencyFigures, pipeline: PipelineFigures) -> list[str]:
    found = []
    drift = {check: n for check, n in dependencies.postgres.ledger_drift.items() if n}
    if drift:
        told = ", ".join(f"{check} {count(n)}" for check, n in drift.items())
        found.append(f"the ledger does not add up ({told}): run `tidegate audit`")
    if pipeline.quarantined:
        found.append(f"{count(pipeline.quarantined)} in quarantine: see `tidegate quarantine list`")
    if pipeline.outbox_dead:
        found.append(f"{count(pipeline.outbox_dead)} events given up: see `tidegate webhook list`")
    return found


def _dependencies(dependencies: DependencyFigures) -> list[str]:
    found = []
    if dependencies.postgres.up is False:
        found.append("PostgreSQL does not answer")
    if dependencies.valkey.up is False:
        found.append("Valkey does not answer")
    if dependencies.valkey.outcomes_heard is False:
        found.append("the API hears no outcomes: calls that wait are answered late")
    age_s = dependencies.heartbeat_age_s
    if age_s is not None and age_s > HEARTBEAT_AGE_S_MAX:
        found.append(f"no heartbeat order has come through for {span(age_s)}")
    return found


def _processes(
    level: LevelFigures, pipeline: PipelineFigures, sources: Sequence[SourceFigures]
) -> list[str]:
    found = []
    if level.governed is False:
        found.append("nobody governs, only the fixed limits hold: start `tidegate governor`")
    if pipeline.workers and not any(worker.up for worker in pipeline.workers):
        found.append("no worker answers")
    for one in sources:
        if one.state == "away":
            since = "never heard" if one.age_s is None else f"away for {span(one.age_s)}"
            found.append(f"{one.name} {since}: {one.error}")
    return found
