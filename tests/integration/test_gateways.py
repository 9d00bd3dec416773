"""Gateways and their keys on the real database: shown once, rotated, revoked, limited, recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from producer.http.auth import SCOPES
from producer.limits import parse
from tests.factories import one, owner
from workers.contract.admission import RateLimit
from workers.store import gateways
from workers.store.gateways import GatewayError, NewKey
from workers.store.keys import read_keys
from workers.store.limits import read_limits
from workers.store.pool import Connection


@pytest.fixture
def connection(dsn: str) -> Iterator[Connection]:
    """An operator's connection."""
    with owner(dsn) as opened:
        yield opened


def create(connection: Connection, name: str = "chat", **given: Any) -> NewKey:
    """Make a gateway that may do everything."""
    return gateways.create_gateway(connection, name, SCOPES, actor="eva", **given)


def is_good(connection: Connection, key: NewKey) -> bool:
    """Say whether the API would know the key."""
    return hashlib.sha256(key.key.encode()).digest() in read_keys(connection)


def test_a_new_gateways_key_is_good_and_names_it(connection: Connection) -> None:
    """With the scopes it was given."""
    key = create(connection)
    digest = hashlib.sha256(key.key.encode()).digest()
    assert read_keys(connection) == {digest: ("chat", list(SCOPES))}
    assert key.key.startswith(f"tg_{key.key_id}_")


def test_a_key_is_kept_as_its_hash_only(connection: Connection, dsn: str) -> None:
    """Whoever reads the tables, or the operators' record, cannot call."""
    key = create(connection)
    for table in ("gateways", "gateway_keys", "operator_actions"):
        assert key.key.rpartition("_")[2] not in one(dsn, f"SELECT t::text FROM {table} t")


def test_a_name_is_made_once(connection: Connection) -> None:
    """The second maker is told of `rotate`."""
    create(connection)
    with pytest.raises(GatewayError, match="rotate"):
        create(connection)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "x" * 65, "-x", "gate\nway"])
def test_what_is_no_name_is_refused(connection: Connection, name: str) -> None:
    """It stands in logs and lists."""
    with pytest.raises(GatewayError, match="no name"):
        create(connection, name)


def test_a_rotated_key_overlaps_and_then_ends(connection: Connection, dsn: str) -> None:
    """A gateway changes its key without missing an intent."""
    old = create(connection)
    new = gateways.rotate_key(connection, "chat", overlap_s=600, actor="eva")
    assert is_good(connection, old)
    assert is_good(connection, new)
    newest = gateways.rotate_key(connection, "chat", overlap_s=0, actor="eva")
    assert [is_good(connection, key) for key in (old, new, newest)] == [False, False, True]
    assert one(dsn, "SELECT count(*) FROM gateway_keys WHERE revoked_at <= now()") == 2


def test_a_key_that_ends_sooner_is_not_prolonged(connection: Connection, dsn: str) -> None:
    """A second rotation with a longer overlap gives the oldest key no more time."""
    create(connection)
    gateways.rotate_key(connection, "chat", overlap_s=60, actor="eva")
    ends = one(dsn, "SELECT max(revoked_at) FROM gateway_keys")
    gateways.rotate_key(connection, "chat", overlap_s=600, actor="eva")
    assert one(dsn, "SELECT min(revoked_at) FROM gateway_keys") == ends


def test_one_key_is_revoked_alone(connection: Connection) -> None:
    """The other goes on."""
    lost = create(connection)
    kept = gateways.rotate_key(connection, "chat", overlap_s=600, actor="eva")
    assert gateways.revoke(connection, "chat", lost.key_id, actor="eva") == 1
    assert [is_good(connection, key) for key in (lost, kept)] == [False, True]
    with pytest.raises(GatewayError, match="no key"):
        gateways.revoke(connection, "chat", lost.key_id, actor="eva")


def test_a_revoked_gateway_stays_revoked(connection: Connection) -> None:
    """All its keys, for good; others are untouched."""
    keys = [create(connection), gateways.rotate_key(connection, "chat", overlap_s=9, actor="eva")]
    other = create(connection, "other")
    assert gateways.revoke(connection, "chat", actor="eva", reason="left") == 2
    assert [is_good(connection, key) for key in (*keys, other)] == [False, False, True]
    for again in (
        lambda: gateways.rotate_key(connection, "chat", actor="eva"),
        lambda: gateways.revoke(connection, "chat", actor="eva"),
        lambda: gateways.set_quota(connection, "chat", 1, 1, actor="eva"),
    ):
        with pytest.raises(GatewayError, match="was revoked"):
            again()


def test_a_gateway_that_is_not_there_is_told_so(connection: Connection) -> None:
    """Not silently nothing."""
    with pytest.raises(GatewayError, match="there is no gateway nobody"):
        gateways.revoke(connection, "nobody", actor="eva")


def test_a_quota_reaches_the_gate_and_can_be_lifted(connection: Connection) -> None:
    """As the intake reads it."""
    create(connection, rate=5, burst=10)
    assert parse(*read_limits(connection)).gateways == {"chat": RateLimit(5, 10)}
    gateways.set_quota(connection, "chat", 0.5, 3, actor="eva")
    assert parse(*read_limits(connection)).gateways == {"chat": RateLimit(0.5, 3)}
    gateways.set_quota(connection, "chat", None, None, actor="eva")
    assert parse(*read_limits(connection)).gateways == {}


@pytest.mark.parametrize(
    ("rate", "burst"), [(1, None), (None, 1), (0, 1), (float("nan"), 1), (2_000_000, 1), (1, 0)]
)
def test_a_quota_that_the_gate_would_refuse_is_refused_here(
    connection: Connection, rate: float | None, burst: int | None
) -> None:
    """A limit that cannot be read would stop all limits."""
    create(connection)
    with pytest.raises(GatewayError):
        gateways.set_quota(connection, "chat", rate, burst, actor="eva")


def test_gateways_are_listed_with_their_keys(connection: Connection) -> None:
    """Ids and times, never keys."""
    first = create(connection, rate=5, burst=10)
    second = gateways.rotate_key(connection, "chat", overlap_s=600, actor="eva")
    create(connection, "assistant")
    listed = gateways.list_gateways(connection)
    assert [record.gateway_id for record in listed] == ["assistant", "chat"]
    chat = listed[1]
    assert (chat.rate, chat.burst, chat.scopes) == (5, 10, list(SCOPES))
    assert [key.key_id for key in chat.keys] == [first.key_id, second.key_id]
    assert chat.keys[0].revoked_at is not None
    assert chat.keys[1].revoked_at is None


def test_every_action_is_recorded_with_who_and_why(connection: Connection) -> None:
    """In the same commit."""
    create(connection, reason="new partner")
    gateways.rotate_key(connection, "chat", actor="max")
    gateways.set_quota(connection, "chat", 1, 1, actor="max")
    gateways.revoke(connection, "chat", actor="max", reason="left")
    rows = connection.execute(
        "SELECT actor, action, subject, reason FROM operator_actions ORDER BY action_id"
    ).fetchall()
    assert rows == [
        ("eva", "gateway create", "gateway:chat", "new partner"),
        ("max", "gateway rotate", "gateway:chat", None),
        ("max", "gateway quota", "gateway:chat", None),
        ("max", "gateway revoke", "gateway:chat", "left"),
    ]
