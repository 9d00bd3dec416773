"""What an intake tells of intents whose traces are followed.

    SERVER  POST /v1/intents ───────────────────────────┐          (producer.http.tracing)
    INTERNAL   intake batch ─────┐  admit, journal       │ waits, if asked to
    PRODUCER                      send orders ─┐          │
    CONSUMER                                      process orders ─┐ (workers.runtime.tracing)

Batches are shared and traces are not, so each followed intent has spans of its own for the batches it
went through, all under its call's: one picture shows where its time went, gaps included, and nobody
has to look for it in the traces of 500 others. What a batch did meanwhile are events of the span, not
spans: of a thousand times as many. Who was in the same batch is linked, as far as it is followed.

A hint that named none of them is not told: the batch that decides an intent is often another's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final
from uuid import UUID

from config.tracing import LINKS_MAX, Context, Event, Span, wall_ns
from config.tracing.tracer import Tracer
from producer.answers import Accepted, Answer, Posted
from producer.metering import Watch, word_of
from workers.contract.hints import SendHint
from workers.contract.names import ORDERS_QUEUE, messaging_system
from workers.contract.trace import context_of

UNSENT_MAX: Final = 10_000  # contexts kept for hints: many intents are decided without one


class IntakeTraces:
    """Tells of batches of an intake, and of hints. Lanes and the publisher's thread use one."""

    def __init__(self, tracer: Tracer, broker_url: str) -> None:
        self._tracer = tracer
        self._system = messaging_system(broker_url)
        self._unsent: dict[UUID, Context] = {}
        self._lock = threading.Lock()

    def tell_batch(self, answered: Sequence[tuple[Posted, Answer | None]], watch: Watch) -> None:
        """Tell of a batch; what was accepted waits for its hint."""
        followed = [
            (posted, answer, context)
            for posted, answer in answered
            if (context := context_of(posted.traceparent)) is not None
        ]
        if not followed:
            return
        began_ns, *lapped_ns, ended_ns = wall_ns(
            [watch.began, *(at for _, at in watch.laps), time.perf_counter()]
        )
        events = [
            Event(stage, at_ns) for (stage, _), at_ns in zip(watch.laps, lapped_ns, strict=True)
        ]
        contexts = [context.child() for _, _, context in followed]
        self._tracer.tell(
            Span(
                name="intake batch",
                kind="internal",
                context=own,
                parent=context,
                began_ns=began_ns,
                ended_ns=ended_ns,
                attributes={
                    "tidegate.intent.id": str(posted.intent_id),
                    "tidegate.intent.answer": "shared" if answer is None else word_of(answer),
                    "tidegate.batch.intents": len(answered),
                },
                events=events,
                links=others(own, contexts),
            )
            for own, (posted, answer, context) in zip(contexts, followed, strict=True)
        )
        for posted, answer, context in followed:
            if isinstance(answer, Accepted):
                self._expect_hint(posted.intent_id, context)

    def sending(self, send: SendHint) -> Callable[[Sequence[UUID]], None]:
        """Return a function that sends hints as `send` does, and tells of those it follows."""

        def send_and_tell(intent_ids: Sequence[UUID]) -> None:
            named = self._named(intent_ids)
            if not named:
                return send(intent_ids)
            spans = [(intent_id, context, context.child()) for intent_id, context in named]
            began_ns, fault = time.time_ns(), ""
            try:
                # A message has one place: whoever takes it is told of the first, and links to it.
                send(intent_ids, spans[0][2].traceparent())
            except Exception as error:
                fault = type(error).__name__
                raise
            finally:
                self._tell_sent(spans, len(intent_ids), began_ns, fault)

        return send_and_tell

    def _tell_sent(
        self,
        spans: Sequence[tuple[UUID, Context, Context]],
        count: int,
        began_ns: int,
        fault: str,
    ) -> None:
        self._tracer.tell(
            Span(
                name="send orders",
                kind="producer",
                context=own,
                parent=context,
                began_ns=began_ns,
                ended_ns=max(time.time_ns(), began_ns),
                attributes={
                    "messaging.system": self._system,
                    "messaging.operation.name": "send",
                    "messaging.operation.type": "send",
                    "messaging.destination.name": ORDERS_QUEUE,
                    "tidegate.intent.id": str(intent_id),
                    "tidegate.hint.intents": count,
                },
                links=() if own == spans[0][2] else (spans[0][2],),
                fault=fault,
            )
            for intent_id, context, own in spans
        )

    def _expect_hint(self, intent_id: UUID, context: Context) -> None:
        unsent = self._unsent
        with self._lock:
            unsent[intent_id] = context
            if len(unsent) > UNSENT_MAX:
                del unsent[next(iter(unsent))]

    def _named(self, intent_ids: Sequence[UUID]) -> list[tuple[UUID, Context]]:
        """Return those of a hint that are followed, and forget them."""
        unsent = self._unsent
        if not unsent:
            return []
        with self._lock:
            found = [(intent_id, unsent.pop(intent_id, None)) for intent_id in intent_ids]
        return [(intent_id, context) for intent_id, context in found if context is not None]


def others(own: Context, contexts: Sequence[Context]) -> list[Context]:
    """Return the first few of the contexts that are another's: whom a span links to."""
    return list(islice((one for one in contexts if one != own), LINKS_MAX))
