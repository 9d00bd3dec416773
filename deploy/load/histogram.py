"""Histograms of latency: logarithmic buckets, as HdrHistogram keeps them.

Each power of two of microseconds is cut into 64 buckets, so a percentile is at most 1.6 % above the
true value, from a microsecond to hours, in a few thousand integers; two histograms add up bucket
by bucket, which percentiles do not.
"""

from __future__ import annotations

from msgspec import Struct

_CUTS_BITS = 6
_CUTS = 1 << _CUTS_BITS
_OCTAVES = 36  # 2**36 microseconds are 19 hours: longer than any run
_SIZE = (_OCTAVES - _CUTS_BITS + 1) * _CUTS


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

    __slots__ = ("_buckets", "_max_us", "count")

    def __init__(self) -> None:
        self._buckets = [0] * _SIZE
        self._max_us = 0
        self.count = 0

    def record(self, seconds: float) -> None:
        """Count one duration; less than nothing counts as nothing."""
        us = int(seconds * 1_000_000)
        if us < 2 * _CUTS:
            us = max(us, 0)
            self._buckets[us] += 1
        else:
            # The leading bit chooses the octave, the next six the cut.
            shift = us.bit_length() - _CUTS_BITS - 1
            self._buckets[min((shift << _CUTS_BITS) + (us >> shift), _SIZE - 1)] += 1
        self.count += 1
        if us > self._max_us:
            self._max_us = us

    def add(self, other: Histogram) -> None:
        """Count everything that `other` has counted."""
        self._buckets = [a + b for a, b in zip(self._buckets, other._buckets, strict=True)]
        self._max_us = max(self._max_us, other._max_us)
        self.count += other.count

    def at(self, share: float) -> float:
        """Return the duration in milliseconds that `share` (0 to 1) of all do not exceed."""
        wanted = max(1, -int(-share * self.count // 1))
        seen = 0
        for bucket, count in enumerate(self._buckets):
            seen += count
            if seen >= wanted:
                return min(_upper_us(bucket), self._max_us) / 1_000
        return 0.0

    def percentiles(self) -> Percentiles:
        """Tell the usual percentiles; all zero when nothing was counted."""
        return Percentiles(
            count=self.count,
            p50=self.at(0.5),
            p90=self.at(0.9),
            p99=self.at(0.99),
            p99_9=self.at(0.999),
            max=self._max_us / 1_000,
        )


def _upper_us(bucket: int) -> int:
    """The greatest microsecond that is counted in `bucket`."""
    if bucket < 2 * _CUTS:
        return bucket
    shift = (bucket >> _CUTS_BITS) - 1
    return (((bucket - (shift << _CUTS_BITS)) + 1) << shift) - 1
