"""The text that Prometheus reads, laid out beforehand: of each line only the number is written anew.

prometheus_client makes an object of every sample and quotes every label at every scrape: for an API's
seven hundred lines five milliseconds of a core, seven times as long as this, and won from a thousand
callers turn by turn. The names, labels and meanings of our series never change, so they are text once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from config import meters
from config.catalogue import Metric, Source
from config.meters import Series

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_QUOTED: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_QUOTED_HELP: Final = str.maketrans({"\\": r"\\", "\n": r"\n"})


class _Lines(Struct, frozen=True):
    """The lines of one series, each but for its number."""

    series: Series
    heads: Sequence[str]
    always: bool  # shown also while it counted nothing


class _Family(Struct, frozen=True):
    """A metric's head, and its series."""

    head: str
    members: Sequence[_Lines]


class Exposition:
    """What a process of some sources shows: its series, its own CPU and memory, and `beside`."""

    def __init__(self, *sources: Source, beside: Sequence[Collector] = ()) -> None:
        self._sources = {"every", *sources}
        self._others = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._others)
        for collector in beside:
            self._others.register(collector)
        self._laid_out: Sequence[_Family] = ()
        self._count = 0

    def text(self) -> bytes:
        """Return all of it, in Prometheus' text format 0.0.4. Safe in any thread."""
        meters.look()
        known = meters.every_series()
        if len(known) != self._count:
            self._laid_out = _lay_out([one for one in known if one.metric.source in self._sources])
            self._count = len(known)
        cells = meters.together()
        ours = "".join(_written(self._laid_out, cells))
        return ours.encode() + generate_latest(self._others)


def _lay_out(known: Sequence[Series]) -> Sequence[_Family]:
    ordered = sorted(known, key=lambda series: series.metric.name)
    return [
        _Family(_head(group[0].metric), [_lines(series) for series in group])
        for _, members in itertools.groupby(ordered, key=lambda series: series.metric.name)
        for group in [list(members)]
    ]


def _head(known: Metric) -> str:
    meaning = known.meaning.translate(_QUOTED_HELP)
    return f"# HELP {known.name} {meaning}\n# TYPE {known.name} {known.kind}\n"


def _lines(series: Series) -> _Lines:
    known = series.metric
    labels = dict(zip(known.labels, series.labels, strict=True))
    listed = all(known.labels.values())
    if known.kind != "histogram":
        return _Lines(series, [_line(known.name, labels)], listed or known.kind == "gauge")
    bounds = [*(str(float(bound)) for bound in known.buckets), "+Inf"]
    buckets = [_line(f"{known.name}_bucket", {**labels, "le": bound}) for bound in bounds]
    ends = [_line(f"{known.name}_{end}", labels) for end in ("count", "sum")]
    return _Lines(series, [*buckets, *ends], listed)


def _line(name: str, labels: Mapping[str, str]) -> str:
    ordered = sorted(labels.items())
    pairs = ",".join(f'{label}="{value.translate(_QUOTED)}"' for label, value in ordered)
    return f"{name}{{{pairs}}} " if pairs else f"{name} "


def _written(families: Sequence[_Family], cells: Sequence[float]) -> Iterator[str]:
    for family in families:
        yield family.head
        for member in family.members:
            numbers = _numbers(member.series, cells)
            if member.always or any(numbers):
                for head, number in zip(member.heads, numbers, strict=False):
                    yield f"{head}{floatToGoString(number)}\n"  # type: ignore[no-untyped-call]


def _numbers(series: Series, cells: Sequence[float]) -> Sequence[float]:
    """Return a number for each line of a series; none, where nobody knows."""
    place = series.place
    match series.metric.kind:
        case "counter":
            return cells[place : place + 1]
        case "gauge":
            known = meters.known(series)
            return () if known is None else (known,)
        case _:
            end = place + len(series.metric.buckets) + 1
            counts = list(itertools.accumulate(cells[place:end]))
            return [*counts, counts[-1], cells[end]]
