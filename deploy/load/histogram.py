"""Histograms of latency: logarithmic buckets, as HdrHistogram keeps them.

A bucket is named by the upper half of a duration's 32-bit float: sign, exponent, and seven bits of
its fraction. So each power of two is cut into 128 buckets, a percentile is at most 0.8 % above the
true value at any scale, and the cutting is done by the machine's own conversion to such a float,
thousands at a time: a sender that counts four durations for each post cannot do much for each. Two
histograms add up bucket by bucket, which percentiles do not.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter

from msgspec import Struct

_FRESH_MAX = 4_096
_UPPER_HALF = 1 if sys.byteorder == "little" else 0


class Percentiles(Struct, frozen=True):
    """A latency told in milliseconds."""

    count: int
    p50: float
    p90: float
    p99: float
    p99_9: float
    max: float


class Histogram:
    """Counts of durations."""

    __slots__ = ("_buckets", "_fresh", "_max_s")

    def __init__(self) -> None:
        self._fresh: list[float] = []  # not yet in their buckets
        self._buckets: Counter[int] = Counter()
        self._max_s = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration; less than nothing counts as nothing."""
        fresh = self._fresh
        fresh.append(seconds)
        if len(fresh) >= _FRESH_MAX:
            self._sort_in()

    def add(self, other: Histogram) -> None:
        """Count everything that `other` has counted."""
        other._sort_in()
        self._buckets.update(other._buckets)
        self._max_s = max(self._max_s, other._max_s)

    @property
    def count(self) -> int:
        """How many were counted."""
        return self._buckets.total() + len(self._fresh)

    def at(self, share: float) -> float:
        """Return the duration in milliseconds that `share` (0 to 1) of all do not exceed."""
        self._sort_in()
        wanted = max(1, -int(-share * self.count // 1))
        seen = 0
        for bucket, count in sorted(self._buckets.items()):
            seen += count
            if seen >= wanted:
                return min(_upper_s(bucket), self._max_s) * 1_000
        return 0.0

    def percentiles(self) -> Percentiles:
        """Tell the usual percentiles; all zero when nothing was counted."""
        return Percentiles(
            count=self.count,
            p50=self.at(0.5),
            p90=self.at(0.9),
            p99=self.at(0.99),
            p99_9=self.at(0.999),
            max=self._max_s * 1_000,
        )

    def _sort_in(self) -> None:
        """Put what is fresh into its buckets."""
        if not self._fresh:
            return
        if min(self._fresh) < 0.0:
            self._fresh = [max(seconds, 0.0) for seconds in self._fresh]
        halves = memoryview(array("f", self._fresh)).cast("B").cast("H")
        self._buckets.update(halves[_UPPER_HALF::2].tolist())
        self._max_s = max(self._max_s, *self._fresh)
        self._fresh.clear()


def _upper_s(bucket: int) -> float:
    """The least duration, in seconds, that is above all that are counted in `bucket`."""
    if bucket == 0:  # nothing, or as good as nothing
        return 0.0
    return memoryview(array("I", [(bucket + 1) << 16])).cast("B").cast("f")[0]
