"""Posting intents over HTTP and hearing what became of them, on real servers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from uuid import UUID

import httpx
import pytest
from http_kit import (
    ISSUANCE,
    ORDER,
    TEA,
    Served,
    add_gateway,
    serve,
    settings_for,
)
from kit import comes_true
from test_levers import refreshes

from tests.factories import add_campaign, one, open_gate, owner
from workers.contract.ids import uuid7

INTENT_FIELDS = {"intent_id", "kind", "status", "reason", "order", "coupon", "accepted_at"} | {
    "decided_at",
    "message",
}


@pytest.fixture
def api(dsn: str, valkey_url: str) -> Iterator[Served]:
    """An API with a campaign, the gateway `chat` and another one."""
    add_campaign(dsn)
    add_gateway(dsn)
    add_gateway(dsn, "other")
    open_gate(valkey_url)
    with serve(settings_for(dsn, valkey_url)) as served:
        yield served


def test_an_accepted_intent_is_journalled_and_told_where_to_be_read(api: Served) -> None:
    """The receipt is the promise: its Location leads to the resource at once."""
    reply = api.post()
    assert reply.status_code == 202
    receipt = reply.json()
    assert set(receipt) == {"intent_id", "status", "estimated_wait_ms", "poll_after_ms"}
    assert receipt["status"] == "accepted"
    assert receipt["estimated_wait_ms"] >= 0
    assert reply.headers["location"] == f"/v1/intents/{receipt['intent_id']}"
    told = api.client().get(reply.headers["location"])
    assert told.status_code == 200
    assert told.json()["status"] == "accepted"
    assert set(told.json()) == INTENT_FIELDS


def test_a_decided_intent_tells_its_order_in_the_users_language(api: Served) -> None:
    """The resource holds the order as sold, and words for the chat."""
    intent_id = api.committed(locale="el")
    told = api.client().get(f"/v1/intents/{intent_id}").json()
    assert told["status"] == "committed"
    assert told["order"]["order_id"] == str(intent_id)
    assert told["order"]["status"] == "awaiting_payment"
    assert told["order"]["lines"] == [{**TEA, "unit_price": 1800}]
    assert (told["order"]["total"], told["order"]["payable"]) == (1800, 1800)
    assert told["order"]["payment_deadline"] is not None
    assert "Κρατήσαμε" in told["message"]


def test_a_refusal_tells_its_reason(api: Served) -> None:
    """A business no is an outcome like any other."""
    for n in range(12):
        api.post({**ORDER, "lines": [{"sku": "tea", "quantity": 99}]}, key=f"much-{n}")
    last = api.post({**ORDER, "lines": [{"sku": "tea", "quantity": 99}]}, key="last")
    api.work()
    told = api.client().get(last.headers["location"]).json()
    assert (told["status"], told["reason"], told["order"]) == ("refused", "sold_out", None)
    assert told["message"] == "Sorry, this is sold out."


def test_the_same_key_gets_the_same_intent(api: Served) -> None:
    """A replay is 202 while undecided, 200 with the outcome after, and never a second order."""
    first = api.post()
    again = api.post()
    assert again.status_code == 202
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["intent_id"] == first.json()["intent_id"]
    assert {"estimated_wait_ms", "poll_after_ms"} < set(again.json())
    api.work()
    decided = api.post()
    assert decided.status_code == 200
    assert decided.headers["idempotent-replayed"] == "true"
    assert decided.json()["order"]["order_id"] == first.json()["intent_id"]


def test_a_key_is_the_same_quoted_or_bare_and_a_body_however_spelt(api: Served) -> None:
    """Intents are compared as decoded, not as bytes."""
    first = api.post(key="same")
    spelt = '{ "lines":[{"quantity":1,"sku":"tea"}], "ttl_ms":60000,"campaign_id":"spring",'
    again = api.client().post(
        "/v1/intents",
        content=spelt + '"user_id":"\\u0075-1"}',
        headers={"idempotency-key": '"same"', "content-type": "application/json"},
    )
    assert again.json()["intent_id"] == first.json()["intent_id"]


def test_the_same_key_with_another_intent_is_a_conflict(api: Served) -> None:
    """One key, one intent: another body is refused, and nothing changes."""
    first = api.post()
    other = api.post({**ORDER, "lines": [{"sku": "bun", "quantity": 1}]})
    assert other.status_code == 422
    assert other.json()["code"] == "idempotency_conflict"
    api.work()
    assert api.post().json()["intent_id"] == first.json()["intent_id"]


def test_a_key_belongs_to_gateway_user_and_kind(api: Served) -> None:
    """The same word of another gateway, of another user or for a coupon is another key."""
    body = {**ORDER}
    replies = [
        api.post(body),
        api.post({**body, "user_id": "u-2"}),
        api.client("other").post("/v1/intents", json=body, headers={"idempotency-key": "k-1"}),
        api.client().post("/v1/coupons", json=ISSUANCE, headers={"idempotency-key": "k-1"}),
    ]
    assert [reply.status_code for reply in replies] == [202] * 4
    assert len({reply.json()["intent_id"] for reply in replies}) == 4


def test_who_prefers_to_wait_gets_the_outcome(api: Served) -> None:
    """`Prefer: wait` answers with the outcome as soon as it is announced."""
    with api.worker():
        reply = api.post(prefer="wait=10")
    assert reply.status_code == 200
    assert reply.headers["preference-applied"] == "wait=10"
    assert reply.json()["status"] == "committed"


def test_who_waits_in_vain_gets_the_receipt(api: Served) -> None:
    """A wait is bounded, and ends with what is known."""
    began = time.monotonic()
    reply = api.post(prefer="wait=1")
    assert 0.9 < time.monotonic() - began < 3
    assert reply.status_code == 202
    assert reply.headers["preference-applied"] == "wait=1"


def test_a_replay_can_wait_too(api: Served) -> None:
    """Asking again with a wait hears the outcome of the first."""
    first = api.post()
    with api.worker(pause_s=0.3):
        again = api.post(prefer="wait=10")
    assert again.status_code == 200
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["intent_id"] == first.json()["intent_id"]


def test_an_unannounced_outcome_is_found_in_the_journal(api: Served) -> None:
    """A lost announcement costs latency, not the answer."""
    api.announces = False
    with api.worker():
        reply = api.post(prefer="wait=10")
    assert reply.status_code == 200


def test_a_key_can_be_looked_up_and_its_kind_matters(api: Served) -> None:
    """What a key is bound to is found by user and key; an unknown key is 404."""
    first = api.post(key="find me")
    client = api.client()
    query = {"user_id": "u-1", "idempotency_key": "find me"}
    found = client.get("/v1/intents", params=query)
    assert found.status_code == 200
    assert found.json()["intent_id"] == first.json()["intent_id"]
    assert client.get("/v1/intents", params={**query, "kind": "order"}).status_code == 200
    assert client.get("/v1/intents", params={**query, "kind": "issuance"}).status_code == 404
    assert client.get("/v1/intents", params={**query, "user_id": "u-2"}).status_code == 404
    for wrong in ({"user_id": "u-1"}, {**query, "kind": "x"}, {**query, "limit": "1"}):
        reply = client.get("/v1/intents", params=wrong)
        assert reply.status_code == 400
        assert reply.json()["errors"]


def test_another_gateways_intent_is_not_found_in_the_same_words(api: Served) -> None:
    """Whether an id exists is nobody's business but its gateway's."""
    own = api.post().json()["intent_id"]
    client = api.client("other")
    paths = ["/v1/intents/{}", "/v1/intents/{}/events"]
    for path in paths:
        others, missing = (client.get(path.format(one)) for one in (own, uuid7()))
        assert others.status_code == missing.status_code == 404
        assert _anonymous(others) == _anonymous(missing)
    for path in ("/v1/orders/{}/cancel", "/v1/orders/{}/payment"):
        body = {"payment_reference": "p", "amount": 1}
        json = body if path.endswith("payment") else None
        others, missing = (client.post(path.format(one), json=json) for one in (own, uuid7()))
        assert others.status_code == missing.status_code == 404
        assert _anonymous(others) == _anonymous(missing)
    query = {"user_id": "u-1", "idempotency_key": "k-1"}
    assert client.get("/v1/intents", params=query).status_code == 404


def test_a_coupon_is_issued_and_redeemed_by_its_code(api: Served) -> None:
    """The whole way of a coupon: wish, code, order without anything to pay."""
    with api.worker():
        issued = api.client().post(
            "/v1/coupons", json=ISSUANCE, headers={"idempotency-key": "c", "prefer": "wait=10"}
        )
        assert issued.status_code == 200, issued.text
        code = issued.json()["coupon"]["code"]
        listed = api.client().get("/v1/users/u-1/coupons").json()
        assert [(one["code"], one["status"]) for one in listed["coupons"]] == [(code, "issued")]
        ordered = api.post({**ORDER, "coupon_code": code}, prefer="wait=10").json()
    assert ordered["order"]["status"] == "confirmed"
    assert (ordered["order"]["discount"], ordered["order"]["payable"]) == (1800, 0)
    assert ordered["order"]["payment_deadline"] is None
    listed = api.client().get("/v1/users/u-1/coupons").json()
    assert [one["status"] for one in listed["coupons"]] == ["redeemed"]
    for nobody in ("nobody", "a%2Fb%20c", "茶"):
        assert api.client().get(f"/v1/users/{nobody}/coupons").json()["coupons"] == []


def test_a_payment_counts_once_and_a_wrong_one_changes_nothing(api: Served) -> None:
    """Paying is idempotent by reference; a second payment is recorded for refund."""
    order_id = api.committed()
    client, path = api.client(), f"/v1/orders/{order_id}/payment"
    wrong = client.post(path, json={"payment_reference": "p-1", "amount": 1})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "amount_wrong")
    for _ in range(2):
        paid = client.post(path, json={"payment_reference": "p-1", "amount": 1800})
        assert paid.status_code == 200
        assert paid.json()["order"]["status"] == "confirmed"
    second = client.post(path, json={"payment_reference": "p-2", "amount": 1800})
    assert (second.status_code, second.json()["code"]) == (409, "recorded_for_refund")


def test_a_payment_past_the_deadline_is_told_and_recorded(dsn: str, valkey_url: str) -> None:
    """Too late is 409, and everything is released."""
    add_campaign(dsn, payment_window_ms=50)
    add_gateway(dsn)
    open_gate(valkey_url)
    with serve(settings_for(dsn, valkey_url)) as api:
        order_id = api.committed()
        past = "SELECT payment_deadline < clock_timestamp() FROM orders"
        assert comes_true(lambda: one(dsn, past))
        body = {"payment_reference": "p-1", "amount": 1800}
        late = api.client().post(f"/v1/orders/{order_id}/payment", json=body)
        assert (late.status_code, late.json()["code"]) == (409, "payment_too_late")
        gone = api.client().post(f"/v1/orders/{order_id}/cancel")
        assert (gone.status_code, gone.json()["code"]) == (409, "not_cancellable")


def test_a_cancel_returns_everything_once(api: Served) -> None:
    """Cancelling again says the same, and an empty body is as good as none."""
    order_id = api.committed()
    client, path = api.client(), f"/v1/orders/{order_id}/cancel"
    for body in ({}, {"json": {}}):
        cancelled = client.post(path, **body)  # type: ignore[arg-type]
        assert cancelled.status_code == 200
        assert cancelled.json()["order"]["status"] == "cancelled"
    assert client.post(path, json={"reason": "x"}).status_code == 400


def test_the_callers_limit_is_429_and_says_when_to_come_back(
    api: Served, limit: Callable[[str], None]
) -> None:
    """The layer that bound is named; the wait is in the header, the body and the words."""
    limit('{"user": {"rate": 0.1, "burst": 1}}')
    replies = [api.post(key=f"k-{n}", **{"accept-language": "el"}) for n in range(2)]
    refused = replies[-1]
    assert refused.status_code == 429
    told = refused.json()
    assert (told["limit"], told["code"], told["accepted"]) == ("user", "quota_exceeded", "no")
    assert told["type"].endswith("#quota-exceeded")
    assert told["retry_after_ms"] >= 9_000
    assert int(refused.headers["retry-after"]) >= 9
    assert re.fullmatch(r'"user";r=0;t=\d+', refused.headers["ratelimit"])
    assert "ξανά" in told["message"]


def test_our_limit_is_503_and_binds_no_key(api: Served, limit: Callable[[str], None]) -> None:
    """A campaign's limit is ours; the same key is welcome later."""
    limit('{"campaign": {"rate": 0.5, "burst": 1}}')
    assert api.post(key="first").status_code == 202
    refused = api.post(key="second")
    assert refused.status_code == 503
    assert (refused.json()["limit"], refused.json()["level"]) == ("campaign", "normal")
    assert refused.json()["accepted"] == "no"
    assert api.post(key="first").status_code == 202, "a known key is told at every level"
    limit("{}")
    assert api.post(key="second").status_code == 202


@pytest.fixture
def limit(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Change the campaign's limits; returns when the API has them."""
    refreshed = refreshes(monkeypatch)

    def changed(limits: str) -> None:
        with owner(dsn) as connection:
            connection.execute("UPDATE campaigns SET rate_limits = %s", (limits,))
        refreshed()

    return changed


def _anonymous(reply: httpx.Response) -> dict[str, object]:
    told = reply.json()
    assert UUID(told.pop("trace_id"))
    del told["instance"]
    return dict(told)
