"""What the processes' metrics pages say of some series: values, and how fast counters grow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from http.client import HTTPException
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from config.catalogue import metrics

# Between two readings of a counter: long enough to see a rate, short enough to wait for.
APART_S: Final = 2.0

Labels = tuple[tuple[str, str], ...]
Series = Mapping[tuple[str, str, Labels], float]  # by process, name and labels


def counts(names: Iterable[str]) -> bool:
    """Tell whether any of the metrics only grows, so that its rate says more than its value."""
    return any(metrics()[name].kind != "gauge" for name in names)


def read_pages(pages: Mapping[str, str], read: Callable[[str], str]) -> tuple[Series, list[str]]:
    """Read all pages by process; return their series, and a line for each that cannot be read."""
    found: dict[tuple[str, str, Labels], float] = {}
    faults = []
    for process, url in pages.items():
        try:
            text = read(url)
        except (OSError, HTTPException) as error:
            faults.append(f"{process}: {url} cannot be read ({error!r})")
            continue
        for name, labels, value in _samples(text):
            found[process, name, labels] = value
    return found, faults


def lines(names: Iterable[str], before: Series, after: Series) -> Iterator[str]:
    """Say what each metric reads now; of series that are 0 only that they are.

    A counter's line ends with what it gained a second between the two readings.
    """
    for name in names:
        sampled = _sampled(name)
        of_it = {key: value for key, value in sorted(after.items()) if key[1] in sampled}
        telling = {key: value for key, value in of_it.items() if value}
        for (process, sample, labels), value in telling.items():
            grown = value - before.get((process, sample, labels), value)
            rate = f"  (+{grown / APART_S:,.1f}/s)" if sample != name or counts([name]) else ""
            yield f"{sample}{_braced(labels)}  {value:,.6g}{rate}  [{process}]"
        if not telling:
            yield f"{name}  {'0 everywhere' if of_it else 'shown by no process asked'}"


def _samples(text: str) -> Iterator[tuple[str, Labels, float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, tuple(sorted(sample.labels.items())), sample.value


def _sampled(name: str) -> tuple[str, ...]:
    """Return the names under which a metric's samples are shown; of histograms no buckets."""
    if metrics()[name].kind == "histogram":
        return f"{name}_count", f"{name}_sum"
    return (name,)


def _braced(labels: Labels) -> str:
    return "{" + ", ".join(f'{label}="{value}"' for label, value in labels) + "}" if labels else ""
