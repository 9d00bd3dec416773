"""One measurement: posts sent for a while, counted in the tables and not in the sender's hopes.

Committed orders are read off the stock, which changes in the commit that makes the orders: a look
costs nothing, whatever the tables hold. Each order of the benchmark takes two units. When all is
over, the orders, their lines and their redemptions are counted row by row, and must be as many as
there were receipts.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from uuid import UUID

import psycopg
import uvloop
from msgspec import Struct, field

from deploy.load.run import old_objects_left_alone
from deploy.load.wire import Target
from tests.benchmarks import processes
from tests.benchmarks.processes import Roles
from tests.benchmarks.sender import Sender, percentile
from workers.contract.ids import uuid7

LOOK_S = 0.5  # between two looks at the tables while sending
WARM_UP_S = 1.0  # rates are taken from the first look after this, where there are three such
SLOWEST_S = 5.0  # the length of the slowest stretch that is told
UNITS_PER_ORDER = 2


class MeasurementError(Exception):
    """A measurement that cannot be trusted; the message says why."""


class Look(Struct, frozen=True):
    """How far things were, so many seconds after the start of sending."""

    at_s: float
    accepted: int
    committed: int


class Rates(Struct, frozen=True):
    """What a row of looks comes to, per second."""

    accepted_per_s: float
    committed_per_s: float
    slowest_per_s: float  # committed, over the slowest `SLOWEST_S`


class Measured(Struct, frozen=True, kw_only=True):
    """One measurement, as it is recorded."""

    connections: int
    seconds: float
    offered_per_s: float | None = None  # by an open loop
    accepted: int
    rates: Rates
    drain_s: float  # from the last answer until all was decided
    drained: int  # intents decided meanwhile
    p50_ms: float
    p99_ms: float
    sojourn_p50_ms: float  # from acceptance to outcome, by the server's clock
    sojourn_p99_ms: float
    told: int = 0  # answers that already said the outcome
    cores: dict[str, float] = field(default_factory=dict)  # CPU while sending, shares of one core
    us_per_order: dict[str, float] = field(default_factory=dict)  # the same, per receipt
    refused: dict[str, int] = field(default_factory=dict)
    refused_p99_ms: float = 0.0  # of answers with neither receipt nor outcome
    lost: int = 0
    orders_before: int = 0  # in the tables

    @property
    def kept_up(self) -> float:
        """Committed / accepted while the load lasts: below 1 a queue grows."""
        return self.rates.committed_per_s / max(self.rates.accepted_per_s, 1e-9)


def rates_of(looks: Sequence[Look]) -> Rates:
    """Return the rates between the first look after the warm-up and the last; zeros of too few."""
    warm = [look for look in looks if look.at_s >= WARM_UP_S]
    looks = warm if len(warm) > 2 else looks
    if len(looks) < 2:
        return Rates(0.0, 0.0, 0.0)
    first, last = looks[0], looks[-1]
    took = last.at_s - first.at_s
    committed = (last.committed - first.committed) / took
    slowest = _slowest(looks)
    accepted = (last.accepted - first.accepted) / took
    return Rates(accepted, committed, committed if slowest is None else slowest)


def _slowest(looks: Sequence[Look]) -> float | None:
    """Return the least committed per second over any `SLOWEST_S`; None of a shorter run."""
    rates, start = [], 0
    for look in looks:
        while start + 1 < len(looks) and look.at_s - looks[start + 1].at_s >= SLOWEST_S:
            start += 1
        span = look.at_s - looks[start].at_s
        if span >= SLOWEST_S:
            rates.append((look.committed - looks[start].committed) / span)
    return min(rates, default=None)


class Tables:
    """Looks at the tables, on one connection."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)

    def committed(self) -> int:
        """Orders committed so far, by the units that left the stock."""
        row = self._connection.execute(
            "SELECT coalesce(sum(initial - available), 0) FROM audit.stock"
        ).fetchone()
        return int(row[0]) // UNITS_PER_ORDER if row else 0

    def counted(self, since: UUID) -> tuple[int, int, int]:
        """Count the orders since an id was made, their lines and their redemptions, row by row."""
        row = self._connection.execute(
            """
            SELECT (SELECT count(*) FROM tidegate.orders WHERE order_id > %(since)s),
                   (SELECT count(*) FROM tidegate.order_lines WHERE order_id > %(since)s),
                   (SELECT count(*) FROM tidegate.orders o JOIN tidegate.redemptions r
                        ON r.coupon_id = o.coupon_id AND r.order_id = o.order_id
                    WHERE o.order_id > %(since)s)
            """,
            {"since": since},
        ).fetchone()
        assert row is not None
        return row[0], row[1], row[2]

    def sojourn_ms(self, since: UUID) -> tuple[float, float]:
        """Median and 99th percentile from acceptance to outcome, of intents since an id was made."""
        row = self._connection.execute(
            """
            SELECT percentile_disc(ARRAY[0.5, 0.99]) WITHIN GROUP (
                ORDER BY extract(epoch FROM o.decided_at - i.accepted_at) * 1000)::float8[]
            FROM tidegate.intents i JOIN tidegate.outcomes o USING (intent_id)
            WHERE i.intent_id > %(since)s
            """,
            {"since": since},
        ).fetchone()
        p50, p99 = (row and row[0]) or (0.0, 0.0)
        return p50, p99

    def timely(self, since: UUID, ttl_ms: int) -> tuple[int, int]:
        """Count the orders posted since an id was made: committed within `ttl_ms`, and later."""
        row = self._connection.execute(
            """
            SELECT count(*) FILTER (WHERE took <= %(ttl)s), count(*) FILTER (WHERE took > %(ttl)s)
            FROM (SELECT created_at - tidegate.uuid7_time(order_id) AS took FROM tidegate.orders
                  WHERE order_id > %(since)s) AS posted
            """,
            {"since": since, "ttl": timedelta(milliseconds=ttl_ms)},
        ).fetchone()
        assert row is not None
        return row[0], row[1]

    def undecided(self, since: UUID) -> int:
        """Count the open intents posted since an id was made."""
        row = self._connection.execute(
            "SELECT count(*) FROM tidegate.open_intents WHERE intent_id > %s", (since,)
        ).fetchone()
        assert row is not None
        return int(row[0])

    def settle(self) -> None:
        """Let a measurement pay for itself alone, not for what was written before it."""
        self._connection.execute("VACUUM (ANALYZE)")
        self._connection.execute("CHECKPOINT")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Bench:
    """What is measured: an address, its tables, its processes."""

    def __init__(self, to: Target, dsn: str, roles: Roles) -> None:
        self.to = to
        self.dsn = dsn
        self.roles = roles

    def measure(
        self,
        posts: Iterator[bytes],
        *,
        connections: int,
        seconds: float,
        due: array[float] | None = None,
        drain_max_s: float = 120.0,
        strict: bool = True,
    ) -> Measured:
        """Send `posts` for `seconds`: in a closed loop, or at the times of `due`.

        Then wait until all is decided, for `drain_max_s` at most. Raises MeasurementError when
        anything was lost, refused, or not found in the tables; not `strict` takes what comes.
        """
        since, tables = uuid7(), Tables(self.dsn)
        sender = Sender(self.to, posts, connections, seconds=seconds, due=due)
        gauge = _Gauge(self.roles, tables, sender)
        try:
            with old_objects_left_alone(), closing(gauge):
                uvloop.run(sender.run(gauge.begin, gauge.end))
            drain_s, drained = _drain(tables, gauge.before + sender.tally.accepted, drain_max_s)
            if strict:
                _check(sender, tables, since)
            sojourn_ms = tables.sojourn_ms(since)
        finally:
            tables.close()
        tally = sender.tally
        return Measured(
            connections=connections,
            seconds=round(gauge.seconds, 2),
            offered_per_s=None if due is None else len(due) / seconds,
            accepted=tally.accepted,
            rates=rates_of(gauge.looks),
            drain_s=drain_s,
            drained=drained,
            p50_ms=tally.percentile_ms(0.50),
            p99_ms=tally.percentile_ms(0.99),
            refused_p99_ms=percentile(tally.refused_s, 0.99) * 1_000,
            sojourn_p50_ms=sojourn_ms[0],
            sojourn_p99_ms=sojourn_ms[1],
            told=tally.told,
            cores=processes.shares(gauge.cpu_before, gauge.cpu_after, gauge.seconds),
            us_per_order=processes.shares(
                gauge.cpu_before, gauge.cpu_after, max(gauge.accepted, 1) / 1e6
            ),
            refused=dict(tally.refused),
            lost=tally.lost,
            orders_before=gauge.before,
        )


class _Gauge:
    """Watches a sender at work: the tables, from a thread, and the processors, at both ends."""

    def __init__(self, roles: Roles, tables: Tables, sender: Sender) -> None:
        self._roles = roles
        self._tables = tables
        self._tally = sender.tally
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="looks", daemon=True)
        self._began_at = 0.0
        self.before = tables.committed()
        self.looks: list[Look] = []
        self.cpu_before: dict[str, float] = {}
        self.cpu_after: dict[str, float] = {}
        self.seconds = 0.0  # of sending
        self.accepted = 0  # until the end of sending

    def begin(self) -> None:
        """Sending begins."""
        self.cpu_before = processes.cpu_seconds(self._roles())
        self._began_at = time.monotonic()
        self._thread.start()

    def end(self) -> None:
        """Sending has ended."""
        self.seconds = time.monotonic() - self._began_at
        self.accepted = self._tally.accepted
        self.cpu_after = processes.cpu_seconds(self._roles())
        self._ended.set()

    def close(self) -> None:
        """Look no more, whether sending came to its end or not."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _look_on(self) -> None:
        while not self._ended.is_set():
            committed = self._tables.committed() - self.before
            at_s = time.monotonic() - self._began_at
            self.looks.append(Look(at_s, self._tally.accepted, committed))
            self._ended.wait(LOOK_S)


def _drain(tables: Tables, target: int, drain_max_s: float) -> tuple[float, int]:
    """Wait until so many are committed; return the seconds and how many were, meanwhile."""
    began, first = time.monotonic(), tables.committed()
    committed = first
    while committed < target and time.monotonic() - began < drain_max_s:
        time.sleep(0.02)
        committed = tables.committed()
    return time.monotonic() - began, committed - first


def _check(sender: Sender, tables: Tables, since: UUID) -> None:
    tally = sender.tally
    if tally.ran_out:
        raise MeasurementError("there was nothing more to send while there was time")
    if tally.lost or tally.refused:
        msg = f"{tally.lost} posts were lost and refused were {dict(tally.refused)}"
        raise MeasurementError(msg)
    orders, lines, redemptions = tables.counted(since)
    if (orders, lines, redemptions) != (tally.accepted, 2 * tally.accepted, tally.accepted):
        msg = (
            f"{tally.accepted} receipts, and in the tables {orders} orders, {lines} lines, "
            f"{redemptions} redemptions"
        )
        raise MeasurementError(msg)
