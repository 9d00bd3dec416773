"""Waiting for outcomes: who asked to be told, and the two ways of hearing.

Workers announce outcomes on a Valkey channel. One thread per process listens to all of them and
keeps those that somebody here waits for. A lost announcement, or no Valkey at all, costs time and
not the answer: each waiter also asks the journal, less and less often.

A waiter is registered before its intent is submitted, under the id the intent will have; an outcome
that comes before the receipt is not missed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Final
from uuid import UUID

import msgspec
import redis
import structlog

from producer.sojourn import Sojourn
from workers.contract.hearing import Hearing, Pairs
from workers.contract.resource import IntentResource, unpack
from workers.domain.odds import Takings, counted

_log = structlog.get_logger()

Read = Callable[[UUID], Awaitable[IntentResource | None]]

FIRST_LOOK_S: Final = 0.5  # after this long unheard, look into the journal
DEAF_LOOK_S: Final = 0.1  # the same, while the channel is not heard
LOOK_S_MAX: Final = 5.0
SAMPLES_PER_BATCH: Final = 4  # outcomes read whoever waits: what share takes, and how long it took


class Waiters:
    """Futures of outcomes by intent id. Used on one event loop, but for the listening thread."""

    def __init__(
        self,
        open_client: Callable[[], redis.Redis],
        channel: str,
        read: Read,
        heard: Callable[[Sequence[bytes]], None] = lambda intent_ids: None,
    ) -> None:
        """`open_client` makes a client whose calls time out; `read` looks into the journal.

        `heard` is told the ids (`UUID.bytes`) of every announcement, in the listening thread.
        """
        self._loop = asyncio.get_running_loop()
        self._hearing = Hearing(open_client, channel, self._announced)
        self._read = read
        self._heard = heard
        self._waiting: dict[bytes, set[asyncio.Future[IntentResource | None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.sojourn = Sojourn()
        self.takings = Takings()

    def start(self) -> None:
        """Begin to listen, now or whenever Valkey can be reached."""
        self._hearing.start()

    def release(self) -> None:
        """Let everybody go who waits, without an outcome: this process ends."""
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)

    def close(self) -> None:
        """Stop listening."""
        self._hearing.close()

    def register(self, intent_id: UUID) -> Waiter:
        """Register for the outcome of an intent, until the waiter leaves."""
        future: asyncio.Future[IntentResource | None] = self._loop.create_future()
        self._waiting.setdefault(intent_id.bytes, set()).add(future)
        return Waiter(self, intent_id, future, self._read)

    @contextlib.contextmanager
    def waiting(self, intent_id: UUID) -> Iterator[Waiter]:
        """Register for the outcome of an intent, until the block ends."""
        waiter = self.register(intent_id)
        try:
            yield waiter
        finally:
            waiter.leave()

    def spawn(self, looking: Coroutine[None, None, None]) -> None:
        """Run a waiter's looks into the journal."""
        task = self._loop.create_task(looking)
        self._tasks.add(task)  # the loop itself would let it be collected
        task.add_done_callback(self._tasks.discard)

    def forget(self, intent_id: UUID, future: asyncio.Future[IntentResource | None]) -> None:
        """Drop a registration; doing it twice is harmless."""
        futures = self._waiting.get(intent_id.bytes)
        if futures is not None:
            futures.discard(future)
            if not futures:
                del self._waiting[intent_id.bytes]

    @property
    def count(self) -> int:
        """How many intents are waited for."""
        return len(self._waiting)

    @property
    def listening(self) -> bool:
        """Whether announcements are heard at present."""
        return self._hearing.listening.is_set()

    @property
    def first_look_s(self) -> float:
        """After how long unheard a waiter looks into the journal."""
        return FIRST_LOOK_S if self.listening else DEAF_LOOK_S

    def _deliver(self, found: Pairs) -> None:
        for key, packed in found:
            futures = self._waiting.get(key, ())
            if not futures:
                continue
            try:
                resource = unpack(packed)
            except msgspec.DecodeError:
                _log.warning("outcome not readable")  # its waiters will find it in the journal
                continue
            for future in futures:
                if not future.done():
                    future.set_result(resource)

    def _announced(self, pairs: Pairs) -> None:
        ids = [pair[0] for pair in pairs]
        self._heard(ids)
        some = _some(pairs)
        self.sojourn.heard([ms for one in some if (ms := _sojourn_ms(one)) is not None])
        self.takings = counted(self.takings, [one.refusal for one in some])
        # Reading a dictionary that the loop changes is safe: who registers later looks for itself.
        waiting = self._waiting
        found = [pair for pair in pairs if pair[0] in waiting] if waiting else []
        if found:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and its waiters
                self._loop.call_soon_threadsafe(self._deliver, found)


def _some(pairs: Pairs) -> list[IntentResource]:
    """Read some outcomes of an announcement; what cannot be read is left out."""
    found = []
    for _, packed in pairs[:: max(1, len(pairs) // SAMPLES_PER_BATCH)]:
        with contextlib.suppress(msgspec.DecodeError):
            found.append(unpack(packed))
    return found


def _sojourn_ms(resource: IntentResource) -> float | None:
    """Return how long an outcome took, by the database's clock; None: there is none."""
    if resource.decided_at is None:
        return None
    return (resource.decided_at - resource.accepted_at).total_seconds() * 1_000


class Waiter:
    """One wish to be told an outcome."""

    def __init__(
        self,
        waiters: Waiters,
        intent_id: UUID,
        future: asyncio.Future[IntentResource | None],
        read: Read,
    ) -> None:
        self._waiters = waiters
        self._intent_id = intent_id
        self._future = future
        self._read = read

    def leave(self) -> None:
        """Wait no more."""
        self._waiters.forget(self._intent_id, self._future)

    def tell_outcome(
        self,
        timeout_s: float,
        tell: Callable[[IntentResource | None], None],
        *,
        look_first: bool = False,
    ) -> None:
        """Call `tell` once with what `outcome` would return, and leave. `tell` must not raise.

        Most outcomes are announced before it is time for a first look into the journal, and are
        told without a task: one for each would cost more than all the rest.
        """
        unheard_s = 0.0 if look_first else min(timeout_s, self._waiters.first_look_s)

        def heard(future: asyncio.Future[IntentResource | None]) -> None:
            looking.cancel()
            self.leave()
            tell(future.result())

        def look() -> None:
            looking.cancel()  # each holds the other: a circle would wait for the collector
            if self._future.done():
                return  # in this very turn of the loop: `heard` is on its way, and tells
            self._future.remove_done_callback(heard)
            self._waiters.spawn(self._look_on(timeout_s - unheard_s, tell))

        looking = asyncio.get_running_loop().call_later(unheard_s, look)
        self._future.add_done_callback(heard)

    async def _look_on(
        self, timeout_s: float, tell: Callable[[IntentResource | None], None]
    ) -> None:
        try:
            resource = await self.outcome(timeout_s, look_first=True)
        finally:
            self.leave()
        tell(resource)

    async def outcome(self, timeout_s: float, *, look_first: bool = False) -> IntentResource | None:
        """Return the decided resource, or None when it is not decided in time.

        `look_first`: the outcome may be older than this waiter, so begin with the journal. `read`
        may raise; a look that fails is a look that found nothing.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        pause_s = 0.0 if look_first else self._waiters.first_look_s
        while True:
            left_s = until - loop.time()
            await asyncio.wait([self._future], timeout=max(0.0, min(pause_s, left_s)))
            if self._future.done():
                return self._future.result()
            if pause_s >= left_s:
                return None
            found = await self._look(left_s)
            if found is not None:
                return found
            pause_s = min(max(pause_s * 2, self._waiters.first_look_s), LOOK_S_MAX)

    async def _look(self, timeout_s: float) -> IntentResource | None:
        """Look into the journal, for as long as nothing is heard meanwhile."""
        look: asyncio.Future[IntentResource | None] = asyncio.ensure_future(
            self._read(self._intent_id)
        )
        try:
            await asyncio.wait(
                (self._future, look), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if self._future.done():
                return self._future.result()
            if not look.done() or look.exception() is not None:
                return None
            resource = look.result()
            return resource if resource is not None and resource.decided_at is not None else None
        finally:
            look.cancel()
