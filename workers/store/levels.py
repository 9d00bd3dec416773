"""The level that an operator orders for the whole system, kept in PostgreSQL.

It outranks the governor's until it is lifted or its time is over, and survives every restart. Whoever
admits reads it twice a second (`workers.store.limits`), the governor at every look
(`workers.store.load`). How it is pulled, and recorded, is `workers.store.pulling`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct

from workers.domain.overload import Level
from workers.store.pool import Connection
from workers.store.pulling import LeverError, Pull, Touched, counts, record, repeated
from workers.store.sql import queries

_SQL = queries("levels")


class LevelOrder(Struct, frozen=True, kw_only=True):
    """The level that an operator ordered. `until` None: until it is lifted."""

    level: Level
    reason: str
    ordered_at: datetime
    until: datetime | None


class LevelChange(Struct, frozen=True, kw_only=True):
    """What an order changed. `order` None: the governor decides."""

    dry_run: bool
    changed: bool
    order: LevelOrder | None
    before: LevelOrder | None
    touched: Touched | None = None
    campaigns: int | None = None  # open now; counted in a dry run
    repeated: bool = False  # it was done before, by the same key


def read_level(connection: Connection) -> LevelOrder | None:
    """Return the order that is in force."""
    row = connection.execute(_SQL.level_read).fetchone()
    return None if row is None else order_of(row)


def order_level(
    connection: Connection, level: Level, lasting: timedelta | None, pull: Pull
) -> LevelChange:
    """Order a level, in place of any order before."""
    if not pull.reason:
        raise LeverError("an order needs its reason: others will ask why; give --reason")
    counted = _count(connection) if pull.dry_run else {}
    with connection.transaction(force_rollback=pull.dry_run):
        connection.execute(_SQL.level_lock)
        before = read_level(connection)
        if repeated(connection, pull, f"level {level}", "level"):
            return _standing(before)
        lasting_ms = None if lasting is None else lasting // timedelta(milliseconds=1)
        row = connection.execute(
            _SQL.level_put, {"level": level.value, "reason": pull.reason, "for_ms": lasting_ms}
        ).fetchone()
        if row is None:
            raise AssertionError("an order that was put is returned")
        put = order_of(row)
        record(connection, pull, f"level {level}", "level", until=put.until, before=before)
    return LevelChange(dry_run=pull.dry_run, changed=True, order=put, before=before, **counted)


def lift_level(connection: Connection, pull: Pull) -> LevelChange:
    """Lift the order that stands: the governor decides again."""
    counted = _count(connection) if pull.dry_run else {}
    with connection.transaction(force_rollback=pull.dry_run):
        connection.execute(_SQL.level_lock)
        before = read_level(connection)
        if repeated(connection, pull, "level open", "level"):
            return _standing(before)
        if before is not None:
            connection.execute(_SQL.level_lift)
            record(connection, pull, "level open", "level", before=before)
    return LevelChange(
        dry_run=pull.dry_run, changed=before is not None, order=None, before=before, **counted
    )


def order_of(row: tuple[Any, ...]) -> LevelOrder:
    """Read an order from its columns: level, reason, ordered_at, until."""
    level, reason, ordered_at, until = row
    return LevelOrder(level=Level(level), reason=reason, ordered_at=ordered_at, until=until)


def _standing(order: LevelOrder | None) -> LevelChange:
    return LevelChange(dry_run=False, changed=False, order=order, before=order, repeated=True)


def _count(connection: Connection) -> dict[str, Any]:
    users, coupons, in_flight, live = counts(connection, _SQL.level_touched)
    touched = Touched(users=users, coupons=coupons, in_flight=in_flight)
    return {"touched": touched, "campaigns": live}
