"""Redaction: what is written of an event holds no secret, no user and nothing like a line."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import Enum
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from kombu.exceptions import ContentDisallowed

from config import exceptions
from config.redaction import MASK, TEXT_CHARS_MAX, Redaction
from producer.http.decoding import ORDER
from workers.contract.couponcode import CouponCodes
from workers.contract.gate import GateUnreachable

CANARY = "canary-3f1c"
redaction = Redaction("a secret of the deployment")


def written(**fields: Any) -> dict[str, Any]:
    return redaction.event(fields)


def test_secrets_are_masked_by_their_key_at_any_depth() -> None:
    """Whoever logs a whole structure leaks nothing."""
    told = written(
        password=CANARY,
        db_dsn=CANARY,
        coupon_code=CANARY,
        payment_reference=CANARY,
        idempotency_key=CANARY,
        headers={"Authorization": CANARY, "list": [{"api_key": CANARY}]},
        appointment=CANARY,
    )
    assert CANARY not in json.dumps(told)
    assert told["password"] == MASK


@pytest.mark.parametrize(
    "said",
    [
        f"cannot reach redis://:{CANARY}@host/0",
        f"cannot reach postgresql://tidegate:{CANARY}@host/tidegate",
        f"connection to host=db password={CANARY} failed",
        f"connection to password='{CANARY} \\' x' failed",
        f"Bearer {CANARY}",
        f"the key is tg_{CANARY}",
        f"whsec_{CANARY}",
    ],
)
def test_secrets_inside_texts_are_masked_by_their_looks(said: str) -> None:
    """Drivers put the URL into their errors."""
    told = written(why=said)["why"]
    assert CANARY not in told
    assert MASK in told


def test_a_coupon_code_is_worth_money_and_is_masked_in_any_text() -> None:
    """As the API tells it, 44 characters of base32."""
    code = CouponCodes("m" * 32).code_of(UUID(int=7))
    assert code not in written(why=f"no such coupon: {code}")["why"]


def test_a_user_is_named_by_a_digest_that_is_the_same_everywhere() -> None:
    """Twelve digits, keyed: another deployment, or a guesser, makes others of the same id."""
    told = written(user_id="u-1", nested={"first_user_id": "u-1"}, conversation_id="c-1")
    assert told["user_id"] == told["nested"]["first_user_id"] == redaction.digest("u-1")
    assert len(told["user_id"]) == 12
    assert int(told["user_id"], 16) >= 0
    assert told["user_id"] not in (redaction.digest("u-2"), Redaction("another").digest("u-1"))
    assert "c-1" not in told["conversation_id"]


@given(st.text(max_size=80))
def test_no_text_holds_anything_that_does_not_print(text: str) -> None:
    """No line feed of any alphabet, no escape sequence, no lone surrogate."""
    told = written(why=text, users={text: text})
    assert told["why"].isprintable()
    assert all(key.isprintable() for key in told["users"])
    told["why"].encode()


def test_a_line_feed_in_a_value_is_shown_and_begins_no_line() -> None:
    """Even where lines are for people."""
    assert written(why='\n{"level":"error"}')["why"] == '\\n{"level":"error"}'


def test_structures_and_texts_have_bounds() -> None:
    """A line is read by people and sent by collectors."""
    told = written(why="x" * 100_000, ids=list(range(10_000)), deep=[[[[[[1]]]]]])
    assert len(told["why"]) == TEXT_CHARS_MAX
    assert len(told["ids"]) == 32
    assert told["deep"] == [[[["<list>"]]]]


def test_only_plain_values_are_written_and_of_all_others_their_type() -> None:
    """A repr tells whatever its author thought useful."""

    class Order:
        def __repr__(self) -> str:
            return CANARY

    class Kind(Enum):
        ORDER = "order"

    at = datetime(2026, 2, 6, tzinfo=UTC)
    told = written(a=Order(), b=CANARY.encode(), c=Kind.ORDER, d=at, e=UUID(int=1), f=2**70, g=None)
    assert told == {
        "a": "<Order>",
        "b": "<bytes>",
        "c": "order",
        "d": "2026-02-06T00:00:00+00:00",
        "e": str(UUID(int=1)),
        "f": str(2**70),
        "g": None,
    }


# Exceptions --------------------------------------------------------------------------------------


class Violated(psycopg.errors.UniqueViolation):
    """An error as PostgreSQL sends it."""

    sqlstate = "23505"
    primary = 'duplicate key value violates unique constraint "idempotency_keys_pkey"'

    @property
    def diag(self) -> Any:
        return SimpleNamespace(
            message_primary=self.primary,
            message_detail=f"Key (user_id)=({CANARY}) already exists.",
            constraint_name="idempotency_keys_pkey",
            table_name="idempotency_keys",
            column_name=None,
        )


class Unreadable(Violated):
    """One whose first sentence quotes the value."""

    sqlstate = "22P02"
    primary = f'invalid input syntax for type uuid: "{CANARY}'


def raised_by(make: Any) -> BaseException:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - of any kind
        make()
    return raised.value


def test_of_a_database_error_state_constraint_and_first_sentence_are_told() -> None:
    """Never DETAIL: it holds the row."""
    error = Violated(f"{Violated.primary}\nDETAIL:  Key (user_id)=({CANARY}) already exists.")
    assert exceptions.told(error) == {
        "type": f"{__name__}.Violated",
        "sqlstate": "23505",
        "message": Violated.primary,
        "constraint": "idempotency_keys_pkey",
        "table": "idempotency_keys",
    }


@pytest.mark.parametrize(
    "error",
    [
        Unreadable(f"{Unreadable.primary}\nLINE 1: {CANARY}"),
        psycopg.DataError(f"can't parse timestamp '{CANARY}'"),
        raised_by(lambda: int(CANARY)),
        raised_by(lambda: {}[CANARY]),
        raised_by(lambda: redaction.digest(**{CANARY: 1})),
        raised_by(lambda: msgspec.json.decode(f'{{"{CANARY}": 1}}', type=ORDER.type)),
        raised_by(lambda: ORDER.decode(f'{{"{CANARY}` - at `$.x": 1}}'.encode())),
        redis.ResponseError(f"unknown command 'FCALL', with args beginning with: '{CANARY}'"),
        redis.InvalidResponse(f"Protocol Error: {CANARY}"),
        UnicodeError(CANARY),
        ContentDisallowed(CANARY),
        ExceptionGroup(CANARY, [ValueError(CANARY)]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_an_exception_quotes_is_not_told(error: BaseException) -> None:
    """Its type is, and what its message says apart from the value."""
    told = written(error=error, exception=exceptions.trace(error))
    assert CANARY not in json.dumps(told)
    assert told["error"]["type"].endswith(type(error).__name__)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "[Errno 111] Connection refused"),
        (
            redis.ConnectionError("Error 111 connecting to host:1."),
            "Error 111 connecting to host:1.",
        ),
        (GateUnreachable("The gate is away (OOM)"), "The gate is away (OOM)"),
        (psycopg.OperationalError("connection failed\nmore"), "connection failed"),
        (raised_by(lambda: ORDER.decode(b"{}")), "Object missing required field `user_id`"),
        (AssertionError("3 answers to 4 items"), "3 answers to 4 items"),
    ],
    ids=lambda part: type(part).__name__,
)
def test_what_holds_no_value_is_told_in_its_own_words(error: Exception, message: str) -> None:
    """An operator needs to know what happened."""
    assert exceptions.told(error)["message"] == message


def test_a_trace_names_files_lines_and_causes_and_quotes_nobody() -> None:
    """The cause first, as Python prints it."""

    def fails(text: str) -> None:
        try:
            int(text)
        except ValueError as error:
            raise GateUnreachable from error

    trace = exceptions.trace(raised_by(lambda: fails(CANARY)))
    assert CANARY not in trace
    assert trace.index("ValueError") < trace.index("GateUnreachable")
    assert "int(text)" in trace
    assert f'"{__file__}"' in trace
