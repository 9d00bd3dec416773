"""The relay: takes what is due from the outbox and posts it, many endpoints at once.

Each endpoint has a lane of its own, with so many posts at once and no more: one that is slow, or
hangs until the deadline, takes nothing from the others. A lane whose endpoint fails time after time
is narrowed to one probe now and then, whichever relay makes it; what waits for it stays in the
outbox. Nothing is held while a post is under way but a lease: a relay may die at any moment, and
several may run. So an event is delivered at least once, and carries the same id each time.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar
from uuid import UUID

from msgspec import Struct

from workers.contract.webhook import SYSTEM
from workers.domain.delivery import (
    ERROR_CHARS_MAX,
    Answer,
    Fate,
    Judgement,
    is_failing,
    judge,
    probe_pause_s,
)
from workers.service.letters import Letter, Poster, Writer, post_letter
from workers.store.outbox import Entry, Result, Told
from workers.store.webhooks import Endpoint, Health

T = TypeVar("T")
REFRESH_S = 1.0  # a registration, a rotation or a pause by another relay is known within this
TROUBLE_PAUSE_S = 1.0  # after an error of the database
GATHER_S = 0.01


class Bounds(Struct, frozen=True):
    """How much a relay does at once.

    `endpoint_posts_max` bounds what one endpoint has to bear from us, and can hold up of ours;
    `posts_max` bounds connections, over all endpoints. A lease outlives two rounds of posts that
    hang until `timeout_ms`: what waits in a lane is not taken away from it. `interval_ms` is how
    long a new event may wait while nothing else happens.
    """

    endpoint_posts_max: int = 8
    posts_max: int = 512
    timeout_ms: int = 10_000
    lease_ms: int = 60_000
    interval_ms: int = 200


class Store(Protocol):
    """What a relay needs of the store; see `store.outbox` and `store.webhooks`."""

    def read_enabled(self) -> list[Endpoint]: ...
    def claim(self, room: Mapping[int, int], lease_ms: int) -> list[Entry]: ...
    def claim_probes(self, endpoint_ids: Sequence[int], lease_ms: int) -> list[Entry]: ...
    def read_told(self, intent_ids: Sequence[UUID]) -> Mapping[UUID, Told]: ...
    def record(self, results: Sequence[Result]) -> None: ...
    def record_health(self, found: Sequence[Health]) -> None: ...
    def disable_gone(self, endpoint_id: int) -> bool: ...


class Lane(Struct):
    """One endpoint's: what is in hand for it, and how it fares. Times are monotonic seconds.

    `asked_until` is what the endpoint asked for itself; no other answer lifts that.
    """

    endpoint: Endpoint
    slots: asyncio.Semaphore
    in_hand: int = 0
    failures: int = 0
    paused_until: float = 0.0
    asked_until: float = 0.0
    unrecorded: bool = False  # its health has changed since it was recorded

    @property
    def closed(self) -> bool:
        """Whether its endpoint was disabled."""
        return self.paused_until == math.inf

    @property
    def resting_until(self) -> float:
        """Nothing is begun sooner."""
        return max(self.paused_until, self.asked_until)

    def heard(
        self, answer: Answer, judgement: Judgement, now: float, *, probe: bool = False
    ) -> None:
        """Learn from an answer how the endpoint fares.

        Once it fails, only probes tell more: posts that were under way fail all at once, and would
        put off the first probe as if the endpoint had failed for long.
        """
        if self.closed:
            return
        if answer.delivered:
            self.unrecorded |= self.failures > 0 or self.paused_until > now
            self.failures, self.paused_until = 0, 0.0
            return
        if probe or not is_failing(self.failures):
            self.failures += judgement.counted
        self.paused_until = now + probe_pause_s(self.failures)
        self.asked_until = max(self.asked_until, now + judgement.pauses_s)
        self.unrecorded = True


class Relay:
    """Delivers until it is stopped; for one event loop. The store is called from one thread.

    `observe` hears of every attempt, `failed` of every error of the store, and of every entry that
    cannot be written.
    """

    def __init__(
        self,
        store: Store,
        poster: Poster,
        writer: Writer,
        bounds: Bounds = Bounds(),  # noqa: B008 - frozen
        *,
        observe: Callable[[Entry, Answer, Judgement], None] = lambda *_: None,
        failed: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._poster = poster
        self._writer = writer
        self._bounds = bounds
        self._observe = observe
        self._failed = failed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outbox")
        self._wake = asyncio.Event()
        self._lanes: dict[int, Lane] = {}
        self._results: list[Result] = []
        self._gone: set[int] = set()  # endpoints that answered 410
        self._tasks: set[asyncio.Task[None]] = set()
        self._refresh_at = 0.0
        self._stopping = False

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until `stop` is set; then finish what is being posted, and record it."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                try:
                    await self._turn()
                    pause_s = self._bounds.interval_ms / 1000
                except Exception as error:
                    self._failed(error)
                    pause_s = TROUBLE_PAUSE_S
                await self._rest(stopping, pause_s)
        finally:
            stopping.cancel()
            await self._finish()

    async def _turn(self) -> None:
        """Record what came of posts, take what there is room for, and begin to post it."""
        await self._record()
        if time.monotonic() >= self._refresh_at:
            await self._refresh()
        room, probed = self._room()
        lease_ms = self._bounds.lease_ms
        until = time.monotonic() + (lease_ms - self._bounds.timeout_ms) / 1000
        entries = await self._call(lambda: self._store.claim(room, lease_ms)) if room else []
        probes = (
            await self._call(lambda: self._store.claim_probes(probed, lease_ms)) if probed else []
        )
        subjects = {entry.subject_id for entry in (*entries, *probes)} - {SYSTEM}
        told = await self._call(lambda: self._store.read_told(list(subjects))) if subjects else {}
        for entry in entries:
            self._begin(entry, told.get(entry.subject_id), until, probe=False)
        for entry in probes:
            self._begin(entry, told.get(entry.subject_id), until, probe=True)

    def _room(self) -> tuple[dict[int, int], list[int]]:
        """Say how much each endpoint may be given, and which are to be probed."""
        now = time.monotonic()
        room: dict[int, int] = {}
        probed: list[int] = []
        free = self._bounds.posts_max - sum(lane.in_hand for lane in self._lanes.values())
        lanes = list(self._lanes.items())
        random.shuffle(lanes)  # whoever comes last may find nothing left
        for endpoint_id, lane in lanes:
            if free <= 0:
                break
            if lane.resting_until > now or endpoint_id in self._gone:
                continue
            if is_failing(lane.failures):
                if lane.in_hand == 0:
                    probed.append(endpoint_id)
                    free -= 1
                continue
            # One round more than it can post: it need not wait for us in between.
            count = min(2 * self._bounds.endpoint_posts_max - lane.in_hand, free)
            if count > 0:
                room[endpoint_id] = count
                free -= count
        return room, probed

    def _begin(self, entry: Entry, told: Told | None, until: float, *, probe: bool) -> None:
        lane = self._lanes[entry.endpoint_id]
        try:
            letter = self._writer.write(entry, told)
        except Exception as error:  # whatever is wrong with this one, the others go
            self._failed(error)
            answer = Answer(error=f"cannot be written: {error!r}"[:ERROR_CHARS_MAX])
            self._tell(entry, judge(answer, entry.attempts, entry.age_s, random.random()), answer)
            return
        if letter is None:
            self._tell(entry, Judgement(Fate.DEAD), Answer(error="its intent was removed by prune"))
            return
        lane.in_hand += 1
        task = asyncio.create_task(self._deliver(lane, entry, letter, until, probe=probe))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(
        self, lane: Lane, entry: Entry, letter: Letter, until: float, *, probe: bool
    ) -> None:
        try:
            async with lane.slots:
                now = time.monotonic()
                if now >= until:
                    return  # another relay may have it by now
                narrowed = not probe and (is_failing(lane.failures) or lane.resting_until > now)
                if narrowed or self._stopping:
                    return self._put_back(entry)
                answer = await post_letter(self._poster, self._writer, lane.endpoint, letter)
            judgement = judge(answer, entry.attempts, entry.age_s, random.random())
            lane.heard(answer, judgement, time.monotonic(), probe=probe)
            if judgement.disables:
                self._gone.add(entry.endpoint_id)
            self._tell(entry, judgement, answer)
            self._observe(entry, answer, judgement)
        finally:
            lane.in_hand -= 1
            self._wake.set()

    def _put_back(self, entry: Entry) -> None:
        """Its endpoint began to fail or asked for a pause, or we stop, before its turn came."""
        self._results.append(
            Result(
                entry_id=entry.entry_id,
                lease_id=entry.lease_id,
                fate=Fate.AGAIN,
                counted=False,
                delay_ms=0,
                status=0,
                error=None,
            )
        )

    def _tell(self, entry: Entry, judgement: Judgement, answer: Answer) -> None:
        self._results.append(
            Result(
                entry_id=entry.entry_id,
                lease_id=entry.lease_id,
                fate=judgement.fate,
                counted=judgement.counted,
                delay_ms=round(judgement.delay_s * 1000),
                status=answer.status or 0,
                error=None if answer.delivered else answer.fault,
            )
        )

    async def _record(self) -> None:
        """Write what came of posts; what cannot be written now is written later."""
        results = self._results[:]
        now = time.monotonic()
        lanes = [lane for lane in self._lanes.values() if lane.unrecorded and not lane.closed]
        health = [
            Health(
                endpoint_id=lane.endpoint.endpoint_id,
                failures=lane.failures,
                pause_ms=max(0, round((lane.resting_until - now) * 1000)),
            )
            for lane in lanes
        ]
        for endpoint_id in list(self._gone):
            await self._call(lambda gone=endpoint_id: self._store.disable_gone(gone))  # type: ignore[misc]
            self._refresh_at = 0.0
        if results:
            await self._call(lambda: self._store.record(results))
            del self._results[: len(results)]
        if health:
            for lane in lanes:
                lane.unrecorded = False  # what is heard meanwhile is recorded next time
            try:
                await self._call(lambda: self._store.record_health(health))
            except BaseException:
                for lane in lanes:
                    lane.unrecorded = True
                raise

    async def _refresh(self) -> None:
        """Learn which endpoints there are, and what other relays found of them."""
        found = await self._call(self._store.read_enabled)
        now = time.monotonic()
        self._refresh_at = now + REFRESH_S
        enabled = {endpoint.endpoint_id for endpoint in found}
        self._gone -= self._gone - enabled
        for endpoint in found:
            lane = self._lanes.get(endpoint.endpoint_id)
            if lane is None:
                slots = asyncio.Semaphore(self._bounds.endpoint_posts_max)
                lane = self._lanes[endpoint.endpoint_id] = Lane(endpoint, slots)
            lane.endpoint = endpoint
            if not lane.unrecorded:
                lane.failures = endpoint.failures
                lane.paused_until = now + endpoint.pause_s if endpoint.pause_s else 0.0
        for endpoint_id in self._lanes.keys() - enabled:
            self._lanes[endpoint_id].paused_until = math.inf  # disabled: nothing more of the lane
            if not self._lanes[endpoint_id].in_hand:
                del self._lanes[endpoint_id]

    async def _finish(self) -> None:
        """Let posts under way end, within their deadline; record them, and put the rest back."""
        self._stopping = True
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=self._bounds.timeout_ms / 1000 + 1)
        for task in self._tasks:
            task.cancel()
        try:
            await self._record()
        except Exception as error:
            self._failed(error)
        self._thread.shutdown(wait=False)

    async def _rest(self, stopping: asyncio.Task[Any], pause_s: float) -> None:
        """Wait for a post to end, for the interval, or to be stopped.

        Never for less than `GATHER_S`: results that come together are recorded together.
        """
        await asyncio.sleep(GATHER_S)
        woken = asyncio.create_task(self._wake.wait())
        await asyncio.wait((woken, stopping), timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
        woken.cancel()
        self._wake.clear()

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
