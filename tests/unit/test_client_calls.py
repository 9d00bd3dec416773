"""What is asked and changed beside submitting, in virtual time; and the words on the wire."""

from __future__ import annotations

import itertools
import json
from typing import Any
from uuid import UUID

import msgspec
import pytest
from client_world import Api, World, a_world, an_order

from producer.client import requests, texts
from producer.client.faults import InvalidCall, NotFound, Unauthenticated
from producer.client.model import (
    Accepted,
    Committed,
    NotDone,
    Paid,
    Status,
    TurnedAway,
    Unconfirmed,
    Unknown,
    Unreadable,
)
from producer.client.replies import Lost, Reply
from producer.client.requests import Request
from producer.http.messages import Messages
from workers.domain.intent import OrderIntent
from workers.domain.money import Money
from workers.domain.overload import Level

ORDER_ID = UUID(int=9)


def _say(world: World, api: Api, status: int, body: Any, **headers: str) -> None:
    world.serve = lambda request: api.reply(status, body, headers)


def test_a_wish_is_written_as_the_api_reads_it() -> None:
    """The SDK's shapes and the API's are the same."""
    sent = an_order("k", expected_total=Money(0, "CNY"), ttl_ms=5_000, lines={"tea": 2, "bun": 1})
    read = msgspec.json.decode(sent.body, type=OrderIntent)
    assert [(line.sku, line.quantity) for line in read.lines] == [("tea", 2), ("bun", 1)]
    assert (read.expected_total, read.ttl_ms, read.coupon_code) == (Money(0, "CNY"), 5_000, None)


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", "\u00a0é", '"é'])
def test_a_key_of_no_use_is_refused_before_anything_is_sent(key: str) -> None:
    """It is the caller's mistake."""
    with pytest.raises(ValueError, match="idempotency_key"):
        an_order(key)


@pytest.mark.parametrize("key", ["k-1", '"k"', " k ", "a\\b", 'a "b"', "ключ", '\\"'])
def test_a_key_is_read_by_the_api_as_it_was_meant(key: str) -> None:
    """Bare or quoted, whichever says it."""
    from producer.http.headers import idempotency_key

    header = requests.post(an_order(key), 0, 1.0).headers["idempotency-key"]
    raw = header if isinstance(header, bytes) else header.encode()
    assert idempotency_key(raw) == key


def test_following_honours_what_the_api_tells_and_grows_more_seldom() -> None:
    """A 503 to a poll is no outcome; it says when to ask again."""
    world, api = a_world()
    answers = [
        api.problem(503, retry_after_ms=3_000),
        api.reply(200, api.resource("k", decided=False)),
    ]
    answers += answers[1:] * 3 + [api.reply(200, api.resource("k"))]
    world.serve = lambda request: answers.pop(0)
    receipt = Accepted(message="", intent_id=ORDER_ID, poll_after_ms=1_000, idempotency_key="k")
    result = world.call(world.core.follow(receipt, 60))
    assert isinstance(result, Committed)
    at = [moment for moment, _ in world.sent]
    gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert gaps[0] >= 3.0
    assert gaps[1:] == sorted(gaps[1:])


def test_following_another_gateways_intent_is_a_mistake() -> None:
    """404 is told as such; patience would not help."""
    world, _ = a_world()
    with pytest.raises(NotFound):
        world.call(world.core.follow(ORDER_ID, 60))
    assert len(world.sent) == 1


def test_a_key_nobody_used_is_bound_to_nothing() -> None:
    """None, unlike a journal that cannot be read."""
    world, api = a_world()
    _say(world, api, 404, {"code": "not_found"})
    assert world.call(world.core.find("u-1", "k & k")) is None
    assert world.sent[0][1].path.endswith("idempotency_key=k+%26+k&kind=order")
    _say(world, api, 503, {"code": "reading_unavailable"})
    assert isinstance(world.call(world.core.find("u-1", "k", "order", 2)), Unreadable)
    _say(world, api, 200, api.resource("k"))
    found = world.call(world.core.find("u-1", "k"))
    assert isinstance(found, Committed)
    assert found.idempotency_key == "k"


def test_a_payment_is_repeated_until_it_is_confirmed() -> None:
    """The reference makes it count once."""
    world, api = a_world()
    answers = [
        Lost(True, "ReadError"),
        api.problem(503, code="change_unconfirmed", accepted="unknown", retry_after_ms=1_000),
        api.reply(200, api.resource("k")),
    ]
    world.serve = lambda request: answers.pop(0)
    paid = world.call(world.core.pay(ORDER_ID, "p-1", 1_800))
    assert isinstance(paid, Paid)
    assert paid.order.status == "confirmed"
    assert len({(post.path, post.body) for _, post in world.sent}) == 1
    world.serve = lambda request: Lost(True, "ReadError")
    assert isinstance(world.call(world.core.pay(ORDER_ID, "p-1", 1_800, 1)), Unconfirmed)


@pytest.mark.parametrize(
    ("status", "code", "refund"),
    [
        (409, "payment_too_late", True),
        (409, "recorded_for_refund", True),
        (422, "amount_wrong", False),
    ],
)
def test_a_payment_that_does_not_count_is_told_with_what_becomes_of_the_money(
    status: int, code: str, refund: bool
) -> None:
    """A value, with the API's words for the chat."""
    world, api = a_world()
    _say(world, api, status, {"code": code, "message": "Words."})
    told = world.call(world.core.pay(ORDER_ID, "p-1", 1_800))
    assert told == NotDone(message="Words.", reason=code, refund=refund)


def test_a_cancel_that_comes_too_late_is_a_value_and_a_wrong_id_a_mistake() -> None:
    """Whoever cancels an unknown order has a bug."""
    world, api = a_world()
    _say(world, api, 409, {"code": "not_cancellable", "message": "Released."})
    assert isinstance(world.call(world.core.cancel(ORDER_ID)), NotDone)
    _say(world, api, 404, {"code": "not_found"})
    with pytest.raises(NotFound):
        world.call(world.core.cancel(ORDER_ID))


def test_the_status_is_read_with_whatever_the_api_adds_to_it() -> None:
    """An answer that has become richer breaks nothing."""
    world, api = a_world()
    _say(world, api, 200, {"level": "throttled", "issuance": "paused", "new": {"a": 1}})
    status = world.call(world.core.status())
    assert isinstance(status, Status)
    assert (status.level, status.issuance, status.redemption) == ("throttled", "paused", "open")
    _say(world, api, 200, [])
    assert isinstance(world.call(world.core.status()), Unreadable)


def _batch_of(api: Api, deed_of: dict[str, list[str]]) -> Any:
    def serve(request: Request) -> Reply | Lost:
        results = []
        for item in json.loads(request.body):
            key = item["idempotency_key"]
            deeds = deed_of.get(key, ["accept"])
            one = api._do(deeds.pop(0) if len(deeds) > 1 else deeds[0], key)
            assert isinstance(one, Reply)
            replayed = {"idempotent_replayed": True} if "idempotent-replayed" in one.headers else {}
            results.append({"status_code": one.status} | replayed | json.loads(one.body))
        return api.reply(200, results)

    return serve


def test_a_batch_tells_each_wish_its_own_and_asks_again_only_what_is_in_doubt() -> None:
    """500 at a time, with their own keys."""
    world, api = a_world()
    world.serve = _batch_of(api, {"k-3": ["unknown_after", "commit"], "k-4": ["shed"]})
    results = world.call(world.core.submit_many([an_order(f"k-{n}") for n in range(1_100)], 10))
    assert [type(result) for result in results[2:6]] == [Accepted, Committed, TurnedAway, Accepted]
    assert results[3].replayed
    assert [result.idempotency_key for result in results] == [f"k-{n}" for n in range(1_100)]
    sizes = [len(json.loads(post.body)) for _, post in world.posts()]
    assert sizes == [500, 1, 500, 100]


def test_a_closing_client_sends_no_further_batches() -> None:
    """What was sent is told; the rest is turned away by the client, to be resumed by another."""
    world, api = a_world()
    world.serve = _batch_of(api, {})
    world.closing_at = world.now + 0.005  # while the first is under way
    results = world.call(world.core.submit_many([an_order(f"k-{n}") for n in range(1_100)], 10))
    assert len(world.posts()) == 1
    assert {type(result) for result in results[:500]} == {Accepted}
    for n, result in enumerate(results[500:], 500):
        assert isinstance(result, TurnedAway)
        assert (result.limit, result.wish.idempotency_key) == ("client", f"k-{n}")
    assert len(results) == 1_100


def test_a_bad_wish_of_a_batch_fails_alone() -> None:
    """Its fault is an item, with its key."""
    world, api = a_world()
    serve = _batch_of(api, {})

    def spoilt(request: Request) -> Reply:
        items = json.loads(serve(request).body)
        items[1] = {"status_code": 400, "code": "invalid_field", "detail": "lines: too many."}
        return api.reply(200, items)

    world.serve = spoilt
    good, bad, other = world.call(world.core.submit_many([an_order(f"k-{n}") for n in range(3)], 0))
    assert isinstance(good, Accepted)
    assert isinstance(other, Accepted)
    assert isinstance(bad, InvalidCall)
    assert bad.idempotency_key == "k-1"


def test_a_batch_whose_answer_is_lost_is_in_doubt_as_a_whole() -> None:
    """And so is one whose answer has other results than wishes."""
    world, api = a_world()
    wishes = [an_order(f"k-{n}") for n in range(3)]
    for answer in (Lost(True, "ReadError"), api.reply(200, []), api.reply(200, [1, 2, 3])):
        world.serve = lambda request, answer=answer: answer  # type: ignore[misc]
        results = world.call(world.core.submit_many(wishes, 0))
        assert [type(result) for result in results] == [Unknown] * 3
    _say(world, api, 401, {"code": "unauthenticated"})
    results = world.call(world.core.submit_many(wishes, 0))
    assert [type(result) for result in results] == [Unauthenticated] * 3


@pytest.mark.parametrize("language", texts._API.languages)
def test_the_sdk_speaks_every_language_of_the_api(language: str) -> None:
    """A wait has words in each, with the same places in them."""
    assert set(texts._WAITS[language]) == set(texts._WAITS["en"])
    for reason in ("turned_away", "appointment"):
        for wait_s in (5.0, 1_200.0):
            assert "{" not in texts.waiting(reason, language, wait_s)  # type: ignore[arg-type]


def test_a_wait_is_told_as_people_say_it_and_in_english_where_there_is_no_other() -> None:
    """Rounded up: nobody is told to come too early."""
    assert "12 s" in texts.waiting("turned_away", "fr", 11.2)
    assert "20 min" in texts.waiting("appointment", None, 1_200)


def test_where_the_api_said_nothing_the_sdk_uses_its_sentences() -> None:
    """One voice in the chat, whoever speaks."""
    said = Messages()
    world, api = a_world()
    world.serve = lambda request: Lost(True, "ReadError")
    doubtful = world.call(world.core.submit(an_order("k", locale="el"), 0))
    assert doubtful.message == said.problem("el", "outcome_unknown", 1)
    assert world.call(world.core.status(0)).message == said.problem("en", "reading_unavailable", 1)
    unconfirmed = world.call(world.core.cancel(ORDER_ID, 0))
    assert unconfirmed.message == said.problem("en", "change_unconfirmed", 1)
    _say(world, api, 503, {"accepted": "no"})
    assert world.call(world.core.submit(an_order(), 0)).message == said.level("en", Level.CLOSED)
    _say(world, api, 503, {"accepted": "no", "retry_after_ms": 7_000})
    turned_away = world.call(world.core.submit(an_order(locale="zh-CN"), 0))
    assert turned_away.message == said.problem("zh-CN", "reduced_capacity", 7)
    _say(world, api, 202, api.resource("k", decided=False) | {"message": ""})
    receipt = world.call(world.core.submit(an_order(locale="zh-CN"), 0))
    assert receipt.message == said.status("zh-CN", "accepted")
