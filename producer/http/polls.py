"""How often the same intent may be asked for. In this process's memory only, and a bounded part of it.

Polls are the class that can wait longest, so they are slowed first and shed first. Each intent (or key)
may be asked for so many times at once and so often a second, the less often the more the system closes;
while it sheds, all polls of a process together are bounded as well. Waiting (`Prefer: wait`), events
and webhooks tell an outcome sooner, and cost less.

Rates are kept as by the gate (GCRA): one number, the time at which all that was taken is given back.
Of more than `_KEPT_MAX` askers the least recent are forgotten, and may ask again at once: a bound on
memory must not become a way to silence others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Final

from producer.http import problems
from producer.http.problems import Code, Problem
from producer.http.quotas import rate_limit_headers
from workers.contract.admission import RateLimit
from workers.domain.overload import Level

LIMIT: Final = "polls"

# Of one intent. In the usual case the first poll finds the outcome.
EACH: Final = {
    Level.NORMAL: RateLimit(10, 5),
    Level.THROTTLED: RateLimit(2, 3),
    Level.SHEDDING: RateLimit(0.5, 2),
    Level.CLOSED: RateLimit(0.2, 2),
}
# Of one process; a poll costs about a tenth of an intent.
ALL: Final = {Level.SHEDDING: RateLimit(1_000, 200), Level.CLOSED: RateLimit(500, 100)}
_KEPT_MAX: Final = 50_000
_ROUNDING_S: Final = 1e-6  # of sums of times; nobody is put off for that


class Polls:
    """The polls of one process. Used on one event loop."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._all = 0.0
        self._level = Level.NORMAL
        # Two generations: the older is dropped as a whole when the younger is full.
        self._young: dict[Hashable, float] = {}
        self._old: dict[Hashable, float] = {}

    def take(self, asked: Hashable, level: Level) -> None:
        """Take note of a poll; raises Problem (429, or 503 where all together are too many)."""
        if level is not self._level:
            if level.rank < self._level.rank:
                # What was taken at a slow pace is not owed at a quick one.
                self._young, self._old = {}, {}
            self._level = level
        now = self._now()
        each = EACH[level]
        due = self._young.get(asked)
        if due is None:
            due = self._old.get(asked, 0.0)
        paid, wait_s = _conform(due, each, now)
        if wait_s > 0:
            raise _too_often(each, wait_s, level)
        every = ALL.get(level)
        if every is not None:
            all_paid, wait_s = _conform(self._all, every, now)
            if wait_s > 0:
                raise _too_many(wait_s, level)
            self._all = all_paid
        if len(self._young) >= _KEPT_MAX:
            self._old, self._young = self._young, {}
        self._young[asked] = paid

    def __len__(self) -> int:
        return len(self._young) + len(self._old)


def _conform(due: float, limit: RateLimit, now: float) -> tuple[float, float]:
    """Return when all would be given back if this one is taken, and how long it must wait (s)."""
    interval_s = 1 / limit.rate
    paid = max(due, now) + interval_s
    wait_s = paid - limit.burst * interval_s - now
    return paid, wait_s if wait_s > _ROUNDING_S else 0.0


def _too_often(limit: RateLimit, wait_s: float, level: Level) -> Problem:
    wait_ms = int(wait_s * 1_000) + 1
    return Problem(
        Code.QUOTA_EXCEEDED,
        "This was asked for a moment ago. Wait for `poll_after_ms`, or for the event.",
        limit=LIMIT,
        retry_after_ms=wait_ms,
        headers=rate_limit_headers(LIMIT, limit, wait_ms),
        level=level,
        text=problems.POLLS,
    )


def _too_many(wait_s: float, level: Level) -> Problem:
    return Problem(
        Code.REDUCED_CAPACITY,
        "Polls are shed first. What was accepted stays accepted.",
        limit=LIMIT,
        retry_after_ms=max(1_000, int(wait_s * 1_000) + 1),
        level=level,
        text=problems.POLLS,
    )
