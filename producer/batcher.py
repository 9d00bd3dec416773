"""Natural batching: what arrives while one batch is being written is the next batch.

Problem: a database writes 500 rows for little more than the price of one, but a chat user must not
wait for 499 others. So there is no timer: an idle lane takes what waits at the end of the event
loop's turn (one intent, at low load), and while lanes are busy the next batch gathers by itself.
Batches grow with the load and shrink with it. While any lane is busy, an idle one waits for a batch
that is `worth` it (Nagle's rule, RFC 896): two small batches at once cost twice as much as one, and
are answered no sooner once that makes the processors busy. A lane that hangs holds up a small batch
for no longer than `HELD_UP_S`, give or take a tick. And a lane may be told to rest after a batch, so
that those who have to finish what it began come to their turn.

    submit ──▶ pending ──▶ lane (a thread, its own connections) ──▶ answers
                 │ pending_max         │
                 └─ refused at once    └─ unheard after the timeout

Invariants: items leave in the order they came; at most `pending_max` wait; and every item is
answered within `timeout_ms`, whatever its lane waits for. An item that never left the queue is
answered `unsent`, one that was in a lane's hands `unheard`: only the second may have been written.

Everything here runs on the event loop but `_Lane._run`. Rejected alternative: lanes that take from
a shared queue themselves. They would save one turn of the loop, and need a lock to tell `unsent`
from `unheard`, which is a promise.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Final, Generic, Protocol, TypeVar

import structlog
from msgspec import Struct

_log = structlog.get_logger()

HELD_UP_S: Final = 0.05  # several times what a lane takes

T = TypeVar("T")
A = TypeVar("A")
T_contra = TypeVar("T_contra", contravariant=True)
A_co = TypeVar("A_co", covariant=True)


class Work(Protocol[T_contra, A_co]):
    """What a lane does with a batch; used by one thread only."""

    def submit(self, batch: Sequence[T_contra]) -> Sequence[A_co]:
        """Answer a batch: one answer each, in its order."""

    def close(self) -> None:
        """Give connections back; called once, after the last batch or after a fault."""


class Excuses(Protocol[T_contra, A_co]):
    """The answers of a batcher whose work cannot answer."""

    def full(self, item: T_contra, wait_ms: int) -> A_co:
        """Refuse an item at once: too many wait already, lately for about `wait_ms`."""

    def closing(self, item: T_contra, wait_ms: int) -> A_co:
        """Refuse an item at once: nothing more is taken here."""

    def unsent(self) -> A_co:
        """Say that nothing was done: the item never left the queue."""

    def unheard(self) -> A_co:
        """Say that nobody knows: the work began, and no answer came."""


class Bounds(Struct, frozen=True):
    """The limits of a batcher; see `config.settings.Api` for their purposes.

    `worth` items are given to an idle lane though another is busy; fewer wait for that one.
    """

    lanes: int
    batch_max: int
    pending_max: int
    timeout_ms: int
    worth: int = 1


class _Entry(Generic[T, A]):
    """An item on its way: whom to tell its answer, once, and when it came (the loop's clock)."""

    __slots__ = ("answered", "came", "item", "tell")

    def __init__(self, item: T, tell: Callable[[A], None], came: float) -> None:
        self.item = item
        self.tell = tell
        self.came = came
        self.answered = False

    def answer(self, answer: A) -> None:
        """Tell the answer, unless it was told already. Whoever fails to hear it harms no other."""
        if not self.answered:
            self.answered = True
            try:
                self.tell(answer)
            except Exception:
                _log.exception("answer not told")


class Batcher(Generic[T, A]):
    """Gathers items into batches for a few lanes. Made and used on one event loop."""

    def __init__(
        self,
        name: str,
        make_work: Callable[[], Work[T, A]],
        excuses: Excuses[T, A],
        bounds: Bounds,
        observe: Callable[[Sequence[A]], None] = lambda answers: None,
        rest_s: Callable[[Sequence[A]], float] = lambda answers: 0.0,
    ) -> None:
        """Start the lanes' threads; nothing connects before the first batch.

        `make_work` and what it makes run in a lane's thread. `observe` is told every batch's
        answers, on the event loop. `rest_s` says how many seconds a lane rests after a batch.
        """
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._create_future = self._loop.create_future
        self._excuses = excuses
        self._observe = observe
        self._rest_s = rest_s
        self._pending: deque[_Entry[T, A]] = deque()
        self._pending_max = bounds.pending_max
        self._batch_max = bounds.batch_max
        self._timeout_s = bounds.timeout_ms / 1_000
        self._worth = bounds.worth
        self._wait_s = 0.0  # how long the head of the last batch had waited for a lane
        self._dispatching = False
        self._sweeping = False
        self._closed = False
        self._lanes = [
            _Lane(f"{name}-{i}", make_work, excuses, self._loop, self._deliver)
            for i in range(bounds.lanes)
        ]
        self._idle = list(self._lanes)

    def submit(self, item: T) -> asyncio.Future[A]:
        """Queue an item; its future always gets an answer, never an exception."""
        future: asyncio.Future[A] = self._create_future()
        self.submit_and_tell(item, functools.partial(_settle, future))
        return future

    def submit_and_tell(self, item: T, tell: Callable[[A], None]) -> None:
        """Queue an item; `tell` is called once, on the loop, with its answer. It must not raise.

        It may be called before this returns. A future for each item would cost the loop a turn.
        """
        pending = self._pending
        if self._closed:
            return tell(self._excuses.closing(item, self.wait_ms))
        if len(pending) >= self._pending_max:
            return tell(self._excuses.full(item, self.wait_ms))
        pending.append(_Entry(item, tell, self._now()))
        if self._idle and not self._dispatching:
            # At the end of this turn of the loop: whatever it read from other connections joins.
            self._dispatching = True
            self._loop.call_soon(self._dispatch)
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(self._tick_s, self._sweep)
        return None

    async def submit_many(self, items: Sequence[T]) -> list[A]:
        """Queue items, and return their answers in the same order, when the last is there."""
        answers: dict[int, A] = {}
        told = self._create_future()

        def tell(at: int, answer: A) -> None:
            answers[at] = answer
            if len(answers) == len(items) and not told.done():
                told.set_result(answer)

        for at, item in enumerate(items):
            self.submit_and_tell(item, functools.partial(tell, at))
        if items:
            await told
        return [answers[at] for at in range(len(items))]

    @property
    def wait_ms(self) -> int:
        """How long items wait for a lane at present: of the last batch, or of the oldest waiting."""
        oldest = self._now() - self._pending[0].came if self._pending else 0.0
        return int(max(self._wait_s, oldest) * 1_000)

    @property
    def pending(self) -> int:
        """How many items wait for a lane."""
        return len(self._pending)

    async def drain(self) -> None:
        """Take nothing more, and return when everything taken is answered (within the timeout)."""
        self._closed = True
        while self._pending or any(lane.unanswered for lane in self._lanes):
            await asyncio.sleep(0.01)

    def close(self) -> None:
        """Answer what is left as it stands, and end the threads (one that hangs is left behind)."""
        self._closed = True
        while self._pending:
            self._pending.popleft().answer(self._excuses.unsent())
        for lane in self._lanes:
            lane.answer_unheard()
            lane.end()

    @property
    def _tick_s(self) -> float:
        return min(0.25, self._timeout_s / 20)

    def _dispatch(self) -> None:
        self._dispatching = False
        pending = self._pending
        while self._idle and pending and self._is_worth_a_lane():
            count = min(len(pending), self._batch_max)
            batch = [pending.popleft() for _ in range(count)]
            self._wait_s = self._now() - batch[0].came
            self._idle.pop().take(batch)

    def _is_worth_a_lane(self) -> bool:
        if len(self._idle) == len(self._lanes) or len(self._pending) >= self._worth:
            return True
        return self._now() - self._pending[0].came > HELD_UP_S

    def _deliver(self, lane: _Lane[T, A], answers: Sequence[A]) -> None:
        batch = lane.batch
        lane.batch = []
        rest_s = self._rest_s(answers)
        if rest_s > 0:
            self._loop.call_later(rest_s, self._free, lane)
        else:
            self._free(lane)  # before the answers: the lane works while they are sent
        for entry, answer in zip(batch, answers, strict=True):
            entry.answer(answer)
        self._observe(answers)

    def _free(self, lane: _Lane[T, A]) -> None:
        self._idle.append(lane)
        self._dispatch()

    def _sweep(self) -> None:
        """Answer what is overdue. Items come in order, so the oldest stand first."""
        overdue = self._now() - self._timeout_s
        while self._pending and self._pending[0].came <= overdue:
            self._pending.popleft().answer(self._excuses.unsent())
        for lane in self._lanes:
            if lane.batch and lane.batch[0].came <= overdue:
                lane.answer_unheard(overdue)
        self._dispatch()  # what a lane that hangs has held up
        self._sweeping = bool(self._pending) or any(lane.unanswered for lane in self._lanes)
        if self._sweeping:
            self._loop.call_later(self._tick_s, self._sweep)


class _Lane(Generic[T, A]):
    """One thread with its work. `batch` is what it has in hand; read and written by the loop."""

    def __init__(
        self,
        name: str,
        make_work: Callable[[], Work[T, A]],
        excuses: Excuses[T, A],
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[_Lane[T, A], Sequence[A]], None],
    ) -> None:
        self.batch: list[_Entry[T, A]] = []
        self._make_work = make_work
        self._excuses = excuses
        self._loop = loop
        self._deliver = deliver
        self._work: Work[T, A] | None = None
        self._inbox: SimpleQueue[list[T] | None] = SimpleQueue()
        # A daemon: a thread stuck in a dead server's socket must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def take(self, batch: list[_Entry[T, A]]) -> None:
        self.batch = batch
        self._inbox.put([entry.item for entry in batch])

    @property
    def unanswered(self) -> bool:
        return any(not entry.answered for entry in self.batch)

    def answer_unheard(self, came_before: float = float("inf")) -> None:
        for entry in self.batch:
            if entry.came <= came_before:
                entry.answer(self._excuses.unheard())

    def end(self) -> None:
        self._inbox.put(None)
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while (items := self._inbox.get()) is not None:
            answers = self._submit(items)
            try:
                self._loop.call_soon_threadsafe(self._deliver, self, answers)
            except RuntimeError:  # the loop is closed: nobody is left to hear it
                break
        self._drop_work()

    def _submit(self, items: list[T]) -> Sequence[A]:
        """Do the work; whatever it raises, nobody knows how far it came."""
        try:
            if self._work is None:
                self._work = self._make_work()
        except Exception:
            _log.exception("lane cannot start", lane=self._thread.name)
            return [self._excuses.unsent() for _ in items]
        try:
            answers = self._work.submit(items)
            if len(answers) == len(items):
                return answers
            raise AssertionError(f"{len(answers)} answers to {len(items)} items")
        except Exception:
            _log.exception("batch failed", lane=self._thread.name, items=len(items))
            self._drop_work()
            return [self._excuses.unheard() for _ in items]

    def _drop_work(self) -> None:
        work, self._work = self._work, None
        try:
            if work is not None:
                work.close()
        except Exception:
            _log.exception("lane cannot close", lane=self._thread.name)


def _settle(future: asyncio.Future[A], answer: A) -> None:
    if not future.done():
        future.set_result(answer)
