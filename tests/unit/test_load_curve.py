"""The curve of a profile: published points, no order that un-arrives."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.load import profile
from deploy.load.curve import through


def test_the_qwen_curve_hits_what_was_published() -> None:
    """1 million orders before hour 3, 2 million at hour 4, 10 million at hour 9."""
    shape = profile.load("qwen").shape
    orders = [round(shape.share_at(hour / 9) * 10_000_000) for hour in (0, 2.95, 3, 4, 9)]
    assert orders[0] == 0
    assert orders[1] == 1_000_000
    assert orders[2] > 1_000_000
    assert orders[3:] == [2_000_000, 10_000_000]


def test_the_qwen_curve_is_steepest_in_its_second_half() -> None:
    """Eight of the ten million came between hours 4 and 9."""
    shape = profile.load("qwen").shape
    rates = [shape.share_at((h + 1) / 9) - shape.share_at(h / 9) for h in range(9)]
    assert max(rates) in rates[4:]
    assert rates[0] < 0.05


@given(
    st.lists(st.tuples(st.floats(0.01, 100), st.floats(0, 1_000)), min_size=1, max_size=12).filter(
        lambda steps: sum(rise for _, rise in steps) > 0.01
    )
)
def test_a_curve_never_falls_and_goes_through_its_points(
    steps: list[tuple[float, float]],
) -> None:
    """Between any points that rise, the curve rises too: no order un-arrives."""
    points = [(0.0, 0.0)]
    for width, rise in steps:
        points.append((points[-1][0] + width, points[-1][1] + rise))
    curve = through(points)
    (end, all_of_them) = points[-1]
    for time, count in points:
        assert curve.share_at(time / end) == pytest.approx(count / all_of_them, abs=1e-6)
    shares = [curve.share_at(i / 300) for i in range(301)]
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(shares))


def test_send_times_follow_the_curve_at_every_scale() -> None:
    """Of any number of intents, the i-th comes within the i-th equal share of the curve."""
    shape = profile.load("qwen").shape
    for count in (1, 10, 5_000):
        times = list(shape.times(count, Random(1)))
        assert len(times) == count
        assert times == sorted(times)
        for i, time in enumerate(times):
            assert i / count - 1e-4 <= shape.share_at(time) <= (i + 1) / count + 1e-4


@pytest.mark.parametrize(
    "points",
    [[(0, 0)], [(0, 1), (1, 2)], [(0, 0), (0, 1)], [(0, 0), (1, 2), (2, 1)], [(0, 0), (1, 0)]],
)
def test_points_that_make_no_curve_are_refused(points: list[tuple[float, float]]) -> None:
    """A curve begins at nothing, its times rise and its counts never fall."""
    with pytest.raises(ValueError, match="curve"):
        through(points)
