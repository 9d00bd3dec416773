"""A dashboard as one SVG: its panels in Grafana's grid, drawn from Prometheus's answers.

As in Grafana a legend names each line, a red line is where a panel turns bad, areas are stacked. Unlike
in Grafana a line that stays at zero is left out where another does not, so that the legend fits.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from msgspec import Struct

from tests.benchmarks.charts import STYLE, svg_of
from tests.dashboards import units
from tests.dashboards.boards import Panel
from tests.dashboards.prometheus import Series

_COLUMNS: Final = 24
_WIDTH: Final = 12.0  # inches; GitHub shows it at some 900 pixels
_UNIT: Final = 0.315  # inches of one row of the grid
_GAP: Final = 0.12  # between two panels
_HEAD: Final = 0.95  # inches above the panels
_TALL, _FLAT = 8, 4  # rows of the grid: of lines, and of figures
_LINES: Final = (
    "#0969da",
    "#bc4c00",
    "#1a7f37",
    "#8250df",
    "#bf8700",
    "#cf222e",
    "#0f766e",
    "#bf3989",
    "#6e7781",
)
_NAMED: Final = {"green": "#2da44e", "yellow": "#d4a72c", "orange": "#e16f24", "red": "#cf222e"}
_INK, _FAINT, _RULE, _SHADE = "#24292f", "#57606a", "#d0d7de", "#fff1e5"
_STYLE: Final = STYLE | {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlepad": 8,
    "axes.spines.left": False,
    "lines.marker": "",
    "lines.linewidth": 1.6,
    "legend.fontsize": 9.5,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "ytick.major.size": 0,
}


class Line(Struct, frozen=True):
    """A series with its legend."""

    legend: str
    points: Sequence[tuple[float, float]]


class Shown(Struct, frozen=True):
    """A panel with what Prometheus answered."""

    panel: Panel
    lines: Sequence[Line]


class Times(Struct, frozen=True):
    """What is shown, in Unix time, and the part of it that is shaded."""

    start: float
    end: float
    shaded: tuple[float, float]


class _Place(Struct, frozen=True):
    """Where a panel lies, in the grid, from the top left."""

    x: float
    y: int
    width: float
    height: int


def lines_of(legend: str, found: Sequence[Series]) -> list[Line]:
    """Name the series of an answer as Grafana does: labels stand in double braces."""
    return [Line(_expanded(legend, one.labels), one.points) for one in found]


def picture(
    title: str, question: str, story: str, rows: Sequence[Sequence[Shown]], times: Times
) -> str:
    """Draw a dashboard; return the SVG."""
    places = list(laid_out([[(one.panel.width, _height(one)) for one in row] for row in rows]))
    height = _HEAD + _UNIT * (places[-1].y + places[-1].height)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height))
        figure.text(0.012, 1 - 0.30 / height, title, fontsize=16, fontweight="bold", color=_INK)
        figure.text(0.012, 1 - 0.55 / height, question, fontsize=11.5, color=_INK)
        figure.text(0.012, 1 - 0.77 / height, story, fontsize=9.5, color=_FAINT)
        for one, place in zip(itertools.chain(*rows), places, strict=True):
            _draw(figure, one, place, times)
        return _lean(svg_of(figure))


def _expanded(legend: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{\s*(\w+)\s*}}", lambda label: labels.get(label[1], ""), legend)


def laid_out(rows: Sequence[Sequence[tuple[int, int]]]) -> Iterator[_Place]:
    """Lay panels of a width and height beside each other, each row from side to side."""
    y = 0
    for row in rows:
        wider = _COLUMNS / sum(width for width, _ in row)
        height = max(height for _, height in row)
        x = 0.0
        for width, _ in row:
            yield _Place(x, y, width * wider, height)
            x += width * wider
        y += height


def _height(shown: Shown) -> int:
    flat = shown.panel.kind == "stat" or (
        shown.panel.kind == "state-timeline" and len(shown.lines) <= 2
    )
    return _FLAT if flat else _TALL


def _draw(figure: Figure, shown: Shown, place: _Place, times: Times) -> None:
    """Draw one panel: its frame, its title, and what is in it."""
    width, height = figure.get_size_inches()
    left = place.x / _COLUMNS * width + _GAP / 2
    top = height - _HEAD - place.y * _UNIT - _GAP / 2
    wide = place.width / _COLUMNS * width - _GAP
    high = place.height * _UNIT - _GAP
    figure.add_artist(
        Rectangle(
            (left / width, (top - high) / height),
            wide / width,
            high / height,
            fill=False,
            edgecolor=_RULE,
            linewidth=0.8,
        )
    )
    figure.text(
        (left + 0.1) / width,
        (top - 0.21) / height,
        shown.panel.title,
        fontsize=10.5,
        fontweight="bold",
        color=_INK,
    )

    def axes(left_in: float, bottom_in: float, right_in: float = 0.14) -> Axes:
        """Axes within the frame, by their margins in inches."""
        return figure.add_axes(
            (
                (left + left_in) / width,
                (top - high + bottom_in) / height,
                (wide - left_in - right_in) / width,
                (high - bottom_in - 0.36) / height,
            )
        )

    match shown.panel.kind:
        case _ if not shown.lines:
            empty = axes(0.1, 0.08)
            empty.axis("off")
            empty.text(0.5, 0.5, "no data", ha="center", transform=empty.transAxes)
        case "stat":
            _draw_figures(axes(0.1, 0.08), shown)
        case "state-timeline":
            _draw_states(axes(_margin(shown.lines), 0.32), shown, times)
            _draw_words(figure, shown, (left + wide - 0.1, top - 0.21))
        case _:
            lines = told_apart(shown.lines)
            rows = list(_legend_rows([line.legend for line in lines], wide - 0.25))
            _draw_lines(axes(0.62, 0.4 + 0.19 * len(rows)), shown.panel, lines, times)
            _draw_legend(figure, lines, rows, (left + 0.14, top - high + 0.08))


def told_apart(lines: Sequence[Line]) -> Sequence[Line]:
    """Leave out what stays at zero, where something does not."""
    busy = [line for line in lines if any(value for _, value in line.points)]
    return busy or lines


# Figures --------------------------------------------------------------------------------------------


def _draw_figures(axes: Axes, shown: Shown) -> None:
    panel = shown.panel
    axes.axis("off")
    for at, line in enumerate(shown.lines):
        _, value = line.points[-1]
        word, color = panel.words.get(value, (units.told(value, panel.unit), "green"))
        bad = panel.bad_from is not None and value >= panel.bad_from
        x = (at + 0.5) / len(shown.lines)
        alone = len(shown.lines) == 1
        axes.text(
            x,
            0.52 if alone else 0.62,
            word,
            ha="center",
            va="center",
            fontsize=21,
            color=_NAMED["red" if bad else color],
            transform=axes.transAxes,
        )
        if not alone:
            axes.text(x, 0.1, line.legend, ha="center", fontsize=9.5, transform=axes.transAxes)


# States ---------------------------------------------------------------------------------------------


def _margin(lines: Sequence[Line]) -> float:
    return 0.25 + 0.072 * max(len(line.legend) for line in lines)


def _draw_states(axes: Axes, shown: Shown, times: Times) -> None:
    words = shown.panel.words
    for at, line in enumerate(shown.lines):
        for value, began, ended in spans(line.points):
            word, color = words.get(value, (f"{value:g}", "green"))
            share = (ended - began) / (times.end - times.start)
            axes.barh(
                -at, ended - began, left=began - times.start, height=0.72, color=_NAMED[color]
            )
            if share > 0.015 * len(word):
                middle = (began + ended) / 2 - times.start
                axes.text(middle, -at, word, ha="center", va="center", color="white", fontsize=9.5)
    axes.set_yticks([-at for at in range(len(shown.lines))])
    axes.set_yticklabels([line.legend for line in shown.lines])
    axes.set_ylim(-len(shown.lines) + 0.45, 0.55)
    axes.grid(visible=False)
    _time_axis(axes, times)


def _draw_words(figure: Figure, shown: Shown, corner: tuple[float, float]) -> None:
    """Name the colours that are there, from the right, where there is more than one."""
    width, height = figure.get_size_inches()
    seen = {value for line in shown.lines for _, value in line.points}
    x, y = corner
    named = sorted(seen & shown.panel.words.keys(), reverse=True)
    for value in named if len(named) > 1 else ():
        word, color = shown.panel.words[value]
        x -= 0.3 + 0.068 * len(word)
        figure.text(
            x / width, y / height, "■", fontsize=9, color=_NAMED[color], fontfamily="DejaVu Sans"
        )
        figure.text((x + 0.14) / width, y / height, word, fontsize=9.5, color=_FAINT)


def spans(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float, float]]:
    """Yield each value with when it began and ended; a gap belongs to what was before."""
    began, last = points[0]
    for at, value in points[1:]:
        if value != last:
            yield last, began, at
            began, last = at, value
    yield last, began, points[-1][0]


# Lines ----------------------------------------------------------------------------------------------


def _draw_lines(axes: Axes, panel: Panel, lines: Sequence[Line], times: Times) -> None:
    begun, over = (at - times.start for at in times.shaded)
    axes.axvspan(begun, over, color=_SHADE, zorder=0, linewidth=0)
    colors = [_LINES[at % len(_LINES)] for at in range(len(lines))]
    if panel.stacked:
        instants, heights = stacked(lines)
        since = [at - times.start for at in instants]
        axes.stackplot(since, *heights, colors=colors, alpha=0.75, linewidth=0)
    else:
        for line, color in zip(lines, colors, strict=True):
            axes.plot(*_since(line, times), color=color)
    most = axes.dataLim.y1
    if panel.bad_from is not None and most > panel.bad_from / 4:
        axes.axhline(panel.bad_from, color=_NAMED["red"], linestyle="--", linewidth=1)
        most = max(most, panel.bad_from)
    axes.set_ylim(0, 1.08 * most if most > 0 else 1)
    top = axes.get_ylim()[1]
    size = units.size(panel.unit, top)  # round numbers are round in what is written
    steps = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(0, top / size)
    ticks = [step * size for step in steps if step * size <= top]
    axes.set_yticks(ticks, labels=[units.told(tick, panel.unit, top) for tick in ticks])
    axes.grid(visible=False, axis="x")
    axes.set_axisbelow(True)
    _time_axis(axes, times)


def _since(line: Line, times: Times) -> tuple[list[float], list[float]]:
    return [at - times.start for at, _ in line.points], [value for _, value in line.points]


def stacked(lines: Sequence[Line]) -> tuple[list[float], list[list[float]]]:
    """Return all times, and each line's values at them; where it has none it adds nothing."""
    instants = sorted({at for line in lines for at, _ in line.points})
    by_time: list[Mapping[float, float]] = [dict(line.points) for line in lines]
    return instants, [[values.get(at, 0.0) for at in instants] for values in by_time]


def _time_axis(axes: Axes, times: Times) -> None:
    axes.set_xlim(0, times.end - times.start)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 3, 6, 10]))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{int(value) // 60}:{int(value) % 60:02}")
    )


def _legend_rows(legends: Sequence[str], wide: float) -> Iterator[list[tuple[int, float]]]:
    """Break legends into rows; yield of each row which, and where in inches from the left."""
    row: list[tuple[int, float]] = []
    x = 0.0
    for at, legend in enumerate(legends):
        needs = 0.36 + 0.068 * len(legend)
        if row and x + needs > wide:
            yield row
            row, x = [], 0.0
        row.append((at, x))
        x += needs
    yield row


def _draw_legend(
    figure: Figure,
    lines: Sequence[Line],
    rows: Sequence[Sequence[tuple[int, float]]],
    corner: tuple[float, float],
) -> None:
    """Write the legends from the bottom left corner of a panel, in inches."""
    width, height = figure.get_size_inches()
    for number, row in enumerate(reversed(rows)):
        y = (corner[1] + 0.19 * number) / height
        for at, x in row:
            left = (corner[0] + x) / width
            figure.add_artist(
                Rectangle(
                    (left, y + 0.035 / height),
                    0.13 / width,
                    0.05 / height,
                    facecolor=_LINES[at % len(_LINES)],
                    linewidth=0,
                )
            )
            figure.text(
                left + 0.18 / width, y, lines[at].legend, fontsize=9.5, color=_FAINT, va="bottom"
            )


def _lean(svg: str) -> str:
    """Round the numbers of paths: a hundredth of a point is finer than any screen."""
    return re.sub(r' d="[^"]+"', lambda path: re.sub(r"(?<=\.\d\d)\d+", "", path[0]), svg)
