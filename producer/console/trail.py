"""Rates from counters: what was counted a moment ago, and the minute before. Pure.

Counters only grow, so a rate is the difference of two of them over the time between. It is taken over
a few seconds, so that a second with one order more is no spike. When nobody has looked for a while,
there is nothing near enough to compare with, and the rate is unknown rather than an average of hours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

RATE_OVER_S: Final = 3.5  # rates are means of so long
MINUTE_S: Final = 60.0
POINTS_MAX: Final = 150  # some two minutes and a half

Reason = tuple[str, str]  # where it was refused ("gate", "decision"), and the word for it


class Sample(Struct, frozen=True, kw_only=True):
    """What is counted at one moment; `at` is Unix time. `committed` None: it cannot be read."""

    at: float
    offered: float
    admitted: float
    refused: float
    committed: float | None
    reasons: Mapping[Reason, float]
    predicted_ms: int | None
    true_ms: int | None


class Point(Struct, frozen=True, kw_only=True):
    """One moment of the lines that are drawn: intents a second, and waits; null: not known."""

    at: float
    offered: float | None = None
    admitted: float | None = None
    refused: float | None = None
    committed: float | None = None
    predicted_ms: int | None = None
    true_ms: int | None = None


class Trail:
    """The last samples, and the points made of them."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()
        self.points: deque[Point] = deque(maxlen=POINTS_MAX)

    def add(self, sample: Sample) -> Point:
        """Take a sample; return its point."""
        samples = self._samples
        if samples and sample.at < samples[-1].at:
            samples.clear()  # the clock was set back: they would be of the future
        while samples and sample.at - samples[0].at > MINUTE_S:
            samples.popleft()
        samples.append(sample)
        point = self._point(sample)
        self.points.append(point)
        return point

    def last_minute(self, reason: Reason) -> float:
        """Return how often it was given within the samples of the last minute."""
        if not self._samples:
            return 0.0
        first, last = self._samples[0], self._samples[-1]
        return max(0.0, last.reasons.get(reason, 0.0) - first.reasons.get(reason, 0.0))

    def _point(self, now: Sample) -> Point:
        near = (one for one in self._samples if 0 < now.at - one.at <= RATE_OVER_S)
        then = next(near, None)
        waits = {"predicted_ms": now.predicted_ms, "true_ms": now.true_ms}
        if then is None:
            return Point(at=now.at, **waits)
        over_s = now.at - then.at
        known = now.committed is not None and then.committed is not None
        return Point(
            at=now.at,
            offered=_rate(then.offered, now.offered, over_s),
            admitted=_rate(then.admitted, now.admitted, over_s),
            refused=_rate(then.refused, now.refused, over_s),
            committed=_rate(then.committed or 0, now.committed or 0, over_s) if known else None,
            **waits,
        )


def _rate(then: float, now: float, over_s: float) -> float:
    return round(max(0.0, now - then) / over_s, 1)
