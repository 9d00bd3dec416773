"""What the rows of overload share: a capacity held down by a real cause, and loads upon it.

The workers reach PostgreSQL through a proxy that makes each round trip longer, and batches are
small: so a sender on the same machine can offer twenty times of what is served. Goodput is counted
in the tables: orders committed within `TTL_MS` of their posting, by the time in their ids; an order
that comes later serves nobody.
"""

from __future__ import annotations

import heapq
import os
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import msgspec
import psycopg
import uvloop
from msgspec import Struct
from msgspec.structs import replace

from config.settings import to_environ
from deploy.embedded.child import Child
from deploy.embedded.ports import free_port
from deploy.embedded.supervisor import Supervisor
from deploy.load.run import old_objects_left_alone
from deploy.load.wire import Reply
from tests.benchmarks.child import running
from tests.benchmarks.course import Course
from tests.benchmarks.measuring import Bench, Measured, MeasurementError, Tables
from tests.benchmarks.rows_backlog import ROOT
from tests.benchmarks.sender import Sender, Tally, arrivals
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


class Stream(Struct, frozen=True):
    """Posts of one kind, and when each is due, in seconds from the start."""

    due: array[float]
    posts: Iterator[bytes]


class Far(Struct, frozen=True):
    """A slow way to PostgreSQL. SIGUSR1 to `pid` pauses it, SIGUSR2 lets it go on."""

    dsn: str
    pid: int


def capacity_per_s(course: Course, world: World, bench: Bench) -> float:
    """Return the orders a second committed while more waits all the time."""
    seconds = course.given.at_most(_PROBE_S)
    orders = world.orders(int(4_000 * seconds), ttl_ms=600_000, to=bench.to)
    course.say("finding out what it can do")
    posts, since = orders.posts(), uuid7()
    with closing(Tables(world.cluster.dsn)) as tables:
        # A worker takes seconds to start, and counts as ready at once.
        before = tables.committed()
        _probe(bench, posts, 0.5)
        wait_until(lambda: tables.committed() > before, _DRAIN_MAX_S)
        measured = _probe(bench, posts, seconds)
        wait_until(lambda: tables.undecided(since) == 0, _DRAIN_MAX_S)
    if not measured.rates.committed_per_s:
        raise MeasurementError("nothing was committed while more was there all the time")
    return measured.rates.committed_per_s


def _probe(bench: Bench, posts: Iterator[bytes], seconds: float) -> Measured:
    return bench.measure(
        posts, connections=_PROBE_CONNECTIONS, seconds=seconds, drain_max_s=0.0, strict=False
    )


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


def steps(rates: Sequence[tuple[float, float]], seed: int) -> array[float]:
    """Fix the send times of a load that changes: each so many a second, for so many seconds."""
    due, began = array("d"), 0.0
    for at, (per_s, seconds) in enumerate(rates):
        due.extend(began + one for one in arrivals(per_s, seconds, seed=1_000 * seed + at))
        began += seconds
    return due


def send(
    world: World,
    streams: Sequence[Stream],
    *,
    retries_max: int = 0,
    hear: Callable[[Reply], None] = lambda _: None,
    begin: Callable[[float], None] = lambda _: None,
) -> tuple[float, Tally]:
    """Send streams beside each other in an open loop; return when it began (Unix) and what came.

    `begin` is called with that moment, from the loop: it must not wait.
    """
    turns = list(heapq.merge(*([(at, n) for at in one.due] for n, one in enumerate(streams))))
    due = array("d", (at for at, _ in turns))
    posts = (next(streams[n].posts) for _, n in turns)
    sender = Sender(
        world.to, posts, CONNECTIONS, seconds=0.0, due=due, retries_max=retries_max, hear=hear
    )
    began: list[float] = []

    def begins() -> None:
        began.append(time.time())
        begin(began[0])

    with old_objects_left_alone():
        tally = uvloop.run(sender.run(begins, lambda: None))
    if tally.ran_out:
        raise MeasurementError("there was nothing more to send while there was time")
    return began[0], tally


def operate(world: World, *command: str) -> dict[str, object]:
    """Do what an operator does: run a `tidegate` command on the cluster; return what it prints."""
    line = [sys.executable, "-m", "deploy.cli", *command, "--json"]
    line += ["--data", str(world.cluster.data)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, env=environ, capture_output=True, check=False)
    if done.returncode != 0:
        raise MeasurementError(f"tidegate {' '.join(command)}: {done.stderr.decode()[-500:]}")
    return msgspec.json.decode(done.stdout, type=dict[str, object])


def settled(world: World, since: UUID) -> None:
    """Wait until everything posted since an id was made is decided, and the level is `normal`."""
    with closing(Tables(world.cluster.dsn)) as tables:
        wait_until(lambda: tables.undecided(since) == 0, _DRAIN_MAX_S)
    seconds_to_normal(world)


def seconds_to_normal(world: World) -> float:
    """Wait until the level is `normal` again; return how long that took."""
    began = time.monotonic()
    wait_until(lambda: level(world) == "normal", _CALM_MAX_S)
    return time.monotonic() - began


def level(world: World) -> str:
    """Return the level that the governor has published; nothing if none has."""
    published = open_gate(world.cluster.settings).policy().policy
    return "" if published is None else published.level.value


def timely_between(connection: psycopg.Connection, begun_at: float, ended_at: float) -> int:
    """Count the orders committed in time between two Unix times."""
    row = connection.execute(
        """
        SELECT count(*) FROM tidegate.orders
        WHERE created_at >= to_timestamp(%(begun)s) AND created_at < to_timestamp(%(ended)s)
          AND created_at - tidegate.uuid7_time(order_id) <= %(ttl)s * interval '1 millisecond'
        """,
        {"begun": begun_at, "ended": ended_at, "ttl": TTL_MS},
    ).fetchone()
    assert row is not None
    return int(row[0])


def open_count(connection: psycopg.Connection) -> int:
    """Count the intents that are accepted and not decided."""
    row = connection.execute("SELECT count(*) FROM tidegate.open_intents").fetchone()
    assert row is not None
    return int(row[0])


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
    """Keep one worker process running whose every round trip to PostgreSQL is long."""
    settings = world.cluster.settings
    with far(world) as way, TemporaryDirectory() as name:
        folder = Path(name)
        slow = replace(settings, postgres=replace(settings.postgres, dsn=way.dsn))
        environ = {**os.environ, **to_environ(slow), "PYTHONPATH": str(ROOT)}
        program = (sys.executable, "-m", "deploy.cli", "worker")
        # Kept as in every deployment: a worker that goes deaf ends itself, and wants another start.
        with closing(Supervisor(folder)) as supervisor:
            supervisor.start([Child("far-worker", "worker", program, environ, folder)])
            yield way
