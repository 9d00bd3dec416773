"""A measurement: orders in a closed loop, counted in the tables, not in the sender's hopes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import psycopg
import uvloop
from msgspec import Struct

from deploy.load import plan, profile
from deploy.load.books import Books
from deploy.load.generator import Generator, Mode
from deploy.load.goods import Goods
from deploy.load.plan import Coupon
from deploy.load.wire import Target

CAMPAIGN = Path(__file__).with_name("bench.toml")
GOODS = Goods("bench", ("hot", "warm"))
PROFILE = profile.load(str(Path(__file__).with_name("order.toml")))
PER_SECOND_MAX = 12_000  # plans are made for this; what is not sent is not counted


class Row(Struct, frozen=True):
    """One measurement: rates over the time of sending, and how long the rest took to drain."""

    name: str
    connections: int
    seconds: float
    accepted_per_s: float
    committed_per_s: float
    drain_s: float
    p50_ms: float
    p99_ms: float
    sender_cpu: float  # share of one core

    @property
    def ratio(self) -> float:
        """Committed / accepted while the load lasts: below 1 a queue grows."""
        return self.committed_per_s / max(self.accepted_per_s, 1e-9)


def measure(
    name: str,
    to: Target,
    dsn: str,
    *,
    connections: int,
    seconds: float,
    seed: int,
    coupons: Sequence[Coupon] = (),
) -> Row:
    """Send two-line orders in a closed loop for `seconds`; count in the tables."""
    planned = plan.orders(
        PROFILE,
        GOODS,
        coupons,
        count=int(PER_SECOND_MAX * seconds),
        duration_s=seconds,
        seed=seed,
    )
    books = Books(planned.intents)
    mode = Mode(connections=connections, closed=True, stop_after_s=seconds)
    generator = Generator(planned, to, books, PROFILE.retry, mode)
    with psycopg.connect(dsn, autocommit=True) as connection:
        before, cpu = _outcomes(connection), time.process_time()
        began = time.monotonic()
        uvloop.run(generator.run())
        took = time.monotonic() - began
        committed, cpu = _outcomes(connection) - before, time.process_time() - cpu
        accepted = books.tally().accepted
        began = time.monotonic()
        while _outcomes(connection) - before < accepted and time.monotonic() - began < 120:
            time.sleep(0.02)
        return Row(
            name=name,
            connections=connections,
            seconds=round(took, 2),
            accepted_per_s=accepted / took,
            committed_per_s=committed / took,
            drain_s=time.monotonic() - began,
            p50_ms=books.reply.at(0.50),
            p99_ms=books.reply.at(0.99),
            sender_cpu=cpu / took,
        )


def _outcomes(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT count(*) FROM tidegate.outcomes").fetchone()
    assert row is not None
    return int(row[0])
