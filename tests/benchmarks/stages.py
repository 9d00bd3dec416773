"""Where the CPU microseconds of one order go, by stage and by process.

    python -m tests.benchmarks.stages [--seconds S] [--connections N] [--json]

Two-line orders with a coupon, closed loop, like the throughput rows of `make bench`. Two windows of
the same load: in the first nothing but the kernel counts CPU; in the second py-spy samples the
Python processes, `pg_stat_statements` the statements and Valkey's slow log the commands. The second
shares out what the first counted, thread by thread and backend by backend, so that the samplers'
own cost is in no figure. py-spy reads without stopping the process (`--nonblocking`): stopped
threads that wake on a busy machine look busy themselves.

Its table of functions is in `attribution`; the report in `budget`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import redis
import uvloop
from msgspec import Struct

from deploy.embedded.cluster import Cluster
from tests.benchmarks import attribution, budget, kernel
from tests.benchmarks.attribution import (
    API,
    EXPORTER,
    POSTGRES,
    REDISPATCHER,
    SENDER,
    VALKEY,
    WORKER,
)
from tests.benchmarks.budget import Function
from tests.benchmarks.kernel import Cpu
from tests.benchmarks.machine import Machine, read_machine
from tests.benchmarks.measuring import MeasurementError
from tests.benchmarks.scraping import Scraper
from tests.benchmarks.sender import Sender
from tests.benchmarks.spying import STARTS_WITHIN_S, Spies
from tests.benchmarks.world import World
from workers.store.sql import queries

WARM_UP_S = 4.0  # prepared statements, connections, the first partitions
PER_SECOND_MAX = 14_000  # orders are prepared for this
_SAMPLED = (API, WORKER)
_ROLES = {API: "api", WORKER: "worker", REDISPATCHER: "redispatcher", EXPORTER: "exporter"}
_SLOW_LOG_MAX = 200_000
FUNCTIONS_MAX = 40  # the dearest, that are told


class Look(Struct):
    """CPU so far, by what has a life of its own: a thread, a backend, a process."""

    threads: dict[str, dict[int, Cpu]]  # of the Python processes, by process
    backends: dict[int, Cpu]
    ended_backends: Cpu
    valkey: Cpu
    sender: Cpu
    accepted: int
    committed: int
    at: float


class Shares(Struct):
    """What the second window knows: samples, statements, commands, and who is connected."""

    samples: dict[str, list[attribution.Sample]]
    statement_ms: dict[str, float]  # of the worker's batch, by stage
    command_us: dict[str, float]  # of Valkey, by stage
    backends: dict[int, str | None]  # a backend's stage; None: the worker's batch
    seen: dict[str, float]  # what the samples stand for, as a share of the CPU of this window
    refused: str = ""  # why nothing could be sampled


def main() -> int:
    """Measure, write BUDGET.md and records/profile.json, and print the table."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.stages", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of the two windows")
    parser.add_argument("--connections", type=int, default=1_000)
    parser.add_argument("--json", action="store_true", help="print the record, not the table")
    given = parser.parse_args()
    record = measure(seconds=given.seconds, connections=given.connections)
    budget.write(record)
    if given.json:
        print(msgspec.json.format(msgspec.json.encode(record)).decode())
    else:
        budget.show(record)
    return 0


def measure(*, seconds: float, connections: int) -> budget.Budget:
    """Load a cluster of its own and say where the CPU of an order goes."""
    lasts_s = WARM_UP_S + 2 * seconds + 4 * STARTS_WITHIN_S
    with World() as world:
        cluster = world.cluster
        posts = world.orders(int(PER_SECOND_MAX * lasts_s)).posts()
        sender = Sender(world.to, posts, connections, seconds=lasts_s)
        with (
            psycopg.connect(cluster.dsn, autocommit=True) as watch,
            _running(sender),
            Scraper(cluster.endpoints().metrics),
        ):
            time.sleep(WARM_UP_S)
            before = _look(cluster, watch)
            time.sleep(seconds)
            after = _look(cluster, watch)
            shares = _sample(cluster, watch, seconds)
        machine = read_machine(cluster.dsn, cluster.valkey_url)
    return _budget(before, after, shares, machine, connections)


@contextmanager
def _running(sender: Sender) -> Iterator[None]:
    """Send from a thread, so that this one may look on."""
    thread = threading.Thread(
        target=lambda: uvloop.run(sender.run(_nothing, _nothing)), name="sender", daemon=True
    )
    thread.start()
    yield
    thread.join()
    if sender.tally.ran_out:
        raise MeasurementError("there was nothing more to send while there was time")


def _nothing() -> None:
    """Beginning and end of sending are nobody's business here."""


def _look(cluster: Cluster, watch: psycopg.Connection[Any]) -> Look:
    """Read every counter. What is counted in tables is read outside of the CPU's window."""
    accepted, committed = _counted(watch)
    pids = cluster.processes()
    (postmaster,) = pids["postgres"]
    own = watch.info.backend_pid
    backends = {
        pid: cpu
        for pid in kernel.tree([postmaster])
        if pid != own and (cpu := kernel.of_process(pid)) is not None
    }
    return Look(
        threads={
            name: {
                thread: cpu
                for pid in _python(cluster, name)
                for thread, cpu in kernel.of_threads(pid).items()
            }
            for name in _ROLES
        },
        backends=backends,
        ended_backends=kernel.of_ended_children(postmaster) or Cpu(),
        valkey=kernel.of_process(pids["valkey"][0]) or Cpu(),
        sender=_sender(cluster),
        accepted=accepted,
        committed=committed,
        at=time.monotonic(),
    )


def _counted(watch: psycopg.Connection[Any]) -> tuple[int, int]:
    row = watch.execute(
        "SELECT (SELECT count(*) FROM tidegate.intents), (SELECT count(*) FROM tidegate.outcomes)"
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def _python(cluster: Cluster, name: str) -> list[int]:
    """Return the pids of a process of ours with its forks."""
    return kernel.tree(cluster.processes()[_ROLES[name]])


def _sender(cluster: Cluster) -> Cpu:
    """Return the CPU of this process, and of the processes it has beside the cluster's."""
    ours = set(kernel.tree([pid for pids in cluster.processes().values() for pid in pids]))
    rest = [pid for pid in kernel.descendants(os.getpid()) if pid not in ours]
    parts = [kernel.of_process(pid) or Cpu() for pid in (os.getpid(), *rest)]
    return sum(parts, Cpu())


# ---- the second window


def _sample(cluster: Cluster, watch: psycopg.Connection[Any], seconds: float) -> Shares:
    """Sample for a while. The samplers begin before the statistics do, and end after."""
    valkey = redis.Redis.from_url(cluster.valkey_url)
    with tempfile.TemporaryDirectory() as folder:
        pids = {name: _python(cluster, name) for name in _SAMPLED}
        spies = Spies(pids, seconds + 2 * STARTS_WITHIN_S, Path(folder))
        time.sleep(STARTS_WITHIN_S)
        watch.execute("SELECT pg_stat_statements_reset()")
        valkey.config_set("slowlog-max-len", _SLOW_LOG_MAX)
        valkey.config_set("slowlog-log-slower-than", 0)
        valkey.slowlog_reset()
        time.sleep(seconds)
        valkey.config_set("slowlog-log-slower-than", -1)
        return Shares(
            statement_ms=_statements(watch),
            command_us=_commands(valkey),
            backends=_backends(watch),
            samples=spies.taken(),
            seen=spies.seen,
            refused=spies.complaint,
        )


def _statements(watch: psycopg.Connection[Any]) -> dict[str, float]:
    """Return the milliseconds of the worker's statements by stage; COMMIT waits for the disk."""
    stage_by_shape = {
        attribution.shape(text): attribution.stage_of_query(name, text)
        for name, text in queries("batch").items()
    }
    found: Counter[str] = Counter()
    rows = watch.execute("SELECT query, total_exec_time + total_plan_time FROM pg_stat_statements")
    for text, ms in rows:
        stage = stage_by_shape.get(attribution.shape(text))
        if stage is not None:
            found[stage] += ms
    return dict(found)


def _commands(valkey: Any) -> dict[str, float]:
    """Return the microseconds of Valkey's commands by stage."""
    found: Counter[str] = Counter()
    for entry in valkey.slowlog_get(_SLOW_LOG_MAX):
        stage = attribution.stage_of_command(entry["command"].decode(errors="replace"))
        if stage is not None:
            found[stage] += entry["duration"]
    return dict(found)


def _backends(watch: psycopg.Connection[Any]) -> dict[int, str | None]:
    rows = watch.execute("SELECT pid, application_name, backend_type FROM pg_stat_activity")
    return {pid: attribution.stage_of_application(name or "", kind) for pid, name, kind in rows}


# ---- putting together


def _budget(
    before: Look, after: Look, shares: Shares, machine: Machine, connections: int
) -> budget.Budget:
    accepted, committed = after.accepted - before.accepted, after.committed - before.committed

    def us(stage: str, spent_s: float) -> float:
        orders = committed if stage in attribution.DECIDING else accepted
        return round(1e6 * spent_s / max(orders, 1), 2)

    functions = {name: _by_function(before, after, shares, name) for name in _ROLES}
    cells: dict[str, dict[str, float]] = {
        name: {stage: us(stage, spent_s) for stage, spent_s in by_stage.items()}
        for name, by_stage in _by_stage(before, after, shares, functions)
    }
    seconds = after.at - before.at
    return budget.Budget(
        machine=machine,
        date=datetime.now(UTC).date().isoformat(),
        connections=connections,
        seconds=round(seconds, 1),
        accepted_per_s=round(accepted / seconds, 1),
        committed_per_s=round(committed / seconds, 1),
        stages=[
            budget.Stage(name, {process: us[name] for process, us in cells.items() if name in us})
            for name in attribution.STAGES
        ],
        processes=[
            _process(name, cpu, sum(cells[name].values()) if name in cells else us("", cpu.total_s))
            for name, cpu in _by_process(before, after).items()
        ],
        seen=shares.seen,
        samples={name: sum(one.times for one in taken) for name, taken in shares.samples.items()},
        functions=_dearest(functions, us),
        refused=shares.refused,
    )


def _by_stage(
    before: Look, after: Look, shares: Shares, functions: Mapping[str, Mapping[str, Counter[str]]]
) -> Iterator[tuple[str, dict[str, float]]]:
    for name, stages in functions.items():
        yield name, {stage: sum(found.values()) for stage, found in stages.items()}
    yield POSTGRES, _postgres(before, after, shares)
    valkey_s = (after.valkey - before.valkey).total_s
    yield VALKEY, attribution.share_out(valkey_s, shares.command_us, "other")


def _by_function(before: Look, after: Look, shares: Shares, name: str) -> dict[str, Counter[str]]:
    threads = {thread: cpu.total_s for thread, cpu in _threads(before, after, name).items()}
    taken = shares.samples.get(name, [])
    return attribution.by_function(taken, threads, attribution.UNKNOWN_OF[name])


def _process(name: str, cpu: Cpu, total_us: float) -> budget.Process:
    """Split what an order costs in a process as the kernel split the process's time."""
    per_s = total_us / cpu.total_s if cpu.total_s else 0.0
    return budget.Process(name, round(cpu.user_s * per_s, 2), round(cpu.system_s * per_s, 2))


def _dearest(
    functions: Mapping[str, Mapping[str, Counter[str]]], us: Callable[[str, float], float]
) -> list[Function]:
    """List the functions that cost most, whatever they are called from."""
    every = [
        Function(process, stage, function, us(stage, seconds))
        for process, stages in functions.items()
        for stage, found in stages.items()
        for function, seconds in found.items()
    ]
    return sorted(every, key=lambda one: -one.us)[:FUNCTIONS_MAX]


def _postgres(before: Look, after: Look, shares: Shares) -> dict[str, float]:
    """Share out the backends' CPU by whom they serve, the worker's further by its statements."""
    found: Counter[str] = Counter()
    batch_s = 0.0
    for pid, cpu in after.backends.items():
        spent_s = kernel.spent(before.backends.get(pid), cpu).total_s
        stage = shares.backends.get(pid, "vacuum")  # which comes and goes
        if stage is None:
            batch_s += spent_s
        else:
            found[stage] += spent_s  # type: ignore[assignment]
    ended = (after.ended_backends - before.ended_backends).total_s
    found["vacuum"] += ended  # type: ignore[assignment]
    for stage, spent_s in attribution.share_out(batch_s, shares.statement_ms, "apply").items():
        found[stage] += spent_s  # type: ignore[assignment]
    return dict(found)


def _by_process(before: Look, after: Look) -> dict[str, Cpu]:
    postgres = [kernel.spent(before.backends.get(pid), cpu) for pid, cpu in after.backends.items()]
    postgres.append(after.ended_backends - before.ended_backends)
    found = {name: sum(_threads(before, after, name).values(), Cpu()) for name in _ROLES}
    found[POSTGRES] = sum(postgres, Cpu())
    found[VALKEY] = after.valkey - before.valkey
    found[SENDER] = after.sender - before.sender
    return {name: found[name] for name in attribution.PROCESSES}


def _threads(before: Look, after: Look, name: str) -> dict[int, Cpu]:
    earlier = before.threads[name]
    return {
        thread: kernel.spent(earlier.get(thread), cpu)
        for thread, cpu in after.threads[name].items()
    }


if __name__ == "__main__":
    sys.exit(main())
