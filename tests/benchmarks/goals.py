"""What speed is wanted: each goal with its bars, its measured figure, and both sides of its ratio.

Everything here is a function of the records. A *must* is what a release needs, a *goal* is what is
worth working for; a figure that was not measured meets neither and misses neither.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from msgspec import Struct

from tests.benchmarks.campaign_report import Record
from tests.benchmarks.records import Row, hardware


class Met(Enum):
    """How a figure stands to its bars."""

    GOAL = "goal"
    MUST = "must"
    MISSED = "missed"
    UNKNOWN = "not measured"


class Results(Struct, frozen=True):
    """All that was recorded."""

    rows: dict[str, Row]
    campaign: Record | None = None

    def get(self, row: str, figure: str) -> float | None:
        """Return one figure, if it was measured."""
        found = self.rows.get(row)
        return None if found is None else found.figures.get(figure)

    def ratio(self, upper: tuple[str, str], lower: tuple[str, str]) -> float | None:
        """Return one figure over another, if both were measured, on one machine."""
        if not self._of_one_machine(upper, lower):
            return None
        above, below = self.get(*upper), self.get(*lower)
        return None if above is None or not below else above / below

    def told(self, text: str, *figures: tuple[str, str]) -> str:
        """Fill figures into a text; empty when one was not measured, or not on one machine."""
        if not self._of_one_machine(*figures):
            return ""
        values = [self.get(*figure) for figure in figures]
        return "" if None in values else text.format(*values)

    def _of_one_machine(self, *figures: tuple[str, str]) -> bool:
        found = [self.rows[row].elsewhere for row, _ in figures if row in self.rows]
        return len({None if one is None else hardware(one) for one in found}) < 2


class Bar(Struct, frozen=True):
    """One figure and what is wanted of it; `less` is better for some."""

    unit: str
    must: float
    goal: float
    value: Callable[[Results], float | None]
    less: bool = False
    digits: int = 0

    def met(self, results: Results) -> Met:
        """Compare."""
        value = self.value(results)
        if value is None:
            return Met.UNKNOWN
        if self._within(value, self.goal):
            return Met.GOAL
        return Met.MUST if self._within(value, self.must) else Met.MISSED

    def text(self, value: float | None) -> str:
        """Write a value with its unit."""
        return "–" if value is None else f"{value:,.{self.digits}f} {self.unit}".strip()

    def wanted(self, value: float) -> str:
        """Write what is wanted."""
        return (
            f"{'≤' if self.less else '≥'} {value:,.{self._digits_of(value)}f} {self.unit}".strip()
        )

    def _within(self, value: float, bar: float) -> bool:
        # As it is printed: nobody may read "10,000 ≥ 10,000: missed".
        value = round(value, self.digits)
        return value <= bar if self.less else value >= bar

    def _digits_of(self, value: float) -> int:
        return 0 if value == int(value) and self.digits < 2 else self.digits


class Aim(Struct, frozen=True):
    """One row of the goals. `row` is what measures it; `sides` says what its ratios are made of."""

    row: str
    what: str
    bars: tuple[Bar, ...]
    sides: Callable[[Results], str]


def figure(row: str, name: str) -> Callable[[Results], float | None]:
    """Take a figure as it was recorded."""
    return lambda results: results.get(row, name)
