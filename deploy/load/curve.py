"""Curves: how many intents have arrived by when.

A profile publishes a few points ("2 million at hour 4"). Between them the curve is the monotone
cubic of Fritsch and Carlson (1980): it goes through every point, never falls, and its slope, the
arrival rate, has no jumps. A polygon would step from one rate to the next; an ordinary spline
overshoots and would have orders un-arrive.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from random import Random

from msgspec import Struct

Point = tuple[float, float]

# Steps per piece when the curve is turned into send times; a straight step is then under 1/500 of
# the piece long, far below what a second of arrivals can show.
_STEPS = 512


class Curve(Struct, frozen=True):
    """A cumulative curve, scaled to run from (0, 0) to (1, 1)."""

    points: tuple[Point, ...]
    slopes: tuple[float, ...]

    def share_at(self, time: float) -> float:
        """Return the share of all intents that have arrived by `time`, both from 0 to 1."""
        if time <= 0.0:
            return 0.0
        if time >= 1.0:
            return 1.0
        piece = bisect_right(self.points, (time, float("inf"))) - 1
        return self._inside(piece, time)

    def times(self, count: int, random: Random) -> Iterator[float]:
        """Give `count` rising times from 0 to 1 at which intents arrive.

        The i-th falls somewhere in the i-th of `count` equal shares: the curve is met exactly at
        every scale, and arrivals still come in small clumps, as people do.
        """
        draw, rest = random.random, iter(self._grid())
        left, low = next(rest)
        right, high = next(rest)
        for i in range(count):
            share = (i + draw()) / count
            while high < share:
                left, low = right, high
                right, high = next(rest)
            yield left + (right - left) * (share - low) / (high - low)

    def _inside(self, piece: int, time: float) -> float:
        """Evaluate one cubic Hermite piece."""
        (x0, y0), (x1, y1) = self.points[piece], self.points[piece + 1]
        width = x1 - x0
        t = (time - x0) / width
        return (
            (1 + 2 * t) * (1 - t) ** 2 * y0
            + t * (1 - t) ** 2 * width * self.slopes[piece]
            + t**2 * (3 - 2 * t) * y1
            + t**2 * (t - 1) * width * self.slopes[piece + 1]
        )

    def _grid(self) -> Iterator[Point]:
        yield 0.0, 0.0
        for (x0, _), (x1, _) in pairwise(self.points):
            for step in range(1, _STEPS):
                time = x0 + (x1 - x0) * step / _STEPS
                yield time, self.share_at(time)
            yield x1, self.share_at(x1)


def through(points: Sequence[Point]) -> Curve:
    """Lay a curve through `points` (time, intents by then), in any units.

    Raises ValueError when the points do not begin at (0, 0) or do not rise.
    """
    if len(points) < 2 or tuple(points[0]) != (0.0, 0.0):
        raise ValueError("a curve begins at [0, 0] and has at least one point more")
    if any(x1 <= x0 or y1 < y0 for (x0, y0), (x1, y1) in pairwise(points)) or not points[-1][1]:
        raise ValueError("a curve's times rise and its counts never fall")
    (last_x, last_y) = points[-1]
    scaled = tuple((x / last_x, y / last_y) for x, y in points)
    return Curve(scaled, tuple(_slopes(scaled)))


def _slopes(points: Sequence[Point]) -> list[float]:
    """Choose the slope at every point so that no piece overshoots."""
    widths = [x1 - x0 for (x0, _), (x1, _) in pairwise(points)]
    rises = [(y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in pairwise(points)]
    if len(rises) == 1:
        return [rises[0], rises[0]]
    inner = [
        _harmonic(widths[i], widths[i + 1], rises[i], rises[i + 1]) for i in range(len(rises) - 1)
    ]
    first = _at_end(widths[0], widths[1], rises[0], rises[1])
    last = _at_end(widths[-1], widths[-2], rises[-1], rises[-2])
    return [first, *inner, last]


def _harmonic(width0: float, width1: float, rise0: float, rise1: float) -> float:
    """Mean slope at an inner point, nearer to the flatter side; flat beside a flat piece."""
    if not rise0 or not rise1:
        return 0.0
    weight0, weight1 = 2 * width1 + width0, width1 + 2 * width0
    return (weight0 + weight1) / (weight0 / rise0 + weight1 / rise1)


def _at_end(width0: float, width1: float, rise0: float, rise1: float) -> float:
    """Slope at an end, by the three-point rule, kept within what stays monotone."""
    slope = ((2 * width0 + width1) * rise0 - width0 * rise1) / (width0 + width1)
    return min(max(slope, 0.0), 3 * rise0)
