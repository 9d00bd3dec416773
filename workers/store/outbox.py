"""The outbox: events that were committed with what they tell of, until they are delivered.

Rows are written by the statements that commit an outcome or a change of an order's status, and only
for gateways that have an endpoint. A relay takes them for the time of a lease, without a transaction
that would stay open while it posts; if it dies, they are due again when the lease ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID, uuid4

from msgspec import Struct

from workers.contract.resource import IntentResource
from workers.contract.webhook import SYSTEM
from workers.domain.delivery import GIVE_UP_AFTER_S, EventType, Fate
from workers.store import resources
from workers.store.arrays import bigints, texts, uuids
from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("outbox")

FIGURES_MAX = 100_000  # counted; beyond it a figure says "at least"
SWEEP_MAX = 10_000  # rows given up, pruned or replayed in one commit
PROBE_AGAIN_MS = 1_000  # after a look that found nothing to send


class Entry(Struct, frozen=True, kw_only=True):
    """One event for one endpoint, in a relay's hands. `data` is only of what is not in the journal.

    `age_s` counts since it was queued.
    """

    entry_id: int
    endpoint_id: int
    subject_id: UUID
    event: EventType
    occurred_at: datetime
    data: bytes | None
    attempts: int
    age_s: float
    lease_id: UUID


class Result(Struct, frozen=True, kw_only=True):
    """What came of an entry. `status` 0: there was no answer."""

    entry_id: int
    lease_id: UUID
    fate: Fate
    counted: bool
    delay_ms: int
    status: int
    error: str | None


class Figures(Struct, frozen=True):
    """What waits, what was given up (each as far as `FIGURES_MAX`), and the oldest that waits.

    Nothing waits for an endpoint that is disabled: what was noted for it is of nobody's concern.
    """

    waiting: int
    dead: int
    oldest_s: float


class Told(Struct, frozen=True):
    """What an intent's events tell of it: the resource, and the key that its gateway gave it."""

    resource: IntentResource
    idempotency_key: str


class Delivery(Struct, frozen=True):
    """An event of an intent, and what became of it at one endpoint.

    `next_attempt_at` None: there is none, as things stand. `last_error` is of the last attempt.
    """

    event: EventType
    endpoint_id: int
    url: str
    disabled_reason: str | None  # of the endpoint
    state: Literal["waiting", "delivered", "given_up"]
    attempts: int
    settled_at: datetime | None
    next_attempt_at: datetime | None
    last_error: str | None


class Wanted(Struct, frozen=True, kw_only=True):
    """Which settled events are to be delivered again; None: any. `event` is an SQL pattern."""

    since: datetime | None = None
    subject_id: UUID | None = None
    event: str | None = None
    dead_only: bool = False


def claim(connection: Connection, room: Mapping[int, int], lease_ms: int) -> list[Entry]:
    """Take what is due, up to so many entries for each endpoint; nobody else has them meanwhile."""
    if not room:
        return []
    lease_id = uuid4()
    rows = connection.execute(
        _SQL.entries_claim,
        {
            "endpoint_ids": bigints(list(room)),
            "counts": bigints(list(room.values())),
            "lease_ms": lease_ms,
            "lease_id": lease_id,
        },
        binary=True,
    ).fetchall()
    entries = [
        Entry(
            entry_id=entry_id,
            endpoint_id=endpoint_id,
            subject_id=subject_id,
            event=EventType(event),
            occurred_at=occurred_at,
            data=data,
            attempts=attempts,
            age_s=age_s,
            lease_id=lease_id,
        )
        for entry_id, endpoint_id, subject_id, event, occurred_at, data, attempts, age_s in rows
    ]
    return sorted(entries, key=lambda entry: entry.entry_id)


def claim_probes(connection: Connection, endpoint_ids: Sequence[int], lease_ms: int) -> list[Entry]:
    """Take one entry of each failing endpoint that may be probed now; one relay gets it."""
    if not endpoint_ids:
        return []
    with connection.transaction():
        rows = connection.execute(
            _SQL.probes_take, {"endpoint_ids": bigints(endpoint_ids), "lease_ms": lease_ms}
        ).fetchall()
        taken = {endpoint_id: 1 for (endpoint_id,) in rows}
        entries = claim(connection, taken, lease_ms)
        idle = taken.keys() - {entry.endpoint_id for entry in entries}
        if idle:
            connection.execute(
                _SQL.probes_give_back,
                {"endpoint_ids": bigints(list(idle)), "pause_ms": PROBE_AGAIN_MS},
            )
        return entries


def read_told(connection: Connection, intent_ids: Sequence[UUID]) -> dict[UUID, Told]:
    """Read what events tell of these intents; those that were pruned are left out."""
    found = resources.read_many(connection, intent_ids)
    parameters = {"intent_ids": uuids(intent_ids)}
    rows = connection.execute(_SQL.journal_read, parameters, binary=True)
    keys: dict[UUID, str] = dict(rows.fetchall())
    return {
        intent_id: Told(resource, keys[intent_id])
        for intent_id, resource in found.items()
        if intent_id in keys
    }


def read_deliveries(connection: Connection, intent_id: UUID) -> list[Delivery]:
    """Return what an intent's endpoints were told and are to be told; old events are pruned."""
    rows = connection.execute(_SQL.deliveries_read, {"intent_id": intent_id})
    return [Delivery(EventType(event), *rest) for event, *rest in rows]


def record(connection: Connection, results: Sequence[Result]) -> None:
    """Write what came of entries; one statement."""
    connection.execute(
        _SQL.results_record,
        {
            "entry_ids": bigints([result.entry_id for result in results]),
            "lease_ids": uuids([result.lease_id for result in results]),
            "fates": texts([result.fate for result in results]),
            "counted": bigints([int(result.counted) for result in results]),
            "delays_ms": bigints([result.delay_ms for result in results]),
            "status_codes": bigints([result.status for result in results]),
            "errors": texts([result.error for result in results]),
        },
    )


def note_level(connection: Connection, level: str, reason: str, since_ms: int) -> int:
    """Note a change of the level for every endpoint that wants it; return how many.

    Idempotent, and safe to be called by several: what was noted before, or is older than what was
    noted last (`since_ms`, Unix milliseconds), is not noted. Of an operator's order the reason is
    `operator`; what is noted after it has ended counts from then.
    """
    return connection.execute(
        _SQL.level_note,
        {
            "level": level,
            "reason": reason,
            "since_ms": since_ms,
            "event": EventType.LEVEL_CHANGED.value,
            "subject_id": SYSTEM,
        },
    ).rowcount


def give_up_old(connection: Connection) -> int:
    """Give up what is too old to be tried again; return how many, `SWEEP_MAX` at most."""
    return connection.execute(
        _SQL.old_give_up, {"older_s": GIVE_UP_AFTER_S, "count_max": SWEEP_MAX}
    ).rowcount


def prune(connection: Connection, *, keep_s: float, keep_dead_s: float) -> int:
    """Remove what was settled so long ago; return how many rows, `SWEEP_MAX` at most."""
    return connection.execute(
        _SQL.settled_prune,
        {"older_s": keep_s, "dead_older_s": keep_dead_s, "count_max": SWEEP_MAX},
    ).rowcount


def figures(connection: Connection) -> Figures:
    """Return how much waits, and how long; cheap enough for every scrape."""
    row = connection.execute(_SQL.figures_read, {"count_max": FIGURES_MAX}).fetchall()[0]
    return Figures(*row)


def count_replayable(
    connection: Connection, endpoint_id: int, wanted: Wanted, before: datetime
) -> int:
    """Count what `replay_many` would queue anew in all."""
    found = connection.execute(
        _SQL.replayable_count, _wanted(endpoint_id, wanted, before)
    ).fetchall()
    return int(found[0][0])


def replay_many(connection: Connection, endpoint_id: int, wanted: Wanted, before: datetime) -> int:
    """Queue settled events anew, the oldest first; return how many, `SWEEP_MAX` at most.

    Call until it returns less; `before` (when the first call was made) lets that end.
    """
    parameters = _wanted(endpoint_id, wanted, before) | {"count_max": SWEEP_MAX}
    return connection.execute(_SQL.replay_many, parameters).rowcount


def _wanted(endpoint_id: int, wanted: Wanted, before: datetime) -> dict[str, object]:
    return {
        "endpoint_id": endpoint_id,
        "before": before,
        "since": wanted.since,
        "subject_id": wanted.subject_id,
        "event": wanted.event,
        "dead_only": wanted.dead_only,
    }
