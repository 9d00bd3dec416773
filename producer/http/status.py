"""How it goes, for the chat layer: asked for, or heard on an open connection.

One text is rendered for all, once a change and else once a second at most. A stream hears the status
on every change and every 15 s, which keeps the connection alive as well. Thousands may listen: on
our own server a listener is its connection and a place in a dictionary; there is no task to wake and
nothing to render, and telling all is one write each, in slices, so that intents are answered between.

    LevelBook ──news──▶ Board ──the same bytes──▶ every listener's transport

Nobody is buffered for. Who has not taken what was told before when the next is due is cut off, comes
back, and hears at once how things stand: of a status only the latest counts. Ids are of this process
(`epoch-process-number`); any other id, of another process or of an earlier one, is answered with the
status as it stands.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from producer.http import render
from producer.http.calls import JSON_HEADER, Call, Feed, Reply, Stream
from producer.http.messages import Messages
from producer.http.problems import Code, Problem
from producer.levels import LevelBook, Standing

HEARTBEAT_S: Final = 15.0  # shorter than the idle timeouts of the proxies between
LISTENERS_MAX: Final = 10_000  # of one process; each holds a connection
UNSENT_BYTES_MAX: Final = 16 * 1_024  # beyond what the kernel buffers: a few statuses
_FRESH_S: Final = 1.0  # how old figures may be
_SLICE: Final = 200  # writes in one turn of the loop: two milliseconds or so
_RETRY_MS: Final = (1_000, 4_000)  # after a restart thousands come back, and not in one moment
_TOO_MANY_RETRY_MS: Final = 10_000

_CACHE: Final = (b"cache-control", b"private, max-age=1")
_STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_CHUNK: Final = b"0\r\n\r\n"


async def get_status(call: Call) -> Reply:
    """`GET /v1/status`: any gateway's key will do."""
    await call.authorise(None)
    return Reply(200, call.api.board.body(), [JSON_HEADER, _CACHE])


async def get_status_stream(call: Call) -> Feed | Stream:
    """`GET /v1/status/stream`: the same as events, on every change and every 15 s."""
    await call.authorise(None)
    board = call.api.board
    if board.ended or board.count >= LISTENERS_MAX:
        raise Problem(
            Code.REDUCED_CAPACITY,
            "Too many streams are open, or this process ends. Ask /v1/status, or come back.",
            limit="streams",
            retry_after_ms=_TOO_MANY_RETRY_MS,
        )
    last = call.headers.get(b"last-event-id", b"").strip()
    if call.transport is None:  # another server than ours
        return Stream(200, board.pieces(last), list(_STREAM_HEADERS))
    return Feed(200, lambda transport: board.join(transport, last), list(_STREAM_HEADERS))


class _Frame(NamedTuple):
    """One event: its id, its status, its text, and the text as a chunk of a chunked body."""

    number: bytes
    body: bytes
    event: bytes
    chunk: bytes


class Board:
    """The status of the whole system, and who listens to it. Made and used on one event loop."""

    def __init__(self, levels: LevelBook, messages: Messages, wait_ms: Callable[[], int]) -> None:
        """`wait_ms` says how long outcomes take, as measured here; for when nobody governs."""
        self._loop = asyncio.get_running_loop()
        self._levels = levels
        self._messages = messages
        self._wait_ms = wait_ms
        self._process = b"%x" % (time.time_ns() // 1_000_000 << 22 | os.getpid() % (1 << 22))
        self._number = 0
        self._rendered: tuple[Standing, bytes] | None = None
        self._rendered_at = 0.0
        self._listeners: dict[asyncio.Transport, None] = {}
        self._streams = 0  # on other servers than ours
        self._beating: asyncio.TimerHandle | None = None
        self.ended = False
        self._frame = self._make_frame()
        self._changed: asyncio.Future[None] = self._loop.create_future()
        levels.listen(self._tell)

    @property
    def count(self) -> int:
        """How many listen."""
        return len(self._listeners) + self._streams

    def body(self) -> bytes:
        """Return the status as JSON; its figures may be a second old, its level is not."""
        standing, now = self._levels.standing, self._loop.time()
        if self._rendered is not None and now - self._rendered_at < _FRESH_S:
            before, body = self._rendered
            if before is standing or before.news == standing.news:
                return body
        body = render.encode(_view(standing, self._messages, self._wait_ms()))
        self._rendered, self._rendered_at = (standing, body), now
        return body

    def join(self, transport: asyncio.Transport, last: bytes) -> Callable[[], None]:
        """Tell a connection from now on, whose head is written; returns how to leave."""
        transport.write(_chunk(self._opening(last)))
        if self.ended:
            _finish(transport)
        else:
            self._listeners[transport] = None
            self._beat_on()
        return lambda: self._listeners.pop(transport, None)

    async def pieces(self, last: bytes) -> AsyncGenerator[bytes, None]:
        """Tell one connection from now on, for servers that do not lend theirs."""
        self._streams += 1
        try:
            frame = self._frame
            yield self._opening(last)
            self._beat_on()
            while not self.ended:
                if frame is self._frame:
                    await asyncio.shield(self._changed)
                else:
                    frame = self._frame
                    yield frame.event
        finally:
            self._streams -= 1

    def end(self) -> None:
        """End all streams: the process does."""
        self.ended = True
        for transport in list(self._listeners):
            _finish(transport)
        self._listeners.clear()
        if self._beating is not None:
            self._beating.cancel()
        if not self._changed.done():
            self._changed.set_result(None)

    def _opening(self, last: bytes) -> bytes:
        """Return what a newcomer is told first: how things stand, unless it has heard just that."""
        if self._beating is None and self.body() != self._frame.body:
            self._frame = self._make_frame()  # nobody was there to be told
        retry = b"retry: %d\n\n" % random.randint(*_RETRY_MS)
        return retry if last == self._frame.number else retry + self._frame.event

    def _make_frame(self) -> _Frame:
        self._number += 1
        epoch = self._levels.standing.epoch
        number = b"%d-%b-%d" % (epoch, self._process, self._number)
        body = self.body()
        event = b"id: %b\nevent: status\ndata: %b\n\n" % (number, body)
        return _Frame(number, body, event, _chunk(event))

    def _beat_on(self) -> None:
        if self._beating is None:
            self._beating = self._loop.call_later(HEARTBEAT_S, self._tell)

    def _tell(self) -> None:
        """Tell all who listen how things stand now."""
        if self._beating is not None:
            self._beating.cancel()
            self._beating = None
        if self.ended or not self.count:
            return
        self._frame = self._make_frame()
        changed, self._changed = self._changed, self._loop.create_future()
        changed.set_result(None)
        self._tell_slice(self._frame, list(self._listeners), 0)
        self._beat_on()

    def _tell_slice(self, frame: _Frame, listeners: list[asyncio.Transport], first: int) -> None:
        if frame is not self._frame:
            return  # there is news already, and it goes to all
        for transport in listeners[first : first + _SLICE]:
            if transport not in self._listeners or transport.is_closing():
                continue
            if transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
                del self._listeners[transport]
                transport.abort()
            else:
                transport.write(frame.chunk)
        if first + _SLICE < len(listeners):
            self._loop.call_soon(self._tell_slice, frame, listeners, first + _SLICE)


def _view(standing: Standing, messages: Messages, wait_ms: int) -> render.StatusView:
    predicted_ms = standing.predicted_wait_ms
    paused = standing.issuance_paused
    return render.StatusView(
        level=standing.level,
        reason=standing.reason,
        since=_moment(standing.since_ms),
        until=None if standing.until_ms is None else _moment(standing.until_ms),
        governed=standing.governed,
        issuance="paused" if paused else "open",
        redemption="paused" if standing.redemption_paused else "open",
        estimated_wait_ms=wait_ms if predicted_ms is None else predicted_ms,
        retry_after_ms=standing.retry_after_ms(time.time_ns() // 1_000_000),
        admit_ratio=0.0 if standing.redemption_paused else standing.admit_ratio,
        campaigns={
            campaign_id: render.CampaignStatusView(
                issuance="paused" if paused or campaign.paused else "open",
                resume_at=campaign.resume_at if campaign.paused else None,
                starts_at=campaign.starts_at,
                ends_at=campaign.ends_at,
            )
            for campaign_id, campaign in standing.campaigns.items()
        },
        messages={
            language: messages.level(language, standing.level) for language in messages.languages
        },
    )


def _moment(unix_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=unix_ms)


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def _finish(transport: asyncio.Transport) -> None:
    """End a chunked body, and the connection with it; at once, where nobody reads."""
    if transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
        transport.abort()
    elif not transport.is_closing():
        transport.write(_LAST_CHUNK)
        transport.close()
