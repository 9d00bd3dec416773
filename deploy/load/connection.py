"""Connections: a bounded set of keep-alive HTTP/1.1 connections, one post outstanding on each.

The pool opens a connection when a post has none, up to its limit; beyond it posts wait in the
order of their coming. The connection used last is used next: the others grow old and are left to
the server's own keep-alive time. A lost connection is opened again with backoff.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from time import monotonic  # the loop's own clock is cached and counts whole milliseconds
from typing import Protocol

from msgspec import Struct

from deploy.load.line import Line
from deploy.load.wire import Reply, Target

# Connections being opened at once: a server's accept queue is short.
_OPENING_MAX = 64
# A connection idle for longer may be closing at the other end; it is not trusted with a post.
_IDLE_MAX_S = 4.0
_SWEEP_S = 0.25
_BACKOFF_S, _BACKOFF_MAX_S = 0.05, 1.0


class Post(Struct, gc=False):
    """One HTTP post under way: which intents it carries, when each was due, and its bytes."""

    members: tuple[int, ...]
    due: tuple[float, ...]  # on the monotonic clock, one for each member, rising
    payload: bytes
    attempt: int = 1
    written_at: float = 0.0


class Listener(Protocol):
    """Who is told what became of a post: exactly one of the three, exactly once."""

    def answered(self, post: Post, reply: Reply, now: float) -> None:
        """An answer came."""

    def lost(self, post: Post, now: float) -> None:
        """It was written and no answer came: nobody here knows whether it arrived."""

    def unsent(self, post: Post, now: float) -> None:
        """No connection could be had in time: it was surely not sent."""


class Pool:
    """Carries posts over at most `limit` connections."""

    def __init__(self, to: Target, limit: int, timeout_s: float, listener: Listener) -> None:
        self._to = to
        self._limit = limit
        self._timeout_s = timeout_s
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._tls = ssl.create_default_context() if to.tls else None
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[Post] = deque()
        self._backoff_s = 0.0
        self._not_before = 0.0
        self._closed = False
        self.connections_max = 0
        self.connects_failed = 0
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)

    @property
    def outstanding(self) -> int:
        """Posts that wait for a connection or for their answer."""
        return len(self._waiting) + len(self._open) - len(self._idle)

    def submit(self, post: Post) -> None:
        """Send now, or as soon as a connection is free."""
        if not self._waiting:  # else those before it have not even found one
            now = monotonic()
            while self._idle:
                connection = self._idle.pop()
                fresh = now - connection.idle_since <= _IDLE_MAX_S
                if fresh and not connection.transport.is_closing():
                    connection.carry(post, now)
                    return
                connection.transport.abort()
        self._waiting.append(post)
        self._open_more()

    async def close(self) -> None:
        """Drop every connection; posts under way are not told."""
        self._closed = True
        self._sweeper.cancel()
        self._waiting.clear()
        for task in self._opening:
            task.cancel()
        for connection in list(self._open):
            connection.post = None
            connection.transport.abort()
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _open_more(self) -> None:
        wanted = min(len(self._waiting), _OPENING_MAX) - len(self._opening)
        room = self._limit - len(self._open) - len(self._opening)
        for _ in range(min(wanted, room)):
            task = self._loop.create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _connect(self) -> None:
        pause = self._not_before - monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._loop.create_connection(
                    lambda: _Connection(self), self._to.host, self._to.port, ssl=self._tls
                )
            self._backoff_s = 0.0
        except OSError:  # TimeoutError is one
            self.connects_failed += 1
            self._backoff_s = min(max(self._backoff_s * 2, _BACKOFF_S), _BACKOFF_MAX_S)
            self._not_before = monotonic() + self._backoff_s

    def _sweep(self) -> None:
        """Give up what waits too long, and keep opening while anything waits."""
        now = monotonic()
        for connection in list(self._open):
            if connection.post is not None and now - connection.written_at > self._timeout_s:
                connection.transport.abort()
        # Behind busy connections a post waits for as long as it takes, and its wait is told. Only
        # where no connection can be had at all is there nothing to wait for.
        while self._waiting and not self._open and self._overdue(self._waiting[0], now):
            self._listener.unsent(self._waiting.popleft(), now)
        self._open_more()
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)

    def _overdue(self, post: Post, now: float) -> bool:
        return now - post.due[0] > self._timeout_s

    def opened(self, connection: _Connection) -> None:
        """A connection is up."""
        if self._closed:
            connection.transport.abort()
            return
        self._open.add(connection)
        self.connections_max = max(self.connections_max, len(self._open))
        self._free(connection, monotonic())

    def replied(self, connection: _Connection, post: Post, reply: Reply) -> None:
        """A connection has its answer; the next post goes out before this one is booked."""
        now = monotonic()
        if reply.close:
            connection.transport.close()
            self._open.discard(connection)
        else:
            self._free(connection, now)
        self._listener.answered(post, reply, now)

    def gone(self, connection: _Connection) -> None:
        """A connection is down."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        post, connection.post = connection.post, None
        if post is not None and not self._closed:
            self._listener.lost(post, monotonic())
        if self._waiting and not self._closed:
            self._open_more()

    def _free(self, connection: _Connection, now: float) -> None:
        if self._waiting:
            connection.carry(self._waiting.popleft(), now)
        else:
            connection.idle_since = now
            self._idle.append(connection)


class _Connection(Line):
    """A line of the pool's."""

    __slots__ = ("_pool", "idle_since", "post", "written_at")

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self._pool = pool
        self.post: Post | None = None
        self.idle_since = 0.0
        self.written_at = 0.0

    def carry(self, post: Post, now: float) -> None:
        self.post = post
        self.written_at = post.written_at = now
        self.write(post.payload)

    def replied(self, reply: Reply) -> None:
        post, self.post = self.post, None
        assert post is not None, "a busy line carries a post"
        self._pool.replied(self, post, reply)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._pool.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.gone(self)
