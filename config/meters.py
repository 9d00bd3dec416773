"""Counters, gauges and histograms of the catalogue, for one process or a family that forks.

Problem: several processes answer one scrape: a worker's children, an API's. prometheus_client keeps
a file for each process that ever lived and reads them all, so a thousand restarts later a scrape
takes a minute. Here the cells of every series lie in shared memory that is made before the fork. Each
child takes a slot of it, and who is born into the slot of a dead child goes on from its counts. So
nothing is reaped, nothing is stale, and a counter does not fall when a child is killed. The price: the
labels of a series must be known beforehand, which they should be anyway.

A gauge that was not set, or set to None, is not shown: an unknown number is no zero. A series whose
labels the operator names is shown once it counted something.
"""

from __future__ import annotations

import itertools
import math
import mmap
import threading
import time
from bisect import bisect_left
from collections import Counter as Counted
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Final

from msgspec import Struct

from config.catalogue import Metric, metric

_CELL: Final = 8  # bytes: a double


def _doubles(memory: bytearray | mmap.mmap) -> memoryview[float]:
    return memoryview(memory).cast("d")


class _Memory:
    """The cells, and where this process's slot begins. One for each process, whatever it meters."""

    def __init__(self) -> None:
        self.size = 0  # cells of a slot
        self.slots = 1
        self.base = 0
        self.initial: list[float] = []
        self.cells = _doubles(bytearray())
        self.lock = threading.Lock()

    def add(self, count: int, initial: float) -> int:
        """Lay out cells for a series; return the first's place."""
        if self.slots > 1:
            raise AssertionError("series are laid out before the memory is shared")
        place = self.size
        self.size += count
        self.initial += [initial] * count
        old = self.cells
        self.cells = _doubles(bytearray(self.size * _CELL))
        for at, value in enumerate(itertools.chain(old, [initial] * count)):
            self.cells[at] = value
        return place

    def share(self, slots: int) -> None:
        """Move to memory that children share, a slot for each; the first stays this process's."""
        own, self.cells = self.cells, _doubles(mmap.mmap(-1, max(1, slots * self.size) * _CELL))
        self.slots = slots
        for at, value in enumerate([*own, *(slots - 1) * self.initial]):
            self.cells[at] = value

    def take(self, slot: int) -> None:
        """Count in this slot from now on; what only its last holder knew is unknown again."""
        self.base = slot * self.size
        for at, initial in enumerate(self.initial):
            if math.isnan(initial):
                self.cells[self.base + at] = initial
        self.lock = threading.Lock()  # the parent's may have been held when it forked

    def read(self, place: int) -> list[float]:
        """Return a cell of every slot."""
        return [self.cells[slot * self.size + place] for slot in range(self.slots)]

    def together(self) -> list[float]:
        """Return every cell, the slots' added up."""
        size = self.size
        slots = [self.cells[slot * size : (slot + 1) * size] for slot in range(self.slots)]
        return list(map(math.fsum, zip(*slots, strict=True)))


_memory = _Memory()
_before_reading: list[Callable[[], None]] = []


class Counter:
    """One series that only grows."""

    def __init__(self, place: int) -> None:
        self._place = place

    def inc(self, amount: float = 1) -> None:
        """Count. Safe in any thread."""
        memory = _memory
        with memory.lock:
            memory.cells[memory.base + self._place] += amount


class Gauge:
    """One series that is what it was last set to."""

    def __init__(self, place: int) -> None:
        self._place = place

    def set(self, value: float | None) -> None:
        """Set; None: it is not known."""
        _memory.cells[_memory.base + self._place] = math.nan if value is None else value


class Histogram:
    """One series of a distribution: a cell for each bucket, one beyond them, and the sum."""

    def __init__(self, place: int, bounds: Sequence[float]) -> None:
        self._place = place
        self._bounds = tuple(bounds)

    def observe(self, value: float, count: int = 1) -> None:
        """Count a value, or as many of it. Safe in any thread."""
        memory = _memory
        bucket = bisect_left(self._bounds, value)
        with memory.lock:
            place = memory.base + self._place
            memory.cells[place + bucket] += count
            memory.cells[place + len(self._bounds) + 1] += count * value

    def observe_many(self, values: Sequence[float]) -> None:
        """Count each of some values."""
        buckets = Counted(map(bisect_left, itertools.repeat(self._bounds), values))
        total = sum(values)
        memory = _memory
        with memory.lock:
            place = memory.base + self._place
            for bucket, count in buckets.items():
                memory.cells[place + bucket] += count
            memory.cells[place + len(self._bounds) + 1] += total


class Series(Struct, frozen=True):
    """One series of the catalogue, and where its cells are."""

    metric: Metric
    labels: tuple[str, ...]  # values, in the catalogue's order
    place: int


_series: dict[tuple[str, tuple[str, ...]], Series] = {}


def counter(name: str, /, **labels: str) -> Counter:
    """Return a series of the catalogue; raises KeyError for a name, or a label, that is not in it."""
    return Counter(_place(name, "counter", labels, 1))


def gauge(name: str, /, **labels: str) -> Gauge:
    """See `counter`."""
    return Gauge(_place(name, "gauge", labels, 1))


def histogram(name: str, /, **labels: str) -> Histogram:
    """See `counter`."""
    bounds = metric(name).buckets
    return Histogram(_place(name, "histogram", labels, len(bounds) + 2), bounds)


def counters(name: str) -> Mapping[str, Counter]:
    """Return a counter's series by the values of its only label."""
    ((label, values),) = metric(name).labels.items()
    return {value: counter(name, **{label: value}) for value in values}


def histograms(name: str) -> Mapping[str, Histogram]:
    """Return a histogram's series by the values of its only label."""
    ((label, values),) = metric(name).labels.items()
    return {value: histogram(name, **{label: value}) for value in values}


def introduce(process: str) -> None:
    """Show which version runs as what, and since when; call once, before `share`."""
    gauge("tidegate_build_info", version=version("tidegate"), process=process).set(1)
    gauge("tidegate_process_start_timestamp_seconds").set(time.time())


def share(children: int) -> None:
    """Share what is counted with so many children; call once, before the first fork."""
    _memory.share(1 + children)


def take(place: int) -> None:
    """Count in the place of one child, from 0; call in each child."""
    _memory.take(1 + place)


def before_reading(look: Callable[[], None]) -> None:
    """Have gauges set just before they are shown."""
    _before_reading.append(look)


def look() -> None:
    """Have those gauges set that are set just before they are shown."""
    for have_set in _before_reading:
        have_set()


def every_series() -> Sequence[Series]:
    """Return all that were asked for."""
    return list(_series.values())


def together() -> Sequence[float]:
    """Return what the family counted, cell by cell; those of gauges say nothing: see `known`."""
    return _memory.together()


def known(series: Series) -> float | None:
    """Return what a counter or gauge stands at, of the whole family; None: nobody knows."""
    values = [value for value in _memory.read(series.place) if not math.isnan(value)]
    if not values:
        return None
    return max(values) if series.metric.across == "max" else sum(values)


def readings(name: str) -> dict[tuple[str, ...], float]:
    """Return what a counter or gauge stands at, by its labels' values, of the whole family."""
    found = ((one.labels, known(one)) for one in every_series() if one.metric.name == name)
    return {labels: value for labels, value in found if value is not None}


def _place(name: str, kind: str, labels: Mapping[str, str], cells: int) -> int:
    known = metric(name)
    if known.kind != kind:
        raise KeyError(f"{name} is a {known.kind}")
    if set(labels) != set(known.labels):
        raise KeyError(f"{name} has the labels {', '.join(known.labels) or 'none'}")
    for label, value in labels.items():
        if known.labels[label] and value not in known.labels[label]:
            raise KeyError(f"{name}: {label} is none of its listed values: {value}")
    values = tuple(labels[label] for label in known.labels)
    series = _series.get((name, values))
    if series is None:
        place = _memory.add(cells, math.nan if kind == "gauge" else 0.0)
        series = _series[name, values] = Series(known, values, place)
    return series.place
