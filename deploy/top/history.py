"""History: a few figures of the last minutes, for sparklines."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Final

from deploy.top.figures import Figures, Number

SPAN_S: Final = 180.0  # of a sparkline, if its cells are not shorter than two intervals then
_POINTS_MAX: Final = 1_000

KEPT: Final[Mapping[str, Callable[[Figures], Number]]] = {
    "offered": lambda figures: figures.intents.offered.per_s,
    "accepted": lambda figures: figures.intents.accepted.per_s,
    "committed": lambda figures: figures.intents.committed.per_s,
    "refused": lambda figures: figures.intents.refused.per_s,
    "in flight": lambda figures: figures.pipeline.in_flight,
    "predicted": lambda figures: figures.waits.predicted_s,
    "true": lambda figures: figures.waits.true_s,
    "sojourn": lambda figures: figures.waits.sojourn.p99_s,
}


class History:
    """What was shown, moment by moment."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, Mapping[str, Number]]] = deque(maxlen=_POINTS_MAX)

    @property
    def empty(self) -> bool:
        """Whether nothing was taken in yet."""
        return not self._points

    def add(self, at_s: float, figures: Figures) -> None:
        """Take in the figures of a moment, later than all before."""
        self._points.append((at_s, {name: of(figures) for name, of in KEPT.items()}))

    def cells(self, name: str, cells: int, cell_s: float) -> list[Number]:
        """Return the last `cells` means over `cell_s`, the latest last; None where nothing is known.

        Cells begin at multiples of `cell_s`, so that a picture moves by whole cells.
        """
        if not self._points or cells < 1:
            return [None] * max(cells, 0)
        last = int(self._points[-1][0] // cell_s)
        found: list[list[float]] = [[] for _ in range(cells)]
        for at_s, values in self._points:
            place, value = int(at_s // cell_s) - last + cells - 1, values[name]
            if place >= 0 and value is not None:
                found[place].append(value)
        return [fmean(some) if some else None for some in found]


def cell_s(cells: int, interval_s: float) -> float:
    """Return how long a cell of a sparkline with so many is; at least one reading is in each."""
    return max(SPAN_S / max(cells, 1), 2 * interval_s)
