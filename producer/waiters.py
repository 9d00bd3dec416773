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
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
import redis
import structlog

from producer.sojourn import Sojourn
from workers.contract import announce
from workers.contract.resource import IntentResource, unpack

_log = structlog.get_logger()

Read = Callable[[UUID], Awaitable[IntentResource | None]]

FIRST_LOOK_S: Final = 0.5  # after this long unheard, look into the journal
DEAF_LOOK_S: Final = 0.1  # the same, while the channel is not heard
LOOK_S_MAX: Final = 5.0

_TURN_S: Final = 0.5  # how soon the listening thread notices that it is to end
_PING_S: Final = 2.0  # a silent channel is asked whether it lives
_SILENCE_S_MAX: Final = 6.0  # past it the connection counts as dead
_RECONNECT_S: Final = (0.1, 2.0)


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
        self._open_client = open_client
        self._channel = channel
        self._read = read
        self._heard = heard
        self._waiting: dict[bytes, set[asyncio.Future[IntentResource | None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="outcomes", daemon=True)
        self.sojourn = Sojourn()
        self.listening = False

    def start(self) -> None:
        """Begin to listen, now or whenever Valkey can be reached."""
        self._thread.start()

    def release(self) -> None:
        """Let everybody go who waits, without an outcome: this process ends."""
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)

    def close(self) -> None:
        """Stop listening."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * _TURN_S)

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
    def first_look_s(self) -> float:
        """After how long unheard a waiter looks into the journal."""
        return FIRST_LOOK_S if self.listening else DEAF_LOOK_S

    def _deliver(self, found: Sequence[tuple[bytes, bytes]]) -> None:
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

    def _listen(self) -> None:
        """Hear announcements until told to end, over as many connections as that takes."""
        pause_s = _RECONNECT_S[0]
        while not self._ending.is_set():
            try:
                with self._open_client() as client, client.pubsub() as channel:
                    channel.subscribe(self._channel)
                    pause_s = self._hear(channel)
            except (redis.RedisError, OSError) as error:
                if self.listening or pause_s == _RECONNECT_S[0]:
                    _log.warning("outcomes not heard", error=type(error).__name__)
            self.listening = False
            self._ending.wait(pause_s * (0.5 + random.random()))
            pause_s = min(pause_s * 2, _RECONNECT_S[1])

    def _hear(self, channel: Any) -> float:  # redis-py leaves pub/sub untyped
        """Hear one connection out; returns how long to pause before the next."""
        heard_at = pinged_at = time.monotonic()
        while not self._ending.is_set():
            message = channel.get_message(timeout=_TURN_S)
            now = time.monotonic()
            if message is not None:
                heard_at = now
                if message["type"] == "subscribe":
                    self.listening = True
                elif message["type"] == "message":
                    self._announced(message["data"])
            elif now - heard_at > _SILENCE_S_MAX:
                raise redis.TimeoutError("the channel is silent")
            if now - pinged_at > _PING_S:
                channel.ping()
                pinged_at = now
        return _RECONNECT_S[0]

    def _announced(self, announcement: bytes) -> None:
        try:
            pairs = announce.decode(announcement)
        except announce.MalformedAnnouncement:
            _log.warning("announcement not readable", bytes=len(announcement))
            return
        ids = [pair[0] for pair in pairs]
        self._heard(ids)
        self.sojourn.heard(ids)
        # Reading a dictionary that the loop changes is safe: who registers later looks for itself.
        waiting = self._waiting
        found = [pair for pair in pairs if pair[0] in waiting] if waiting else []
        if found:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and its waiters
                self._loop.call_soon_threadsafe(self._deliver, found)


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
