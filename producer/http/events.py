"""Server-sent events: being told an intent's outcome on an open connection."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from msgspec.structs import replace

from producer.http import render
from producer.http.calls import Call, Reply, Stream
from producer.http.intents import own_intent
from producer.http.problems import Code, Problem
from workers.contract.resource import IntentResource

HEARTBEAT_S = 15.0  # shorter than the idle timeouts of the proxies between
WAITERS_MAX = 10_000  # each stream is one, and holds a connection
_RETRY_MS = 2_000  # how long a client pauses before it comes again

_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


async def get_events(call: Call) -> Reply | Stream:
    """`GET /v1/intents/{intent_id}/events`: `accepted` (id 1), `outcome` (id 2), and the end.

    Who has heard all there is gets a 204: by it an EventSource knows not to come again.
    """
    gateway = await call.authorise("intents:read")
    resource = await own_intent(call, gateway)
    last = call.headers.get(b"last-event-id", b"").strip()
    if last == b"2":
        return Reply(204, b"", [])
    if call.api.waiters.count >= WAITERS_MAX:
        raise Problem(
            Code.REDUCED_CAPACITY,
            "Too many streams are open. Poll, or come back.",
            limit="streams",
            retry_after_ms=_RETRY_MS,
        )
    return Stream(200, _pieces(call, resource, last), _HEADERS)


async def _pieces(call: Call, resource: IntentResource, last: bytes) -> AsyncGenerator[bytes, None]:
    yield b"retry: %d\n\n" % _RETRY_MS
    if last != b"1":
        yield _event(call, 1, "accepted", _undecided(resource))
    decided = resource if resource.decided_at is not None else None
    with call.api.waiters.waiting(resource.intent_id) as waiter:
        while decided is None and not call.api.draining.is_set():
            decided = await waiter.outcome(HEARTBEAT_S, look_first=True)
            if decided is None:
                yield b": ping\n\n"
    if decided is not None:
        yield _event(call, 2, "outcome", decided)


def _undecided(resource: IntentResource) -> IntentResource:
    """Return the intent as it stood when it was accepted."""
    return replace(resource, decided_at=None, refusal=None, order=None, coupon=None)


def _event(call: Call, number: int, name: str, resource: IntentResource) -> bytes:
    api = call.api
    data = render.intent(resource, call.language, api.messages, api.codes)
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (number, name.encode(), data)
