"""Failpoints: silent until set, exact when set, and never set by accident."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import failpoints
from config.failpoints import FailpointError, FailpointSpecError, hit


@pytest.fixture(autouse=True)
def _unset() -> Iterator[None]:
    """Leave no point set."""
    yield
    failpoints.configure("", enabled=False)


def fired(name: str, hits: int) -> list[int]:
    """Hit a point so often; return which hits raised, counted from 1."""
    raised = []
    for number in range(1, hits + 1):
        try:
            hit(name)
        except FailpointError:
            raised.append(number)
    return raised


def test_nothing_happens_where_nothing_is_set() -> None:
    """The normal case, on the hot path."""
    assert fired("worker.before_commit", 3) == []


@pytest.mark.parametrize(
    ("action", "raised"),
    [
        ("raise", [1, 2, 3, 4, 5]),
        ("raise*2", [1, 2]),
        ("raise@3", [3, 4, 5]),
        ("raise*1@4", [4]),
    ],
)
def test_a_point_fires_as_often_and_as_late_as_told(action: str, raised: list[int]) -> None:
    """`@K`: from the K-th hit; `*N`: at most N times."""
    failpoints.configure(f"publish.before={action}", enabled=True)
    assert fired("publish.before", 5) == raised
    assert fired("publish.after", 5) == []


def test_a_point_with_a_marker_fires_for_its_maker_only(tmp_path: Path) -> None:
    """A restarted process finds the file, and is not killed again."""
    marker = tmp_path / "fired"
    spec = f"publish.before=raise,once:{marker}"
    failpoints.configure(spec, enabled=True)
    assert fired("publish.before", 3) == [1]
    assert marker.exists()
    failpoints.configure(spec, enabled=True)
    assert fired("publish.before", 3) == []


def test_a_point_can_sleep() -> None:
    """A slow neighbour, for a moment."""
    failpoints.configure("publish.before=sleep:30*1", enabled=True)
    began = time.monotonic()
    hit("publish.before")
    assert time.monotonic() - began >= 0.03


def test_a_killed_process_cleans_nothing_up() -> None:
    """SIGKILL, as in a power cut: no handler, no `finally`."""
    code = (
        "from config import failpoints\n"
        "failpoints.configure('worker.before_commit=kill@2', True)\n"
        "try:\n"
        "    failpoints.hit('worker.before_commit')\n"
        "    print('first', flush=True)\n"
        "    failpoints.hit('worker.before_commit')\n"
        "finally:\n"
        "    print('cleaned up', flush=True)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30
    )
    assert ran.returncode == -signal.SIGKILL
    assert ran.stdout == "first\n"


def test_points_are_parted_by_semicolons() -> None:
    """Several faults in one run."""
    failpoints.configure("publish.before=raise; worker.after_claim=raise*1", enabled=True)
    assert fired("publish.before", 2) == [1, 2]
    assert fired("worker.after_claim", 2) == [1]


@pytest.mark.parametrize(
    "spec",
    [
        "worker.before_lunch=kill",
        "publish.before",
        "publish.before=explode",
        "publish.before=sleep",
        "publish.before=raise*x",
        "publish.before=raise;publish.before=kill",
    ],
)
def test_a_specification_that_cannot_be_meant_is_refused(spec: str) -> None:
    """A chaos test that tests nothing would pass."""
    with pytest.raises(FailpointSpecError):
        failpoints.configure(spec, enabled=True)
    assert fired("publish.before", 1) == []


def test_points_are_refused_unless_enabled() -> None:
    """One stray variable must not stop a production process."""
    with pytest.raises(FailpointSpecError, match="FAILPOINTS_ENABLED"):
        failpoints.configure("publish.before=kill", enabled=False)
