"""The row of the backlog: how fast a worker drains many intents in flight, against few.

The system has no worker at first. Intents are accepted, the tables settle, then one worker starts
and is watched until nothing is left. The first orders of a drain are not counted: meanwhile the
worker connects and its statements are planned.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path

from config.settings import Admission, Governor, Settings, to_environ
from tests.benchmarks.child import running
from tests.benchmarks.course import Course, Finding
from tests.benchmarks.measuring import Look, MeasurementError, Tables
from tests.benchmarks.world import World

ROOT = Path(__file__).parents[2]
SMALL = 20_000
SMALL_TIMES = 2  # before the large one, and as often after it: the machine's speed drifts
_UNCOUNTED = 2_000  # the first orders of a drain
_LOOK_S = 0.05
_PER_CALL = 500
_CONNECTIONS = 8
_TTL_MS = 600_000  # the longest there is: nothing may expire before a worker comes
_STUCK_S = 60.0


def backlog(course: Course) -> Finding:
    """Drain rates with few and with many intents in flight."""
    many = 20_000 if course.given.quick else course.given.backlog
    few = min(SMALL, many // 2)
    # More than the usual bounds: the backlog is the point, however long it takes to serve.
    settings = Settings(
        admission=Admission(in_flight_max=many + SMALL),
        governor=Governor(target_wait_ms=300_000, wait_max_ms=600_000),
    )
    course.say("starting a Tidegate without workers")
    with World(workers=0, settings=settings) as world:
        before = [_drain_of(course, world, few) for _ in range(SMALL_TIMES)]
        large = _drain_of(course, world, many)
        small = before + [_drain_of(course, world, few) for _ in range(SMALL_TIMES)]
    none_per_s = statistics.median(small)
    return Finding(
        {
            "backlog": many,
            "drain_per_s": large,
            "small": few,
            "small_drain_per_s": none_per_s,
            "over_none": large / none_per_s,
        },
        [{"backlog": few, "drain_per_s": each} for each in small],
    )


def _drain_of(course: Course, world: World, count: int) -> float:
    """Accept `count` intents, then let a worker come; return its orders per second."""
    with closing(Tables(world.cluster.dsn)) as tables:
        before = tables.committed()
        accepted = _accept(course, world, count)
        tables.settle()
        course.say(f"draining {accepted:,}")
        with _worker(world):
            looks = _looks_until(tables, before + accepted)
    return drain_rate(looks, before + _UNCOUNTED)


def _accept(course: Course, world: World, count: int) -> int:
    orders = world.orders(count, ttl_ms=_TTL_MS)
    course.say(f"accepting {count:,}, {_PER_CALL} per call")
    measured = world.bench.measure(
        orders.batches(_PER_CALL),
        connections=_CONNECTIONS,
        seconds=300.0,
        drain_max_s=0.0,
        strict=False,
    )
    if measured.lost or measured.refused or measured.accepted < count - _PER_CALL:
        msg = f"only {measured.accepted} of {count} were accepted, refused {measured.refused}"
        raise MeasurementError(msg)
    return measured.accepted


def _looks_until(tables: Tables, wanted: int) -> list[Look]:
    """Watch the tables until so many are committed. Raises MeasurementError when it stops."""
    began = time.monotonic()
    looks = [Look(0.0, 0, tables.committed())]
    moved_at = began
    while looks[-1].committed < wanted:
        time.sleep(_LOOK_S)
        now, committed = time.monotonic(), tables.committed()
        if committed > looks[-1].committed:
            moved_at = now
        elif now - moved_at > _STUCK_S:
            raise MeasurementError(f"the drain stopped {wanted - committed:,} before its end")
        looks.append(Look(now - began, 0, committed))
    return looks


def drain_rate(looks: Sequence[Look], counted_from: int) -> float:
    """Return orders per second from the first look with more than `counted_from` to the last."""
    counted = [look for look in looks if look.committed >= counted_from]
    first, last = counted[0], counted[-1]
    return (last.committed - first.committed) / max(last.at_s - first.at_s, _LOOK_S)


def _worker(world: World) -> AbstractContextManager[int]:
    """Run one worker process beside the cluster."""
    environ = {**os.environ, **to_environ(world.cluster.settings), "PYTHONPATH": str(ROOT)}
    return running(("deploy.cli", "worker"), environ)
