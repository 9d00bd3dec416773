"""A twin of what production asks of PostgreSQL: rows in dictionaries, locks, commits, lost replies.

Functions have the names and the signatures of those in `workers.store` that they stand for, so that
the intake, the sessions and the loops above them run as they are. What SQL decides is written here
once more, and each rule says which query it repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import psycopg
from msgspec import Struct
from psycopg import errors
from virtual import Stage

from workers.contract.resource import IntentResource, resource_of
from workers.domain.intent import Intent, Kind
from workers.domain.movements import Movements
from workers.domain.outcome import Outcome
from workers.domain.snapshot import Campaign, CounterKey, Item, Snapshot
from workers.store.batch import Claim, Deaths
from workers.store.journal import BoundKey, Entry

BORN = datetime(2026, 2, 6, tzinfo=UTC)  # when virtual time begins
CAMPAIGN = "spring"
PRICE = 1_800
LOCK_TIMEOUT_S = 2.0
LOCK_POLL_S = 0.005
IDLE_IN_TRANSACTION_S = 10.0


class Row(Struct):
    """An open intent."""

    accepted_s: float
    dispatch_after_s: float
    retry_after_s: float = 0.0
    failures: int = 0


class Database:
    """All rows, committed; and who holds which lock."""

    def __init__(
        self, stage: Stage, stock: dict[str, int], trip: Callable[[Connection], None]
    ) -> None:
        self.stage = stage
        self.trip = trip  # passed with each statement: may let time pass, or raise
        self.initial = dict(stock)
        self.campaign = Campaign(
            campaign_id=CAMPAIGN,
            currency="CNY",
            starts_at=BORN - timedelta(days=1),
            ends_at=BORN + timedelta(days=1),
            orders_per_user_max=1_000,
            coupons_per_user_max=1_000,
            payment_window_ms=900_000,
        )
        self.keys: dict[bytes, BoundKey] = {}
        self.bound_s: dict[bytes, float] = {}  # when a key was bound
        self.intents: dict[UUID, Intent] = {}
        self.open: dict[UUID, Row] = {}
        self.outcomes: dict[UUID, tuple[Outcome, datetime]] = {}
        self.stock = {sku: [count, 0, 0, 0] for sku, count in stock.items()}  # and a version
        self.counters: dict[CounterKey, int] = {}
        self.claims: dict[UUID, list[UUID]] = {}
        self.quarantined: list[UUID] = []
        self.locks: dict[object, Connection] = {}  # by intent id, or by SKU
        self.broken: list[str] = []  # constraints that a commit would have broken

    def at(self, seconds: float) -> datetime:
        """Return a moment as the database's clock tells it."""
        return BORN + timedelta(seconds=seconds)

    def connect(self) -> Connection:
        """Open a connection."""
        made = Connection(self)
        self.trip(made)
        return made


class Connection:
    """One connection: its locks, and what it would commit."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.closed = False
        self.in_transaction = False
        self.number = 0  # of its transactions

    @property
    def info(self) -> SimpleNamespace:
        status = psycopg.pq.TransactionStatus
        return SimpleNamespace(
            transaction_status=status.INTRANS if self.in_transaction else status.IDLE
        )

    def ask(self) -> Database:
        """Send a statement; raises what the network or the server makes of it."""
        if self.closed:
            raise psycopg.OperationalError("the connection is closed")
        try:
            self.database.trip(self)
        except psycopg.OperationalError:
            self.close()
            raise
        if self.closed:
            raise psycopg.OperationalError("the server closed the connection unexpectedly")
        return self.database

    def execute(self, query: object, *_: object) -> None:
        """Settings of a session, which mean nothing here."""

    def commit(self) -> None:
        self.ask()
        self.release()

    def rollback(self) -> None:
        self.release()

    def close(self) -> None:
        """End it, as the server does when the client dies: its locks go with it."""
        self.closed = True
        self.release()

    def release(self) -> None:
        self.in_transaction = False
        locks = self.database.locks
        for name in [name for name, holder in locks.items() if holder is self]:
            del locks[name]

    def lock(self, names: Iterable[str]) -> None:
        """Wait for rows, one after the other; raises LockNotAvailable when it takes too long."""
        database = self.database
        until_s = database.stage.now + LOCK_TIMEOUT_S
        for name in names:
            while database.locks.get(name, self) is not self:
                if database.stage.now >= until_s:
                    raise errors.LockNotAvailable("lock timeout")
                database.stage.sleep(LOCK_POLL_S)
                if self.closed:
                    raise psycopg.OperationalError("the server closed the connection unexpectedly")
            database.locks[name] = self


# store.journal -----------------------------------------------------------------------------------


def append_many(
    connection: Connection, entries: Iterable[Entry], dispatch_after_ms: int
) -> dict[UUID, datetime]:
    """As `journal_append_many`: keys that are bound change nothing and are left out."""
    database, listed = connection.ask(), list(entries)
    now_s, times = database.stage.now, {}
    for entry in listed:
        if entry.digest in database.keys:
            continue
        database.keys[entry.digest] = BoundKey(entry.intent_id, entry.fingerprint)
        database.bound_s[entry.digest] = now_s
        if entry.intent_id in database.intents:
            database.broken.append(f"{entry.intent_id} is journalled twice")
        times[entry.intent_id] = database.at(now_s)
        database.intents[entry.intent_id] = Intent(
            intent_id=entry.intent_id,
            kind=entry.kind,
            gateway_id=entry.gateway_id,
            user_id=entry.user_id,
            campaign_id=entry.campaign_id,
            accepted_at=database.at(now_s),
            body=entry.body,
        )
        due_s = now_s + dispatch_after_ms / 1_000
        database.open[entry.intent_id] = Row(accepted_s=now_s, dispatch_after_s=due_s)
    connection.ask()  # the way back: a reply may be lost
    return times


def find_keys(connection: Connection, digests: Sequence[bytes]) -> dict[bytes, BoundKey]:
    """As `keys_find_many`."""
    keys = connection.ask().keys
    return {digest: keys[digest] for digest in digests if digest in keys}


# store.resources ---------------------------------------------------------------------------------


def read_many(connection: Connection, intent_ids: Sequence[UUID]) -> dict[UUID, IntentResource]:
    """As `resources_read_many`."""
    database = connection.ask()
    return {
        one: resource_in(database, one)
        for one in dict.fromkeys(intent_ids)
        if one in database.intents
    }


def resource_in(database: Database, intent_id: UUID) -> IntentResource:
    """Return what is told of an intent as it stands."""
    if intent_id in database.outcomes:
        return resource_of(*database.outcomes[intent_id])
    intent = database.intents[intent_id]
    return IntentResource(
        intent_id=intent_id,
        kind=intent.kind,
        gateway_id=intent.gateway_id,
        user_id=intent.user_id,
        locale=None,
        accepted_at=intent.accepted_at,
    )


# store.batch -------------------------------------------------------------------------------------


def begin_and_claim(
    connection: Connection, hinted: Sequence[UUID], limit: int, since: UUID
) -> Claim:
    """As `claim_many`: the hinted, then the oldest from `since` on; what is locked is skipped."""
    database = connection.ask()
    connection.in_transaction = True
    connection.number += 1
    now_s = database.stage.now

    def is_free(one: UUID) -> bool:
        return one not in database.locks and database.open[one].retry_after_s <= now_s

    claimed = sorted({one for one in hinted if one in database.open and is_free(one)})
    room = max(0, limit - len(claimed))
    if room:
        named = set(claimed)
        oldest = sorted(one for one in database.open if one >= since and one not in named)
        claimed += [one for one in oldest if is_free(one)][:room]
    for one in claimed:
        database.locks[one] = connection
    intents = sorted(
        (database.intents[one] for one in claimed), key=lambda i: (i.accepted_at, i.intent_id)
    )
    return Claim(tuple(intents), database.at(now_s) if intents else None)


def record_claim(
    connection: Connection, batch_id: UUID, worker: str, intent_ids: Sequence[UUID]
) -> dict[UUID, Deaths]:
    """As `claim_record`."""
    claims = connection.ask().claims
    claims[batch_id] = list(intent_ids)
    deaths = {}
    for one in intent_ids:
        records = [ids for batch, ids in claims.items() if batch != batch_id and one in ids]
        if records:
            deaths[one] = Deaths(len(records), sum(len(ids) == 1 for ids in records))
    return deaths


def forget_claims(connection: Connection, batch_ids: Sequence[UUID]) -> None:
    """As `claim_forget`."""
    claims = connection.ask().claims
    for batch_id in batch_ids:
        claims.pop(batch_id, None)


def gather(connection: Connection, intents: Sequence[Intent]) -> tuple[Snapshot, datetime]:
    """As `stock_lock` and the reads after it."""
    database = connection.ask()
    skus = sorted({line.sku for intent in intents for line in intent.body.lines})
    connection.lock(skus)
    counters = {(CAMPAIGN, intent.user_id, Kind.ORDER) for intent in intents}
    snapshot = Snapshot(
        campaigns={CAMPAIGN: database.campaign},
        items={
            (CAMPAIGN, sku): Item(
                price=PRICE,
                merchant_id="tea-house",
                merchant_paused=False,
                available=database.stock[sku][0],
                reserved=database.stock[sku][1],
                version=database.stock[sku][3],
            )
            for sku in skus
        },
        counters={key: database.counters[key] for key in counters if key in database.counters},
    )
    return snapshot, database.at(database.stage.now)


def apply_and_commit(
    connection: Connection,
    batch_id: UUID,
    outcomes: Sequence[Outcome],
    moved: Movements,
    decided_at: datetime,
    *,
    counted: Container[CounterKey],
    before_commit: Callable[[], None],
) -> None:
    """As `movements_write` and `outcomes_write`, with the constraints of the tables."""
    database = connection.ask()
    before_commit()
    for outcome in outcomes:
        if outcome.intent.intent_id in database.outcomes:
            database.broken.append(f"{outcome.intent.intent_id} is decided twice")
            raise errors.UniqueViolation("outcomes_pkey")
    for (_, sku), delta in moved.stock.items():
        if any(before + step < 0 for before, step in zip(database.stock[sku], delta, strict=False)):
            database.broken.append(f"{sku} is oversold")
            raise errors.CheckViolation("stock_available_check")
    for (_, sku), delta in moved.stock.items():
        for place, step in enumerate((*delta, 1)):
            database.stock[sku][place] += step
    for key, step in moved.counters.items():
        database.counters[key] = database.counters.get(key, 0) + step
    for outcome in outcomes:
        database.outcomes[outcome.intent.intent_id] = (outcome, decided_at)
        database.open.pop(outcome.intent.intent_id, None)
    database.claims.pop(batch_id, None)
    connection.release()
    connection.ask()  # the way back: a reply may be lost


def record_failure(
    connection: Connection,
    intent_id: UUID,
    error: str,
    *,
    counted: bool,
    pause_ms: int,
    failures_max: int,
) -> int:
    """As `failure_record`."""
    database = connection.ask()
    row = database.open.get(intent_id)
    if row is None:
        return 0
    pause_s = (pause_ms << row.failures) / 1_000
    row.failures += counted
    row.retry_after_s = database.stage.now + pause_s if row.failures < failures_max else 0.0
    return row.failures


def record_quarantine(connection: Connection, intent_id: UUID, error: str, attempts: int) -> None:
    """As `quarantine_insert`."""
    connection.ask().quarantined.append(intent_id)


# store.redispatch --------------------------------------------------------------------------------


class RedispatchStore:
    """What the redispatcher asks, on a connection that is opened again after it broke."""

    def __init__(self, open_connection: Callable[[], Connection]) -> None:
        self._open = open_connection
        self._connection: Connection | None = None

    def _ask(self) -> Database:
        if self._connection is None or self._connection.closed:
            self._connection = self._open()
        return self._connection.ask()

    def take_due(self, count_max: int, dispatch_after_ms: int) -> list[UUID]:
        """As `open_due_take`."""
        database = self._ask()
        now_s = database.stage.now
        due = [
            one
            for one, row in sorted(database.open.items())
            if max(row.dispatch_after_s, row.retry_after_s) <= now_s and one not in database.locks
        ][:count_max]
        for one in due:
            row = database.open[one]
            pause_s = max(dispatch_after_ms / 1_000, (now_s - row.accepted_s) / 2)
            row.dispatch_after_s = now_s + pause_s
        return due

    def open_exists(self, young_ms: int) -> bool:
        """As `open_exists`: the oldest that nobody holds is old enough."""
        database = self._ask()
        now_s = database.stage.now
        free = (
            row.accepted_s
            for one, row in sorted(database.open.items())
            if one not in database.locks and row.retry_after_s <= now_s
        )
        return next(free, now_s) < now_s - young_ms / 1_000

    def open_count(self) -> int:
        return len(self._ask().open)

    def open_ids(self) -> Iterator[UUID]:
        yield from list(self._ask().open)

    def expire_due(self, count_max: int) -> int:
        return 0

    def expire_coupons(self, after: UUID, count_max: int) -> tuple[int, UUID | None]:
        return 0, None
