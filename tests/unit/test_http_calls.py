"""What a call brings beside its body, and how often it may come: tickets and polls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from producer.answers import Posted
from producer.http import batch
from producer.http.api import Api
from producer.http.auth import Gateway
from producer.http.calls import Call, Message, Reply
from producer.http.decoding import KeyedOrderIntent
from producer.http.intents import find_intent, get_intent, post_at_once
from producer.http.messages import Messages
from producer.http.polls import Polls
from producer.http.problems import Code, Problem
from producer.levels import LevelBook
from workers.contract.ids import uuid7

ORDER = {"user_id": "u", "campaign_id": "c", "lines": [{"sku": "a", "quantity": 1}]}
CHAT = Gateway("chat", frozenset({"intents:write", "intents:read"}))


class Behind:
    """What stands behind the handlers: takes what is posted, knows no intent."""

    def __init__(self) -> None:
        self.posted: list[Posted] = []
        self.reads = 0
        self.api = cast(
            Api,
            SimpleNamespace(
                intake=SimpleNamespace(submit_and_tell=lambda one, tell: self.posted.append(one)),
                keys=SimpleNamespace(known=lambda authorization: CHAT),
                desk=SimpleNamespace(read=self._read, ask=self._ask),
                messages=Messages(),
                levels=LevelBook(),
                polls=Polls(),
                wait_max_s=30,
                traces=None,
            ),
        )

    def call(self, path: str = "/v1/intents", query: str = "", **headers: str) -> Call:
        """Make a call; its last path segment is an intent's id."""
        fields = [
            (name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()
        ]
        scope = {
            "headers": fields,
            "path": path,
            "path_params": {"intent_id": path.rpartition("/")[2]},
            "query_string": query.encode(),
        }
        return Call(self.api, path, scope, _nothing)

    async def _read(self, intent_id: UUID) -> None:
        self.reads += 1

    async def _ask(self, question: Callable[[Any], Any]) -> dict[UUID, Any]:
        self.reads += 1
        return {}


async def _nothing() -> Message:
    raise AssertionError


def post(behind: Behind, **headers: str) -> None:
    call = behind.call(content_type="application/json", idempotency_key="k", **headers)
    told: list[Reply] = []
    assert post_at_once(call, json.dumps(ORDER).encode(), told.append)


def test_a_ticket_is_handed_on_beside_the_intent() -> None:
    """Coming back with one is coming back with the same intent: it is no part of it."""
    behind = Behind()
    post(behind, tidegate_appointment="the.ticket")
    post(behind)
    with_ticket, without = behind.posted
    assert (with_ticket.appointment, without.appointment) == ("the.ticket", None)
    assert with_ticket.intent == without.intent


@pytest.mark.parametrize("ticket", ["", "x" * 513, "two words", "é"])
def test_what_cannot_be_a_ticket_is_refused_and_named(ticket: str) -> None:
    """Bounded, since it goes on to every later stage; and nothing is taken on half a ticket."""
    behind = Behind()
    with pytest.raises(Problem) as caught:
        post(behind, tidegate_appointment=ticket)
    assert caught.value.code is Code.INVALID_PARAMETER
    assert caught.value.detail.startswith("Tidegate-Appointment must have")
    assert behind.posted == []


def test_an_item_of_a_batch_names_its_ticket_itself() -> None:
    """One header cannot speak for 500 users."""
    item = {"idempotency_key": "k", "appointment": "the.ticket", **ORDER}
    read = batch._read(json.dumps(item).encode())
    assert isinstance(read, KeyedOrderIntent)
    assert read.appointment == "the.ticket"
    for ticket in ("", "x" * 513, "two words"):
        spoilt = batch._read(json.dumps({**item, "appointment": ticket}).encode())
        assert isinstance(spoilt, Problem)
        assert spoilt.errors[0].field == "appointment"


def refusals(behind: Behind, handler: Any, calls: Callable[[], Call], count: int) -> list[Problem]:
    """Ask so many times at once; return what was refused."""
    problems: list[Problem] = []

    async def ask() -> None:
        for _ in range(count):
            try:
                await handler(calls())
            except Problem as problem:
                problems.append(problem)

    asyncio.run(ask())
    return [problem for problem in problems if problem.code is not Code.NOT_FOUND]


def test_asking_for_one_intent_too_often_is_refused_before_the_journal_is_asked() -> None:
    """By id and by key; another intent's polls are not in the way."""
    behind = Behind()
    path = f"/v1/intents/{uuid7()}"
    refused = refusals(behind, get_intent, lambda: behind.call(path), 20)
    assert {(one.code, one.limit) for one in refused} == {(Code.QUOTA_EXCEEDED, "polls")}
    assert (len(refused), behind.reads) == (15, 5)
    query = "user_id=u&idempotency_key=k"
    refused = refusals(behind, find_intent, lambda: behind.call(query=query), 20)
    assert {one.limit for one in refused} == {"polls"}
    assert (len(refused), behind.reads) == (15, 10)
    assert refusals(behind, get_intent, lambda: behind.call(f"/v1/intents/{uuid7()}"), 5) == []
