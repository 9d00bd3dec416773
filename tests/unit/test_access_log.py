"""The access log: which calls are told of, and what is told of them."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from config import logging
from config.repetition import Repetition
from config.tracing import begin
from producer.answers import Accepted, Limited, Posted
from producer.http.access import SAMPLED_MAX, AccessLog
from producer.http.api import Api
from producer.http.calls import Call, Message
from producer.http.messages import Messages
from producer.http.problems import Code, Problem
from producer.levels import LevelBook
from workers.contract.ids import uuid7
from workers.domain.intent import Line, OrderIntent

NOW = datetime(2026, 2, 6, tzinfo=UTC)
IN = f"00-{'0' * 18}{'f' * 14}-{'1' * 16}-01".encode()  # ends as high as an id can
OUT = f"00-{'f' * 18}{'0' * 14}-{'1' * 16}-01".encode()


@pytest.fixture(autouse=True)
def fresh_count(monkeypatch: pytest.MonkeyPatch) -> Repetition:
    made = Repetition()
    monkeypatch.setattr(logging, "repetition", made)
    return made


async def nothing() -> Message:
    raise AssertionError


def call(access: AccessLog | None = None, *, method: str = "POST", **headers: bytes) -> Call:
    api = SimpleNamespace(messages=Messages(), levels=LevelBook(), access=access or AccessLog())
    scope = {
        "headers": [(name.encode(), value) for name, value in headers.items()],
        "method": method,
        "path_params": {"user_id": "a user", "order_id": str(UUID(int=7))},
    }
    return Call(cast(Api, api), "/v1/intents", scope, nothing)


def posted(intent_id: UUID | None = None) -> Posted:
    intent = OrderIntent(user_id="u-1", campaign_id="c", lines=(Line("a", 1),))
    return Posted(
        intent_id=intent_id or uuid7(), gateway_id="chat", idempotency_key="k", intent=intent
    )


def told(access: AccessLog, *calls: tuple[Call, int]) -> list[Any]:
    """What the access log says of calls that were answered with these statuses."""
    with capture_logs() as events:
        for one, status in calls:
            access.note(one, status)
    return events


def refused(**limited: Any) -> Call:
    """A call that a limit of ours has refused."""
    made = call()
    made.render(
        Problem(Code.REDUCED_CAPACITY, "no", retry_after_ms=1_000, accepted="no", **limited)
    )
    return made


def test_a_call_is_told_by_the_trace_it_belongs_to() -> None:
    """The same trace in every process; of a gateway that sends none, a share of all."""
    access = AccessLog(0.01)
    (event,) = told(access, (call(traceparent=IN), 202), (call(traceparent=OUT), 202))
    assert event["trace_id"] == "0" * 18 + "f" * 14
    assert len(told(AccessLog(1.0), *[(call(), 202)] * 20)) == 20
    assert told(AccessLog(0.0), (call(traceparent=IN), 202), (call(), 202)) == []


def test_a_call_is_told_by_its_intent_too() -> None:
    """The intents that a worker names are those whose calls are told."""
    access, intent_id = AccessLog(0.01), UUID(int=(1 << 56) - 1)
    one, other = call(traceparent=OUT), call(traceparent=OUT)
    one.posted, one.given = posted(intent_id), Accepted(intent_id, NOW)
    other.posted, other.given = posted(), Accepted(UUID(int=1 << 60), NOW)
    (event,) = told(access, (one, 202), (other, 202))
    assert event["intent_id"] == intent_id


def test_an_accepted_call_of_no_trace_is_told_by_its_intent_alone() -> None:
    """A trace of our own making is known nowhere else: it would only double the share."""
    access = AccessLog(0.5)
    inside, outside = UUID(int=(1 << 56) - 1), UUID(int=1)
    calls = [call() for _ in range(100)]
    for one, intent_id in zip(calls, [inside, outside] * 50, strict=True):
        one.posted, one.given = posted(intent_id), Accepted(intent_id, NOW)
    events = told(access, *[(one, 202) for one in calls])
    assert [event["intent_id"] for event in events] == [inside] * 50


def test_an_accepted_call_whose_trace_has_spans_is_told_by_its_trace_too() -> None:
    """Ours to begin, and known beyond this process by then."""
    one, other = call(), call()
    one._trace, other._trace = (1 << 56) - 1, 1
    for each in (one, other):
        each.posted, each.given = posted(), Accepted(UUID(int=1), NOW)
        each.context = begin(each.trace)
    (event,) = told(AccessLog(0.01), (one, 202), (other, 202))
    assert event["trace_id"] == one.trace_id


def test_an_event_says_what_came_and_what_became_of_it() -> None:
    """One wide event a call; of what the caller wrote, only what is known here by that name."""
    one = call(traceparent=IN)
    one.gateway, one.posted = "chat", posted()
    one.given = Accepted(one.posted.intent_id, NOW)
    (event,) = told(AccessLog(1.0), (one, 202))
    assert event.pop("duration_ms") >= 0
    assert event == {
        "event": "request",
        "wide": True,
        "log_level": "info",
        "method": "POST",
        "route": "/v1/intents",
        "status": 202,
        "trace_id": "0" * 18 + "f" * 14,
        "gateway": "chat",
        "kind": "order",
        "user_id": "u-1",  # hashed where it is written
        "answer": "accepted",
        "intent_id": one.posted.intent_id,
        "overload_level": "normal",
    }


def test_a_method_of_the_callers_own_making_is_not_repeated() -> None:
    """Whatever a server may let through."""
    (event,) = told(AccessLog(1.0), (call(method="canary"), 405))
    assert event["method"] == "other"


def test_refusals_of_our_making_are_told_whatever_the_sample() -> None:
    """With the limit that bound; the caller's own limits are his business."""
    theirs = call(traceparent=OUT)
    theirs.render(Problem(Code.QUOTA_EXCEEDED, "no", retry_after_ms=1, limit="user"))
    (event,) = told(AccessLog(0.0), (refused(limit="level"), 503), (theirs, 429))
    assert (event["log_level"], event["status"]) == ("warning", 503)
    assert (event["code"], event["limit"]) == ("reduced_capacity", "level")


def test_of_each_kind_of_refusal_a_few_are_told_and_the_rest_counted(
    fresh_count: Repetition,
) -> None:
    """In an hour of overload most answers are refusals."""
    calls = [(refused(limit=limit), 503) for limit in ["level"] * 500 + ["deadline"] * 3]
    assert Counter(event["limit"] for event in told(AccessLog(0.0), *calls)) == {
        "level": 10,
        "deadline": 3,
    }
    kind = ("warning", "request", "/v1/intents", "reduced_capacity", "level")
    assert fresh_count.ended(now_all=True) == [(kind, 490)]


def test_whoever_chooses_the_ids_of_his_traces_does_not_write_the_log_full() -> None:
    """A gateway may send what the sample holds, each time."""
    calls = [(call(traceparent=IN), 202)] * (SAMPLED_MAX + 50)
    assert len(told(AccessLog(0.01), *calls)) == SAMPLED_MAX


def test_a_fault_of_ours_is_an_error_with_its_origin_and_is_let_go() -> None:
    """It holds the frames that hold the call: kept, they would be a circle."""
    one = call()
    reply = one.answer(lambda: cast(Any, {})["canary"])
    (event,) = told(AccessLog(0.0), (one, reply.status))
    assert (event["log_level"], event["code"]) == ("error", "internal_error")
    assert isinstance(event["exc_info"], KeyError)
    assert one.fault is None


def test_a_batch_is_one_event_with_its_statuses_and_the_intents_of_the_sample() -> None:
    """A refusal of ours among its items is told like one alone."""
    fine, troubled = call(traceparent=OUT), call(traceparent=OUT)
    fine.items, troubled.items = Counter({202: 2}), Counter({202: 1, 503: 1})
    named = UUID(int=(1 << 56) - 1)
    fine.accepted, troubled.accepted = [named, UUID(int=1 << 60)], []
    first, second = told(AccessLog(0.01), (fine, 200), (troubled, 200))
    assert (first["intents"], first["intent_ids"], first["log_level"]) == (2, [named], "info")
    assert (second["statuses"], second["log_level"]) == ({202: 1, 503: 1}, "warning")


def test_the_problem_and_the_event_have_one_trace_id() -> None:
    """Who was told it finds the line, whether the trace was the caller's or ours."""
    for headers in ({}, {"traceparent": IN}):
        one = call(**headers)
        reply = one.render(Problem(Code.DEPENDENCY_UNAVAILABLE, "no", retry_after_ms=1))
        (event,) = told(AccessLog(0.0), (one, reply.status))
        assert f'"trace_id":"{event["trace_id"]}"'.encode() in reply.body


@pytest.mark.parametrize(
    ("route", "instance"),
    [
        ("/v1/intents", "/v1/intents"),
        ("/v1/orders/{order_id}/payment", f"/v1/orders/{UUID(int=7)}/payment"),
        ("/v1/users/{user_id}/coupons", "/v1/users/-/coupons"),
        ("", "/"),
    ],
)
def test_a_problem_names_its_path_without_what_a_user_wrote(route: str, instance: str) -> None:
    """Ids of ours are told; whatever else stood there is not."""
    one = call()
    one.route = route
    assert f'"instance":"{instance}"'.encode() in one.render(Problem(Code.NOT_FOUND, "no")).body


def test_limits_are_no_answers_of_an_intent_alone() -> None:
    """Refused intents are told with the word of their answer, and have no id: none was made."""
    one = refused(limit="level")
    one.posted, one.given = posted(), Limited("level", 1_000)
    (event,) = told(AccessLog(0.0), (one, 503))
    assert event["answer"] == "limited"
    assert "intent_id" not in event
