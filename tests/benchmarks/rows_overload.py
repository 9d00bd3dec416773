"""Rows of overload: what becomes of the work when more comes than can be done."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing

from config.settings import Settings, Worker
from tests.benchmarks.course import Course, Finding
from tests.benchmarks.measuring import Bench, Measured, MeasurementError, Tables
from tests.benchmarks.overloading import (
    BATCH_MAX,
    Load,
    capacity_per_s,
    far,
    far_worker,
    offer,
    seconds_to_normal,
    wait_until,
)
from tests.benchmarks.rows_beside import start_plain
from tests.benchmarks.world import World

TIMES = (1, 2, 5, 10, 20)
_PLAIN_PROBE_PER_S = 20.0
_PLAIN_PROBE_S = 15.0
_PLAIN_PROBE_MAX_S = 120.0


def overload(course: Course) -> Finding:
    """Tidegate at one to twenty times its capacity, then in calm again."""
    course.say("starting a Tidegate whose workers are far from their database")
    settings = Settings(worker=Worker(batch_max=BATCH_MAX))
    with World(workers=0, settings=settings) as world, far_worker(world):
        capacity = capacity_per_s(course, world, world.bench)
        loads = []
        calm = 0.0
        for times in TIMES:
            loads.append(offer(course, world, world.bench, capacity, times))
            calm = seconds_to_normal(world)
        course.say(f"normal again after {calm:.1f} s")
        after = offer(course, world, world.bench, capacity, 0.5)
        before = loads[0].measured
    best = max(load.goodput_per_s for load in loads)
    figures = {
        "capacity_per_s": capacity,
        "goodput_least": min(load.goodput_per_s for load in loads[1:]) / best,
        "sojourn_p99_ms": max(load.measured.sojourn_p99_ms for load in loads),
        "refused_p99_ms": max(load.measured.refused_p99_ms for load in loads),
        "normal_again_s": calm,
        "calm_p50_ms": after.measured.p50_ms,
        "before_p50_ms": before.p50_ms,
    }
    return Finding(figures, [_point(load) for load in loads], _named(loads))


def plain_overload(course: Course) -> Finding:
    """Plain Celery without admission, at the same multiples of its own capacity."""
    course.say("starting a plain Celery whose workers are far from their database")
    loads: list[Load] = []
    capacity = 0.0
    for times in TIMES:  # a system each, since none of them recovers
        with World(workers=0) as world, far(world) as way, start_plain(world, way.dsn) as bench:
            capacity = capacity or _plain_capacity_per_s(course, world, bench)
            loads.append(offer(course, world, bench, capacity, times))
    best = max(load.goodput_per_s for load in loads)
    figures = {
        "capacity_per_s": capacity,
        "goodput_least": min(load.goodput_per_s for load in loads[1:]) / best,
        "late": float(sum(load.late for load in loads)),
    }
    return Finding(figures, [_point(load) for load in loads], _named(loads))


def _plain_capacity_per_s(course: Course, world: World, bench: Bench) -> float:
    """Return the orders a second it commits of a few that are there at once.

    It accepts whatever comes, so a flood would leave a queue that stands before all that follows.
    """
    count = int(_PLAIN_PROBE_PER_S * course.given.at_most(_PLAIN_PROBE_S))
    course.say(f"finding out what it can do: {count} orders")
    orders = world.orders(count, ttl_ms=600_000, to=bench.to)
    with closing(Tables(world.cluster.dsn)) as tables:
        wanted, began = tables.committed() + count, time.monotonic()
        bench.measure(
            orders.posts(), connections=8, seconds=_PLAIN_PROBE_S, drain_max_s=0.0, strict=False
        )
        wait_until(lambda: tables.committed() >= wanted, _PLAIN_PROBE_MAX_S)
        if tables.committed() < wanted:
            raise MeasurementError(f"plain Celery did not commit {count} orders in time")
        return count / (time.monotonic() - began)


def _point(load: Load) -> dict[str, float]:
    measured = load.measured
    return {
        "times": load.times,
        "offered_per_s": measured.offered_per_s or 0.0,
        "accepted": float(measured.accepted),
        "goodput_per_s": load.goodput_per_s,
        "late": float(load.late),
        "sojourn_p50_ms": measured.sojourn_p50_ms,
        "sojourn_p99_ms": measured.sojourn_p99_ms,
        "refused_p99_ms": measured.refused_p99_ms,
    }


def _named(loads: Sequence[Load]) -> dict[str, Measured]:
    return {f"{load.times:g} times": load.measured for load in loads}
