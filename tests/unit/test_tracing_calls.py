"""Which calls are followed: as their caller says, else by the trace's id, and never too many."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from config import logging
from config.repetition import Repetition
from config.tracing import Span
from producer.answers import Accepted, Answer, Limited, Posted
from producer.celery_tracing import MessageTraces
from producer.http import batch
from producer.http.access import AccessLog
from producer.http.api import Api
from producer.http.auth import Gateway
from producer.http.calls import Call, Message
from producer.http.messages import Messages
from producer.http.problems import Code, Problem
from producer.http.tracing import CallTraces
from producer.levels import LevelBook
from producer.tracing import INTENTS_MAX, TRACES_PER_S_MAX
from workers.contract.ids import uuid7
from workers.contract.trace import context_of, parent_of
from workers.domain.intent import Line, OrderIntent

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STATE = "ot=th:8,vendor@chat=x y"
CHAT = Gateway("chat", frozenset({"intents:write"}))
NOW = datetime(2026, 2, 6, tzinfo=UTC)


@pytest.fixture(autouse=True)
def fresh_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave what the log has told of meanwhile to nobody else."""
    monkeypatch.setattr(logging, "repetition", Repetition())


def an_order() -> Posted:
    intent = OrderIntent(user_id="u", campaign_id="c", lines=(Line("a", 1),))
    return Posted(intent_id=uuid7(), gateway_id="chat", idempotency_key="k", intent=intent)


class Told:
    """In place of a tracer: keeps what it is told."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def tell(self, spans: Any) -> None:
        self.spans += spans


class Intake:
    """Refuses everything, and keeps it."""

    def __init__(self) -> None:
        self.posted: list[Posted] = []

    async def submit_many(self, items: list[Posted]) -> list[Answer]:
        self.posted += items
        return [Limited("gateway", 1_000) for _ in items]


def traces(share: float = 0.0) -> tuple[CallTraces, list[Span]]:
    told = Told()
    return CallTraces(cast(Any, told), share), told.spans


def call(traceparent: str | None = None, *, body: bytes = b"", **parts: Any) -> Call:
    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    fields = {b"content-type": b"application/json"}
    if traceparent is not None:
        fields[b"traceparent"] = traceparent.encode()
    api = SimpleNamespace(levels=LevelBook(), messages=Messages(), **parts)
    scope = {"headers": list(fields.items()), "method": "POST"}
    return Call(cast(Api, api), "/v1/intents/batch", scope, receive)


def is_followed(share: float, traceparent: str | None) -> bool:
    return traces(share)[0].follow(call(traceparent)) is not None


@pytest.mark.parametrize(
    ("flags", "followed"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True)]
)
def test_a_callers_flag_decides_whatever_our_share(flags: str, followed: bool) -> None:
    """Its trace would be torn otherwise; of the flags one is known."""
    for share in (0.0, 1.0):
        assert is_followed(share, f"00-{TRACE}-{PARENT}-{flags}") is followed


def test_what_is_no_traceparent_decides_nothing() -> None:
    """A call with rubbish begins a trace of its own, like one without."""
    for rubbish in (None, "", "junk", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{PARENT}-01"):
        assert is_followed(1.0, rubbish)
        assert not is_followed(0.0, rubbish)


@pytest.mark.parametrize("accepted", [True, False])
def test_calls_that_say_nothing_are_chosen_as_the_log_chooses(accepted: bool) -> None:
    """By the trace's id, so that a trace with spans has its log lines, whatever became of it."""
    followed = Counter[bool]()
    made, _ = traces(0.5)
    access = AccessLog(0.5)
    for _ in range(TRACES_PER_S_MAX // 2):
        one = call()
        one.given = Accepted(UUID(int=1), NOW) if accepted else None  # not in the sample itself
        place = made.follow(one)
        with capture_logs() as told:
            access.note(one, 202)
        assert [event["trace_id"] for event in told] == ([one.trace_id] if place else [])
        assert place is None or place.trace == one.trace
        followed[place is not None] += 1
    assert followed.keys() == {True, False}


def test_a_call_is_decided_once() -> None:
    """What was posted with it, and its own span, are in the same trace or in none."""
    made, told = traces()
    one = call(f"00-{TRACE}-{PARENT}-01")
    place = made.follow(one)
    assert made.follow(one) == place
    made.tell(one, 200)
    (span,) = told
    assert span.context == place
    assert span.parent == parent_of(f"00-{TRACE}-{PARENT}-01".encode())[0]  # type: ignore[index]


def test_no_more_than_so_many_calls_are_followed_in_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever flags every call is followed in some of them; the next second there is room again."""
    now = [100.0]
    monkeypatch.setattr("producer.tracing.time.monotonic", lambda: now[0])
    made, _ = traces()
    offered = [call(f"00-{TRACE}-{PARENT}-01") for _ in range(2 * TRACES_PER_S_MAX)]
    assert sum(made.follow(one) is not None for one in offered) == TRACES_PER_S_MAX
    now[0] += 1
    assert made.follow(offered[-1]) is None  # it was decided
    assert made.follow(call(f"00-{TRACE}-{PARENT}-01")) is not None


def test_a_call_that_failed_is_told_with_what_its_caller_was_told() -> None:
    """A fault of ours is an error of the span; a refusal of the caller's making is none."""
    made, told = traces()
    ours, theirs = call(f"00-{TRACE}-{PARENT}-01"), call(f"00-{TRACE}-{PARENT}-01")
    ours.render(Problem(Code.REDUCED_CAPACITY, "no", retry_after_ms=1_000, accepted="no"))
    theirs.render(Problem(Code.MALFORMED_BODY, "no JSON"))
    made.tell(ours, 503)
    made.tell(theirs, 400)
    assert [span.fault for span in told] == [Code.REDUCED_CAPACITY.word, ""]
    assert [span.attributes["tidegate.problem"] for span in told] == [
        Code.REDUCED_CAPACITY.word,
        Code.MALFORMED_BODY.word,
    ]


def test_of_a_batch_call_the_first_few_intents_are_followed() -> None:
    """They share the call's trace: 500 of them would be a trace that nobody reads."""
    made, told = traces()
    item = {"user_id": "u", "campaign_id": "c", "lines": [{"sku": "a", "quantity": 1}]}
    count = 3 * INTENTS_MAX
    body = json.dumps([{"idempotency_key": f"k-{number}", **item} for number in range(count)])
    intake = Intake()
    keys = SimpleNamespace(known=lambda authorization: CHAT)
    for flags, followed in (("01", INTENTS_MAX), ("00", 0)):
        one = call(
            f"00-{TRACE}-{PARENT}-{flags}",
            body=body.encode(),
            intake=intake,
            keys=keys,
            traces=made,
        )
        intake.posted.clear()
        asyncio.run(batch.post_batch(one))
        places = [posted.traceparent for posted in intake.posted]
        assert places[followed:] == [None] * (count - followed)
        assert {context_of(place) for place in places[:followed]} == (
            {made.follow(one)} if followed else set()
        )
        made.tell(one, 200)
    (span,) = told
    assert span.attributes["tidegate.batch.intents"] == count


def test_a_message_of_celery_is_followed_as_a_call_is() -> None:
    """By its header field; its first few intents take their place with them."""
    told = Told()
    messages = MessageTraces(cast(Any, told), 0.0, "amqp://broker")
    posted = [an_order() for _ in range(2 * INTENTS_MAX)]
    for unfollowed in (f"00-{TRACE}-{PARENT}-00", None, 7, "ü"):
        assert messages.follow((unfollowed, None), 5) is None
    message = messages.follow((f"00-{TRACE}-{PARENT}-01", STATE), int(TRACE, 16))
    assert message is not None
    followed = message.on(posted)
    assert [one.intent_id for one in followed] == [one.intent_id for one in posted]
    places = [context_of(one.traceparent, one.tracestate) for one in followed]
    assert places == [message.context] * INTENTS_MAX + [None] * INTENTS_MAX
    messages.tell(message, "chat", len(posted))
    (span,) = told.spans
    assert (span.name, span.kind, span.context) == (
        "process submitted intents",
        "consumer",
        message.context,
    )
    assert span.parent is not None
    assert (f"{span.parent.span:016x}", span.parent.state) == (PARENT, STATE)
    assert span.attributes["messaging.system"] == "rabbitmq"
    assert span.attributes["messaging.destination.name"] == "tidegate.intake"
