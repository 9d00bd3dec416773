"""The journal: appending intents under their keys, and finding what a key is bound to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
from msgspec import Struct

from workers.contract.ids import uuid_of
from workers.domain.intent import IntentBody, IssuanceIntent, Kind, OrderIntent
from workers.store import arrays
from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("journal")

KEYS_OUTLIVE = timedelta(days=7)  # after a campaign's coupons expired: a promise of the API
_SEPARATOR = "\x1f"
_encode = msgspec.json.Encoder().encode


class Entry(Struct, frozen=True, kw_only=True):
    """One intent as the journal takes it."""

    digest: bytes
    intent_id: UUID
    fingerprint: UUID
    kind: Kind
    gateway_id: str
    idempotency_key: str
    user_id: str
    campaign_id: str
    body: IntentBody


class BoundKey(Struct, frozen=True):
    """What a known key stands for."""

    intent_id: UUID
    fingerprint: UUID


def key_digest(gateway_id: str, kind: Kind, user_id: str, idempotency_key: str) -> bytes:
    """Digest of a key in its scope: 16 bytes, kept as a uuid.

    None of the parts may hold a control character, so the separator keeps them apart.
    """
    scoped = _SEPARATOR.join((gateway_id, kind, user_id, idempotency_key))
    return hashlib.sha256(scoped.encode()).digest()[:16]


def fingerprint(intent: OrderIntent | IssuanceIntent) -> UUID:
    """Digest of an intent as decoded: spelling and order of its JSON do not matter."""
    return uuid_of(hashlib.blake2b(_encode(intent), digest_size=16).digest())


def append_many(
    connection: Connection, entries: Iterable[Entry], dispatch_after_ms: int
) -> dict[UUID, datetime]:
    """Append entries in one statement and commit; return acceptance times by intent id.

    An entry whose key is known is left out of the answer, and changes nothing. Doing it again with
    the same entries is harmless, so a lost reply is settled by asking again.
    """
    rows = sorted(entries, key=lambda entry: entry.digest)  # as PostgreSQL orders them
    cursor = connection.execute(
        _SQL.journal_append_many,
        {
            "digests": arrays.raw_uuids([row.digest for row in rows]),
            "intent_ids": arrays.uuids([row.intent_id for row in rows]),
            "fingerprints": arrays.uuids([row.fingerprint for row in rows]),
            "kinds": arrays.texts([row.kind.value for row in rows]),
            "gateway_ids": arrays.texts([row.gateway_id for row in rows]),
            "keys": arrays.texts([row.idempotency_key for row in rows]),
            "user_ids": arrays.texts([row.user_id for row in rows]),
            "campaign_ids": arrays.texts([row.campaign_id for row in rows]),
            "bodies": arrays.texts([_encode(row.body).decode() for row in rows]),
            "dispatch_after_ms": dispatch_after_ms,
        },
        binary=True,
    )
    return dict(cursor.fetchall())


def find_keys(connection: Connection, digests: Sequence[bytes]) -> dict[bytes, BoundKey]:
    """Return what the keys of these digests are bound to; unknown ones are left out."""
    packed = {"digests": arrays.raw_uuids(digests)}
    rows = connection.execute(_SQL.keys_find_many, packed, binary=True)
    return {digest.bytes: BoundKey(intent_id, mark) for digest, intent_id, mark, _ in rows}
