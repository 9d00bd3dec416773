"""The spans of calls. Who is followed, `producer.tracing.Heads` decides."""

from __future__ import annotations

import time

from config.tracing import Context, Span, wall_ns
from config.tracing.tracer import Tracer
from producer.http.access import METHODS, intent_of
from producer.http.calls import Call
from producer.metering import word_of
from producer.tracing import Heads
from workers.contract import trace


class CallTraces:
    """Follows calls; for one event loop."""

    def __init__(self, tracer: Tracer, sample_share: float) -> None:
        self._tracer = tracer
        self._heads = Heads(sample_share)

    def follow(self, call: Call) -> Context | None:
        """Return the place under which the call's intents are told; None: it is not followed."""
        return self._context_of(call)

    def tell(self, call: Call, status: int) -> None:
        """Tell of a call that was answered."""
        context = self._context_of(call)
        if context is None:
            return
        began_ns, ended_ns = wall_ns([call.began, time.perf_counter()])
        method = call.method if call.method in METHODS else "_OTHER"
        parent = _parent_of(call)
        self._tracer.tell(
            [
                Span(
                    name=f"{method} {call.route}".rstrip(),
                    kind="server",
                    context=context,
                    parent=None if parent is None else parent.context,
                    began_ns=began_ns,
                    ended_ns=ended_ns,
                    attributes=_attributes(call, method, status),
                    fault=(call.code or str(status)) if status >= 500 else "",
                )
            ]
        )

    def _context_of(self, call: Call) -> Context | None:
        """Decide, once for each call, whether it is followed."""
        if call.context is None:
            call.context = self._heads.begin(call.trace, _parent_of(call)) or False
        return call.context or None


def _parent_of(call: Call) -> trace.Parent | None:
    return trace.parent_of(call.headers.get(b"traceparent"), call.headers.get(b"tracestate"))


def _attributes(call: Call, method: str, status: int) -> dict[str, str | int]:
    intent_id = None if call.given is None else intent_of(call.given)
    told: dict[str, str | int | None] = {
        "http.request.method": method,
        "http.route": call.route,
        "http.response.status_code": status,
        "tidegate.gateway": call.gateway,
        "tidegate.intent.id": None if intent_id is None else str(intent_id),
        "tidegate.intent.answer": None if call.given is None else word_of(call.given),
        "tidegate.batch.intents": None if call.items is None else call.items.total(),
        "tidegate.problem": call.code,
        "tidegate.limit": call.limit,
        "tidegate.level": call.api.levels.standing.level.value,
    }
    return {name: value for name, value in told.items() if value is not None}
