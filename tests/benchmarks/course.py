"""A run of the benchmark: what it was asked for, the system it measures, and what it found so far."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack

from msgspec import Struct

from deploy.embedded.cluster import Cluster
from tests.benchmarks.machine import Machine, read_machine
from tests.benchmarks.measuring import Measured
from tests.benchmarks.orders import Cart
from tests.benchmarks.records import Row
from tests.benchmarks.world import World
from workers.contract.ids import uuid7

PROBE_S = 4.0  # of finding out how fast the system is, where no row has told
HEADROOM = 1.35  # more orders are prepared than the last figure asks for
ASSUMED_PER_S = 14_000  # where there is no last figure


class Given(Struct, frozen=True):
    """How much is wanted."""

    seconds: float = 60.0  # of the sustained row; the others take as long at most
    backlog: int = 500_000
    quick: bool = False  # a smoke of everything, whose figures mean little

    def at_most(self, seconds: float) -> float:
        """Return the length of a row that usually takes so many seconds."""
        return min(seconds, 2.0 if self.quick else self.seconds)


class Finding(Struct, frozen=True):
    """What a row found; see `records.Row`."""

    figures: dict[str, float]
    points: list[dict[str, float]] = []
    measured: dict[str, Measured] = {}


class Course:
    """One run. Systems are started when a row first needs them; `close` stops them."""

    def __init__(self, given: Given, rows: dict[str, Row]) -> None:
        """`rows` are those found so far; whoever runs the course adds to them."""
        self.run = uuid7().hex
        self.given = given
        self.rows = rows
        self._open = ExitStack()
        self._world: World | None = None
        self._probed: float | None = None

    @property
    def world(self) -> World:
        """The system that most rows share: one worker process, empty tables at first."""
        if self._world is None:
            self.say("starting Tidegate")
            self._world = self._open.enter_context(World())
        return self._world

    def machine(self) -> Machine:
        """Read what is measured here."""
        if self._world is not None:
            cluster = self._world.cluster
            return read_machine(cluster.dsn, cluster.valkey_url)
        with Cluster(servers_only=True) as cluster:
            return read_machine(cluster.dsn, cluster.valkey_url)

    def close(self) -> None:
        """Stop the shared system."""
        self._open.close()
        self._world = None

    def figure(self, row: str, name: str) -> float | None:
        """Return a figure that another row has found."""
        found = self.rows.get(row)
        return None if found is None else found.figures.get(name)

    def peak_per_s(self) -> float:
        """Return the sustained rate of committed orders: this run's, or else probed once."""
        known = self.figure("single", "committed_per_s") or self._probed
        if known is None:
            self.say("finding out how fast it is")
            known = self._probed = self.closed(
                1_000, self.given.at_most(PROBE_S)
            ).rates.committed_per_s
        return known

    def closed(
        self,
        connections: int,
        seconds: float,
        *,
        expected_per_s: float = ASSUMED_PER_S,
        per_call: int = 1,
        carts: Callable[[], Cart] | None = None,
    ) -> Measured:
        """Measure the shared system in a closed loop."""
        count = int(expected_per_s * seconds) + per_call * connections
        orders = self.world.orders(count, carts=carts)
        self.say(f"sending for {seconds:.0f} s over {connections:,} connections")
        return self.world.bench.measure(
            orders.posts() if per_call == 1 else orders.batches(per_call),
            connections=connections,
            seconds=seconds,
        )

    def say(self, text: str) -> None:
        """Tell how it goes, on standard error."""
        print(f"  … {text}", file=sys.stderr, flush=True)


def figures_of(measured: Measured) -> dict[str, float]:
    """Return the usual figures of a measurement."""
    return {
        "accepted_per_s": measured.rates.accepted_per_s,
        "committed_per_s": measured.rates.committed_per_s,
        "slowest_per_s": measured.rates.slowest_per_s,
        "kept_up": measured.kept_up,
        "drain_s": measured.drain_s,
        "p50_ms": measured.p50_ms,
        "p99_ms": measured.p99_ms,
        "sender_cores": measured.cores.get("sender", 0.0),
        "orders_before": measured.orders_before,
    } | ({} if measured.offered_per_s is None else {"offered_per_s": measured.offered_per_s})
