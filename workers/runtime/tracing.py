"""What a worker tells of intents whose traces are followed: every batch that had them in hand.

An intent brings its place in a trace with it, in the journal: hints get lost and doubled, and under
load most batches claim what no hint has named. So every attempt is told in the trace of each intent
it was for, and links to the hint that woke the worker, whosever that was. An attempt that died with
its process tells nothing; the time until the next one shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

from config.tracing import LINKS_MAX, Context, Event, Span, Value, wall_ns
from config.tracing.tracer import Tracer
from workers.contract.names import ORDERS_QUEUE
from workers.contract.trace import context_of
from workers.service.attempts import Attempt
from workers.service.process_batch import BatchReport

_COMMIT: Final = "apply"  # the stage that ends with it


def tell_attempts(tracer: Tracer, report: BatchReport, hint: Context | None, system: str) -> None:
    """Tell what a call of the processor did; `hint` is the place of what woke it, if that has one."""
    for attempt in report.attempts:
        tracer.tell(spans_of(attempt, hint, system))


def spans_of(attempt: Attempt, hint: Context | None, system: str) -> Iterator[Span]:
    """Yield the attempt's span for each followed intent, and within it the commit's, if one came."""
    began_ns, *lapped_ns, ended_ns = wall_ns(
        [attempt.began, *(at for _, at in attempt.laps), attempt.ended]
    )
    events = [Event(lap[0], at_ns) for lap, at_ns in zip(attempt.laps, lapped_ns, strict=True)]
    commit = _commit_of(events)
    followed = [
        (intent_id, parent, parent.child(), word)
        for intent_id, place, word in attempt.followed
        if (parent := context_of(*place)) is not None
    ]
    known = [] if hint is None else [hint]
    known += [context for _, _, context, _ in followed]
    for intent_id, parent, context, word in followed:
        attributes = _attributes(attempt, intent_id, word)
        yield Span(
            name="process orders",
            kind="consumer",
            context=context,
            parent=parent,
            began_ns=began_ns,
            ended_ns=ended_ns,
            attributes={"messaging.system": system, **_MESSAGING, **attributes},
            events=events,
            links=[one for one in known if one != context][:LINKS_MAX],
            fault=attempt.fault,
        )
        if commit is not None:
            yield Span(
                name="commit outcome",
                kind="internal",
                context=context.child(),
                parent=context,
                began_ns=commit[0],
                ended_ns=commit[1],
                attributes=attributes,
            )


_MESSAGING: Final = {
    "messaging.operation.name": "process",
    "messaging.operation.type": "process",
    "messaging.destination.name": ORDERS_QUEUE,
}


def _attributes(attempt: Attempt, intent_id: UUID, word: str) -> dict[str, Value]:
    told: dict[str, Value] = {
        "tidegate.intent.id": str(intent_id),
        "tidegate.batch.id": str(attempt.batch_id),
        "tidegate.batch.intents": attempt.size,
    }
    return {**told, "tidegate.intent.outcome": word} if word else told


def _commit_of(events: Sequence[Event]) -> tuple[int, int] | None:
    """Return when the stage that ends with the commit began and ended, if it did."""
    for before, event in zip([None, *events], events, strict=False):
        if event.name == _COMMIT:
            return (event.at_ns if before is None else before.at_ns), event.at_ns
    return None
