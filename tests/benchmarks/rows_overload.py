"""Rows of overload: what becomes of the work when more comes than can be done.

The capacity is held down by a real cause: the workers reach PostgreSQL through a proxy that makes
each round trip longer, and batches are small. So a sender on the same machine can offer twenty times
of it. Goodput is counted in the tables: orders committed within `TTL_MS` of their posting, by the
time in their ids; an order that comes later serves nobody.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from urllib.parse import urlsplit, urlunsplit

import psycopg
from msgspec import Struct
from msgspec.structs import replace

from config.settings import Settings, Worker, to_environ
from deploy.embedded.ports import free_port
from tests.benchmarks.child import running
from tests.benchmarks.course import Course, Finding
from tests.benchmarks.measuring import Bench, Measured, Tables
from tests.benchmarks.rows_backlog import ROOT
from tests.benchmarks.rows_beside import start_plain
from tests.benchmarks.sender import arrivals
from tests.benchmarks.world import World
from workers.contract.gate import open_gate
from workers.contract.ids import uuid7

TIMES = (1, 2, 5, 10, 20)
TTL_MS = 10_000
CONNECTIONS = 1_000
BATCH_MAX = 20
DELAY_MS = 12.0
_PROBE_CONNECTIONS = 200
_PROBE_S = 10.0
_CALM_MAX_S = 60.0
_DRAIN_MAX_S = 120.0


class _Load(Struct, frozen=True):
    """One load, and what became of it."""

    times: float
    measured: Measured
    goodput_per_s: float
    late: int  # committed when nobody waited any more


def overload(course: Course) -> Finding:
    """Tidegate at one to twenty times its capacity, then in calm again."""
    course.say("starting a Tidegate whose workers are far from their database")
    settings = Settings(worker=Worker(batch_max=BATCH_MAX))
    with World(workers=0, settings=settings) as world, _far_worker(world):
        capacity = _capacity(course, world, world.bench)
        loads = []
        calm = 0.0
        for times in TIMES:
            loads.append(_load(course, world, world.bench, capacity, times))
            calm = _seconds_to_normal(world)
        course.say(f"normal again after {calm:.1f} s")
        after = _load(course, world, world.bench, capacity, 0.5)
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
    loads = []
    for times in TIMES:  # a system each, since none of them recovers
        with World(workers=0) as world, _far(world) as dsn, start_plain(world, dsn) as bench:
            capacity = _capacity(course, world, bench)
            loads.append(_load(course, world, bench, capacity, times))
    best = max(load.goodput_per_s for load in loads)
    figures = {
        "goodput_least": min(load.goodput_per_s for load in loads[1:]) / best,
        "late": float(sum(load.late for load in loads)),
    }
    return Finding(figures, [_point(load) for load in loads], _named(loads))


def _point(load: _Load) -> dict[str, float]:
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


def _named(loads: Sequence[_Load]) -> dict[str, Measured]:
    return {f"{load.times:g} times": load.measured for load in loads}


def _capacity(course: Course, world: World, bench: Bench) -> float:
    """Return the orders a second committed while more waits all the time."""
    seconds = course.given.at_most(_PROBE_S)
    orders = world.orders(int(4_000 * seconds), ttl_ms=600_000, to=bench.to)
    course.say("finding out what it can do")
    since = uuid7()
    with closing(Tables(world.cluster.dsn)) as tables:
        before, began = tables.committed(), time.monotonic()
        bench.measure(
            orders.posts(),
            connections=_PROBE_CONNECTIONS,
            seconds=seconds,
            drain_max_s=0.0,
            strict=False,
        )
        capacity = (tables.committed() - before) / (time.monotonic() - began)
        _wait_until(lambda: tables.undecided(since) == 0, _DRAIN_MAX_S)
    return capacity


def _load(course: Course, world: World, bench: Bench, capacity: float, times: float) -> _Load:
    seconds = course.given.at_most(60.0)
    due = arrivals(capacity * times, seconds, seed=int(times * 10))
    orders = world.orders(len(due) + 1, ttl_ms=TTL_MS, to=bench.to)
    course.say(f"offering {capacity * times:,.0f} a second ({times:g} times) for {seconds:.0f} s")
    since = uuid7()
    measured = bench.measure(
        orders.posts(),
        connections=CONNECTIONS,
        seconds=seconds,
        due=due,
        drain_max_s=TTL_MS / 1_000,
        strict=False,
    )
    with closing(Tables(world.cluster.dsn)) as tables:
        timely, late = tables.timely(since, TTL_MS)
    return _Load(times, measured, timely / seconds, late)


def _seconds_to_normal(world: World) -> float:
    began = time.monotonic()
    _wait_until(lambda: _level(world) == "normal", _CALM_MAX_S)
    return time.monotonic() - began


def _level(world: World) -> str:
    published = open_gate(world.cluster.settings).policy().policy
    return "" if published is None else published.level.value


def _wait_until(is_so: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not is_so() and time.monotonic() < until:
        time.sleep(0.1)


@contextmanager
def _far(world: World) -> Iterator[str]:
    """Put a slow way before the cluster's PostgreSQL; yield the DSN that takes it."""
    parts = urlsplit(world.cluster.dsn)
    port = free_port()
    command = ("tests.benchmarks.slow_postgres", str(port), str(parts.port), str(DELAY_MS))
    with running(command, {**os.environ, "PYTHONPATH": str(ROOT)}):
        dsn = urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{port}")))
        _wait_until(lambda: _answers(dsn), 10.0)
        yield dsn


def _answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.Error:
        return False
    return True


@contextmanager
def _far_worker(world: World) -> Iterator[None]:
    """Run one worker process whose every round trip to PostgreSQL is long."""
    settings = world.cluster.settings
    with _far(world) as dsn:
        far = replace(settings, postgres=replace(settings.postgres, dsn=dsn))
        environ = {**os.environ, **to_environ(far), "PYTHONPATH": str(ROOT)}
        with running(("deploy.cli", "worker"), environ):
            yield
