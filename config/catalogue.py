"""The catalogue of metrics: every series that a Tidegate process shows, read from catalogue.toml.

A name that is not in it is a mistake of ours, and raises as soon as it is used.
"""

from __future__ import annotations

import threading
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Literal

import msgspec
from msgspec import Struct, field

Kind = Literal["counter", "gauge", "histogram"]
Source = Literal["every", "api", "worker", "governor", "redispatcher", "relay", "exporter"]


class Metric(Struct, frozen=True, kw_only=True):
    """One metric; see the head of catalogue.toml.

    `labels` maps each label to all values it may have; none: the operator names them.
    """

    name: str
    kind: Kind
    source: Source
    meaning: str
    reader: str
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    buckets: Sequence[float] = ()
    across: Literal["sum", "max"] = "sum"


class _Entry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A metric as the file has it: label values and buckets may be names of lists."""

    kind: Kind
    source: Source
    meaning: str
    reader: str
    labels: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    buckets: str = ""
    across: Literal["sum", "max"] = "sum"


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    label_values: Mapping[str, Sequence[str]]
    bucket_bounds: Mapping[str, Sequence[float]]
    metrics: Mapping[str, _Entry]
    absent: Mapping[str, str]


def metric(name: str) -> Metric:
    """Return what the catalogue says of a name; raises KeyError if it says nothing."""
    return metrics()[name]


@cache
def metrics() -> Mapping[str, Metric]:
    """Return the catalogue, by name."""
    file = _file()
    return {name: _metric(name, entry, file) for name, entry in file.metrics.items()}


def absent() -> Mapping[str, str]:
    """Return celery-exporter's series that are not true here, each with the reason."""
    return _file().absent


# msgspec learns a type when it first meets it; two threads that teach it at once crash the process.
_learning = threading.Lock()


@cache
def _file() -> _File:
    text = resources.files(__package__).joinpath("catalogue.toml").read_text(encoding="utf-8")
    read = tomllib.loads(text)
    with _learning:
        return msgspec.convert(read, _File)


def _metric(name: str, entry: _Entry, file: _File) -> Metric:
    return Metric(
        name=name,
        kind=entry.kind,
        source=entry.source,
        meaning=entry.meaning,
        reader=entry.reader,
        labels={
            label: file.label_values[values] if isinstance(values, str) else tuple(values)
            for label, values in entry.labels.items()
        },
        buckets=file.bucket_bounds[entry.buckets] if entry.buckets else (),
        across=entry.across,
    )
