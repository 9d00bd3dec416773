"""Servers of the conformance tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gate_world import OwnValkey


@pytest.fixture
def own_valkey() -> Iterator[OwnValkey]:
    """A server that the test alone uses, with an append-only file, to be hurt."""
    server = OwnValkey("--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.close()


@pytest.fixture(scope="module")
def valkey_of_module() -> Iterator[str]:
    """A server that lives through all examples of a property; each takes a prefix of its own."""
    server = OwnValkey()
    yield server.url
    server.close()
