"""The row of what observing costs: the same load with metrics and logs as shipped, and without.

Two systems run beside each other and are loaded in turn, so that the two windows of a pair are close
in time: the machine differs by a third from minute to minute. Which of a pair comes first changes with
each pair. One system is as shipped and is scraped every 5 s; in the processes of the other one
metrics and logs do nothing (`silent/sitecustomize.py`), and nobody scrapes it. That they really did
something here and nothing there is looked up in both at the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Final

from msgspec import Struct

from deploy.embedded.cluster import Cluster
from tests.benchmarks import processes
from tests.benchmarks.course import ASSUMED_PER_S, HEADROOM, Course, Finding
from tests.benchmarks.measuring import Measured, MeasurementError
from tests.benchmarks.overloading import seconds_to_normal
from tests.benchmarks.scraping import Scraper, samples, scrape, total
from tests.benchmarks.sender import percentile
from tests.benchmarks.world import World

PAIRS = 24
WINDOW_S = 4.0
WARM_UP_S = 4.0
CONNECTIONS = 1_000
SILENT = Path(__file__).with_name("silent")
_ROLES = ("api", "worker")  # whose CPU an order's observing is
_OURS = ("api", "worker", "governor", "redispatcher", "relay", "exporter")
# What orders must have moved where metrics are on.
_MOVED: Final = (
    "tidegate_http_requests_total",
    "tidegate_intents_answered_total",
    "tidegate_sojourn_seconds_count",
    "celery_task_succeeded_total",
    "tidegate_intents_committed_total",
)
_TOLD = {"api.log": b'"event":"request"', "worker-1.log": b'"event":"batch"'}


class Window(Struct, frozen=True):
    """One measurement of one system. `us` is CPU per order, by role."""

    per_s: float  # committed, from the first post until none was open
    us: dict[str, float]
    measured: Measured

    @property
    def cpu_us(self) -> float:
        """Of API and worker together."""
        return sum(self.us.values())


class Pair(Struct, frozen=True):
    """The same load on both, one directly after the other."""

    on: Window
    off: Window


class _Side:
    """One of the two systems, with orders for the whole row."""

    def __init__(self, course: Course, world: World, name: str) -> None:
        self.name = name
        self.world = world
        self.accepted = 0
        self.scraped_s: list[float] = []
        course.say(f"warming up what runs with metrics and logs {name}")
        warm_up_s, window_s = course.given.at_most(WARM_UP_S), course.given.at_most(WINDOW_S)
        self._seconds = window_s
        self._posts = world.orders(int(ASSUMED_PER_S * warm_up_s) + CONNECTIONS).posts()
        # A cold system may shed at first; what is compared begins at `normal`, and sheds nothing.
        per_s = self._measure(warm_up_s, strict=False).rates.accepted_per_s
        seconds_to_normal(world)
        count = PAIRS * (int(per_s * HEADROOM * window_s) + CONNECTIONS)
        self._posts = world.orders(count).posts()

    def window(self) -> Window:
        """Load it for a while."""
        before = processes.cpu_seconds(self.world.cluster.processes())
        measured = self._measure(self._seconds)
        after = processes.cpu_seconds(self.world.cluster.processes())
        us = processes.shares(before, after, measured.accepted / 1e6)
        return Window(
            measured.accepted / (measured.seconds + measured.drain_s),
            {role: us[role] for role in _ROLES},
            measured,
        )

    def _measure(self, seconds: float, *, strict: bool = True) -> Measured:
        cluster = self.world.cluster
        scraper = Scraper(cluster.endpoints().metrics) if self.name == "on" else None
        with scraper or nullcontext():
            measured = self.world.bench.measure(
                self._posts, connections=CONNECTIONS, seconds=seconds, strict=strict
            )
        self.accepted += measured.accepted
        if scraper is not None:
            self.scraped_s += scraper.took_s
        return measured


def observed(course: Course) -> Finding:
    """Throughput, and CPU of an order, with metrics and logs over the same without."""
    course.say("starting a Tidegate as shipped, and one whose metrics and logs do nothing")
    with World() as shipped, _silenced(), World() as silent:
        on, off = _Side(course, shipped, "on"), _Side(course, silent, "off")
        pairs = []
        for turn in range(PAIRS):
            pairs.append(_pair(on, off, first_on=turn % 2 == 0))
            course.say(_told(pairs[-1]))
        moved, lines = _heard(on)
        _check_silence(off)
    figures = figures_of(pairs) | {
        "scrapes": float(len(on.scraped_s)),
        "scrape_p99_ms": percentile(on.scraped_s, 0.99) * 1_000,
        "samples_moved": float(moved),
        "log_lines": float(lines),
    }
    named = {
        f"{name} {turn}": window.measured
        for turn, pair in enumerate(pairs, 1)
        for name, window in (("on", pair.on), ("off", pair.off))
    }
    return Finding(figures, [_point(pair) for pair in pairs], named)


def figures_of(pairs: Sequence[Pair]) -> dict[str, float]:
    """Compare: medians over the pairs, of each ratio and of its sides."""
    ratios = [pair.on.per_s / max(pair.off.per_s, 1e-9) for pair in pairs]
    cpu = [pair.on.cpu_us / max(pair.off.cpu_us, 1e-9) for pair in pairs]
    figures = {
        "kept": median(ratios),
        "kept_least": min(ratios),
        "kept_most": max(ratios),
        "cpu_over_off": median(cpu),
        "cpu_over_off_least": min(cpu),
        "cpu_over_off_most": max(cpu),
        "pairs": float(len(pairs)),
        "on_per_s": median(pair.on.per_s for pair in pairs),
        "off_per_s": median(pair.off.per_s for pair in pairs),
    }
    for role in _ROLES:
        figures[f"{role}_on_us"] = median(pair.on.us[role] for pair in pairs)
        figures[f"{role}_off_us"] = median(pair.off.us[role] for pair in pairs)
    return figures


def _pair(on: _Side, off: _Side, *, first_on: bool) -> Pair:
    if first_on:
        return Pair(on=on.window(), off=off.window())
    without = off.window()
    return Pair(on=on.window(), off=without)


def _told(pair: Pair) -> str:
    on, off = pair.on, pair.off
    return (
        f"{on.per_s:,.0f} a second with, {off.per_s:,.0f} without: {on.per_s / off.per_s:.3f}; "
        f"{on.cpu_us:.1f} and {off.cpu_us:.1f} µs of CPU: {on.cpu_us / off.cpu_us:.3f}"
    )


def _point(pair: Pair) -> dict[str, float]:
    return {
        "on_per_s": pair.on.per_s,
        "off_per_s": pair.off.per_s,
        "on_us": pair.on.cpu_us,
        "off_us": pair.off.cpu_us,
    }


@contextmanager
def _silenced() -> Iterator[None]:
    """Let processes started meanwhile, and whoever follows them, find `SILENT` on their path."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = ":".join(filter(None, (str(SILENT), before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


# Was it really on, and really off? ----------------------------------------------------------------


def _shown(cluster: Cluster) -> dict[str, float]:
    """Sum up our series by name, of all processes; what the interpreter counts of itself is left."""
    found: dict[str, float] = {}
    for url in cluster.endpoints().metrics.values():
        shown = samples(scrape(url))
        for name in {name for name, _ in shown if name.startswith(("tidegate_", "celery_"))}:
            found[name] = found.get(name, 0.0) + total(shown, name)
    return found


def _logs(cluster: Cluster) -> dict[str, bytes]:
    """Read what our processes wrote."""
    files = chain.from_iterable((cluster.data / "logs").glob(f"{role}*.log") for role in _OURS)
    return {file.name: file.read_bytes() for file in files}


def _heard(on: _Side) -> tuple[int, int]:
    """Return how many series moved and how many lines were written; raises MeasurementError."""
    shown, logs = _shown(on.world.cluster), _logs(on.world.cluster)
    still = [name for name in _MOVED if not shown.get(name)]
    quiet = [name for name, line in _TOLD.items() if line not in logs.get(name, b"")]
    if still or quiet or not on.scraped_s:
        raise MeasurementError(f"metrics and logs were not on: {still} still, {quiet} quiet")
    if shown["tidegate_intents_answered_total"] < on.accepted:
        raise MeasurementError("metrics were not on: they count fewer answers than there were")
    return (
        sum(bool(value) for value in shown.values()),
        sum(text.count(b"\n") for text in logs.values()),
    )


def _check_silence(off: _Side) -> None:
    """Raise MeasurementError if a process that should say nothing showed or wrote anything."""
    shown, logs = _shown(off.world.cluster), _logs(off.world.cluster)
    moved = {name: value for name, value in shown.items() if value}
    wrote = {name: text[-500:] for name, text in logs.items() if text}
    if moved or wrote:
        raise MeasurementError(f"metrics and logs were not off: {moved}, {wrote}")
