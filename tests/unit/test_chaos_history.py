"""The driver's history: written line by line, read back whole but for a torn end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from deploy.chaos import history
from deploy.chaos.answers import is_definite, read_change, read_poll, read_post, read_rebody
from deploy.chaos.history import History
from deploy.load.wire import Reply

RESOURCE = (
    b'{"intent_id":"i-1","status":"committed","reason":null,"order":'
    b'{"order_id":"i-1","status":"confirmed","total":1800,"discount":1800,"payable":0}}'
)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[History]:
    with closing(History(tmp_path / "history.jsonl")) as log:
        yield log


def reply(status: int, body: bytes) -> Reply:
    return Reply(status, body, 0.0, False)


def test_what_was_written_is_read_back_in_order(log: History) -> None:
    call = log.begin("post", key="k", units={"hot": 2}, coupon=True)
    log.end(call, "post", "ok", key="k", intent_id="i-1")
    log.close()
    began, ended = history.read(log.path)
    assert (began.phase, began.key, began.units, began.coupon) == ("invoke", "k", {"hot": 2}, True)
    assert (ended.phase, ended.intent_id) == ("ok", "i-1")
    assert began.call == ended.call
    assert began.at <= ended.at


def test_a_line_torn_by_a_death_is_left_out(log: History) -> None:
    log.begin("post", key="whole")
    log.close()
    with log.path.open("ab") as out:
        out.write(b'{"at":1.0,"call":2,"op":"po')
    assert [entry.key for entry in history.read(log.path)] == ["whole"]


def test_a_line_torn_anywhere_else_is_an_error(log: History) -> None:
    log.close()
    log.path.write_bytes(b'{"at":1.0,\n{"at":1.0,"call":1,"op":"post","phase":"invoke"}\n')
    with pytest.raises(msgspec.MsgspecError):
        history.read(log.path)


def test_counts_are_kept_by_kind_and_phase(log: History) -> None:
    for _ in range(3):
        log.end(log.begin("poll"), "poll", "missing")
    assert log.counts["poll", "invoke"] == log.counts["poll", "missing"] == 3


@pytest.mark.parametrize(
    ("status", "body", "phase"),
    [
        (202, b'{"intent_id":"i-1","status":"accepted"}', "ok"),
        (200, RESOURCE, "ok"),
        (200, b'{"status":"not_accepted","reason":"sold_out","final":true}', "no"),
        (429, b'{"status":429,"limit":"user"}', "no"),
        (503, b'{"status":503,"accepted":"no","limit":"in_flight"}', "no"),
        (503, b'{"status":503,"accepted":"unknown"}', "unknown"),
        (503, b'{"status":503}', "unknown"),
        (500, b"", "unknown"),
        (202, b"torn", "unknown"),
        (400, b'{"status":400,"code":"malformed"}', "no"),
    ],
)
def test_an_answer_to_a_post_is_a_receipt_a_no_or_neither(
    status: int, body: bytes, phase: str
) -> None:
    assert read_post(reply(status, body))["phase"] == phase


def test_no_answer_is_unknown() -> None:
    readings = (read_post, read_poll, read_rebody, read_change)
    assert {read(None)["phase"] for read in readings} == {"unknown"}


def test_an_outcome_is_spelt_with_its_money_and_without_the_orders_further_life() -> None:
    said = read_poll(reply(200, RESOURCE))
    paid = read_poll(reply(200, RESOURCE.replace(b"confirmed", b"cancelled")))
    assert said["outcome"] == paid["outcome"] == "committed 1800 - 1800 = 0"
    assert (said["order_status"], paid["order_status"]) == ("confirmed", "cancelled")


def test_another_wish_under_a_known_key_is_to_be_a_conflict() -> None:
    conflict = reply(422, b'{"code":"idempotency_conflict"}')
    taken = reply(202, b'{"intent_id":"i-2","status":"accepted"}')
    denied = reply(503, b'{"accepted":"no","code":"overloaded"}')
    assert [read_rebody(one)["phase"] for one in (conflict, taken, denied)] == [
        "no",
        "ok",
        "missing",
    ]


def test_only_a_no_of_business_is_definite(log: History) -> None:
    noes = {200: True, 422: True, 429: False, 503: False}
    said = {status: is_definite(log.end(1, "post", "no", http=status)) for status in noes}
    assert said == noes
