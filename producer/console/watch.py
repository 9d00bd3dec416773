"""Looking once a second, and no more often, for all who watch.

    viewers ──current()──▶ one look, shared ──▶ the overview (PostgreSQL, on the operators' connection)
                                            ├─▶ the queue's length (the broker, in a thread)
                                            └─▶ counters and the level (this process's memory)

Nobody watches: nothing is asked. A server that is slow holds no look up for longer than `PATIENCE_S`:
what it said last is shown, with its age. A reading that takes long is repeated the more seldom, so
that watching costs the database a tenth of one connection's time at most.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from config import meters
from producer.console.summary import Known, SummaryShown, sample_of, summary_of
from producer.console.trail import Trail
from producer.http.problems import Problem
from workers.store.overview import Overview

if TYPE_CHECKING:
    from producer.http.api import Api

INTERVAL_S: Final = 1.0
PATIENCE_S: Final = 0.5
REST_SHARE: Final = 9  # a reading rests so many times as long as it took
TRUE_WITHIN_S: Final = 15.0  # outcomes heard longer ago say nothing of now

_encode = msgspec.json.Encoder().encode


class Told(NamedTuple):
    """A summary as all are told it: as an object, as JSON, and the trail so far as JSON."""

    summary: SummaryShown
    body: bytes
    trail: bytes


class Watch:
    """What the viewers of one process share. Made and used on one event loop."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._loop = asyncio.get_running_loop()
        self._trail = Trail()
        self._looking: asyncio.Task[Told] | None = None
        self._told: Told | None = None
        self._told_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._reads_from = float("-inf")  # the next reading begins no sooner
        self._asking: asyncio.Task[None] | None = None
        self._overview: Overview | None = None
        self._read_at = 0.0  # Unix time
        self._postgres = False
        self._hints: int | None = None
        self.viewers = 0

    @property
    def due_s(self) -> float:
        """In how many seconds there will be something new."""
        return max(0.0, self._told_at + INTERVAL_S - self._loop.time())

    async def current(self) -> Told:
        """Return what is known, at most a second old; whoever asks meanwhile shares the look."""
        if self._told is not None and self.due_s > 0:
            return self._told
        if self._looking is None:
            self._looking = self._loop.create_task(self._look())
        return await asyncio.shield(self._looking)

    async def _look(self) -> Told:
        try:
            self._told_at = self._loop.time()
            self._begin()
            running = [task for task in (self._reading, self._asking) if task is not None]
            if running:
                await asyncio.wait(running, timeout=PATIENCE_S)
            self._told = self._tell()
            return self._told
        finally:
            self._looking = None

    def _begin(self) -> None:
        """Begin to read what is not being read."""
        if self._reading is None and self._loop.time() >= self._reads_from:
            self._reading = self._loop.create_task(self._read())
        if self._asking is None:
            self._asking = self._loop.create_task(self._ask())

    async def _read(self) -> None:
        began = self._loop.time()
        try:
            self._overview = await self._api.overview()
            self._read_at, self._postgres = time.time(), True
        except Problem:  # the last overview stays, and says its age
            self._postgres = False
        finally:
            ended = self._loop.time()
            # A tick early: looks come a second apart, give or take the loop's turn.
            self._reads_from = max(began + INTERVAL_S * 0.9, ended + REST_SHARE * (ended - began))
            self._reading = None

    async def _ask(self) -> None:
        try:
            self._hints = await asyncio.to_thread(self._api.hints)
        except Exception:  # whatever its transport raises: the broker was not heard
            self._hints = None
        finally:
            self._asking = None

    def _tell(self) -> Told:
        api = self._api
        known = Known(
            now=time.time(),
            standing=api.levels.standing,
            policy=api.levels.policy,
            true_ms=api.waiters.sojourn.true_ms(TRUE_WITHIN_S),
            answers=meters.readings("tidegate_intents_answered_total"),
            verdicts=meters.readings("tidegate_verdicts_total"),
            pending=api.intake.pending,
            overview=self._overview,
            read_at=self._read_at,
            postgres=self._postgres,
            valkey=api.levels.standing.reachable,
            hints=self._hints,
        )
        sample = sample_of(known)
        point = self._trail.add(sample)
        summary = summary_of(known, sample, self._trail, point)
        return Told(summary, _encode(summary), _encode(list(self._trail.points)))
