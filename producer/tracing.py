"""What an intake tells of intents whose traces are followed, and who is.

    POST /v1/intents    SERVER    ├─────────────────────────────────────┤   producer.http.tracing
      intake batch      INTERNAL     ├─admit─journal─┤                      here
      send orders       PRODUCER                     ├──┤                   here
      process orders    CONSUMER                          ├─claim…announce─┤   workers.runtime.tracing
        commit outcome  INTERNAL                             ├──────┤

(Instead of a call, a message of Celery: `producer.celery_tracing`.) Batches are shared and traces are
not. So each followed intent has spans of its own for the batches it went through: one picture shows
where its time went, gaps included, and nobody has to look for it among 500 others. The stages of a
batch are moments in such a span, which cost a tenth of spans; only the commit is one, since it is what
all wait for. Links lead to the others that were in the batch, as far as they are followed.

Which hint led to an intent's batch is often another's, under load nearly always: then the trace has
no `send orders`, and the link of `process orders` leads to the one that did.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final
from uuid import UUID

from config.sampling import Sample
from config.tracing import LINKS_MAX, Context, Event, Span, begin, wall_ns
from config.tracing.tracer import Tracer
from producer.answers import Accepted, Answer, Posted
from producer.metering import Watch, word_of
from workers.contract.hints import SendHint
from workers.contract.names import ORDERS_QUEUE, messaging_system
from workers.contract.trace import Parent, context_of

TRACES_PER_S_MAX: Final = 200  # begun; a few percent of a processor, and what somebody still stores
INTENTS_MAX: Final = 10  # of one call or message that are followed on
UNSENT_MAX: Final = 10_000  # contexts kept for hints: many intents are decided without one


class Heads:
    """Decides whose trace is followed: for one thread, which is where traces begin in a process.

    A caller's word on sampling counts (`traceparent`, its flag): whoever is followed at the gateway is
    followed here. Of those that say nothing a share is, chosen by the trace's id as the log chooses
    (`config.sampling`), so that both tell of the same. No more than `TRACES_PER_S_MAX` are begun in a
    second, whatever callers say.
    """

    def __init__(self, sample_share: float) -> None:
        self._sample = Sample(sample_share)
        self._second = 0
        self._begun = 0  # in this second

    def begin(self, trace: int, parent: Parent | None) -> Context | None:
        """Return a new place in the trace; None: it is not followed."""
        wanted = self._sample.holds(trace) if parent is None else parent.sampled
        state = "" if parent is None else parent.context.state
        return begin(trace, state) if wanted and self._has_room() else None

    def _has_room(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._begun = second, 0
        self._begun += 1
        return self._begun <= TRACES_PER_S_MAX


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
            if (context := context_of(posted.traceparent, posted.tracestate)) is not None
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
