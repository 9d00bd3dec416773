"""Watching over HTTP: once, or once a second on an open connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Final

import msgspec

from producer.http.auth import OPERATE, WATCH, Gateway
from producer.http.calls import JSON_HEADER, NO_STORE, Call, Reply, Stream
from producer.http.problems import Code, Problem

VIEWERS_MAX: Final = 100  # of one process; each costs a write a second
_TOO_MANY_RETRY_MS: Final = 10_000

_STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    NO_STORE,
    (b"x-accel-buffering", b"no"),
]


async def get_summary(call: Call) -> Reply:
    """`GET /v1/operator/summary`: how it goes, for operators."""
    await viewer(call)
    told = await call.api.watch.current()
    return Reply(200, told.body, [JSON_HEADER, NO_STORE])


async def get_summary_stream(call: Call) -> Stream:
    """`GET /v1/operator/summary/stream`: who watches, the minutes before, then each second."""
    gateway = await viewer(call)
    watch = call.api.watch
    if watch.viewers >= VIEWERS_MAX or call.api.draining.is_set():
        raise Problem(
            Code.REDUCED_CAPACITY,
            "Too many watch, or this process ends. Come back.",
            limit="streams",
            retry_after_ms=_TOO_MANY_RETRY_MS,
        )
    return Stream(200, _pieces(call, gateway), list(_STREAM_HEADERS))


async def viewer(call: Call) -> Gateway:
    """Return who watches; raises Problem unless the key may."""
    gateway = await call.authorise(None)
    if not may_watch(gateway):
        raise Problem(Code.SCOPE_MISSING, f"This needs a key with the scope {WATCH} or {OPERATE}.")
    return gateway


def may_watch(gateway: Gateway) -> bool:
    """Say whether a key shows the console: who may pull levers may see, too."""
    return WATCH in gateway.scopes or OPERATE in gateway.scopes


async def _pieces(call: Call, gateway: Gateway) -> AsyncGenerator[bytes, None]:
    api, watch = call.api, call.api.watch
    authorization = call.headers.get(b"authorization")
    watch.viewers += 1
    try:
        told = await watch.current()
        who = {"gateway_id": gateway.gateway_id, "levers": OPERATE in gateway.scopes}
        yield _event(b"viewer", msgspec.json.encode(who)) + _event(b"trail", told.trail)
        while not api.draining.is_set():
            known = api.keys.known(authorization)
            if known is None or known.scopes != gateway.scopes:
                return  # the key was revoked, or is another's: who comes back learns it
            yield _event(b"summary", told.body)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(api.draining.wait(), max(0.01, watch.due_s))
            told = await watch.current()
    finally:
        watch.viewers -= 1


def _event(name: bytes, body: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, body)
