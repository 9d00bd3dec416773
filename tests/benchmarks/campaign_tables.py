"""What the tables say of a campaign run: cheap looks while it runs, a full count at its end."""

from __future__ import annotations

import time
from typing import NamedTuple, Self

import psycopg

from tests.benchmarks.measuring import Tables

_LOOK_S = 0.05
# Partitions of a day are told under the name of their table.
_SIZES = """
    SELECT regexp_replace(c.relname, '_([0-9]{8}|default)$', ''),
           sum(pg_total_relation_size(c.oid))::bigint
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'tidegate' AND c.relkind = 'r'
    GROUP BY 1 HAVING sum(pg_total_relation_size(c.oid)) >= 2 ^ 20
    ORDER BY 2 DESC
"""
_REFUSED = """
    SELECT i.idempotency_key, o.reason
    FROM tidegate.outcomes o JOIN tidegate.intents i USING (intent_id)
    WHERE o.reason IS NOT NULL AND starts_with(i.idempotency_key, %(prefix)s)
"""
_COUNTS = """
    SELECT (SELECT count(*) FROM tidegate.orders),
           (SELECT count(*) FROM tidegate.intents WHERE kind = 'order'),
           (SELECT count(*) FROM tidegate.outcomes WHERE reason IS NOT NULL)
"""


class UndecidedError(Exception):
    """Receipts that found no outcome in time; the message says how many."""


class Counts(NamedTuple):
    """Rows, counted one by one."""

    orders: int
    receipts: int
    refused_receipts: int


class CampaignTables:
    """Looks at the tables; a context manager."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._stock = Tables(dsn)

    def committed(self) -> int:
        """Orders so far, by the stock that they took: as cheap with millions as with none."""
        return self._stock.committed()

    def await_decided(self, patience_s: float) -> None:
        """Return when no receipt waits for its outcome. Raises UndecidedError."""
        deadline = time.monotonic() + patience_s
        while open_ := self._one("SELECT count(*) FROM tidegate.open_intents")[0]:
            if time.monotonic() > deadline:
                raise UndecidedError(f"{open_:,} receipts have no outcome after {patience_s:g} s")
            time.sleep(_LOOK_S)

    def refused(self, prefix: str) -> dict[str, str]:
        """Return reasons by key, of the receipts whose keys begin so and became no order."""
        return dict(self._connection.execute(_REFUSED, {"prefix": prefix}).fetchall())

    def sizes(self) -> dict[str, int]:
        """Bytes of the tables with all that belongs to them, the greatest first."""
        return dict(self._connection.execute(_SIZES).fetchall())

    def counts(self) -> Counts:
        """Count everything."""
        return Counts(*self._one(_COUNTS))

    def settle(self) -> None:
        """Write out what the last session left, so that the next pays for itself alone."""
        self._connection.execute("CHECKPOINT")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stock.close()
        self._connection.close()

    def _one(self, query: str) -> tuple[int, ...]:
        row = self._connection.execute(query).fetchone()
        assert row is not None
        return tuple(row)
