"""The row of the retry storm: a pause of the database sets it off, and it has to end by itself.

Four fifths of what can be served come all the time, and every client who is refused or hears nothing
comes back at once, up to five times, whatever it was told. Then PostgreSQL stops for ten seconds, and
goes on. What makes such a storm dangerous is that it could keep itself alive: six posts for each
client are far more than can be served. It must not matter which class the orders are of, so it is
raised three times: by orders that redeem a coupon, by orders without one, and by orders whose code is
forged.

PostgreSQL is stopped as a whole, by SIGSTOP to each of its processes: as a machine that is frozen, or
a disk that does not answer. A pause on the workers' way alone would leave the journal of the intake
and the looks of the governor awake, and be the lesser test.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from msgspec import Struct

from config.settings import Settings, Worker
from deploy.embedded import process
from deploy.load.wire import Reply, receipt
from tests.benchmarks import fates
from tests.benchmarks.course import Course, Finding
from tests.benchmarks.measuring import MeasurementError
from tests.benchmarks.onlooker import Onlooker
from tests.benchmarks.orders import Coupon, Orders
from tests.benchmarks.overloading import (
    BATCH_MAX,
    TTL_MS,
    Stream,
    capacity_per_s,
    far_worker,
    send,
    settled,
)
from tests.benchmarks.sender import Tally, arrivals
from tests.benchmarks.world import World
from workers.contract.couponcode import CouponCodes
from workers.contract.gate import GateUnreachable, open_gate
from workers.contract.ids import uuid7, uuid7_many
from workers.domain.overload import Level
from workers.store import audit

LOAD = 0.8  # of the capacity
RETRIES_MAX = 5
BACK = 0.95  # of those who come: from there on goodput counts as back
_BEFORE_S, _PAUSE_S, _AFTER_S = 20.0, 10.0, 60.0
_LOOK_S = 0.1  # between two looks at the level


class Kind(Struct, frozen=True):
    """What the storm's orders are, and what they must be told."""

    name: str
    outcome: str


KINDS = (Kind("coupon", "committed"), Kind("bare", "committed"), Kind("forged", "coupon_unknown"))


class Storm(Struct, frozen=True):
    """One storm. Goodputs are the share of those who came who were served in time."""

    kind: Kind
    tally: Tally
    goodput_before: float
    goodput_after: float
    goodput_back_s: float  # from the end of the pause
    normal_again_s: float  # likewise
    highest: Level
    lost: int  # receipts without an outcome

    @property
    def recover_s(self) -> float:
        """How long it took until all was well."""
        return max(self.goodput_back_s, self.normal_again_s)


def storm(course: Course) -> Finding:
    """Three retry storms, each after a pause of PostgreSQL."""
    course.say("starting a Tidegate whose workers are far from their database")
    settings = Settings(worker=Worker(batch_max=BATCH_MAX))
    with World(workers=0, settings=settings) as world, far_worker(world):
        capacity = capacity_per_s(course, world, world.bench)
        storms = [_raise(course, world, capacity, kind) for kind in KINDS]
        report = audit.run(world.cluster.dsn, drained=True)
    for check in report.violated:
        course.say(f"audit: {check.name}, such as {check.example}")
    return Finding(_figures(capacity, storms, sum(one.violations for one in report.checks)))


def _figures(capacity: float, storms: Sequence[Storm], violations: int) -> dict[str, float]:
    figures = {
        "capacity_per_s": capacity,
        "recover_s": max(one.recover_s for one in storms),
        "goodput_after": min(one.goodput_after / max(one.goodput_before, 1e-9) for one in storms),
        "lost": float(sum(one.lost for one in storms)),
        "violations": float(violations),
    }
    for one in storms:
        name = one.kind.name
        figures |= {
            f"{name}_recover_s": one.recover_s,
            f"{name}_goodput_back_s": one.goodput_back_s,
            f"{name}_normal_again_s": one.normal_again_s,
            f"{name}_before": one.goodput_before,
            f"{name}_after": one.goodput_after,
            f"{name}_retries": float(one.tally.retries),
        }
    return figures


def _raise(course: Course, world: World, capacity: float, kind: Kind) -> Storm:
    at_most = course.given.at_most
    before_s, pause_s, after_s = at_most(_BEFORE_S), at_most(_PAUSE_S), at_most(_AFTER_S)
    until_s = before_s + pause_s + after_s
    due = arrivals(LOAD * capacity, until_s, seed=3)
    orders = _orders(world, kind, len(due))
    course.say(
        f"{kind.name} orders: {LOAD * capacity:,.0f} a second, and a pause of {pause_s:.0f} s"
    )
    receipts: set[str] = set()
    settled(world, since := uuid7())
    with _Trigger(world, before_s, pause_s) as trigger, _Levels(world) as levels:
        began, tally = send(
            world,
            [Stream(due, orders.posts())],
            retries_max=RETRIES_MAX,
            hear=lambda reply: _note(reply, receipts),
            begin=trigger.arm,
        )
        settled(world, since)
    if not trigger.over_at:
        raise MeasurementError("PostgreSQL was not paused, or for longer than was sent")
    over_s = trigger.over_at - began
    found = fates.read(world.cluster.dsn, since)
    served = {one.n for one in found if one.is_told(kind.outcome, TTL_MS / 1_000)}
    told = Storm(
        kind=kind,
        tally=tally,
        # The outcomes of the last second fall into the pause.
        goodput_before=fates.share(due, served, 0.0, before_s - 1.0),
        goodput_after=fates.share(due, served, over_s + after_s / 2, until_s),
        goodput_back_s=fates.back_after_s(due, served, over_s, until_s, BACK),
        normal_again_s=levels.normal_after_s(trigger.over_at),
        highest=levels.highest,
        lost=fates.lost(world.cluster.dsn, receipts),
    )
    course.say(
        f"{told.highest.value}, {tally.retries:,} retries; goodput back after "
        f"{told.goodput_back_s:.1f} s, normal after {told.normal_again_s:.1f} s"
    )
    return told


def _orders(world: World, kind: Kind, count: int) -> Orders:
    if kind.name == "coupon":
        return world.orders(count, ttl_ms=TTL_MS)
    return Orders(world.to, strangers(kind.name, count), f"storm-{kind.name}", ttl_ms=TTL_MS)


def strangers(name: str, count: int) -> list[Coupon]:
    """Return users who were never given a coupon: `forged`, with codes of somebody else's making."""
    users = [f"{name}-{n}" for n in range(count)]
    if name != "forged":
        return [(user, "") for user in users]
    codes = CouponCodes("a master that the cluster does not know")
    ids = uuid7_many(count)
    return [(user, codes.code_of(coupon)) for user, coupon in zip(users, ids, strict=True)]


def _note(reply: Reply, receipts: set[str]) -> None:
    intent_id = receipt(reply)
    if intent_id is not None:
        receipts.add(intent_id)


class _Trigger:
    """Stops PostgreSQL for a while, a while after `arm`; a context manager."""

    def __init__(self, world: World, after_s: float, pause_s: float) -> None:
        self._world = world
        self._after_s = after_s
        self._pause_s = pause_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trigger")
        self.over_at = 0.0  # Unix time

    def arm(self, began_at: float) -> None:
        """Begin to wait."""
        self._thread.start()

    def __enter__(self) -> _Trigger:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        if not self._ended.wait(self._after_s):
            with _frozen(self._world.cluster.processes()["postgres"]):
                self._ended.wait(self._pause_s)
            self.over_at = time.time()


@contextmanager
def _frozen(servers: Sequence[int]) -> Iterator[None]:
    """Stop servers and what they started: parents first, so that they start no more meanwhile."""
    stopped: list[int] = []
    try:
        for pid in servers:
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)
            for child in process.children(pid):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGSTOP)
                    stopped.append(child)
        yield
    finally:
        for pid in reversed(stopped):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


class _Levels(Onlooker):
    """Writes down the published level, ten times a second; a context manager."""

    def __init__(self, world: World) -> None:
        super().__init__("levels", _LOOK_S)
        self._gate = open_gate(world.cluster.settings)
        self._seen: list[tuple[float, Level]] = []

    @property
    def highest(self) -> Level:
        """The highest that was seen."""
        return max((level for _, level in self._seen), key=lambda level: level.rank)

    def normal_after_s(self, since: float) -> float:
        """Return how long after a Unix time the last look found another level than `normal`."""
        other = [at for at, level in self._seen if level is not Level.NORMAL and at > since]
        return max(other, default=since) - since

    def look(self) -> None:
        """Read the level that is published."""
        with suppress(GateUnreachable):
            policy = self._gate.policy().policy
            if policy is not None:
                self._seen.append((time.time(), policy.level))
