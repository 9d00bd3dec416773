"""Numbers: totals, rates and quantiles over the readings of all sources. Pure.

A counter's increase is the difference of two readings. One that fell began again with its process, and
has counted since what it shows; where the same process fell, rows behind it were removed, and nothing
is known of that span. A series that appears in a family known before began at zero.

Processes are put together as the catalogue says: sums, or the greatest. The exporter's series are read
from the same tables by each that runs, so they are never added up; the governor's are the leader's.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Final

from msgspec import Struct

from config import catalogue
from config.catalogue import Metric
from deploy.top.figures import Flow, Spread
from deploy.top.reading import Labels, Reading, Seen

_STARTED: Final = "tidegate_process_start_timestamp_seconds"
_LEADS: Final = "tidegate_governor_leads"


class Numbers:
    """The figures in what was read by `at_s`; what is older than `stale_s` counts as absent.

    A histogram's parts (`…_count`, `…_sum`, `…_bucket`) are counters of those names.
    """

    def __init__(self, seen: Sequence[Seen], at_s: float, stale_s: float) -> None:
        self._fresh = [
            one.readings for one in seen if one.readings and at_s - one.readings[-1].at_s <= stale_s
        ]

    def gauge(self, name: str, **labels: str) -> float | None:
        """Return a gauge; of several series that have these labels, their sum."""
        return self.gauges(name, **labels).get(())

    def gauges(self, name: str, *by: str, **labels: str) -> dict[tuple[str, ...], float]:
        """Return a gauge by the values of labels, of the series that have `labels`."""
        found: dict[tuple[str, ...], float] = defaultdict(float)
        for at, value in self._values(name).items():
            if _has(at, labels):
                found[_values_of(at, by)] += value
        return dict(found)

    def flow(self, name: str, **labels: str) -> Flow:
        """Return a counter; of several series that have these labels, their sum."""
        return self.flows(name, **labels).get((), Flow())

    def flows(self, name: str, *by: str, **labels: str) -> dict[tuple[str, ...], Flow]:
        """Return a counter by the values of labels, of the series that have `labels`."""
        rates = self._rates(name)
        found: dict[tuple[str, ...], list[Flow]] = defaultdict(list)
        for at, total in self._values(name).items():
            if _has(at, labels):
                found[_values_of(at, by)].append(Flow(total, rates.get(at)))
        return {values: added(some) for values, some in found.items()}

    def spread(self, name: str, **labels: str) -> Spread:
        """Return what a histogram of seconds counted in the window."""
        buckets: dict[float, float] = defaultdict(float)
        for at, by in self._increases(f"{name}_bucket", labels):
            buckets[float(dict(at)["le"])] += by
        return Spread(
            count=buckets.get(math.inf),
            mean_s=self.mean(name, **labels),
            p50_s=quantile(buckets, 0.5),
            p99_s=quantile(buckets, 0.99),
        )

    def mean(self, name: str, **labels: str) -> float | None:
        """Return the mean of what a histogram counted in the window; None if that is nothing."""
        count = sum(by for _, by in self._increases(f"{name}_count", labels))
        total = sum(by for _, by in self._increases(f"{name}_sum", labels))
        return total / count if count else None

    def means(self, name: str, by: str) -> dict[str, float]:
        """Return the means by the values of a label, in the catalogue's order."""
        values = catalogue.metric(name).labels[by]
        found = {value: self.mean(name, **{by: value}) for value in values}
        return {value: mean for value, mean in found.items() if mean is not None}

    def _increases(self, name: str, labels: Mapping[str, str]) -> Iterator[tuple[Labels, float]]:
        """Tell by how much each series grew in the window, source by source."""
        for readings in self._showing(name):
            for at, grown in _grown(readings, name).items():
                if _has(at, labels):
                    yield at, grown.by

    def _values(self, name: str) -> Mapping[Labels, float]:
        shown = [readings[-1].series.get(name, {}) for readings in self._showing(name)]
        return _together(name, shown)

    def _rates(self, name: str) -> Mapping[Labels, float]:
        grown = [_grown(readings, name) for readings in self._showing(name)]
        return _together(
            name, [{at: one.by / one.in_s for at, one in some.items()} for some in grown]
        )

    def _showing(self, name: str) -> list[tuple[Reading, ...]]:
        return self._leader if _metric(name).source == "governor" else self._fresh

    @cached_property
    def _leader(self) -> list[tuple[Reading, ...]]:
        """The governor that leads: one at most."""
        return [one for one in self._fresh if one[-1].series.get(_LEADS, {}).get((), 0) > 0][:1]


def _together(name: str, shown: Sequence[Mapping[Labels, float]]) -> Mapping[Labels, float]:
    """Put together what several sources show of a name."""
    metric = _metric(name)
    greatest = metric.source == "exporter" or metric.across == "max"
    found: dict[Labels, float] = {}
    for one in shown:
        for at, value in one.items():
            before = found.get(at)
            if before is None:
                found[at] = value
            else:
                found[at] = max(before, value) if greatest else before + value
    return found


def _metric(name: str) -> Metric:
    """Return what the catalogue says of a series; raises KeyError if it says nothing."""
    known = catalogue.metrics()
    return known[name] if name in known else known[name.rpartition("_")[0]]


class _Grown(Struct, frozen=True):
    """By how much a counter grew, and in how many seconds of which that is known."""

    by: float
    in_s: float


def _grown(readings: Sequence[Reading], name: str) -> dict[Labels, _Grown]:
    """Return the increase of each series of a name; one of which nothing is known is left out."""
    found: dict[Labels, _Grown] = {}
    for then, now in pairwise(readings):
        before, in_s = then.series.get(name), now.at_s - then.at_s
        if before is None or in_s <= 0:
            continue
        began_again = _began_again(then, now)
        for at, value in now.series.get(name, {}).items():
            by = increase(before.get(at, 0.0), value, began_again=began_again)
            if by is not None:
                known = found.get(at, _Grown(0.0, 0.0))
                found[at] = _Grown(known.by + by, known.in_s + in_s)
    return found


def increase(then: float, now: float, *, began_again: bool) -> float | None:
    """Return by how much a counter grew between two readings; None: nobody can say."""
    if now >= then:
        return now - then
    return now if began_again else None


def _began_again(then: Reading, now: Reading) -> bool:
    """Tell whether a counter that fell fell with its process; so it is where nothing else is said."""
    before, after = then.series.get(_STARTED), now.series.get(_STARTED)
    return before is None or after is None or max(before.values()) != max(after.values())


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """Return what `share` (0 to 1) of the counted do not exceed, as Prometheus interpolates.

    `buckets` are counts up to each bound, `inf` included; None when nothing was counted.
    """
    wanted = share * buckets.get(math.inf, 0.0)
    if wanted <= 0:
        return None
    lower = below = 0.0
    for bound in sorted(buckets):
        up_to = buckets[bound]
        if up_to >= wanted:
            if bound == math.inf:
                return lower
            return lower + (bound - lower) * (wanted - below) / (up_to - below)
        lower, below = bound, up_to
    return lower


def added(flows: Iterable[Flow]) -> Flow:
    """Add flows up; what none of them knows is not known."""
    some = list(flows)
    return Flow(_sum(one.total for one in some), _sum(one.per_s for one in some))


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _has(at: Labels, labels: Mapping[str, str]) -> bool:
    return all(pair in at for pair in labels.items())


def _values_of(at: Labels, names: Sequence[str]) -> tuple[str, ...]:
    labels = dict(at)
    return tuple(labels.get(name, "") for name in names)
