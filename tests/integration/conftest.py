"""A world with its campaign, for tests of the intake and the workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kit import World


@pytest.fixture
def world(dsn: str, valkey_url: str) -> Iterator[World]:
    """A fresh database with the campaign of `factories.add_campaign`, and a gate that admits."""
    with World(dsn, valkey_url) as opened:
        opened.campaign()
        yield opened
