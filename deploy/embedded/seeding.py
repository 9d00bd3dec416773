"""What an embedded cluster is given before its processes start: schema, campaign, gateway."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path

from deploy import campaigns
from deploy.embedded.errors import EmbeddedError
from producer.http.auth import OPERATOR_SCOPES, SCOPES
from workers.domain.campaign import CampaignFile, parse
from workers.store import pool
from workers.store.migrate import migrate
from workers.store.sql import queries

_SQL = queries("embedded")
GATEWAY = "dev"


def read_campaign(path: Path) -> CampaignFile:
    """Read a campaign file. Raises CampaignFileError with every fault of it, or EmbeddedError."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as unreadable:
        msg = f"{path} cannot be read ({unreadable}); give --campaign a campaign file"
        raise EmbeddedError(msg) from unreadable


def seed(dsn: str, applied: Sequence[CampaignFile], api_key: str) -> str:
    """Migrate, apply the campaigns; return the gateway's key.

    `api_key` is the key of an earlier start on the same data, or empty to make one.
    """
    migrate(dsn)
    for campaign in applied:
        campaigns.apply(dsn, campaign)
    key = api_key or f"tg_{secrets.token_urlsafe(24)}"
    with pool.connect(dsn, pool.OWNER, pool.Bounds(), name="seed") as connection:
        connection.execute(
            _SQL.gateway_ensure,
            {
                "gateway_id": GATEWAY,
                "scopes": [*SCOPES, *OPERATOR_SCOPES],
                "key_id": GATEWAY,
                "key_hash": hashlib.sha256(key.encode()).digest(),
            },
        )
    return key
