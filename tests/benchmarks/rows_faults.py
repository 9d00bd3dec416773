"""A row of faults at ten times the capacity: what dies, and how far the promises bend.

An open loop of buyers who come once each goes on for the whole row, which is cut into equal parts: a
first one to get into the swing of it, then one for each fault, which begins with it. Beside it somebody
looks on: at the journal for what is open, at the gate for what it knows and for the policy in force.
Windows are read off the answers: a calendar that forgot what it has handed out gives the same moments
again, and then windows begin closer to each other than the fastest pace that was ever in force allows.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import pairwise
from typing import Final

import psycopg
import redis
from msgspec import Struct

from config.settings import Admission, Settings, Worker
from deploy.embedded.cluster import Cluster
from producer.admitting import pace_of
from tests.benchmarks.buyers import ACCEPTED, UNCLEAR, Buyers, Heard
from tests.benchmarks.course import Course, Finding
from tests.benchmarks.overloading import (
    BATCH_MAX,
    CONNECTIONS,
    TTL_MS,
    capacity_per_s,
    far_worker,
    open_count,
    seconds_to_normal,
    timely_between,
    wait_until,
)
from tests.benchmarks.sender import arrivals
from tests.benchmarks.world import World
from workers.contract.gate import GateUnreachable, open_gate
from workers.store import audit

TIMES = 10.0
SECONDS = 60.0
# Two and a half times the queue that the policy allows while it sheds: what holds where there is no
# policy, in a system that can do some 250 a second.
IN_FLIGHT_MAX = 2_000
_API_PROCESSES = 2
_SWING = 1 / 2  # of the first part, in which the queue fills
_LOOK_S = 0.05
_DRAIN_MAX_S = 60.0
_ROUNDING_MS = 1.5  # a window's start is told in whole milliseconds


def kill(cluster: Cluster, role: str, *, one: bool = False) -> None:
    """Kill the processes of a role, or one of them, as a power cut would."""
    pids = cluster.processes().get(role, [])
    for pid in pids[:1] if one else pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def flush(cluster: Cluster) -> None:
    """Empty Valkey."""
    with redis.Redis.from_url(cluster.valkey_url) as client:
        client.flushall()


FAULTS: Final[dict[str, Callable[[Cluster], None]]] = {
    "governor killed": lambda cluster: kill(cluster, "governor"),
    "Valkey killed": lambda cluster: kill(cluster, "valkey"),
    "API process killed": lambda cluster: kill(cluster, "api-child", one=True),
    "Valkey emptied": flush,
}


class Glance(Struct, frozen=True):
    """What was seen at one moment. `pace_per_s`: at most so many windows a second could be given."""

    at: float  # Unix seconds
    open: int
    reconciled: bool
    pace_per_s: float = 0.0


class Part(Struct, frozen=True):
    """One part of the row: its name, and when it was, in Unix seconds."""

    name: str
    begun_at: float
    ended_at: float


def faults(course: Course) -> Finding:
    """Ten times the capacity, and one after the other everything dies that may."""
    settings = Settings(
        worker=Worker(batch_max=BATCH_MAX), admission=Admission(in_flight_max=IN_FLIGHT_MAX)
    )
    course.say("starting a Tidegate whose workers are far from their database")
    with (
        World(workers=0, api_processes=_API_PROCESSES, settings=settings) as world,
        far_worker(world),
    ):
        capacity = capacity_per_s(course, world, world.bench)
        heard, parts, seen = _offer(course, world, capacity)
        normal_again_s = seconds_to_normal(world)
        course.say(f"normal again after {normal_again_s:.1f} s; adding up")
        with closing(psycopg.connect(world.cluster.dsn, autocommit=True)) as connection:
            wait_until(lambda: open_count(connection) == 0, _DRAIN_MAX_S)
            goodput = goodput_of(connection, parts)
            broken = broken_promises(connection, heard)
        audited = audit.run(world.cluster.dsn, drained=True)
        for check in audited.violated:
            course.say(f"the audit found {check.violations} of {check.name}: {check.example}")
    figures = figures_of(heard, parts, seen, goodput) | {
        "capacity_per_s": capacity,
        "receipts_broken": float(broken),
        "audit_clean": float(audited.clean),
        "audit_checks": float(len(audited.checks)),
        "normal_again_s": normal_again_s,
    }
    return Finding(figures, [_point(part, heard, seen, goodput) for part in parts])


def _offer(
    course: Course, world: World, capacity: float
) -> tuple[Sequence[Heard], list[Part], list[Glance]]:
    """Offer the load, let everything die in turn, and look on."""
    seconds = course.given.at_most(SECONDS)
    due = arrivals(capacity * TIMES, seconds, seed=10)
    orders = world.orders(len(due), ttl_ms=TTL_MS)
    crowd = Buyers(world.to, orders.post, due, seconds=seconds, connections=CONNECTIONS)
    part_s = seconds / (1 + len(FAULTS))
    course.say(f"offering {capacity * TIMES:,.0f} a second for {seconds:.0f} s")
    looking = _Onlooker(world)
    harm = threading.Thread(target=_harm, args=(course, world, crowd, part_s), daemon=True)
    with closing(looking):
        harm.start()
        heard = crowd.run()
        harm.join()
    begun = [crowd.began_at + part_s * n for n in range(2 + len(FAULTS))]
    names = ["before", *FAULTS]
    parts = [Part(name, *span) for name, span in zip(names, pairwise(begun), strict=True)]
    parts[0] = Part("before", begun[0] + part_s * _SWING, begun[1])
    return heard, parts, looking.seen


def _harm(course: Course, world: World, crowd: Buyers, part_s: float) -> None:
    while not crowd.began_at:
        time.sleep(0.01)
    for at, (name, fault) in enumerate(FAULTS.items(), 1):
        time.sleep(max(0.0, crowd.began_at + at * part_s - time.time()))
        course.say(name)
        fault(world.cluster)


class _Onlooker:
    """Looks at journal and gate from a thread of its own until it is closed."""

    def __init__(self, world: World) -> None:
        self.seen: list[Glance] = []
        self._gate = open_gate(world.cluster.settings)
        self._dsn = world.cluster.dsn
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="onlooker", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join()

    def _look_on(self) -> None:
        with closing(psycopg.connect(self._dsn, autocommit=True)) as connection:
            while not self._ended.wait(_LOOK_S):
                self.seen.append(self._glance(open_count(connection)))

    def _glance(self, count: int) -> Glance:
        try:
            published = self._gate.policy()
        except GateUnreachable:
            return Glance(time.time(), count, reconciled=False)
        pace = pace_of(published.policy)
        per_s = 0.0 if pace is None else pace.per_s
        return Glance(time.time(), count, published.reconciled, per_s)


def figures_of(
    heard: Sequence[Heard],
    parts: Sequence[Part],
    seen: Sequence[Glance],
    goodput: dict[str, float],
) -> dict[str, float]:
    """Say how far everything bent, at its worst."""
    before = max(goodput[parts[0].name], 1e-9)
    fastest = max((one.pace_per_s for one in seen), default=0.0)
    windows = [one.place.not_before.timestamp() for one in heard if one.place is not None]
    return {
        "in_flight_max": float(max((one.open for one in seen), default=0)),
        "in_flight_over_bound": max((one.open for one in seen), default=0) / IN_FLIGHT_MAX,
        "reconciled_s": max(reconciled_s(part, seen) for part in parts[1:]),
        "before_per_s": before,
        "times": sum(one.sent_at >= parts[0].begun_at for one in heard)
        / (parts[-1].ended_at - parts[0].begun_at)
        / before,
        "goodput_least": min(goodput[part.name] for part in parts[1:]) / before,
        **{f"{part.name}, over before": goodput[part.name] / before for part in parts[1:]},
        "windows": float(len(windows)),
        "pace_max_per_s": fastest,
        "windows_over_pace": float(windows_over_pace(windows, fastest)),
        "unclear": float(sum(one.word == UNCLEAR for one in heard)),
    }


def reconciled_s(part: Part, seen: Sequence[Glance]) -> float:
    """Return how long after the beginning of a part the gate knew what is in flight, for good."""
    unsure = [
        one.at for one in seen if part.begun_at <= one.at < part.ended_at and not one.reconciled
    ]
    return max(unsure, default=part.begun_at) - part.begun_at


def windows_over_pace(starts: Sequence[float], per_s: float) -> int:
    """Count the windows that begin closer behind another than a pace allows. Unix seconds."""
    if not per_s:
        return len(starts)
    least_s = 1 / per_s - _ROUNDING_MS / 1_000
    return sum(after - before < least_s for before, after in pairwise(sorted(starts)))


def goodput_of(connection: psycopg.Connection, parts: Sequence[Part]) -> dict[str, float]:
    """Read the orders committed in time, a second, in each part."""
    return {
        part.name: timely_between(connection, part.begun_at, part.ended_at)
        / (part.ended_at - part.begun_at)
        for part in parts
    }


def broken_promises(connection: psycopg.Connection, heard: Sequence[Heard]) -> int:
    """Count the receipts without an outcome."""
    receipts = [one.intent_id for one in heard if one.word == ACCEPTED]
    row = connection.execute(
        """
        SELECT count(*) FROM unnest(%s::uuid[]) AS receipt(intent_id)
        WHERE NOT EXISTS (SELECT FROM tidegate.outcomes o WHERE o.intent_id = receipt.intent_id)
        """,
        (receipts,),
    ).fetchone()
    assert row is not None
    return int(row[0])


def _point(
    part: Part, heard: Sequence[Heard], seen: Sequence[Glance], goodput: dict[str, float]
) -> dict[str, float]:
    within = [one for one in heard if part.begun_at <= one.sent_at < part.ended_at]
    opens = [one.open for one in seen if part.begun_at <= one.at < part.ended_at]
    return {
        "goodput_per_s": goodput[part.name],
        "in_flight_max": float(max(opens, default=0)),
        "reconciled_s": reconciled_s(part, seen),
        "offered": float(len(within)),
        "accepted": float(sum(one.word == ACCEPTED for one in within)),
        "unclear": float(sum(one.word == UNCLEAR for one in within)),
    }
