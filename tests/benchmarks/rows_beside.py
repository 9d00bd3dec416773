"""What stands beside Tidegate in the same run: plain Celery, PostgreSQL alone, an HTTP echo."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from deploy.embedded.ports import free_port
from deploy.load.wire import target
from tests.benchmarks import postgres_alone
from tests.benchmarks import refused as refusing
from tests.benchmarks.child import running
from tests.benchmarks.course import Course, Finding, figures_of
from tests.benchmarks.measuring import Bench, Measured, MeasurementError
from tests.benchmarks.world import World

PLAIN_CONNECTIONS = (128, 1_000)
PLAIN_CONCURRENCY = 4  # the fastest of 1, 2, 4 and 8 prefork children on two cores
BATCHES = (1, 10, 50, 100, 500)
_ASSUMED_PLAIN_PER_S = 3_000
_DRAIN_MAX_S = 10.0  # of watching it drain; its rate is known by then
_READY_TIMEOUT_S = 20.0
_WORKER_READY_S = 5.0


def plain(course: Course) -> Finding:
    """Plain Celery behind an HTTP intake.

    Its figure is the best it did, committed while it also accepted, or while it only drained: a
    kindness, for a system that accepts more than it commits is not sustained.
    """
    course.say("starting plain Celery")
    with World(workers=0) as world, start_plain(world, world.cluster.dsn) as bench:
        measured = {
            f"{connections:,} connections": _measure_plain(course, world, bench, connections)
            for connections in PLAIN_CONNECTIONS
        }
    every = list(measured.values())
    best = max(every, key=lambda one: one.rates.committed_per_s)
    drained = max(one.drained / max(one.drain_s, 1e-9) for one in every)
    while_sending = best.rates.committed_per_s
    figures = figures_of(best) | {
        "while_sending_per_s": while_sending,
        "draining_per_s": drained,
        "committed_per_s": max(while_sending, drained),
    }
    return Finding(figures, measured=measured)


def _measure_plain(course: Course, world: World, bench: Bench, connections: int) -> Measured:
    seconds = course.given.at_most(8)
    orders = world.orders(int(_ASSUMED_PLAIN_PER_S * seconds) + connections, to=bench.to)
    course.say(f"plain Celery: sending for {seconds:.0f} s over {connections:,} connections")
    return bench.measure(
        orders.posts(),
        connections=connections,
        seconds=seconds,
        drain_max_s=course.given.at_most(_DRAIN_MAX_S),
        strict=False,
    )


@contextmanager
def start_plain(world: World, dsn: str) -> Iterator[Bench]:
    """Run plain Celery and its intake on a cluster's servers, its workers by way of `dsn`."""
    cluster, port = world.cluster, free_port()
    environ = {
        **os.environ,
        "PLAIN_BROKER": cluster.valkey_url,
        "PLAIN_DSN": dsn,
        "PLAIN_MASTER": cluster.settings.secrets.master,
    }
    module = "tests.benchmarks.plain_celery"
    celery = (
        *("celery", "-A", f"{module}:app", "worker", "-c", str(PLAIN_CONCURRENCY)),
        *("-Q", "plain", "-l", "ERROR"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    )
    intake = ("uvicorn", f"{module}:intake", "--port", str(port), "--no-access-log")
    with running(celery, environ) as worker, running(intake, environ) as web:
        _wait_for(port)

        def roles() -> Mapping[str, list[int]]:
            servers = {
                role: pids
                for role, pids in cluster.processes().items()
                if role in ("postgres", "valkey")
            }
            return servers | {"celery": [worker], "intake": [web]}

        yield Bench(target(f"http://127.0.0.1:{port}", "none"), cluster.dsn, roles)


def _wait_for(port: int) -> None:
    """Wait until something listens. Raises MeasurementError when nothing ever does."""
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            time.sleep(_WORKER_READY_S)  # it has no port to ask
            return
        time.sleep(0.1)
    raise MeasurementError("plain Celery's intake does not come up")


def postgres(course: Course) -> Finding:
    """PostgreSQL alone on the same rows, by size of batch; the row's own figure is at 500."""
    seconds = course.given.at_most(1.5)
    found = []
    with postgres_alone.Alone() as alone:
        for size in BATCHES:
            course.say(f"PostgreSQL alone, batches of {size}")
            found.append(alone.measure(size, seconds))
    points = [
        {
            "batch": one.batch,
            "committed_per_s": one.committed_per_s,
            "postgres_us": one.postgres_us,
            "client_us": one.client_us,
            "others_cores": one.others_cores,
        }
        for one in found
    ]
    largest = points[-1]
    cores = os.cpu_count() or 1
    figures = {key: largest[key] for key in ("committed_per_s", "postgres_us", "client_us")}
    figures["of_all_cores_per_s"] = cores / max(largest["postgres_us"], 1e-9) * 1e6
    return Finding(figures, points)


def refused(course: Course) -> Finding:
    """CPU of a refused intent beyond an echo of its body; the row's own figure is the dearest's."""
    course.say("refusing, and echoing")
    found = refusing.measure(seconds=course.given.at_most(5))
    rows = list(found.rows())
    _, refused_us, echo_us, beyond_us = max(rows, key=lambda row: row[-1])
    figures = {"refused_us": refused_us, "echo_us": echo_us, "beyond_echo_us": beyond_us}
    return Finding(figures | {f"{name}, beyond_us": beyond for name, _, _, beyond in rows})
