"""The span of a message with submitted intents: what a call's is over HTTP."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice

from msgspec import Struct

from config.tracing import Context, Span, wall_ns
from config.tracing.tracer import Tracer
from producer.answers import Posted
from producer.tracing import INTENTS_MAX, Heads
from workers.contract.names import INTAKE_QUEUE, messaging_system
from workers.contract.trace import Parent, parent_of_texts

Sender = tuple[object, object]  # what a message has as `traceparent` and `tracestate`


class Message(Struct, frozen=True):
    """A message that is followed: its place, its sender's, and since when (`perf_counter`)."""

    context: Context
    parent: Parent | None
    began: float

    def on(self, batch: Sequence[Posted]) -> list[Posted]:
        """Return its intents, the first few of them with their place in the trace."""
        first = [one.at(self.context) for one in islice(batch, INTENTS_MAX)]
        return [*first, *batch[INTENTS_MAX:]]


class MessageTraces:
    """Follows messages; for one thread."""

    def __init__(self, tracer: Tracer, sample_share: float, broker_url: str) -> None:
        self._tracer = tracer
        self._heads = Heads(sample_share)
        self._system = messaging_system(broker_url)

    def follow(self, sender: Sender, trace: int) -> Message | None:
        """Begin to follow a message, by its header fields and the trace it belongs to."""
        parent = parent_of_texts(*sender)
        context = self._heads.begin(trace, parent)
        return None if context is None else Message(context, parent, time.perf_counter())

    def tell(self, message: Message, gateway: str, count: int) -> None:
        """Tell of a message whose intents were submitted."""
        began_ns, ended_ns = wall_ns([message.began, time.perf_counter()])
        span = Span(
            name="process submitted intents",
            kind="consumer",
            context=message.context,
            parent=None if message.parent is None else message.parent.context,
            began_ns=began_ns,
            ended_ns=ended_ns,
            attributes={
                "messaging.system": self._system,
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": INTAKE_QUEUE,
                "tidegate.gateway": gateway,
                "tidegate.batch.intents": count,
            },
        )
        self._tracer.tell([span])
