"""Charts, as SVG, drawn from the records. The same records give the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from msgspec import Struct

from tests.benchmarks.goals import Results

FOLDER = Path(__file__).with_name("charts")
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "tidegate",  # or ids of its elements would be random
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#57606a",
    "axes.labelcolor": "#24292f",
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 12,
    "axes.grid": True,
    "grid.color": "#d0d7de",
    "grid.linewidth": 0.6,
    "xtick.color": "#57606a",
    "ytick.color": "#57606a",
    "lines.linewidth": 2,
    "lines.marker": "o",
    "lines.markersize": 5,
    "legend.frameon": False,
    # White, so that it is legible on a dark page too.
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
_BLUE, _ORANGE, _GREEN, _GREY = "#0969da", "#bc4c00", "#1a7f37", "#6e7781"
_SIZE = (7.6, 4.2)  # inches; a README shows it at 730 pixels


class Chart(Struct, frozen=True):
    """One chart: what it shows, whether there is anything to show, and how it is drawn."""

    name: str
    title: str
    drawable: Callable[[Results], bool]
    draw: Callable[[Axes, Results], None]

    def svg(self, results: Results) -> str:
        """Draw it."""
        return drawn(self.title, lambda axes: self.draw(axes, results))


def drawn(title: str, draw: Callable[[Axes], None]) -> str:
    """Draw an SVG in the style of all charts."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
        draw(axes)
        return svg_of(figure)


def svg_of(figure: Figure) -> str:
    """Write a figure as SVG: the same figure gives the same bytes."""
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    # Some lines end in blanks, which every tool that looks at diffs complains about.
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def write(results: Results) -> list[Path]:
    """Draw what can be drawn into `charts/`; return the files."""
    FOLDER.mkdir(exist_ok=True)
    written = []
    for chart in CHARTS:
        if chart.drawable(results):
            path = FOLDER / f"{chart.name}.svg"
            path.write_text(chart.svg(results))
            written.append(path)
    return written


def _points(results: Results, row: str) -> list[dict[str, float]]:
    return results.rows[row].points if row in results.rows else []


def _column(points: list[dict[str, float]], name: str) -> list[float]:
    return [point[name] for point in points]


def _draw_batches(axes: Axes, results: Results) -> None:
    if alone := _points(results, "postgres"):
        axes.plot(
            _column(alone, "batch"),
            _column(alone, "committed_per_s"),
            color=_GREY,
            label="PostgreSQL alone, orders in a transaction",
        )
    if calls := _points(results, "batch"):
        axes.plot(
            _column(calls, "per_call"),
            _column(calls, "committed_per_s"),
            color=_BLUE,
            label="Tidegate, intents in a call",
        )
    plain = results.get("plain", "committed_per_s")
    if plain is not None:
        axes.axhline(plain, color=_ORANGE, linestyle="--", marker="", label="plain Celery")
    axes.set_xscale("log")
    axes.set_xticks([1, 10, 100, 500], labels=["1", "10", "100", "500"])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("intents in a batch")
    axes.set_ylabel("orders committed per second")
    _logarithmic(axes)
    axes.legend()


def _draw_load(axes: Axes, results: Results) -> None:
    points = _points(results, "load")
    offered = _column(points, "offered_per_s")
    axes.plot(offered, _column(points, "p99_ms"), color=_ORANGE, label="p99")
    axes.plot(offered, _column(points, "p50_ms"), color=_BLUE, label="p50")
    peak = results.get("load", "sustained_per_s")
    if peak is not None:
        axes.axvline(peak, color=_GREY, linestyle="--", marker="", label="sustained, closed loop")
    axes.set_xlim(left=0)
    axes.set_xlabel("intents offered per second (open loop)")
    axes.set_ylabel("acceptance latency, ms")
    axes.xaxis.set_major_formatter(FuncFormatter(_grouped))
    _logarithmic(axes)
    axes.legend()


def _draw_growth(axes: Axes, results: Results) -> None:
    assert results.campaign is not None
    chunks = results.campaign.chunks
    axes.plot(
        [(chunk.orders_before + chunk.orders / 2) / 1e6 for chunk in chunks],
        [chunk.committed_per_s for chunk in chunks],
        color=_GREEN,
        markersize=3,
    )
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.15 * max(chunk.committed_per_s for chunk in chunks))
    axes.set_xlabel("orders in the tables, millions")
    axes.set_ylabel("orders committed per second")
    axes.yaxis.set_major_formatter(FuncFormatter(_grouped))


def _draw_overload(axes: Axes, results: Results) -> None:
    for row, color, label in (
        ("overload", _BLUE, "Tidegate"),
        ("plain_overload", _ORANGE, "plain Celery, no admission"),
    ):
        if points := _points(results, row):
            best = max(_column(points, "goodput_per_s"))
            axes.plot(
                _column(points, "times"),
                [goodput / max(best, 1e-9) for goodput in _column(points, "goodput_per_s")],
                color=color,
                label=label,
            )
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20], labels=["1", "2", "5", "10", "20"])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("offered, times the capacity")
    axes.set_ylabel("orders committed in time per second, of the best")
    axes.legend()


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_grouped))


def _grouped(value: float, _: object) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


CHARTS = (
    Chart(
        "batch",
        "Throughput by batch size",
        lambda results: bool(_points(results, "postgres") or _points(results, "batch")),
        _draw_batches,
    ),
    Chart(
        "latency",
        "Acceptance latency by load",
        lambda results: bool(_points(results, "load")),
        _draw_load,
    ),
    Chart(
        "growth",
        "Throughput as the tables grow",
        lambda results: results.campaign is not None and bool(results.campaign.chunks),
        _draw_growth,
    ),
    Chart(
        "overload",
        "Goodput by offered load",
        lambda results: bool(_points(results, "overload")),
        _draw_overload,
    ),
)
