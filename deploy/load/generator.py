"""The generator: sends a plan, retries, and books every answer.

Open loop (the default): when each intent is due was fixed before the start. A late answer never
slows the sending, and latency is counted from the moment a send was due, not from when a connection
happened to be free for it. A generator that waits for answers before it sends on, as a closed loop
does, stops asking exactly while the server stalls, and so leaves the worst moments out of its
figures ("coordinated omission", Gil Tene). The closed loop is here for benchmarks of throughput.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from math import inf
from random import Random
from time import monotonic

from msgspec import Struct

from deploy.load.books import Books
from deploy.load.connection import Pool, Post
from deploy.load.plan import Plan
from deploy.load.profile import Retry
from deploy.load.retry import pause_s
from deploy.load.wire import Answer, Kind, Reply, Target, Wire, answer, answers, receipt

# Sends are made in ticks: to wake for each would cost more than the send. Part of the latency told.
_TICK_S = 0.002


class Mode(Struct, frozen=True):
    """How a plan is sent."""

    connections: int = 1_000
    batch: int = 1  # intents in one post; 1 uses the single endpoint
    batch_age_max_s: float = 0.02  # a gateway that gathers a batch does not wait longer for it
    closed: bool = False  # `connections` posts at once, each sent when another was answered
    stop_after_s: float | None = None  # a closed loop sends nothing new after this


class Generator:
    """One plan on its way. Is the Listener of its own pool."""

    def __init__(
        self,
        plan: Plan,
        to: Target,
        books: Books,
        retry: Retry,
        mode: Mode | None = None,
        seed: int = 0,
    ) -> None:
        self._plan = plan
        self._to = to
        self._wire = Wire(to)
        self._books = books
        self._retry = retry
        self._mode = mode or Mode()
        self._random = Random(f"retries/{seed}")
        self._sends = plan.sends
        self._next = 0
        self._stopped = False
        self._out = 0
        self._again: list[tuple[float, int, Post]] = []
        self._doubtful: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._wake_at = inf
        self.started_at = self.ended_at = 0.0
        self.connections_used = 0

    async def run(self, lead_s: float = 0.0) -> None:
        """Send everything, retries with it, and return when nothing is outstanding."""
        self._loop = asyncio.get_running_loop()
        self._done = self._loop.create_future()
        self._pool = Pool(
            self._to, self._mode.connections, self._retry.answer_timeout_s, listener=self
        )
        self.started_at = monotonic() + lead_s
        self._step: Callable[[], None] = self._closed if self._mode.closed else self._open
        self._step()
        try:
            await self._done
        finally:
            self.ended_at = monotonic()
            self.connections_used = self._pool.connections_max
            if self._timer is not None:
                self._timer.cancel()
            await self._pool.close()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start of sending, until its end."""
        return max(0.0, (self.ended_at or monotonic()) - self.started_at)

    @property
    def sends_done(self) -> int:
        """How many of the plan's sends were begun."""
        return self._next

    def stop(self) -> None:
        """Send nothing new; retries and answers under way still come to their end."""
        self._stopped = True
        if self.started_at:
            self._loop.call_soon_threadsafe(self._step)

    @property
    def outstanding(self) -> int:
        """Posts sent and not answered, and retries that wait for their time."""
        return self._out + len(self._again)

    # ---- sending

    def _open(self) -> None:
        """Send all that is due, then sleep until the next is."""
        now = monotonic()
        self._send_retries(now)
        due, start = self._plan.due, self.started_at
        while (end := self._group_end()) > self._next and start + due[end - 1] <= now:
            self._send(end, tuple([start + at for at in due[self._next : end]]))
        upcoming = start + due[end - 1] if end > self._next else inf
        self._sleep(min(upcoming, self._next_retry()))

    def _closed(self) -> None:
        """Keep as many posts outstanding as there are connections."""
        now = monotonic()
        if self._again:
            self._send_retries(now)
        room = self._mode.connections - self._out - len(self._again)
        if room > 0 and not self._over(now):
            batch, sends = self._mode.batch, self._sends
            for first in range(self._next, min(self._next + room * batch, sends), batch):
                end = min(first + batch, sends)
                self._send(end, (now,) * (end - first))
        self._sleep(self._next_retry())

    def _group_end(self) -> int:
        """Where the batch that begins with the next send ends."""
        plan, first = self._plan, self._next
        if first >= self._sends or self._stopped:
            return first
        end, last = first + 1, min(first + self._mode.batch, self._sends)
        while end < last and plan.due[end] - plan.due[first] <= self._mode.batch_age_max_s:
            end += 1
        return end

    def _over(self, now: float) -> bool:
        stop = self._mode.stop_after_s
        return self._stopped or (stop is not None and now - self.started_at > stop)

    def _send(self, end: int, due: tuple[float, ...]) -> None:
        """Send the plan's next sends, up to `end`, in one post."""
        plan, first = self._plan, self._next
        self._next = end
        if self._mode.batch == 1:
            i = plan.index[first]
            self._books.due(i, due[0])
            payload = self._wire.post(plan.path, plan.keys[i], plan.bodies[i])
            self._submit(Post((i,), due, payload))
            return
        members = tuple(plan.index[first:end])
        for i, at in zip(members, due, strict=True):
            self._books.due(i, at)
        payload = self._wire.batch(
            plan.path, [plan.keys[i] for i in members], [plan.bodies[i] for i in members]
        )
        self._submit(Post(members, due, payload))

    def _send_retries(self, now: float) -> None:
        while self._again and self._again[0][0] <= now:
            self._submit(heapq.heappop(self._again)[2])

    def _next_retry(self) -> float:
        return self._again[0][0] if self._again else inf

    def _submit(self, post: Post) -> None:
        self._out += 1
        self._pool.submit(post)

    def _sleep(self, wake_at: float) -> None:
        """Set the one timer for this time; with nothing to wait for, the run is over."""
        if wake_at != self._wake_at:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._wake_at = wake_at
            if wake_at < inf:
                pause = max(_TICK_S, wake_at - monotonic())
                self._timer = self._loop.call_later(pause, self._wake)
        if wake_at == inf and self._out == 0 and not self._done.done():
            self._done.set_result(None)

    def _wake(self) -> None:
        self._timer, self._wake_at = None, inf
        self._step()

    # ---- answers

    def answered(self, post: Post, reply: Reply, now: float) -> None:
        """Book an answer; see `Listener`."""
        books = self._books
        books.posts += 1
        books.reply.record(now - post.written_at)
        books.lateness.record(post.written_at - post.due[-1])
        if self._mode.batch == 1:
            intent_id = receipt(reply)
            if intent_id is None:
                self._book(post, 0, answer(reply), now)
            else:
                books.acceptance.record(now - post.due[0])
                books.accepted(post.members[0], intent_id, now)
        else:
            for k, said in enumerate(self._batch_answers(post, reply)):
                self._book(post, k, said, now)
        self._out -= 1
        self._ended()

    def lost(self, post: Post, now: float) -> None:
        """Ask again with the same key; see `Listener`."""
        self._books.posts += 1
        self._books.lost += 1
        for k, i in enumerate(post.members):
            self._doubtful.add(i)
            self._unclear(post, k, Answer(status_code=502), now)
        self._out -= 1
        self._ended()

    def unsent(self, post: Post, now: float) -> None:
        """Book what could not be sent; see `Listener`."""
        for i in post.members:
            if i in self._doubtful:
                self._books.unknown(i)
            else:
                self._books.unsent(i)
        self._out -= 1
        self._ended()

    def _batch_answers(self, post: Post, reply: Reply) -> list[Answer]:
        if post.attempt > 1:  # a retry goes alone, through the single endpoint
            return [answer(reply)]
        return answers(reply, len(post.members))

    def _book(self, post: Post, k: int, said: Answer, now: float) -> None:
        i, books = post.members[k], self._books
        kind = said.kind
        if kind is Kind.ACCEPTED and said.intent_id is not None:
            books.acceptance.record(now - post.due[k])
            books.accepted(i, said.intent_id, now)
            if (outcome := said.outcome) is not None:
                books.decided(i, outcome, said.times)
        elif kind is Kind.ACCEPTED or kind is Kind.UNKNOWN:
            self._doubtful.add(i)
            self._unclear(post, k, said, now)
        else:
            books.refusal.record(now - post.due[k])
            self._told_no(post, k, said, now)

    def _told_no(self, post: Post, k: int, said: Answer, now: float) -> None:
        i, books = post.members[k], self._books
        books.told[said.why] += 1
        pause = pause_s(self._retry, said, post.attempt, self._random)
        if pause is not None:
            self._come_back(post, k, now, pause)
        elif i in self._doubtful:
            # An earlier reply was lost and may still have been a receipt: this no settles nothing.
            books.unknown(i)
        else:
            books.refused(i, said.why, post.written_at)

    def _unclear(self, post: Post, k: int, said: Answer, now: float) -> None:
        pause = pause_s(self._retry, said, post.attempt, self._random)
        if pause is None:
            self._books.unknown(post.members[k])
        else:
            self._come_back(post, k, now, pause)

    def _come_back(self, post: Post, k: int, now: float, pause: float) -> None:
        i, plan = post.members[k], self._plan
        self._books.retries += 1
        payload = self._wire.post(plan.path, plan.keys[i], plan.bodies[i])
        again = Post((i,), (now + pause,), payload, post.attempt + 1)
        heapq.heappush(self._again, (now + pause, self._books.retries, again))
        if now + pause < self._wake_at:
            self._sleep(now + pause)

    def _ended(self) -> None:
        """After an answer: a closed loop sends the next, an open one may be at its end."""
        if self._mode.closed or (self._out == 0 and self._wake_at == inf):
            self._step()
