"""The sender of the benchmark: lean enough not to be what is measured.

Closed loop, for throughput: each connection has one post outstanding and writes the next when the
answer is there. Open loop, for latency: every send time was fixed before the start, a late answer
delays no send, and latency is counted from the intended send time. A closed loop stops asking just
while the server stalls, and so leaves the worst moments out of its percentiles; that mistake is
known as coordinated omission (Gil Tene, "How NOT to Measure Latency").

In a retry storm who is refused, or hears nothing, comes back at once with the same post.

It reads the status and what each answer says of its intents, and keeps no books: what became of the
orders is counted in the tables. `deploy.load` is the sender that keeps books of every key.
"""

from __future__ import annotations

import asyncio
import contextlib
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from random import Random
from time import monotonic
from typing import NamedTuple

from deploy.load.line import Line
from deploy.load.wire import Reply, Target

_OPENING_AT_ONCE = 64  # a server's accept queue is short
_TICK_S = 0.001  # of the open loop; its half is part of every latency told
_AGAIN_S = 0.1  # before a lost connection that cannot be had is tried again
_PATIENCE_S = 30.0  # for answers that are still out when the sending is over


class Tally:
    """What came back. `latencies_s` has one entry for each answer, in the order of their coming."""

    def __init__(self) -> None:
        self.posts = 0
        self.accepted = 0  # intents with a receipt
        self.told = 0  # intents whose answer already said that they are committed
        self.refused: Counter[str] = Counter()  # answers by what was not a receipt
        self.lost = 0  # posts without an answer
        self.retries = 0  # of the posts, those of who came back
        self.ran_out = False  # there was nothing more to send while there was time
        self.latencies_s = array("d")
        self.refused_s = array("d")  # of them, those of answers with neither receipt nor outcome

    def percentile_ms(self, share: float) -> float:
        """Return the latency in milliseconds that `share` (0 to 1) of all answers do not exceed."""
        return percentile(self.latencies_s, share) * 1_000


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of all do not exceed; 0 of nothing."""
    if not values:
        return 0.0
    ranked = sorted(values)
    return ranked[max(0, -int(-share * len(ranked) // 1) - 1)]


class Post(NamedTuple):
    """A post on its way: when it was due (monotonic), its bytes, and which attempt it is."""

    due: float
    data: bytes
    attempt: int = 1


def arrivals(per_second: float, seconds: float, seed: int) -> array[float]:
    """Fix send times: a Poisson process, as of many senders who know nothing of each other."""
    random, at, times = Random(f"arrivals/{seed}"), 0.0, array("d")
    while (at := at + random.expovariate(per_second)) < seconds:
        times.append(at)
    return times


class Sender:
    """Sends posts over at most `connections` connections; one run each."""

    def __init__(
        self,
        to: Target,
        posts: Iterator[bytes],
        connections: int,
        *,
        seconds: float,
        due: array[float] | None = None,
        retries_max: int = 0,
        hear: Callable[[Reply], None] = lambda _: None,
    ) -> None:
        """`due` are the send times of an open loop, in seconds; without it the loop is closed.

        In an open loop each post that is refused for now (429, 5xx) or lost is sent again at once,
        `retries_max` times at most. `hear` is told every answer.
        """
        self.tally = Tally()
        self._to = to
        self._posts = posts
        self._limit = connections
        self._seconds = seconds
        self._due = due
        self._retries_max = retries_max
        self._hear = hear
        self._next = 0
        self._waiting: deque[Post] = deque()  # whose time came unserved
        self._idle: deque[_Line] = deque()
        self._open: set[_Line] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._begun = self._over = False

    async def run(self, begin: Callable[[], None], end: Callable[[], None]) -> Tally:
        """Open the connections, send, wait for the last answers; call `begin` and `end` of sending.

        Raises OSError when the server cannot be connected to.
        """
        self._loop = asyncio.get_running_loop()
        self._nothing_left = asyncio.Event()
        self._all_answered = asyncio.Event()
        try:
            await self._open_all()
            begin()
            self._begun = True
            started = monotonic()
            await (self._closed(started) if self._due is None else self._timed(started))
            self._over = True
            end()
            await self._answers()
        finally:
            self._over = True
            for line in list(self._open):
                line.transport.abort()
            for task in self._opening:
                task.cancel()
        return self.tally

    async def _open_all(self) -> None:
        for _ in range(0, self._limit, _OPENING_AT_ONCE):
            room = min(_OPENING_AT_ONCE, self._limit - len(self._open))
            await asyncio.gather(*(self._connect() for _ in range(room)))

    async def _connect(self) -> None:
        await self._loop.create_connection(lambda: _Line(self), self._to.host, self._to.port)

    async def _closed(self, started: float) -> None:
        for line in list(self._idle):
            self._idle.popleft()
            self._carry_next(line)
        with contextlib.suppress(TimeoutError):
            left_s = started + self._seconds - monotonic()
            await asyncio.wait_for(self._nothing_left.wait(), max(0.0, left_s))

    async def _timed(self, started: float) -> None:
        due = self._due or array("d")
        while self._next < len(due):
            now = monotonic() - started
            while self._next < len(due) and due[self._next] <= now:
                post = next(self._posts, None)
                if post is None:
                    self.tally.ran_out = True
                    return
                self._submit(Post(started + due[self._next], post))
                self._next += 1
            await asyncio.sleep(_TICK_S)

    def _submit(self, post: Post) -> None:
        if self._idle:
            self._idle.popleft().carry(post)
        else:
            self._waiting.append(post)

    def _come_back(self, post: Post) -> None:
        """Send a post again, unless its sender's patience is over."""
        if post.attempt <= self._retries_max:
            self.tally.retries += 1
            self._submit(Post(monotonic(), post.data, post.attempt + 1))

    async def _answers(self) -> None:
        if self._outstanding:
            try:
                await asyncio.wait_for(self._all_answered.wait(), _PATIENCE_S)
            except TimeoutError:
                self.tally.lost += self._outstanding

    @property
    def _outstanding(self) -> int:
        return len(self._waiting) + len(self._open) - len(self._idle)

    def _carry_next(self, line: _Line) -> None:
        post = next(self._posts, None)
        if post is not None:
            return line.carry(Post(monotonic(), post))
        self._idle.append(line)
        self.tally.ran_out = True
        if not self._outstanding:
            self._nothing_left.set()

    # ---- called by the connections

    def opened(self, line: _Line) -> None:
        """A connection is up."""
        self._open.add(line)
        self._free(line)

    def answered(self, line: _Line, post: Post, reply: Reply) -> None:
        """An answer came; the next post goes out before this one is counted."""
        now = monotonic()
        if reply.close:
            line.transport.close()
        elif self._due is None and not self._over:
            self._carry_next(line)
        else:
            self._free(line)
        tally = self.tally
        tally.posts += 1
        tally.latencies_s.append(now - post.due)
        if reply.status > HTTPStatus.ACCEPTED:
            tally.refused_s.append(now - post.due)
        count(tally, reply)
        self._hear(reply)
        if _is_for_now(reply.status):
            self._come_back(post)
        if self._over and not self._outstanding:
            self._all_answered.set()

    def gone(self, line: _Line, outstanding: Post | None) -> None:
        """A connection is down, with a post that has no answer; another takes its place."""
        self._open.discard(line)
        if line in self._idle:
            self._idle.remove(line)
        if self._over:
            if not self._outstanding:
                self._all_answered.set()
            return
        if outstanding is not None:
            self.tally.lost += 1
            self._come_back(outstanding)
        task = self._loop.create_task(self._reconnect())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _reconnect(self) -> None:
        while not self._over:
            with contextlib.suppress(OSError):
                return await self._connect()
            await asyncio.sleep(_AGAIN_S)

    def _free(self, line: _Line) -> None:
        if self._waiting:
            line.carry(self._waiting.popleft())
        elif self._due is None and self._begun and not self._over:
            self._carry_next(line)  # opened again in the midst of a closed loop
        else:
            self._idle.append(line)


def count(tally: Tally, reply: Reply) -> None:
    """Count what an answer says of its intents, by searching: decoding would cost more."""
    status, body = reply.status, reply.body
    if status == 202:
        tally.accepted += 1
    elif status != 200:
        tally.refused[f"http_{status}"] += 1
    elif body.startswith(b"["):
        receipts = body.count(b'"status_code":202')
        told = body.count(b'"status_code":200')
        tally.accepted += receipts + told
        tally.told += told
        if others := body.count(b'"status_code":') - receipts - told:
            tally.refused["in_batch"] += others
    elif b'"status":"committed"' in body:
        tally.accepted += 1
        tally.told += 1
    else:
        tally.refused["not_accepted"] += 1


def _is_for_now(status: int) -> bool:
    """Tell a refusal that another attempt may turn."""
    return status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR


class _Line(Line):
    """A line of the sender's."""

    __slots__ = ("_post", "_sender")

    def __init__(self, sender: Sender) -> None:
        super().__init__()
        self._sender = sender
        self._post = Post(0.0, b"")

    def carry(self, post: Post) -> None:
        self._post = post
        self.write(post.data)

    def replied(self, reply: Reply) -> None:
        self._sender.answered(self, self._post, reply)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._sender.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        busy, self.busy = self.busy, False
        self._sender.gone(self, self._post if busy else None)
