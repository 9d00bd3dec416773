"""The model: what was read of all sources → the figures that are shown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

from msgspec import Struct

from deploy.top.campaigns import campaigns_of
from deploy.top.figures import (
    DependencyFigures,
    Figures,
    Flow,
    GateRefusal,
    IntentFigures,
    LevelFigures,
    OutcomeRefusal,
    PipelineFigures,
    PostgresFigures,
    RefusalFigures,
    SourceFigures,
    ValkeyFigures,
    WaitFigures,
    WorkerFigures,
)
from deploy.top.numbers import Numbers, added
from deploy.top.reading import Seen, Status
from deploy.top.troubles import troubles
from workers.domain.overload import Level

ANSWERS: Final = "answers"
AWAY: Final = "away"
UNHEARD: Final = "unheard"

_REFUSED_AT_ONCE: Final = ("limited", "not_accepted", "issuance_paused")
_UNANSWERED: Final = ("unanswered_no", "unanswered_unknown")
_OPERATOR: Final = "operator"
_LEVELS: Final = {float(level.rank): level.value for level in Level}
_TIME_S_MAX: Final = 1e11  # a clock that shows more shows milliseconds, or nonsense


T = TypeVar("T")


class Moment(Struct, frozen=True, kw_only=True):
    """When figures are put together: by a monotonic clock and by the wall's; see `watching`."""

    at_s: float
    at: datetime
    window_s: float
    stale_s: float


def figures_of(seen: Sequence[Seen], moment: Moment) -> Figures:
    """Put together what all sources said last."""
    numbers = Numbers(seen, moment.at_s, moment.stale_s)
    status = _status(seen, moment)
    sources = [_source(one, moment) for one in seen]
    level = _level(status, numbers)
    pipeline = _pipeline(numbers, _workers(seen, sources, moment))
    dependencies = _dependencies(numbers)
    return Figures(
        at=moment.at,
        window_s=moment.window_s,
        troubles=troubles(level, pipeline, dependencies, sources),
        level=level,
        intents=_intents(numbers),
        waits=_waits(status, numbers),
        refusals=_refusals(numbers),
        pipeline=pipeline,
        dependencies=dependencies,
        campaigns=campaigns_of(status.campaigns if status else {}, numbers),
        sources=sources,
    )


def _status(seen: Sequence[Seen], moment: Moment) -> Status | None:
    for one in seen:
        if one.readings and one.readings[-1].status is not None:
            fresh = moment.at_s - one.readings[-1].at_s <= moment.stale_s
            return one.readings[-1].status if fresh else None
    return None


def _source(seen: Seen, moment: Moment) -> SourceFigures:
    name, url, error = seen.source.name, seen.source.url, seen.error
    if not seen.readings:
        return SourceFigures(name=name, url=url, state=AWAY if error else UNHEARD, error=error)
    latest = seen.readings[-1]
    age_s = moment.at_s - latest.at_s
    silent = age_s > moment.stale_s
    build = dict(next(iter(latest.series.get("tidegate_build_info", {})), ()))
    started = max(
        latest.series.get("tidegate_process_start_timestamp_seconds", {}).values(), default=0
    )
    return SourceFigures(
        name=name,
        url=url,
        state=AWAY if error or silent else ANSWERS,
        age_s=age_s,
        error=error or ("no answer" if silent else ""),
        process=build.get("process", ""),
        version=build.get("version", ""),
        up_s=moment.at.timestamp() - started if started else None,
    )


def _level(status: Status | None, numbers: Numbers) -> LevelFigures:
    ordered = _flag(numbers.gauge("tidegate_level_ordered"))
    admitted = numbers.gauge("tidegate_admitted_per_second")
    service = numbers.gauge("tidegate_service_per_second")
    if status is None:
        rank = numbers.gauge("tidegate_level")
        return LevelFigures(
            level=None if rank is None else _LEVELS.get(rank),
            since=_time(numbers.gauge("tidegate_level_since_timestamp_seconds")),
            ordered=ordered,
            admitted_per_s=admitted,
            service_per_s=service,
        )
    return LevelFigures(
        level=status.level,
        reason=status.reason,
        since=status.since if status.since and status.since.timestamp() > 0 else None,
        until=status.until,
        governed=status.governed,
        ordered=ordered if ordered is not None else status.reason == _OPERATOR,
        issuance=status.issuance,
        redemption=status.redemption,
        admit_ratio=status.admit_ratio,
        retry_after_s=_seconds(status.retry_after_ms),
        admitted_per_s=admitted,
        service_per_s=service,
    )


def _intents(numbers: Numbers) -> IntentFigures:
    answers = _answers(numbers)

    def of(words: Iterable[str]) -> Flow:
        return added(answers.get(word, Flow()) for word in words)

    return IntentFigures(
        offered=of(answers),
        accepted=of(["accepted"]),
        replayed=of(["replayed"]),
        refused=of(_REFUSED_AT_ONCE),
        unanswered=of(_UNANSWERED),
        journalled=numbers.flow("tidegate_intents_accepted_total"),
        committed=numbers.flow("tidegate_intents_committed_total"),
        refused_later=numbers.flow("tidegate_intents_refused_total"),
        decided=numbers.flow("tidegate_decided_heard_total"),
    )


def _answers(numbers: Numbers) -> dict[str, Flow]:
    return _by_one(numbers.flows("tidegate_intents_answered_total", "answer"))


def _waits(status: Status | None, numbers: Numbers) -> WaitFigures:
    predicted = numbers.gauge("tidegate_predicted_wait_seconds")
    if predicted is None and status is not None:
        predicted = _seconds(status.estimated_wait_ms)
    return WaitFigures(
        predicted_s=predicted,
        predicted_then_s=numbers.gauge("tidegate_predicted_wait_then_seconds"),
        true_s=numbers.gauge("tidegate_true_wait_seconds"),
        sojourn=numbers.spread("tidegate_sojourn_seconds"),
        sojourn_p99_s=numbers.gauge("tidegate_sojourn_p99_seconds"),
        receipt=numbers.spread("tidegate_http_request_duration_seconds", route="/v1/intents"),
    )


def _refusals(numbers: Numbers) -> RefusalFigures:
    verdicts = numbers.flows("tidegate_verdicts_total", "class", "verdict")
    gate = [
        GateRefusal(class_=class_, layer=verdict, total=flow.total, per_s=flow.per_s)
        for (class_, verdict), flow in verdicts.items()
        if verdict != "admitted" and flow.total
    ]
    reasons = _by_one(numbers.flows("tidegate_intents_refused_total", "reason"))
    outcomes = [
        OutcomeRefusal(reason=reason, total=flow.total, per_s=flow.per_s)
        for reason, flow in reasons.items()
        if flow.total
    ]
    return RefusalFigures(
        answers=_answers(numbers),
        gate=sorted(gate, key=_frequent),
        outcomes=sorted(outcomes, key=_frequent),
        admitted={at[0]: flow for at, flow in verdicts.items() if at[1] == "admitted"},
        appointments=_by_one(numbers.flows("tidegate_appointments_total", "fate")),
    )


def _frequent(one: GateRefusal | OutcomeRefusal) -> tuple[float, float]:
    return -(one.per_s or 0.0), -(one.total or 0.0)


def _pipeline(numbers: Numbers, workers: Sequence[WorkerFigures]) -> PipelineFigures:
    return PipelineFigures(
        in_flight=numbers.gauge("tidegate_in_flight"),
        open=numbers.gauge("tidegate_open_intents"),
        oldest_age_s=numbers.gauge("tidegate_open_oldest_age_seconds"),
        queues=_by_one(numbers.gauges("celery_queue_length", "queue_name")),
        intake_waiting=numbers.gauge("tidegate_intake_waiting"),
        intake_batch_size=numbers.mean("tidegate_intake_batch_intents"),
        intake_stages_s=numbers.means("tidegate_intake_stage_seconds", "stage"),
        batches=numbers.flow("tidegate_batches_total"),
        batch_size=numbers.mean("tidegate_batch_intents"),
        stages_s=numbers.means("tidegate_batch_stage_seconds", "stage"),
        contentions=numbers.flow("tidegate_batch_contentions_total"),
        failures=numbers.flow("tidegate_batch_failures_total"),
        faults=numbers.flow("tidegate_batch_faults_total"),
        quarantined=numbers.gauge("tidegate_quarantined_intents"),
        redispatched=numbers.flow("tidegate_redispatched_total"),
        dispatch_lag_s=numbers.gauge("tidegate_dispatch_lag_seconds"),
        outbox_waiting=numbers.gauge("tidegate_outbox_waiting"),
        outbox_dead=numbers.gauge("tidegate_outbox_dead"),
        outbox_oldest_age_s=numbers.gauge("tidegate_outbox_oldest_age_seconds"),
        workers=workers,
    )


def _workers(
    seen: Sequence[Seen], sources: Sequence[SourceFigures], moment: Moment
) -> list[WorkerFigures]:
    """List the workers: by name, since one that was always away has nothing else to be known by."""
    found = []
    for one, source in zip(seen, sources, strict=True):
        if source.state == UNHEARD:
            continue
        alone = Numbers([one], moment.at_s, moment.stale_s)
        runs = alone.gauge("celery_worker_up")
        if source.process != "worker" and runs is None and not source.name.startswith("worker"):
            continue
        intents = alone.flow("tidegate_batch_intents_sum").per_s
        found.append(
            WorkerFigures(
                name=source.name,
                up=source.state == ANSWERS and runs != 0,
                active=alone.gauge("celery_worker_tasks_active"),
                batches_per_s=alone.flow("tidegate_batches_total").per_s,
                intents_per_s=intents,
            )
        )
    return found


def _dependencies(numbers: Numbers) -> DependencyFigures:
    return DependencyFigures(
        postgres=PostgresFigures(
            up=_up(numbers, "postgres"),
            probe_s=numbers.gauge("tidegate_probe_seconds", dependency="postgres"),
            connections_ratio=numbers.gauge("tidegate_postgres_connections_ratio"),
            ledger_drift=_by_one(numbers.gauges("tidegate_ledger_drift", "check")),
        ),
        valkey=ValkeyFigures(
            up=_up(numbers, "valkey"),
            probe_s=numbers.gauge("tidegate_probe_seconds", dependency="valkey"),
            memory_ratio=numbers.gauge("tidegate_valkey_memory_ratio"),
            outcomes_heard=_flag(numbers.gauge("tidegate_outcomes_heard")),
            hints_failed=numbers.flow("tidegate_hints_published_total", result="failed"),
        ),
        heartbeat_age_s=numbers.gauge("tidegate_heartbeat_age_seconds"),
        heartbeat_s=numbers.gauge("tidegate_heartbeat_duration_seconds"),
    )


def _up(numbers: Numbers, dependency: str) -> bool | None:
    """Ask the exporter; without one, whether the governor's probe is answered."""
    told = _flag(numbers.gauge(f"tidegate_{dependency}_up"))
    if told is not None:
        return told
    probes = numbers.gauges("tidegate_probe_seconds", "dependency")
    return (dependency,) in probes if probes else None


def _by_one(found: Mapping[tuple[str, ...], T]) -> dict[str, T]:
    return {values[0]: one for values, one in found.items()}


def _flag(value: float | None) -> bool | None:
    return None if value is None else value > 0


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1_000


def _time(unix_s: float | None) -> datetime | None:
    return datetime.fromtimestamp(unix_s, UTC) if unix_s and 0 < unix_s < _TIME_S_MAX else None
