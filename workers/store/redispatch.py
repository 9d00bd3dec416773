"""What the redispatcher asks of the database."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("redispatch")


def take_due(connection: Connection, count_max: int, dispatch_after_ms: int) -> list[UUID]:
    """Return the oldest open intents whose hint is overdue, and put their next one off.

    The pause grows with an intent's age, and is `dispatch_after_ms` at least.
    """
    rows = connection.execute(
        _SQL.open_due_take,
        {"count_max": count_max, "dispatch_after_ms": dispatch_after_ms},
        binary=True,
    )
    return sorted(intent_id for (intent_id,) in rows)


def open_exists(connection: Connection, young_ms: int) -> bool:
    """Say whether an open intent older than `young_ms` waits in nobody's hands."""
    row = connection.execute(_SQL.open_exists, {"young_ms": young_ms}).fetchone()
    return bool(row and row[0])


def open_count(connection: Connection) -> int:
    """Count the open intents."""
    row = connection.execute(_SQL.open_count).fetchone()
    return int(row[0]) if row else 0


def open_ids(connection: Connection) -> Iterator[UUID]:
    """Read the ids of all open intents."""
    for (intent_id,) in connection.execute(_SQL.open_read, binary=True):
        yield intent_id


def sweep_claims(connection: Connection, older_ms: int) -> int:
    """Remove records of dead batches whose intents all have their outcome."""
    return connection.execute(_SQL.claims_sweep, {"older_ms": older_ms}).rowcount


def ensure_partitions(connection: Connection, days: int) -> int:
    """Make the partitions of today and the days after it; return how many were missing."""
    row = connection.execute(_SQL.partitions_ensure, {"days": days}).fetchone()
    return int(row[0]) if row else 0
