"""The ASGI application: the hot route first, everything else through a router.

Plain ASGI with lifespan, so that any server may serve it. Nothing connects before the lifespan
starts, and a dependency that is away then is an answer (503), not a reason to stay down.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

import structlog
from starlette.routing import Route, Router

from config import failpoints, logging
from config.settings import load
from producer.http.api import Api
from producer.http.bootstrap import open_api
from producer.http.calls import (
    Call,
    CallerGone,
    Feed,
    Fields,
    Handler,
    Message,
    Receive,
    Reply,
    Scope,
    Send,
    Stream,
)
from producer.http.intents import post_at_once, post_intent
from producer.http.metering import count_call
from producer.http.problems import Code, Problem
from producer.http.routes import HOT_PATH, ROUTES

_log = structlog.get_logger()

Open = Callable[[], AbstractAsyncContextManager[Api]]


def create_app() -> App:
    """Make the application from the settings of the environment, for a server of your choice."""
    settings = load()
    logging.configure(
        "api", settings.log.level, settings.log.format, pepper=settings.secrets.master
    )
    failpoints.configure(settings.failpoints, settings.failpoints_enabled)
    return App(lambda: open_api(settings))


class App:
    """The API as an ASGI application. `open_api` makes its parts, on the server's event loop."""

    def __init__(self, open_api: Open) -> None:
        self._open_api = open_api
        self._api: Api | None = None
        self._hot = _Endpoint(self, HOT_PATH, {"POST": post_intent})
        self._router = Router(
            [
                Route(_open(path), _Endpoint(self, path, handlers))
                for path, handlers in ROUTES.items()
            ],
            redirect_slashes=False,
            default=_Endpoint(self, "", {}),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Speak ASGI."""
        if scope["type"] == "http":
            if scope["path"] == HOT_PATH and scope["method"] == "POST":
                await self._hot(scope, receive, send)
            else:
                await self._router(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    def hot(self, fields: Fields, body: bytes, tell: Callable[[Reply], None]) -> bool:
        """Post one intent without ASGI; see `connections.Hot`."""
        assert self._api is not None, "the server speaks lifespan"
        call = Call(self._api, HOT_PATH, {"headers": fields, "method": "POST"}, _nothing)
        tell_and_note = functools.partial(_tell, call, tell)
        try:
            call.fold()
            return post_at_once(call, body, tell_and_note)
        except Exception as error:
            tell_and_note(call.failure(error))
            return True

    def drain(self) -> None:
        """Take nothing new that lasts: streams end, waits end with a receipt, `/readyz` says so."""
        if self._api is not None:
            self._api.draining.set()
            self._api.waiters.release()
            self._api.board.end()

    @property
    def api(self) -> Api:
        """The parts, while the lifespan lasts."""
        assert self._api is not None, "the server speaks lifespan"
        return self._api

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with self._open_api() as self._api:
                await send({"type": "lifespan.startup.complete"})
                await receive()
                self.drain()
        except Exception:
            _log.exception("the API cannot start or end")
            await send({"type": "lifespan.startup.failed", "message": "see the log"})
            raise
        await send({"type": "lifespan.shutdown.complete"})


class _Endpoint:
    """The handlers of one path: calls them, and tells what they raise."""

    def __init__(self, app: App, path: str, handlers: Mapping[str, Handler]) -> None:
        self._app = app
        self._path = path
        self._handlers = dict(handlers)
        if "GET" in self._handlers:
            self._handlers["HEAD"] = self._handlers["GET"]
        self._allow = ", ".join(self._handlers).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(self._app.api, self._path, scope, receive)
        try:
            call.fold()
            handler = self._handlers.get(scope["method"])
            if handler is None:
                raise self._no_handler()
            reply = await handler(call)
        except CallerGone:
            count_call(call.route, 0)
            return
        except Exception as error:
            reply = call.failure(error)
        _note(call, reply)
        if isinstance(reply, Reply):
            await _send(reply, send)
        elif scope["method"] == "HEAD":
            await _send(Reply(reply.status, b"", list(reply.headers)), send)
        elif isinstance(reply, Feed):
            await _feed(call, reply, send)
        else:
            await _stream(call, reply, send)

    def _no_handler(self) -> Problem:
        if not self._handlers:
            return Problem(Code.NOT_FOUND, "Nothing is served under this path.")
        detail = f"This path takes {self._allow.decode()}."
        return Problem(Code.METHOD_NOT_ALLOWED, detail, headers=((b"allow", self._allow),))


def _tell(call: Call, tell: Callable[[Reply], None], reply: Reply) -> None:
    tell(reply)
    _note(call, reply)


def _note(call: Call, reply: Reply | Feed | Stream) -> None:
    """Count a call and log it; a call that asked to wait, or has no end, is not judged by its time."""
    judged = isinstance(reply, Reply) and b"prefer" not in call.headers
    took_s = time.perf_counter() - call.began if judged else None
    count_call(call.route, reply.status, took_s)
    if call.api.traces is not None:
        call.api.traces.tell(call, reply.status)
    call.api.access.note(call, reply.status)


async def _nothing() -> Message:
    raise AssertionError("what there was to receive came with the call")


def _open(path: str) -> str:
    """Let a user's id hold slashes: it is the gateway's own word."""
    return path.replace("{user_id}", "{user_id:path}")


async def _send(reply: Reply, send: Send) -> None:
    status, body, headers = reply.status, reply.body, reply.headers
    if status != 204:  # it has no content, and may not name its length
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _feed(call: Call, feed: Feed, send: Send) -> None:
    """Send the head, and leave the connection to the feed until the caller leaves."""
    transport = call.transport
    assert transport is not None, "a feed is for connections that can be lent"
    await send({"type": "http.response.start", "status": feed.status, "headers": feed.headers})
    leave = feed.join(transport)
    try:
        await call.gone()
    finally:
        leave()


async def _stream(call: Call, stream: Stream, send: Send) -> None:
    """Send the pieces as they come, until the last or until the caller leaves."""

    async def pump() -> None:
        async with contextlib.aclosing(stream.pieces) as pieces:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    await send({"type": "http.response.start", "status": stream.status, "headers": stream.headers})
    tasks = [asyncio.ensure_future(pump()), asyncio.ensure_future(call.gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        pumped, _ = await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(pumped, Exception):
            _log.error("stream failed", exc_info=pumped, trace_id=call.trace_id)
