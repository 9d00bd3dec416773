"""Reading what operators set for gateways and campaigns: rate limits, and whose a live key is."""

from __future__ import annotations

from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("limits")


def read_limits(
    connection: Connection,
) -> tuple[dict[str, bytes], dict[str, tuple[float, int] | None]]:
    """Return each campaign's limits as JSON, and each live gateway's (rate, burst) or None."""
    campaigns: dict[str, bytes] = dict(connection.execute(_SQL.campaign_limits_read).fetchall())
    gateways = {
        gateway_id: (rate, burst) if rate is not None else None
        for gateway_id, rate, burst in connection.execute(_SQL.gateway_limits_read)
    }
    return campaigns, gateways


def gateway_of_key(connection: Connection, key_id: str, scope: str) -> str | None:
    """Return the gateway of a key that is not revoked, if the gateway has the scope; or None."""
    row = connection.execute(_SQL.gateway_of_key, {"key_id": key_id, "scope": scope}).fetchone()
    return row[0] if row else None
