"""What the rows of overload share: a capacity held down by a real cause, and loads upon it.

The workers reach PostgreSQL through a proxy that makes each round trip longer, and batches are
small: so a sender on the same machine can offer twenty times of what is served. Goodput is counted
in the tables: orders committed within `TTL_MS` of their posting, by the time in their ids; an order
that comes later serves nobody.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit, urlunsplit

import psycopg
from msgspec import Struct
from msgspec.structs import replace

from config.settings import to_environ
from deploy.embedded.ports import free_port
from tests.benchmarks.child import running
from tests.benchmarks.course import Course
from tests.benchmarks.measuring import Bench, Measured, Tables
from tests.benchmarks.rows_backlog import ROOT
from tests.benchmarks.sender import arrivals
from tests.benchmarks.world import World
from workers.contract.gate import open_gate
from workers.contract.ids import uuid7

TTL_MS = 10_000
CONNECTIONS = 1_000
BATCH_MAX = 20  # orders in a worker's batch
DELAY_MS = 12.0  # of each round trip to PostgreSQL
_PROBE_CONNECTIONS = 200
_PROBE_S = 10.0
_CALM_MAX_S = 60.0
_DRAIN_MAX_S = 120.0


class Load(Struct, frozen=True):
    """One load, and what became of it."""

    times: float
    measured: Measured
    goodput_per_s: float
    late: int  # committed when nobody waited any more


class Far(Struct, frozen=True):
    """A slow way to PostgreSQL. SIGUSR1 to `pid` pauses it, SIGUSR2 lets it go on."""

    dsn: str
    pid: int


def capacity_per_s(course: Course, world: World, bench: Bench) -> float:
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
        wait_until(lambda: tables.undecided(since) == 0, _DRAIN_MAX_S)
    return capacity


def offer(course: Course, world: World, bench: Bench, capacity: float, times: float) -> Load:
    """Offer so many times the capacity for a minute, in an open loop."""
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
    return Load(times, measured, timely / seconds, late)


def seconds_to_normal(world: World) -> float:
    """Wait until the level is `normal` again; return how long that took."""
    began = time.monotonic()
    wait_until(lambda: level(world) == "normal", _CALM_MAX_S)
    return time.monotonic() - began


def level(world: World) -> str:
    """Return the level that the governor has published; nothing if none has."""
    published = open_gate(world.cluster.settings).policy().policy
    return "" if published is None else published.level.value


def wait_until(is_so: Callable[[], bool], seconds: float) -> None:
    """Wait until something is so, or the time is over."""
    until = time.monotonic() + seconds
    while not is_so() and time.monotonic() < until:
        time.sleep(0.1)


@contextmanager
def far(world: World) -> Iterator[Far]:
    """Put a slow way before the cluster's PostgreSQL."""
    parts = urlsplit(world.cluster.dsn)
    port = free_port()
    command = ("tests.benchmarks.slow_postgres", str(port), str(parts.port), str(DELAY_MS))
    with running(command, {**os.environ, "PYTHONPATH": str(ROOT)}) as pid:
        dsn = urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{port}")))
        wait_until(lambda: _answers(dsn), 10.0)
        yield Far(dsn, pid)


def _answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.Error:
        return False
    return True


@contextmanager
def far_worker(world: World) -> Iterator[Far]:
    """Run one worker process whose every round trip to PostgreSQL is long."""
    settings = world.cluster.settings
    with far(world) as way:
        slow = replace(settings, postgres=replace(settings.postgres, dsn=way.dsn))
        environ = {**os.environ, **to_environ(slow), "PYTHONPATH": str(ROOT)}
        with running(("deploy.cli", "worker"), environ):
            yield way
