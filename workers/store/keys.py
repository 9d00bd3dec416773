"""Reading which gateways' keys are good."""

from __future__ import annotations

from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("keys")


def read_keys(connection: Connection) -> dict[bytes, tuple[str, list[str]]]:
    """Return (gateway, scopes) by the SHA-256 of each key that is good now."""
    rows = connection.execute(_SQL.keys_read, binary=True)
    return {key_hash: (gateway_id, scopes) for key_hash, gateway_id, scopes in rows}
