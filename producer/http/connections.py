"""Connections of uvicorn, with a short way for the hot route and bounds on those who send slowly.

The short way. Posting one intent is nearly all that a busy API does, and most of its time went into
what such a call does not need: a task, an event, a scope, two writes. So its header and body, parsed
by the same parser, go straight to `hot`, and its answer is one write. Everything else goes
uvicorn's way, and so does a hot call that is unusual in any respect: its parts are then handed over
as if they came just now. A call on the short way is uvicorn's `cycle` meanwhile, so that pipelined
calls queue behind it and a shutdown waits for it.

The bounds. uvicorn waits for ever for a header that never ends, and for whoever reads no answer: a
few thousand such callers would take every file the process may open. It also queues whatever calls
are sent ahead of their answers, each a hundred times as large as the bytes it came in: one such
caller would take the memory. Here what is being sent must be complete within a while and within a
size, answers must be read, and only so many calls wait behind one another.
"""

from __future__ import annotations

import asyncio
import functools
import resource
from collections.abc import Callable
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from producer.http.calls import INTENT_BYTES_MAX, TRANSPORT, Fields, Reply
from producer.http.routes import HOT_PATH

# Takes header fields, body, and whom to tell the answer (once, on the loop); False: not for it.
Hot = Callable[[Fields, bytes, Callable[[Reply], None]], bool]

KEEP_ALIVE_S: Final = 75.0  # longer than the pools of most clients keep an idle connection
RECEIVE_TIMEOUT_S = 10.0  # for the header and the body together
UNREAD_TIMEOUT_S = 30.0  # while a caller takes nothing of an answer
HEADER_BYTES_MAX = 64 * 1024
CALLS_WAITING_MAX = 100  # sent ahead of their answers, on one connection
_FILES_RESERVED = 200  # for databases, logs and threads
_SWEEP_INTERVAL_S = 1.0

_CLOSE: Final = (b"connection", b"close")
_HOT_URL: Final = HOT_PATH.encode()
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class _Refused(Exception):
    """Ends the parsing of what a caller sent; he is answered by `send_400_response`."""


@functools.cache
def connections_max() -> int:
    """Return how many connections the process may hold open, by its limit of files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1_000_000 if soft == resource.RLIM_INFINITY else max(100, soft - _FILES_RESERVED)


class Connection(HttpToolsProtocol):
    """One connection of a caller."""

    _lines_of: ClassVar[tuple[Fields, bytes]] = ([], b"")
    cycle: Any  # uvicorn's, or one on the short way

    def __init__(self, hot: Hot, *args: Any, **kwargs: Any) -> None:  # the rest as uvicorn calls it
        super().__init__(*args, **kwargs)
        self.hot = hot
        self.hot_body: bytes | None = None  # what came of it, while a hot call is being received
        self.receiving_since: float | None = None
        self.idle_since: float | None = None  # after an answer on the short way
        self.in_head = True
        self.bytes_beside = 0  # came in a row, and were no body: of a head, or after it
        self.may_be_long = False  # whether the head that is being parsed may be too long
        self.started: Any = (
            None  # uvicorn's cycle whose call is under way; `cycle` is the last sent
        )
        self.unread_bytes = 0  # when they were last looked at, and since when there were as many
        self.unread_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > connections_max():
            transport.abort()
        self.receiving_since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of what holds this connection: calls, under way and queued, and a timer.

        Such a circle waits for the collector, which looks at old objects seldom here: callers who
        come and go would pile up.
        """
        super().connection_lost(exc)
        if self.started is not None:
            self.started.disconnected = True
        self.cycle = self.started = None
        self.pipeline.clear()
        self._unset_keepalive_if_required()  # uvicorn leaves it ticking where the caller broke off

    def data_received(self, data: bytes) -> None:
        """Parse what came; give up on a head, or on trailers, without an end."""
        if self.receiving_since is None:
            self.receiving_since = self.loop.time()
            self.idle_since = None
        self.bytes_beside += len(data)  # whatever the parser gets on with begins it anew
        self.may_be_long = self.bytes_beside > HEADER_BYTES_MAX
        super().data_received(data)
        if self.bytes_beside > HEADER_BYTES_MAX and not self.transport.is_closing():
            if self.in_head:
                self.send_400_response("")
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed, or only by far too much; and close.

        With a call under way nothing is said: the caller would take it for that call's answer.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
        elif self.in_head and self.may_be_long:
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        else:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        # uvicorn makes a scope here; it is made where it is needed.
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self.in_head = True
        self.bytes_beside = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:  # a trailer comes too late to be a field: the call may be answered by then
            # As uvicorn does, but for a call of it: each costs as much as all that is done here.
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.may_be_long and self._head_bytes() > HEADER_BYTES_MAX:
            raise _Refused
        self.in_head = False
        self.bytes_beside = 0
        if self.url == _HOT_URL and self._is_plain_post():
            self.hot_body = b""
        else:
            self._go_uvicorns_way()

    def on_body(self, body: bytes) -> None:
        self.bytes_beside = 0
        if self.hot_body is None:
            super().on_body(body)
            return
        self.hot_body += body
        if len(self.hot_body) > INTENT_BYTES_MAX:
            self._go_uvicorns_way()

    def on_message_complete(self) -> None:
        self.receiving_since = None
        self.bytes_beside = 0
        if self.hot_body is not None:
            before, self.cycle = self.cycle, _HotCycle(self, self.parser.should_keep_alive())
            if self.hot(self.headers, self.hot_body, self.cycle.tell):
                self.hot_body = None
                return
            self.cycle = before
            self._go_uvicorns_way()
        super().on_message_complete()

    def answered(self, reply: Reply, *, keep_alive: bool) -> None:
        """Write a hot call's answer; then go on with what the caller sent meanwhile, if anything."""
        self.transport.write(self._written(reply, keep_alive=keep_alive))
        if not keep_alive:
            self.transport.close()
        if self.pipeline or self.transport.is_closing():
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1
            self.idle_since = self.loop.time()

    def is_stuck(self, now: float) -> bool:
        """Say whether the caller has taken nothing of what waits for him, for too long."""
        unread_bytes = self.transport.get_write_buffer_size() if self.flow.write_paused else 0
        if not unread_bytes:
            self.unread_since = None
        elif self.unread_since is None or unread_bytes != self.unread_bytes:
            self.unread_since = now
        self.unread_bytes = unread_bytes
        return self.unread_since is not None and self.unread_since < now - UNREAD_TIMEOUT_S

    def _head_bytes(self) -> int:
        """Return about how long a head is: its lines without what parts them."""
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self.started = cycle
        super()._start_asgi_task(cycle, app)

    def _is_plain_post(self) -> bool:
        parser, cycle = self.parser, self.cycle
        return (
            parser.get_method() == b"POST"
            and (cycle is None or cycle.response_complete)
            and parser.get_http_version() == "1.1"
            and not parser.should_upgrade()
            and not self.expect_100_continue
            and not self.flow.write_paused  # who reads no answers is made to wait for them
        )

    def _go_uvicorns_way(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.scope["extensions"] = {TRANSPORT: self.transport}  # type: ignore[dict-item]
        self.headers += headers  # in place: the scope holds this list
        super().on_headers_complete()
        if len(self.pipeline) > CALLS_WAITING_MAX:
            raise _Refused
        if self.hot_body is not None:
            body, self.hot_body = self.hot_body, None
            super().on_body(body)

    def _written(self, reply: Reply, *, keep_alive: bool) -> bytes:
        fields, body = reply.headers, reply.body
        lines = b"".join([b"%b: %b\r\n" % field for field in fields])
        if not keep_alive and _CLOSE not in fields:
            lines += b"connection: close\r\n"
        head = STATUS_LINE[reply.status] + self._default_lines()
        return b"%b%bcontent-length: %d\r\n\r\n%b" % (head, lines, len(body), body)

    def _default_lines(self) -> bytes:
        """Return the lines of uvicorn's own fields; it makes them anew each second, for the date."""
        fields = self.server_state.default_headers
        if Connection._lines_of[0] is not fields:
            Connection._lines_of = (fields, b"".join([b"%b: %b\r\n" % field for field in fields]))
        return Connection._lines_of[1]


class _HotCycle:
    """A call on the short way, with what uvicorn asks of a cycle."""

    __slots__ = ("connection", "disconnected", "keep_alive", "response_complete")

    def __init__(self, connection: Connection, keep_alive: bool) -> None:
        self.connection = connection
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False

    @property
    def message_event(self) -> _HotCycle:
        """Stands for the event that wakes a cycle's task: there is none."""
        return self

    def set(self) -> None:
        """Wake nobody."""

    def tell(self, reply: Reply) -> None:
        """Answer the caller, if he is still there. Once: a second answer would be the next call's."""
        if self.response_complete:
            return
        self.response_complete = True
        if not self.disconnected and not self.connection.transport.is_closing():
            keep_alive = self.keep_alive and _CLOSE not in reply.headers
            self.connection.answered(reply, keep_alive=keep_alive)


async def sweep(connections: set[Any]) -> None:
    """Close those that take too long to say what they want, or anything, or to read an answer.

    Runs until cancelled.
    """
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_SWEEP_INTERVAL_S)
        _close_overdue(list(connections), loop.time())


def _close_overdue(connections: list[Any], now: float) -> None:
    for connection in connections:
        since = connection.receiving_since
        is_slow = since is not None and since < now - RECEIVE_TIMEOUT_S
        if is_slow or connection.is_stuck(now):
            connection.transport.abort()
        since = connection.idle_since
        if since is not None and since < now - KEEP_ALIVE_S:
            connection.transport.close()
