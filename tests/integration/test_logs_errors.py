"""Errors of real servers, as they are told in a log: what was wrong, and not with whose value."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import redis
from psycopg import sql

from config import exceptions
from config.redaction import Redaction
from tests.factories import owner
from workers.contract.gate import GateUnreachable
from workers.contract.library import Library, Source, open_client

CANARY = "canary-7d41f0c2"


def told(error: BaseException) -> str:
    """What a log line holds of an error, its trace included."""
    fields = {"error": error, "exception": exceptions.trace(error)}
    return json.dumps(Redaction("").event(fields))


def raised(act: Callable[[], Any]) -> BaseException:
    with pytest.raises((psycopg.Error, redis.RedisError, GateUnreachable)) as caught:
        act()
    return caught.value


@pytest.mark.parametrize(
    ("statement", "state"),
    [
        ("INSERT INTO gateways (gateway_id, scopes) VALUES ({}, ARRAY[{}]), ({}, '{{}}')", "23505"),
        (
            "INSERT INTO gateway_keys (key_id, gateway_id, key_hash) VALUES ({}, {}, sha256(''))",
            "23503",
        ),
        ("INSERT INTO gateways (gateway_id, scopes) VALUES ({}, NULL)", "23502"),
        ("SELECT {}::uuid", "22P02"),
        ("SELECT {}::int", "22P02"),
        ("SELECT {}::timestamptz", "22007"),
        ("SELECT {}::json", "22P02"),
        ("SELECT encode(decode({}, 'hex'), 'hex')", "22023"),
        ("DO $$ BEGIN RAISE EXCEPTION 'no such thing: \"%\"', 'canary-7d41f0c2'; END $$", "P0001"),
    ],
)
def test_an_error_of_postgresql_is_told_without_the_row(
    dsn: str, statement: str, state: str
) -> None:
    """The whole of its text holds the value; what is told of it does not."""
    with owner(dsn) as connection:
        quoted = sql.SQL(statement).format(*[sql.Literal(CANARY)] * statement.count("{}"))
        error = raised(lambda: connection.execute(quoted))
    assert isinstance(error, psycopg.Error)
    assert error.sqlstate == state
    assert CANARY in str(error) or state == "22023"
    assert CANARY not in told(error)
    assert state in told(error)


def test_a_broken_constraint_is_named_with_its_table(dsn: str) -> None:
    """That is what an operator looks for."""
    insert = "INSERT INTO gateways (gateway_id, scopes) VALUES (%s, '{}')"
    with owner(dsn) as connection:
        connection.execute(insert, [CANARY])
        error = raised(lambda: connection.execute(insert, [CANARY]))
    fields = exceptions.told(error)
    assert (fields["table"], fields["constraint"]) == ("gateways", "gateways_pkey")


def test_an_error_of_valkey_is_told_without_its_arguments(valkey_url: str) -> None:
    """A server that does not know a command repeats what came with it."""
    client = open_client(valkey_url, timeout_ms=1_000)
    library = Library(client, Source("gate.lua", "gate_version"))
    for command in (("NOSUCH", CANARY), ("HGETALL", "list"), ("EVAL", "return x.y", 1, CANARY)):
        client.rpush("list", CANARY)
        error = raised(lambda command=command: library.command(*command))  # type: ignore[misc]
        assert CANARY not in told(error)
        assert "ResponseError" in told(error)
    client.close()


def test_a_server_that_is_away_is_named_by_its_address_without_its_password() -> None:
    """An operator has to know where to look."""
    client = open_client(f"redis://:{CANARY}@127.0.0.1:1/0", timeout_ms=200)
    error = raised(lambda: Library(client, Source("gate.lua", "gate_version")).command("PING"))
    assert isinstance(error, GateUnreachable)
    assert "127.0.0.1:1" in told(error)
    dsn = f"postgresql://tidegate:{CANARY}@127.0.0.1:1/tidegate"
    for one in (error, raised(lambda: psycopg.connect(dsn, connect_timeout=1))):
        assert CANARY not in told(one)
        assert "127.0.0.1" in told(one)
