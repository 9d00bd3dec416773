"""What a PromQL expression names: metrics, what it wants of their labels, and what it groups by.

No parser: promtool is that. This finds names in expressions that promtool takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from config.catalogue import Metric, metrics

OF_TARGETS = {"job", "instance"}
OF_PROMETHEUS = {"up", "ALERTS"}
OF_CLIENT = re.compile(r"process_[a-z_]+")

_SELECTOR = re.compile(r"(?<![\w:.$\"])([a-zA-Z_:][\w:]*)(\s*\{[^}]*\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_WORDS = {"and", "or", "unless", "offset", "bool", "inf", "nan"}


class Matcher(NamedTuple):
    label: str
    operator: str
    value: str


class Selector(NamedTuple):
    name: str
    matchers: list[Matcher]


def selectors(expr: str) -> Iterator[Selector]:
    """Yield every metric that an expression names, with what it wants of its labels."""
    bare = re.sub(r"\[[^\]]*\]", "", _GROUPING.sub("", expr))
    for found in _SELECTOR.finditer(bare):
        name, braces = found[1], found[2] or ""
        if name in _WORDS or bare[found.end() :].lstrip().startswith("("):
            continue
        matchers = [Matcher(*parts) for parts in _MATCHER.findall(braces)]
        yield Selector(name, matchers)


def grouped(expr: str) -> set[str]:
    """Return the labels that an expression groups or matches by."""
    return {label for found in _GROUPING.findall(expr) for label in re.findall(r"\w+", found)}


def catalogued(name: str) -> Metric | None:
    """Return the metric whose samples have this name; None: it is not in the catalogue."""
    known = metrics()
    for suffix in ("_bucket", "_count", "_sum"):
        base = known.get(name.removesuffix(suffix))
        if name.endswith(suffix) and base is not None and base.kind == "histogram":
            return base
    found = known.get(name)
    return None if found is None or found.kind == "histogram" else found


def faults(expr: str, recorded: set[str], variables: set[str] = frozenset()) -> list[str]:
    """Say what an expression asks for that no process shows: names, labels, values of labels."""
    said = []
    labels = OF_TARGETS | {"le"}
    for selector in selectors(expr):
        if selector.name in recorded or selector.name in OF_PROMETHEUS:
            labels |= {"objective"}
            continue
        if OF_CLIENT.fullmatch(selector.name):
            continue
        metric = catalogued(selector.name)
        if metric is None:
            said.append(f"no metric {selector.name}")
            continue
        labels |= set(metric.labels)
        said += [
            f"{selector.name}: {fault}"
            for matcher in selector.matchers
            if (fault := _fault(matcher, selector.name, metric, variables))
        ]
    said += [f"groups by {label}" for label in sorted(grouped(expr) - labels)]
    return said


def _fault(matcher: Matcher, name: str, metric: Metric, variables: set[str]) -> str:
    label, operator, value = matcher
    if value.startswith("$"):
        return "" if value[1:] in variables else f"no variable {value}"
    if label in OF_TARGETS:
        return ""
    if label == "le":
        # As the client library writes bounds: 3 s is "3.0".
        bounds = [str(float(bound)) for bound in metric.buckets]
        return "" if name.endswith("_bucket") and value in bounds else f"no bucket {value}"
    if label not in metric.labels:
        return f"no label {label}"
    listed = metric.labels[label]
    wanted = value.split("|") if operator in ("=~", "!~") else [value]
    unknown = [one for one in wanted if listed and not any(re.fullmatch(one, v) for v in listed)]
    return f"no {label} {unknown}" if unknown else ""
