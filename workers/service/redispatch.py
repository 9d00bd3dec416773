"""Redispatch: what brings intents back whose hints were lost, and releases what nobody paid for.

Each duty is safe to repeat and safe to run twice at once: the claim and the row locks decide, not
this process. It may die at any time; while it is away, intents wait and nothing is lost.

Recovery must not become a storm of its own: hints are sent only while few wait, at most
`hints_per_tick_max` at a time, and an intent's next hint is put off further each time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import UUID

from msgspec import Struct

YOUNG_MS = 500  # a first hint is on its way this long before its absence means anything
BATCHES_PER_TICK_MAX = 20  # of expiring orders or coupons: the next tick goes on
NO_COUPON = UUID(int=0)


class Store(Protocol):
    """What redispatching needs of the store; see `store.redispatch` and `store.lifecycle`."""

    def take_due(self, count_max: int, dispatch_after_ms: int) -> list[UUID]: ...
    def open_exists(self, young_ms: int) -> bool: ...
    def open_count(self) -> int: ...
    def expire_due(self, count_max: int) -> int: ...
    def expire_coupons(self, after: UUID, count_max: int) -> tuple[int, UUID | None]: ...


class Bounds(Struct, frozen=True):
    """See `config.settings.Redispatcher`."""

    hints_per_tick_max: int
    dispatch_after_ms: int
    expire_batch_max: int
    batch_max: int


class TickReport(Struct):
    """What a tick did."""

    hints: int = 0
    redispatched: int = 0
    orders_expired: int = 0
    coupons_expired: int = 0


class Redispatch:
    """The duties, one tick at a time."""

    def __init__(
        self,
        store: Store,
        send: Callable[[Sequence[UUID]], None],
        waiting_hints: Callable[[], int],
        bounds: Bounds,
    ) -> None:
        self._store = store
        self._send = send
        self._waiting_hints = waiting_hints
        self._bounds = bounds
        self._coupons_after = NO_COUPON

    def hint(self, report: TickReport) -> None:
        """Send hints for intents that waited too long, or for any if the queue holds none."""
        waiting = self._waiting_hints()
        room = self._bounds.hints_per_tick_max - waiting
        if room <= 0:
            return
        size = self._bounds.batch_max
        due = self._store.take_due(room * size, self._bounds.dispatch_after_ms)
        for start in range(0, len(due), size):
            self._send(due[start : start + size])
            report.hints += 1
        report.redispatched += len(due)
        if not due and waiting == 0 and self._store.open_exists(YOUNG_MS):
            self._hint_at_any(report)

    def _hint_at_any(self, report: TickReport) -> None:
        """The queue lost its hints: send empty ones, whose claims take the oldest."""
        batches = math.ceil(self._store.open_count() / self._bounds.batch_max)
        for _ in range(min(max(batches, 1), self._bounds.hints_per_tick_max)):
            self._send([])
            report.hints += 1

    def expire_orders(self, report: TickReport) -> None:
        """Release orders whose payment deadline has come."""
        size = self._bounds.expire_batch_max
        for _ in range(BATCHES_PER_TICK_MAX):
            expired = self._store.expire_due(size)
            report.orders_expired += expired
            if expired < size:
                return

    def expire_coupons(self, report: TickReport) -> None:
        """Give back to the budget what coupons past their window hold."""
        for _ in range(BATCHES_PER_TICK_MAX):
            expired, after = self._store.expire_coupons(
                self._coupons_after, self._bounds.expire_batch_max
            )
            report.coupons_expired += expired
            self._coupons_after = after or NO_COUPON
            if after is None:
                return


class Schedule:
    """Runs duties at their intervals; a duty that fails is told to `failed` and tried again."""

    def __init__(
        self,
        failed: Callable[[str, Exception], None],
        done: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._duties: list[tuple[str, float, Callable[[], object]]] = []
        self._due: dict[str, float] = {}
        self._failed = failed
        self._done = done

    def add(self, name: str, interval_s: float, duty: Callable[[], object]) -> None:
        """Add a duty that is due at once, and then `interval_s` after each run."""
        self._duties.append((name, interval_s, duty))
        self._due[name] = 0.0

    def run_due(self, now: float | None = None) -> None:
        """Run what is due; each duty apart, so that one dead dependency stops only its own."""
        for name, interval_s, duty in self._duties:
            current = time.monotonic() if now is None else now
            if current < self._due[name]:
                continue
            try:
                duty()
                self._done(name)
            except Exception as error:
                self._failed(name, error)
            self._due[name] = current + interval_s
