"""Failpoints: places where a chaos test may stop, fail or slow a process, and nobody else.

    hit("worker.before_commit")

does nothing until `configure` has set that point. A specification names points, parted by `;`:

    NAME=ACTION[*N][@K][,once:PATH]

- ACTION: `kill` (SIGKILL to this process: no cleaning up, as in a power cut), `raise`
  (FailpointError) or `sleep:MS`.
- `@K`: fires from the K-th hit on (default 1). `*N`: fires at most N times (default: always).
- `,once:PATH`: fires only for the process that creates PATH. A killed process is started again with
  the same settings; without this it would be killed for ever.

    worker.before_commit=kill@3,once:/tmp/marker;publish.before=sleep:200*5

Counts are per process, and are inherited by its forks as they stand.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from dataclasses import dataclass
from typing import Final

NAMES: Final = frozenset(
    {
        "journal.before_commit",
        "journal.after_commit",
        "publish.before",
        "publish.after",
        "worker.after_claim",
        "worker.before_commit",
        "worker.after_commit",
        "worker.before_announce",
        "worker.before_ack",
    }
)

_ENTRY = re.compile(
    r"(?P<name>[\w.]+)=(?P<action>kill|raise|sleep:(?P<sleep_ms>\d{1,6}))"
    r"(?:\*(?P<firings>\d{1,9}))?(?:@(?P<first>\d{1,9}))?(?:,once:(?P<marker>[^;]+))?"
)


class FailpointError(RuntimeError):
    """A failpoint was told to fail here."""


class FailpointSpecError(ValueError):
    """A failpoint specification cannot be read, or failpoints are not enabled."""


@dataclass
class _Point:
    name: str
    action: str
    sleep_ms: int
    first: int  # fires from this hit on, counted from 1
    firings_left: int
    marker: str | None
    hits: int = 0

    def due(self) -> bool:
        """Count one hit; tell whether it fires."""
        self.hits += 1
        if self.hits < self.first or self.firings_left == 0:
            return False
        if self.marker is not None and not _create(self.marker):
            return False
        self.firings_left -= 1
        return True


_ALWAYS: Final = -1  # never reaches 0 by counting down
_lock = threading.Lock()
_points: dict[str, _Point] = {}


def hit(name: str) -> None:
    """Pass the place called `name`; fire what is set there."""
    if _points:
        _pass(name)


def configure(spec: str, enabled: bool) -> None:
    """Set the points of `spec` in place of all earlier ones; an empty `spec` sets none.

    Raises FailpointSpecError for an unknown name, an unreadable entry, or a `spec` without
    `enabled`; then nothing is changed.
    """
    entries = [entry.strip() for entry in spec.split(";") if entry.strip()]
    if entries and not enabled:
        msg = "failpoints are given but not enabled; set TIDEGATE_FAILPOINTS_ENABLED=true"
        raise FailpointSpecError(msg)
    points = {point.name: point for point in map(_parse, entries)}
    if len(points) < len(entries):
        msg = f"failpoints: one name is set twice in {spec!r}; name each once"
        raise FailpointSpecError(msg)
    _points.clear()
    _points.update(points)


def _parse(entry: str) -> _Point:
    match = _ENTRY.fullmatch(entry)
    if match is None:
        msg = (
            f"failpoints: cannot read {entry!r}; write NAME=kill|raise|sleep:MS[*N][@K][,once:PATH]"
        )
        raise FailpointSpecError(msg)
    name = match["name"]
    if name not in NAMES:
        msg = f"failpoints: no point is called {name!r}; known: {', '.join(sorted(NAMES))}"
        raise FailpointSpecError(msg)
    return _Point(
        name=name,
        action=match["action"].partition(":")[0],
        sleep_ms=int(match["sleep_ms"] or 0),
        first=int(match["first"] or 1),
        firings_left=int(match["firings"]) if match["firings"] else _ALWAYS,
        marker=match["marker"],
    )


def _pass(name: str) -> None:
    assert name in NAMES, name
    with _lock:
        point = _points.get(name)
        due = point is not None and point.due()
    if point is not None and due:
        _fire(point)


def _fire(point: _Point) -> None:
    if point.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif point.action == "sleep":
        time.sleep(point.sleep_ms / 1_000)
    else:
        raise FailpointError(point.name)


def _create(marker: str) -> bool:
    """Create the marker file; False when another process, or an earlier life, did."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True
