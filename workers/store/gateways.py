"""Gateways and their keys: made, shown once, kept as hashes, rotated and revoked.

A key is `tg_{key id}_{secret}`. The id names it in lists and in what a gateway signs; the secret
holds 192 bits and is not kept: what is looked up is the SHA-256 of the whole key. Every function
does its work, and its line in the operators' record, in one transaction of its own.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from workers.contract.admission import RateLimit
from workers.store.campaigns import record_action
from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("gateways")
# It stands in keys, logs and lists: one plain word.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY_ID_BYTES = 6
_SECRET_BYTES = 24
OVERLAP_S_MAX = 30 * 86_400


class GatewayError(Exception):
    """A gateway or key is not what the command needs; the message says what is."""


class NewKey(Struct, frozen=True, kw_only=True):
    """A key at the only moment it is known."""

    gateway_id: str
    key_id: str
    key: str


class KeyRecord(Struct, frozen=True, kw_only=True):
    """What is kept of a key. `revoked_at` may lie ahead: until then it is good."""

    key_id: str
    created_at: datetime
    revoked_at: datetime | None


_decode_keys = msgspec.json.Decoder(list[KeyRecord]).decode


class GatewayRecord(Struct, frozen=True, kw_only=True):
    """A gateway with its keys, the oldest first. `rate` None: no limit of its own."""

    gateway_id: str
    scopes: list[str]
    rate: float | None
    burst: int | None
    created_at: datetime
    revoked_at: datetime | None
    keys: list[KeyRecord]


def create_gateway(
    connection: Connection,
    gateway_id: str,
    scopes: Sequence[str],
    *,
    rate: float | None = None,
    burst: int | None = None,
    actor: str,
    reason: str | None = None,
) -> NewKey:
    """Make a gateway with its first key. Raises GatewayError for a name that is taken or no name."""
    if not _NAME.fullmatch(gateway_id):
        msg = f"{gateway_id!r} is no name: write up to 64 letters, digits, `.`, `_` or `-`"
        raise GatewayError(msg)
    _check_quota(rate, burst)
    with connection.transaction():
        made = connection.execute(
            _SQL.gateway_insert,
            {"gateway_id": gateway_id, "scopes": list(scopes), "rate": rate, "burst": burst},
        )
        if made.rowcount == 0:
            msg = f"there is a gateway {gateway_id} already; `rotate` gives it another key"
            raise GatewayError(msg)
        key = _add_key(connection, gateway_id)
        _record(connection, actor, "create", gateway_id, reason, key_id=key.key_id, scopes=scopes)
    return key


def rotate_key(
    connection: Connection,
    gateway_id: str,
    *,
    overlap_s: int = 0,
    actor: str,
    reason: str | None = None,
) -> NewKey:
    """Give a gateway another key; its others are good for `overlap_s` seconds more."""
    if not 0 <= overlap_s <= OVERLAP_S_MAX:
        raise GatewayError(f"expected an overlap from 0 to {OVERLAP_S_MAX} s, got {overlap_s}")
    with connection.transaction():
        _lock(connection, gateway_id)
        key = _add_key(connection, gateway_id)
        _revoke_keys(connection, gateway_id, kept=key.key_id, after_s=overlap_s)
        _record(
            connection,
            actor,
            "rotate",
            gateway_id,
            reason,
            key_id=key.key_id,
            overlap_s=overlap_s,
        )
    return key


def revoke(
    connection: Connection,
    gateway_id: str,
    key_id: str | None = None,
    *,
    actor: str,
    reason: str | None = None,
) -> int:
    """Revoke one key of a gateway, or the gateway with all its keys; return how many keys.

    A gateway that was revoked stays so; its intents keep their outcomes.
    """
    with connection.transaction():
        _lock(connection, gateway_id)
        revoked = _revoke_keys(connection, gateway_id, key_id=key_id)
        if key_id is not None and not revoked:
            raise GatewayError(f"gateway {gateway_id} has no key {key_id} that is good")
        if key_id is None:
            connection.execute(_SQL.gateway_revoke, {"gateway_id": gateway_id})
        _record(connection, actor, "revoke", gateway_id, reason, key_id=key_id, keys=revoked)
    return revoked


def set_quota(
    connection: Connection,
    gateway_id: str,
    rate: float | None,
    burst: int | None,
    *,
    actor: str,
    reason: str | None = None,
) -> None:
    """Limit a gateway to `rate` intents a second and `burst` at once; both None: the common limit."""
    _check_quota(rate, burst)
    with connection.transaction():
        _lock(connection, gateway_id)
        connection.execute(_SQL.quota_set, {"gateway_id": gateway_id, "rate": rate, "burst": burst})
        _record(connection, actor, "quota", gateway_id, reason, rate=rate, burst=burst)


def list_gateways(connection: Connection) -> list[GatewayRecord]:
    """Return all gateways by name, revoked ones too."""
    return [
        GatewayRecord(
            gateway_id=gateway_id,
            scopes=scopes,
            rate=rate,
            burst=burst,
            created_at=created_at,
            revoked_at=revoked_at,
            keys=_decode_keys(keys),
        )
        for gateway_id, scopes, rate, burst, created_at, revoked_at, keys in connection.execute(
            _SQL.gateways_list
        )
    ]


def _check_quota(rate: float | None, burst: int | None) -> None:
    if (rate is None) != (burst is None):
        raise GatewayError("a quota is a rate and a burst, or neither")
    if rate is not None and burst is not None:
        try:
            RateLimit(rate, burst)  # the gate's own bounds: a limit beyond them would stop it
        except ValueError as error:
            raise GatewayError(str(error)) from None


def _lock(connection: Connection, gateway_id: str) -> None:
    row = connection.execute(_SQL.gateway_lock, {"gateway_id": gateway_id}).fetchone()
    if row is None:
        raise GatewayError(f"there is no gateway {gateway_id}")
    if row[0]:
        raise GatewayError(f"gateway {gateway_id} was revoked; make another one")


def _add_key(connection: Connection, gateway_id: str) -> NewKey:
    key_id = secrets.token_hex(_KEY_ID_BYTES)
    key = f"tg_{key_id}_{secrets.token_hex(_SECRET_BYTES)}"
    digest = hashlib.sha256(key.encode()).digest()
    connection.execute(
        _SQL.key_insert, {"key_id": key_id, "gateway_id": gateway_id, "key_hash": digest}
    )
    return NewKey(gateway_id=gateway_id, key_id=key_id, key=key)


def _revoke_keys(
    connection: Connection,
    gateway_id: str,
    *,
    key_id: str | None = None,
    kept: str | None = None,
    after_s: int = 0,
) -> int:
    parameters = {"gateway_id": gateway_id, "key_id": key_id, "kept": kept, "after_s": after_s}
    return connection.execute(_SQL.keys_revoke, parameters).rowcount


def _record(
    connection: Connection,
    actor: str,
    action: str,
    gateway_id: str,
    reason: str | None,
    **detail: Any,
) -> None:
    record_action(connection, actor, f"gateway {action}", f"gateway:{gateway_id}", reason, **detail)
