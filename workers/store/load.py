"""What the governor asks of PostgreSQL: how loaded it is, and what is left of what is scarce.

Decided intents are not counted here. No source in the database is at once exact and cheap: outcomes
are indexed by their decision in block ranges, whose newest rows stay unsummarized for up to a minute
and are then read one by one (600,000 of them at 10,000 a second); the server's counters of inserted
rows (pg_stat) come a second late while a worker is busy, ten when it falls idle, and count what was
rolled back; a counter of our own would be one more hot row in every batch. Workers announce every
outcome on a channel anyway: whoever listens counts for nothing (`workers.runtime.hearing`).
"""

from __future__ import annotations

import time
from uuid import UUID

from msgspec import Struct

from workers.contract.admission import Balance
from workers.store.levels import LevelOrder, order_of
from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("load")

COUNTED_MAX = 2_000  # open intents that are counted one by one: a quarter of a millisecond
LOOK_BACK_S = 1.0  # an intent that was passed over is found within this
_FIRST = UUID(int=0)


class Load(Struct, frozen=True, kw_only=True):
    """The load on PostgreSQL at one moment.

    `oldest_ms` is the age of the oldest open intent that may be claimed, `overdue_ms` how long its
    hint is overdue; None: nothing is open. `open_count` is exact below `COUNTED_MAX`.
    `connections_share` is of the connections that may be open.
    """

    oldest_ms: float | None
    overdue_ms: float | None
    open_count: int
    connections_share: float
    ordered: LevelOrder | None


class LoadReader:
    """Looks again and again. An intent that is kept back after a failure of its own is no load."""

    def __init__(self) -> None:
        self._since = _FIRST
        self._look_back_at = 0.0  # of the monotonic clock

    def read(self, connection: Connection) -> Load:
        """Look once; one round trip. Raises psycopg.Error."""
        if time.monotonic() >= self._look_back_at:
            self._since = _FIRST
            self._look_back_at = time.monotonic() + LOOK_BACK_S
        row = connection.execute(
            _SQL.load_read, {"since": self._since, "counted_max": COUNTED_MAX}, binary=True
        ).fetchone()
        if row is None:
            raise AssertionError("a look has a row")
        oldest_id, oldest_ms, overdue_ms, open_count, connections_share = row[:5]
        if oldest_id is not None:
            self._since = oldest_id
        return Load(
            oldest_ms=oldest_ms,
            overdue_ms=overdue_ms,
            open_count=open_count,
            connections_share=connections_share,
            ordered=None if row[5] is None else order_of(row[5:]),
        )


def read_balances(connection: Connection, scarce_max: int) -> list[tuple[Balance, bool]]:
    """Return what is left of stock and budgets, and of each whether it is scarce.

    Stock is scarce with `scarce_max` units or fewer, a budget with as many coupons.
    """
    rows = connection.execute(_SQL.balances_read, {"scarce_max": scarce_max}, binary=True)
    return [
        (Balance(key, version, available, reserved), scarce)
        for key, version, available, reserved, scarce in rows
    ]
