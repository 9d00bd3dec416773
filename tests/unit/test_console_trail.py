"""Rates from counters: true over a few seconds, unknown where there is nothing to compare with."""

from __future__ import annotations

import pytest

from producer.console.trail import POINTS_MAX, RATE_OVER_S, Point, Sample, Trail


def sample(at: float, offered: float = 0.0, **more: object) -> Sample:
    """A sample of an API that admits all it is offered."""
    fields: dict[str, object] = {
        "admitted": offered,
        "refused": 0.0,
        "committed": offered,
        "reasons": {},
        "predicted_ms": None,
        "true_ms": None,
        **more,
    }
    return Sample(at=at, offered=offered, **fields)  # type: ignore[arg-type]


def points(*samples: Sample) -> list[Point]:
    trail = Trail()
    return [trail.add(one) for one in samples]


def test_a_rate_is_what_was_counted_over_the_time_between() -> None:
    """In intents a second, whatever the looks' distance."""
    first, second = points(sample(100, 1_000), sample(102, 1_500))
    assert first.offered is None
    assert second.offered == second.admitted == second.committed == 250


def test_a_rate_is_a_mean_of_a_few_seconds() -> None:
    """One order in one second is no spike."""
    *_, last = points(sample(100), sample(101), sample(102), sample(103, 9))
    assert last.offered == 3


def test_after_a_while_without_a_look_the_rate_is_unknown() -> None:
    """A mean over the hours nobody watched would be told as the rate of now."""
    first, after = points(sample(100, 1_000), sample(100 + RATE_OVER_S + 1, 500_000))
    assert first.offered is None
    assert after.offered is None


def test_a_clock_that_was_set_back_makes_no_rate() -> None:
    """Neither a negative nor an endless one; a second later it counts again, from there."""
    key = ("gate", "stock")
    trail = Trail()
    trail.add(sample(100, 1_000, reasons={key: 7.0}))
    assert trail.add(sample(40, 1_010, reasons={key: 8.0})).offered is None
    assert trail.add(sample(41, 1_020, reasons={key: 9.0})).offered == 10
    assert trail.last_minute(key) == 1


def test_commits_that_could_not_be_read_have_no_rate_and_the_others_have() -> None:
    """PostgreSQL away is not a rate of zero."""
    _, last = points(sample(100, 10), sample(101, 20, committed=None))
    assert (last.offered, last.committed) == (10, None)


@pytest.mark.parametrize(("later", "expected"), [(30, 7), (59, 7), (75, 2)])
def test_a_reason_counts_for_a_minute(later: int, expected: int) -> None:
    """What was refused before that is history."""
    key = ("gate", "stock")
    trail = Trail()
    for second in range(80):
        count = 5.0 if second >= 1 else 0.0
        count += 2.0 if second >= 20 else 0.0
        trail.add(sample(float(second), reasons={key: count}))
        if second == later:
            assert trail.last_minute(key) == expected


def test_the_trail_is_bounded() -> None:
    """Who watches for a day keeps some minutes of it."""
    trail = Trail()
    for second in range(10 * POINTS_MAX):
        trail.add(sample(float(second)))
    assert len(trail.points) == POINTS_MAX
    assert len(trail._samples) <= 62
