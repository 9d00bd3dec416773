"""The drain: learns what became of every receipt, by asking as a gateway would.

Orders are asked for by posting the same intents with the same keys again, up to 500 at once: a
known key gets its intent's resource. So the drain is at the same time a replay of the whole run,
and would catch a system that takes a known key for a new one. Issuances, whose answer carries the
coupon code, are asked for one by one. A key whose reply was lost is looked up by name; it is not
posted again, which would turn "was it taken?" into "take it".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from time import monotonic
from typing import TypeVar

from msgspec import Struct

from deploy.load.books import Books, State
from deploy.load.connection import Pool, Post
from deploy.load.plan import Plan
from deploy.load.wire import Answer, Kind, Reply, Target, Wire, answer, answers

T = TypeVar("T")

BATCH_MAX = 500  # the contract's bound on intents in one post
_LANES = 4  # posts outstanding: enough to keep the system busy, too few to be a load of their own
_LANES_SINGLE = 32
_PROBE = 50
_PAUSE_S, _PAUSE_MAX_S = 0.1, 1.0


class Patience(Struct, frozen=True):
    """How long the drain asks on."""

    drain_max_s: float = 120.0
    answer_timeout_s: float = 30.0


async def drain(
    plan: Plan,
    to: Target,
    books: Books,
    patience: Patience | None = None,
    on_progress: Callable[[], None] = lambda: None,
) -> float:
    """Ask until every receipt has its outcome or patience ends; return the seconds it took.

    What is still open then stands in the books as `receipts_without_outcome`.
    """
    began = monotonic()
    patience = patience or Patience()
    asker = _Asker(to, patience.answer_timeout_s)
    try:
        round_ = _Rounds(plan, asker, Wire(to), books, on_progress)
        pause = _PAUSE_S
        while not await round_.ask_all() and monotonic() - began < patience.drain_max_s:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _PAUSE_MAX_S)
    finally:
        await asker.close()
    return monotonic() - began


class _Rounds:
    """One round asks for everything that is open."""

    def __init__(
        self, plan: Plan, asker: _Asker, wire: Wire, books: Books, on_progress: Callable[[], None]
    ) -> None:
        self._plan, self._asker, self._wire, self._books = plan, asker, wire, books
        self._on_progress = on_progress

    async def ask_all(self) -> bool:
        """Ask once; True when nothing is open any more."""
        await self._look_up(self._books.in_state(State.UNKNOWN))
        open_ = self._books.undecided()
        if self._plan.kind == "issuance":
            await self._each(open_)
        elif len(open_) <= _PROBE or await self._newest_decided(open_):
            await self._replay(open_)
        return not self._books.undecided() and not self._books.in_state(State.UNKNOWN)

    async def _newest_decided(self, open_: Sequence[int]) -> bool:
        """Ask for the newest few: while these wait, asking for all would only add to the load."""
        probe = open_[-_PROBE:]
        await self._replay(probe)
        return any(self._books.outcomes[i] is not None for i in probe)

    async def _replay(self, members: Sequence[int]) -> None:
        plan = self._plan
        posts = [members[at : at + BATCH_MAX] for at in range(0, len(members), BATCH_MAX)]

        async def ask(some: Sequence[int]) -> None:
            keys, bodies = [plan.keys[i] for i in some], [plan.bodies[i] for i in some]
            reply = await self._asker.ask(self._wire.batch(plan.path, keys, bodies))
            if reply is not None and reply.status == 200:
                for i, said in zip(some, answers(reply, len(some)), strict=True):
                    self._book(i, said)
            self._on_progress()

        await _in_lanes(posts, ask, _LANES)

    async def _each(self, members: Sequence[int]) -> None:
        async def ask(i: int) -> None:
            intent_id = self._books.intent_ids[i]
            assert intent_id is not None, "only receipts are asked for"
            reply = await self._asker.ask(self._wire.intent(intent_id))
            if reply is not None:
                self._book(i, answer(reply))
            self._on_progress()

        await _in_lanes(members, ask, _LANES_SINGLE)

    async def _look_up(self, members: Sequence[int]) -> None:
        async def ask(i: int) -> None:
            payload = self._wire.intent_of(self._plan.users[i], self._plan.keys[i], self._plan.kind)
            reply = await self._asker.ask(payload)
            if reply is None:
                return
            said = answer(reply)
            if reply.status == 404:
                self._books.cleared(i, "reply_lost")
            elif said.kind is Kind.ACCEPTED and said.intent_id is not None:
                self._books.accepted(i, said.intent_id, monotonic())
                self._book(i, said)

        await _in_lanes(members, ask, _LANES_SINGLE)

    def _book(self, i: int, said: Answer) -> None:
        """Book what a receipt's key is answered now."""
        if said.kind is Kind.ACCEPTED and said.intent_id is not None:
            self._books.remembered(i, said.intent_id)
            if (outcome := said.outcome) is not None:
                self._books.decided(i, outcome, said.times)
                if said.coupon is not None and said.coupon.code:
                    self._books.coupon_codes[i] = said.coupon.code
        elif said.kind in (Kind.NO, Kind.REFUSED):
            self._books.forgotten(i)
        elif said.kind in (Kind.LIMITED, Kind.SHED):
            # A known key has its resource at every level. Whoever asks too often may be put off as
            # a whole; an item of a batch that was taken may not.
            self._books.refused(i, said.why, monotonic())


class _Asker:
    """Asks one thing at a time for many callers; None means: no answer, ask again later."""

    def __init__(self, to: Target, timeout_s: float) -> None:
        self._pool = Pool(to, max(_LANES, _LANES_SINGLE), timeout_s, self)
        self._asked: dict[int, asyncio.Future[Reply | None]] = {}

    async def ask(self, payload: bytes) -> Reply | None:
        post = Post((0,), (monotonic(),), payload)
        future: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        self._asked[id(post)] = future
        self._pool.submit(post)
        return await future

    async def close(self) -> None:
        await self._pool.close()

    def answered(self, post: Post, reply: Reply, now: float) -> None:
        self._tell(post, reply)

    def lost(self, post: Post, now: float) -> None:
        self._tell(post, None)

    def unsent(self, post: Post, now: float) -> None:
        self._tell(post, None)

    def _tell(self, post: Post, reply: Reply | None) -> None:
        future = self._asked.pop(id(post))
        if not future.done():
            future.set_result(reply)


async def _in_lanes(
    items: Iterable[T], ask: Callable[[T], Coroutine[None, None, None]], lanes: int
) -> None:
    """Ask for every item, `lanes` of them at a time."""
    waiting = iter(items)

    async def lane() -> None:
        for item in waiting:
            await ask(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(lanes):
            group.create_task(lane())
