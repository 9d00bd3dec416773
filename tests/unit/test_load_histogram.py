"""Percentiles from logarithmic buckets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deploy.load.histogram import Histogram


@given(
    st.lists(st.integers(0, 2**35), min_size=1, max_size=200),
    st.sampled_from([0.01, 0.5, 0.9, 0.99, 0.999, 1.0]),
)
def test_a_percentile_is_at_most_one_bucket_above_the_true_value(
    durations_us: list[int], share: float
) -> None:
    """Buckets are 1/128 of their power of two wide, and a percentile tells a bucket's upper end."""
    histogram = Histogram()
    for us in durations_us:
        histogram.record((us + 0.5) / 1_000_000)
    ranked = sorted(durations_us)
    true_us = ranked[max(1, -int(-share * len(ranked) // 1)) - 1]
    told_us = histogram.at(share) * 1_000
    assert true_us - 0.001 <= told_us <= true_us * (1 + 1 / 127) + 1


def test_nothing_recorded_tells_zeros() -> None:
    """An empty histogram has no percentiles, and does not fail for want of them."""
    told = Histogram().percentiles()
    assert (told.count, told.p50, told.max) == (0, 0.0, 0.0)


def test_the_maximum_is_exact() -> None:
    """The worst case is told as it was, not as its bucket."""
    histogram = Histogram()
    for ms in (1, 2, 777):
        histogram.record(ms / 1_000)
    assert histogram.percentiles().max == 777
    assert histogram.percentiles().p99_9 == 777


def test_less_than_nothing_counts_as_nothing_and_a_day_as_the_longest() -> None:
    """Clocks that disagree, and runs that hang, are counted and do not fail."""
    histogram = Histogram()
    histogram.record(-5)
    histogram.record(10**6)
    assert histogram.count == 2
    assert histogram.at(0.5) == 0


def test_histograms_add_up() -> None:
    """Percentiles of two runs cannot be averaged; their buckets can be added."""
    one, two = Histogram(), Histogram()
    for _ in range(99):
        one.record(0.001)
    two.record(0.5)
    one.add(two)
    assert one.count == 100
    assert one.at(0.99) < 1.1
    assert one.percentiles().max == 500
