"""Objectives: what is promised over thirty days, read from objectives.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

Severity = Literal["page", "ticket"]
Board = Literal["service", "overload", "pipeline", "campaign", "dependencies"]


class Links(Struct, frozen=True, forbid_unknown_fields=True):
    """Where runbooks and dashboards are served; both may hold what Prometheus expands in alerts."""

    runbooks: str
    dashboards: str


class Objective(Struct, frozen=True, forbid_unknown_fields=True):
    """One promise. `target` is the share of events, 0 to 1, that keeps it; see objectives.toml."""

    name: str
    promise: str
    target: float
    severities: Sequence[Severity]
    dashboard: Board
    bad: str
    events: str
    unmet: str

    @property
    def budget(self) -> float:
        """The share of events that may break it."""
        return round(1 - self.target, 9)

    def bad_rate(self, window: str) -> str:
        """Return the expression for bad events a second over a window."""
        return self.bad.strip().replace("$window", window)

    def event_rate(self, window: str) -> str:
        """Return the expression for events a second over a window."""
        return self.events.strip().replace("$window", window)


class Objectives(Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    links: Links
    objectives: Sequence[Objective]


def read(file: Path) -> Objectives:
    """Read a file of objectives; raises msgspec.ValidationError where it is no such file."""
    return msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), Objectives)
