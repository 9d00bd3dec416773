"""The row of what observing costs: the same load with metrics and logs as shipped, and without.

Systems are loaded two at a time, with half of the connections each: the machine differs by a third from
minute to minute, and whatever befalls it befalls both. In the one metrics and logs are as shipped and
it is scraped every 5 s; in the processes of the other they do nothing (`silent/sitecustomize.py`), and
nobody scrapes it. As a control two silent ones are loaded beside each other, in turns between. Both
sides of a pair have the same processors, so a system that costs more commits less. What its exporter
takes of them is taken from both: so all CPU is told too, and held against the same bound.

What a scrape takes is measured of the first system alone, under as much load as it bears. That metrics
and logs really did something here and nothing there is looked up at the end.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Final, Self

from msgspec import Struct

from deploy.embedded.cluster import Cluster
from tests.benchmarks.course import ASSUMED_PER_S, HEADROOM, Course, Finding
from tests.benchmarks.measuring import WARM_UP_S, Measured, MeasurementError
from tests.benchmarks.overloading import seconds_to_normal
from tests.benchmarks.scraping import INTERVAL_S, Scraper, samples, scrape, total
from tests.benchmarks.sender import percentile
from tests.benchmarks.world import World

TURNS = 16  # of with and without
CONTROLS = 8  # of two without
ALONE = 3  # windows of the one with them, alone, with all connections, scraped often
ALONE_EVERY_S = 0.5
WINDOW_S = 8.0
CONNECTIONS = 500  # of each side
SILENT = Path(__file__).with_name("silent")
_SWITCH_INTERVAL_S = 0.000_5  # two senders share this process
_NOT_OURS = ("sender", "others")  # of who uses the processors
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


class Pair(Struct, frozen=True):
    """The same load on two systems at the same time."""

    on: Measured
    off: Measured

    @property
    def kept(self) -> float:
        """Committed per second by the one over the other."""
        return self.on.rates.committed_per_s / max(self.off.rates.committed_per_s, 1e-9)

    @property
    def cpu(self) -> float:
        """CPU of an order in all processes of the one over the other; servers are among them."""
        return cpu_us(self.on) / max(cpu_us(self.off), 1e-9)


def cpu_us(measured: Measured) -> float:
    """Return the CPU of an order in all processes of its system, in microseconds."""
    return sum(us for role, us in measured.us_per_order.items() if role not in _NOT_OURS)


class _Side:
    """One of the systems, with orders for all its turns."""

    def __init__(self, course: Course, world: World, name: str, turns: int) -> None:
        self.world = world
        self.accepted = 0
        course.say(f"warming up what runs with metrics and logs {name}")
        self._seconds = course.given.at_most(WINDOW_S)
        self._posts = world.orders(int(ASSUMED_PER_S * self._seconds) + CONNECTIONS).posts()
        # A cold system may shed at first; what is compared begins at `normal`, and sheds nothing.
        # It has all processors here and half of them later, but may have been slow for a moment.
        per_s = self._measure(CONNECTIONS, strict=False).rates.accepted_per_s
        seconds_to_normal(world)
        count = turns * (int(per_s * HEADROOM * self._seconds) + CONNECTIONS)
        self._posts = world.orders(count).posts()

    def window(self, connections: int = CONNECTIONS) -> Measured:
        """Load it for a while."""
        return self._measure(connections, strict=True)

    def _measure(self, connections: int, *, strict: bool) -> Measured:
        measured = self.world.bench.measure(
            self._posts, connections=connections, seconds=self._seconds, strict=strict
        )
        self.accepted += measured.accepted
        return measured


def observed(course: Course) -> Finding:
    """Throughput, and CPU of an order, with metrics and logs over the same without."""
    course.say("starting a Tidegate as shipped, and two whose metrics and logs do nothing")
    with ExitStack() as opened:
        shipped = opened.enter_context(World())
        with _silenced():
            silent, alike = opened.enter_context(World()), opened.enter_context(World())
        on = _Side(course, shipped, "on", TURNS + 2 * ALONE)
        off = _Side(course, silent, "off", TURNS + CONTROLS)
        control = _Side(course, alike, "off, too", CONTROLS)
        pool = opened.enter_context(ThreadPoolExecutor(2))
        scraper = opened.enter_context(_Scraper(shipped, course.given.at_most(WINDOW_S)))
        course.say("scraping what runs with metrics and logs on, alone under full load")
        took_s = []
        for _ in range(ALONE):
            with scraper.scraping(ALONE_EVERY_S) as took:
                on.window(connections=2 * CONNECTIONS)
            took_s += took
        opened.enter_context(_switching_often())
        pairs, controls = [], []
        for turn in range(TURNS):
            with scraper.scraping(INTERVAL_S):
                pairs.append(_pair(pool, on, off))
            course.say(f"with and without: {_told(pairs[-1])}")
            if turn % (TURNS // CONTROLS) == 0:
                controls.append(_pair(pool, control, off))
                course.say(f"two without: {_told(controls[-1])}")
        moved, lines = _heard(on, took_s)
        _check_silence(off)
    figures = figures_of(pairs, controls) | {
        "scrapes": float(len(took_s)),
        "scrape_p99_ms": percentile(took_s, 0.99) * 1_000,
        "samples_moved": float(moved),
        "log_lines": float(lines),
    }
    named = {
        f"{name} {turn}": measured
        for turn, pair in enumerate(pairs, 1)
        for name, measured in (("on", pair.on), ("off", pair.off))
    }
    return Finding(figures, [_point(pair) for pair in pairs], named)


def figures_of(pairs: Sequence[Pair], controls: Sequence[Pair]) -> dict[str, float]:
    """Compare: medians over the pairs, of each ratio and of its sides."""
    kept, cpu = [pair.kept for pair in pairs], [pair.cpu for pair in pairs]
    figures = {
        "kept": median(kept),
        "kept_least": min(kept),
        "kept_most": max(kept),
        "kept_of_alike": median(pair.kept for pair in controls),
        "same_cpu": 1 / max(median(cpu), 1e-9),
        "same_cpu_of_alike": 1 / max(median(pair.cpu for pair in controls), 1e-9),
        "pairs": float(len(pairs)),
        "controls": float(len(controls)),
        "on_per_s": median(pair.on.rates.committed_per_s for pair in pairs),
        "off_per_s": median(pair.off.rates.committed_per_s for pair in pairs),
    }
    for role in ("api", "worker", "exporter", "postgres"):
        for side in ("on", "off"):
            shares = [getattr(pair, side).us_per_order.get(role, 0.0) for pair in pairs]
            figures[f"{role}_{side}_us"] = median(shares)
    return figures


class _Scraper:
    """Scrapes from a process of its own: that of the senders is busier than any scraper's."""

    def __init__(self, world: World, window_s: float) -> None:
        self._urls = world.cluster.endpoints().metrics
        self._window_s = window_s
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    @contextmanager
    def scraping(self, every_s: float) -> Iterator[list[float]]:
        """Scrape during one window; yield a list that holds afterwards what each took, in seconds."""
        took_s: list[float] = []
        scraping = self._pool.submit(scraped_for, self._urls, self._window_s, every_s)
        yield took_s
        took_s += scraping.result()


def scraped_for(urls: Mapping[str, str], seconds: float, every_s: float) -> list[float]:
    """Scrape while a load lasts, from when it has begun; return what each took, in seconds."""
    time.sleep(min(WARM_UP_S, seconds / 2))
    with Scraper(urls, every_s=every_s) as scraper:
        time.sleep(max(0.0, seconds - 2 * WARM_UP_S))
    return scraper.took_s


def _pair(pool: ThreadPoolExecutor, one: _Side, other: _Side) -> Pair:
    first, second = pool.submit(one.window), pool.submit(other.window)
    return Pair(first.result(), second.result())


def _told(pair: Pair) -> str:
    on, off = pair.on, pair.off
    return (
        f"{on.rates.committed_per_s:,.0f} and {off.rates.committed_per_s:,.0f} a second: "
        f"{pair.kept:.3f}; {cpu_us(on):.1f} and {cpu_us(off):.1f} µs of CPU: {pair.cpu:.3f}"
    )


def _point(pair: Pair) -> dict[str, float]:
    return {
        "on_per_s": pair.on.rates.committed_per_s,
        "off_per_s": pair.off.rates.committed_per_s,
        "on_us": cpu_us(pair.on),
        "off_us": cpu_us(pair.off),
    }


@contextmanager
def _switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


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


def _heard(on: _Side, took_s: Sequence[float]) -> tuple[int, int]:
    """Return how many series moved and how many lines were written; raises MeasurementError."""
    shown, logs = _shown(on.world.cluster), _logs(on.world.cluster)
    still = [name for name in _MOVED if not shown.get(name)]
    quiet = [name for name, line in _TOLD.items() if line not in logs.get(name, b"")]
    if still or quiet or not took_s:
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
