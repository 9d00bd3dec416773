"""The quarantine: intents that could not be processed, for people to look at and to try again.

Their outcome was told, and an outcome never changes. So a retry is a fresh intent with the same
wish, under a key derived from the quarantined one: trying again twice is trying again once. It is
accepted now, so windows, prices and limits of now decide it; the redispatcher brings it to a worker.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from uuid import UUID

import msgspec
from msgspec import Struct

from workers.contract.ids import uuid7
from workers.domain.intent import IntentBody, Kind
from workers.store import journal
from workers.store.campaigns import record_action
from workers.store.journal import Entry
from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("quarantine")
_decode_body = msgspec.json.Decoder(IntentBody).decode

LIST_MAX = 1_000  # bounds an answer; who has more has another problem


class NotQuarantinedError(Exception):
    """No such intent is in quarantine."""


class NotRetriableError(Exception):
    """What the intent wished for is not known any more, or its retry's key is taken."""


class Quarantined(Struct, frozen=True, kw_only=True):
    """A quarantined intent. What its journal row said is None where that was pruned.

    `retry` is what became of `retried_as`: `accepted`, `committed` or the refusal.
    """

    intent_id: UUID
    kind: str | None
    gateway_id: str | None
    user_id: str | None
    campaign_id: str | None
    body: msgspec.Raw | None
    error: str
    attempts: int
    accepted_at: datetime | None
    quarantined_at: datetime
    retried_as: UUID | None
    retry: str | None


class Retried(Struct, frozen=True):
    """The fresh intent of a retry; `fresh` is False where there was one already."""

    intent_id: UUID
    retried_as: UUID
    fresh: bool


def list_many(connection: Connection, count_max: int = LIST_MAX) -> list[Quarantined]:
    """Return the latest quarantined intents."""
    return _read(connection, None, count_max)


def show(connection: Connection, intent_id: UUID) -> Quarantined:
    """Return one. Raises NotQuarantinedError."""
    found = _read(connection, intent_id, 1)
    if not found:
        raise NotQuarantinedError(f"{intent_id} is not in quarantine")
    return found[0]


def retry(
    connection: Connection, intent_id: UUID, actor: str, reason: str | None = None
) -> Retried:
    """Journal the same wish as a fresh intent, unless that was done before; one commit.

    Raises NotQuarantinedError, or NotRetriableError where its journal row was pruned.
    """
    with connection.transaction():
        row = connection.execute(_SQL.quarantined_lock, {"intent_id": intent_id}).fetchone()
        if row is None:
            raise NotQuarantinedError(f"{intent_id} is not in quarantine")
        retried_as, kind, gateway_id, user_id, campaign_id, body = row
        if retried_as is not None:
            return Retried(intent_id, retried_as, fresh=False)
        if kind is None:
            raise NotRetriableError(f"{intent_id} was pruned from the journal: its wish is lost")
        key = f"retry-of:{intent_id}"
        entry = Entry(
            digest=journal.key_digest(gateway_id, Kind(kind), user_id, key),
            intent_id=uuid7(),
            fingerprint=UUID(bytes=hashlib.blake2b(body, digest_size=16).digest()),
            kind=Kind(kind),
            gateway_id=gateway_id,
            idempotency_key=key,
            user_id=user_id,
            campaign_id=campaign_id,
            body=_decode_body(body),
        )
        if not journal.append_many(connection, [entry], dispatch_after_ms=0):
            # Under the lock nobody else retries: a gateway has posted under this very key.
            raise NotRetriableError(f"the key {key!r} is bound to another intent of {user_id}")
        connection.execute(
            _SQL.retry_record, {"intent_id": intent_id, "retried_as": entry.intent_id}
        )
        record_action(
            connection,
            actor,
            "quarantine retry",
            str(intent_id),
            reason,
            retried_as=str(entry.intent_id),
        )
    return Retried(intent_id, entry.intent_id, fresh=True)


def _read(connection: Connection, intent_id: UUID | None, count_max: int) -> list[Quarantined]:
    rows = connection.execute(
        _SQL.quarantine_list, {"intent_id": intent_id, "count_max": count_max}
    )
    return [
        Quarantined(
            intent_id=found,
            kind=kind,
            gateway_id=gateway_id,
            user_id=user_id,
            campaign_id=campaign_id,
            body=None if body is None else msgspec.Raw(body),
            error=error,
            attempts=attempts,
            accepted_at=accepted_at,
            quarantined_at=quarantined_at,
            retried_as=retried_as,
            retry=retry,
        )
        for (
            found,
            kind,
            gateway_id,
            user_id,
            campaign_id,
            body,
            error,
            attempts,
            accepted_at,
            quarantined_at,
            retried_as,
            retry,
        ) in rows
    ]
