"""Retention: removing journal, outcomes and keys of days long over. Orders and the ledger stay.

The boundary is the start of a day, in UTC as the partitions are cut, at least `older_than` ago. It
stops before the first day that must stay: one with an open intent, with an order that awaits its
payment, or with an intent of a campaign whose keys still live (until seven days after its coupons
expired and it closed).

The order of removal makes it safe to be interrupted anywhere, and to run twice at once:
1. `retention.pruned_before` is set, in one commit with the operator's record: from then on the audit
   asks no further back, and whoever runs this again finishes what is below.
2. A day's keys are deleted in small batches, by their intents, which are still there to name them.
   From then on a key may be bound anew; such a key names another intent, and is left alone.
3. The day's partitions are dropped. That takes the journal's own locks for a moment: it waits for
   them `DROP_LOCK_TIMEOUT_MS` at most, since whoever comes meanwhile waits behind it, and tries
   again after a pause.
What lies in the default partitions (no redispatcher made a day's own in time) is deleted by rows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import psycopg
from msgspec import Struct
from psycopg import sql

from workers.contract.ids import uuid7_floor
from workers.store.campaigns import record_action
from workers.store.errors import Fault, fault_of
from workers.store.journal import KEYS_OUTLIVE
from workers.store.pool import OWNER, Bounds, Connection, connect
from workers.store.sql import queries

_SQL = queries("prune")
# Counting a day's rows takes a while, and waits for nobody.
_BOUNDS = Bounds(statement_timeout_ms=600_000, idle_in_transaction_ms=600_000)

OLDER_THAN_MIN = timedelta(days=1)  # a younger day may still be written to
BATCH_MAX = 5_000  # rows deleted in one commit: some tens of milliseconds
DROP_LOCK_TIMEOUT_MS = 100  # how long the hot path may wait behind us, each time we try
DROP_ATTEMPTS_MAX = 30  # about two minutes, with pauses that double
DROP_PAUSE_S, DROP_PAUSE_MAX_S = 0.25, 5.0

_FIRST = UUID(int=0)
_DAY = re.compile(r"_(\d{8})\Z")


class PruneBusyError(Exception):
    """A long query, a backup or an audit, reads the journal: run it again when that has ended."""


class Day(Struct, frozen=True):
    """What a day holds: rows of the journal (each with a key), of the outcomes, and their bytes."""

    day: date
    intents: int
    outcomes: int
    bytes: int
    partitions: list[str]


class Plan(Struct, frozen=True):
    """What is to be removed: all ids below `boundary`, which begins the day `before`.

    `kept` says why it stops there, if anything but its age keeps the next day. `default_rows`
    counts old rows of the default partitions.
    """

    before: datetime
    boundary: UUID
    days: list[Day]
    default_rows: int
    kept: str | None

    @property
    def rows(self) -> int:
        """Rows of journal and outcomes."""
        return sum(day.intents + day.outcomes for day in self.days) + self.default_rows

    @property
    def bytes(self) -> int:
        """Bytes of the partitions, with their indexes."""
        return sum(day.bytes for day in self.days)


class Pruned(Struct):
    """What was removed."""

    partitions: int = 0
    keys: int = 0
    default_rows: int = 0


def plan(dsn: str, older_than: timedelta) -> Plan:
    """Find what may be removed; changes nothing.

    Raises ValueError for less than a day, psycopg.Error where the database cannot be asked.
    """
    with _open(dsn) as connection, connection.transaction():
        boundary, before, kept = _boundary(connection, older_than)
        return Plan(
            before=before,
            boundary=boundary,
            days=list(_days(connection, boundary)),
            default_rows=sum(_one(connection, "default_count", before=boundary)),
            kept=kept,
        )


def prune(
    dsn: str,
    older_than: timedelta,
    actor: str,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> Pruned:
    """Remove what `plan` would find now; `progress` hears of each step.

    May be interrupted anywhere, and run again. Raises PruneBusyError where a long reader is in the
    way; what was removed until then stays removed.
    """
    done = Pruned()
    with _open(dsn) as connection:
        with connection.transaction():
            boundary, before, _ = _boundary(connection, older_than)
            connection.execute(_SQL.retention_advance, {"before": boundary})
            record_action(connection, actor, "prune", f"before {before:%Y-%m-%d}")
        for day, partitions in sorted(_partitions_by_day(connection).items()):
            if _floor(day + timedelta(days=1)) <= boundary:
                progress(f"{day}: keys")
                _delete_keys(connection, _floor(day), _floor(day + timedelta(days=1)), done)
                progress(f"{day}: partitions")
                _drop(connection, day, [name for name, _ in partitions])
                done.partitions += len(partitions)
        progress("default partitions")
        _delete_keys(connection, _FIRST, boundary, done)
        _delete_default_rows(connection, boundary, done)
    return done


def _open(dsn: str) -> Connection:
    return connect(dsn, OWNER, _BOUNDS, name="prune")


def _boundary(connection: Connection, older_than: timedelta) -> tuple[UUID, datetime, str | None]:
    """Find the first day that stays, and what keeps it; within a transaction."""
    if older_than < OLDER_THAN_MIN:
        raise ValueError("less than a day is kept in any case")
    (now,) = _one(connection, "clock_read")
    limit, kept = _floor((now - older_than).astimezone(UTC).date()), None
    for name, what in (
        ("oldest_open_read", "open intent"),
        ("oldest_unpaid_read", "unpaid order"),
    ):
        row = connection.execute(_SQL[name]).fetchone()
        if row is not None and _floor(_day_of(row[0])) < limit:
            limit, kept = _floor(_day_of(row[0])), f"{what} {row[0]}"
    found = _oldest_kept(connection, limit)
    if found is not None:
        intent_id, campaign_id = found
        limit = _floor(_day_of(intent_id))
        kept = f"campaign {campaign_id}: its keys live {KEYS_OUTLIVE.days} days past its coupons"
    (pruned_before,) = _one(connection, "pruned_before_read")
    # What an earlier run had begun is finished, whatever is asked for now.
    boundary = max(limit, pruned_before)
    before = datetime.combine(_day_of(boundary), datetime.min.time(), UTC)
    return boundary, before, kept


def _oldest_kept(connection: Connection, before: UUID) -> tuple[UUID, str] | None:
    """Find the first intent of a campaign whose keys still live; a day's partition at a time."""
    keys_outlive_ms = KEYS_OUTLIVE // timedelta(milliseconds=1)
    rows = connection.execute(_SQL.campaigns_kept, {"keys_outlive_ms": keys_outlive_ms}).fetchall()
    campaigns = [campaign_id for (campaign_id,) in rows]
    if not campaigns:
        return None
    starts = [_floor(day) for day in sorted(_partitions_by_day(connection))]
    edges = [_FIRST, *(start for start in starts if start < before), before]
    for first, end in pairwise(edges):
        row = connection.execute(
            _SQL.oldest_kept_read, {"first": first, "before": end, "campaign_ids": campaigns}
        ).fetchone()
        if row is not None:
            return row[0], row[1]
    return None


def _days(connection: Connection, boundary: UUID) -> Iterator[Day]:
    for day, partitions in sorted(_partitions_by_day(connection).items()):
        first, end = _floor(day), _floor(day + timedelta(days=1))
        if end <= boundary:
            yield Day(
                day=day,
                intents=_one(connection, "intents_count", first=first, before=end)[0],
                outcomes=_one(connection, "outcomes_count", first=first, before=end)[0],
                bytes=sum(size for _, size in partitions),
                partitions=[name for name, _ in partitions],
            )


def _partitions_by_day(connection: Connection) -> dict[date, list[tuple[str, int]]]:
    """Return (name, bytes) of the days' partitions; the default partitions are no day's."""
    found: dict[date, list[tuple[str, int]]] = {}
    for _, name, size in connection.execute(_SQL.partitions_list):
        match = _DAY.search(name)
        if match is not None:
            day = datetime.strptime(match[1], "%Y%m%d").replace(tzinfo=UTC).date()
            found.setdefault(day, []).append((name, size))
    return found


def _delete_keys(connection: Connection, first: UUID, before: UUID, done: Pruned) -> None:
    """Delete the keys of these intents, a batch a commit; between two, half of the time is others'."""
    after: UUID | None = UUID(int=max(first.int - 1, 0))
    while after is not None:
        began = time.monotonic()
        deleted, after = _one(
            connection, "keys_delete", after=after, before=before, count_max=BATCH_MAX
        )
        done.keys += deleted
        if after is not None:
            time.sleep(time.monotonic() - began)


def _drop(connection: Connection, day: date, partitions: list[str]) -> None:
    """Drop a day's partitions, in a moment in which nobody reads them for long."""
    for attempt in range(DROP_ATTEMPTS_MAX):
        try:
            with connection.transaction():
                bound = (f"{DROP_LOCK_TIMEOUT_MS}ms",)
                connection.execute("SELECT set_config('lock_timeout', %s, true)", bound)
                connection.execute(_SQL.journal_lock)
                _require_decided(connection, day)
                for name in partitions:
                    statement = sql.SQL(_SQL.partition_drop)
                    connection.execute(statement.format(partition=sql.Identifier(name)))
            return
        except psycopg.Error as error:
            if fault_of(error) is not Fault.CONTENTION:
                raise
        if attempt < DROP_ATTEMPTS_MAX - 1:
            time.sleep(min(DROP_PAUSE_S * 2**attempt, DROP_PAUSE_MAX_S))
    raise PruneBusyError(PruneBusyError.__doc__)


def _require_decided(connection: Connection, day: date) -> None:
    """Nobody journals into a day past; but if a host's clock was a day late, its intent counts."""
    first, end = _floor(day), _floor(day + timedelta(days=1))
    if _one(connection, "open_exists", first=first, before=end)[0]:
        raise PruneBusyError(f"an intent of {day} was accepted meanwhile; run it again")


def _delete_default_rows(connection: Connection, boundary: UUID, done: Pruned) -> None:
    for name in ("outcomes_default_delete", "intents_default_delete"):
        deleted = BATCH_MAX
        while deleted == BATCH_MAX:
            cursor = connection.execute(_SQL[name], {"before": boundary, "count_max": BATCH_MAX})
            deleted = cursor.rowcount
            done.default_rows += deleted


def _floor(day: date) -> UUID:
    return uuid7_floor(datetime.combine(day, datetime.min.time(), UTC))


def _day_of(intent_id: UUID) -> date:
    return datetime.fromtimestamp((intent_id.int >> 80) / 1000, UTC).date()


def _one(connection: Connection, name: str, **parameters: object) -> tuple[Any, ...]:
    row = connection.execute(_SQL[name], parameters).fetchone()
    if row is None:
        raise AssertionError(f"query {name} returned nothing")
    return row
