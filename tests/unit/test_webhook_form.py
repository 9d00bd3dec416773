"""A webhook's form: CloudEvents in the body, Standard Webhooks in the headers."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.factories import MASTER
from workers.contract.couponcode import CouponCodes
from workers.contract.resource import CouponResource, IntentResource, OrderResource
from workers.contract.webhook import (
    SecretGone,
    WebhookSecrets,
    headers_of,
    intent_body,
    intent_event_id,
    intent_of_event_id,
    level_body,
    level_event_id,
    spell,
)
from workers.domain.delivery import EventType
from workers.domain.outcome import OrderStatus, PricedLine, Refusal
from workers.service.letters import Letter, Writer
from workers.store.webhooks import Endpoint

AT = datetime(2026, 2, 6, 12, 0, tzinfo=UTC)
ID = UUID("019c3266-0000-7000-8000-000000000001")
CODES = CouponCodes(MASTER)
SECRETS = WebhookSecrets(MASTER)
NEW, OLD = SECRETS.new_ref(), SECRETS.new_ref()


def resource(**given: Any) -> IntentResource:
    """An intent that was committed with an order of nothing to pay."""
    order = OrderResource(
        order_id=ID,
        status=OrderStatus.CANCELLED,
        lines=(PricedLine("tea", 1, 1_800),),
        total=1_800,
        discount=1_800 - given.get("payable", 0),
        payable=given.pop("payable", 0),
        currency="CNY",
        payment_deadline=AT,
    )
    fields: dict[str, Any] = {
        "intent_id": ID,
        "kind": "order",
        "gateway_id": "chat",
        "user_id": "u-1",
        "locale": "zh-CN",
        "accepted_at": AT,
        "decided_at": AT,
        "order": order,
    }
    return IntentResource(**fields | given)


def told(event: EventType, found: IntentResource) -> Any:
    """What a receiver reads."""
    return json.loads(intent_body(event, AT, found, "key-1", CODES))


def signed(body: bytes, at_s: int | None = None, refs: tuple[str, ...] = ()) -> dict[str, str]:
    """Headers of endpoint 1, signed by the secrets of these references."""
    secrets = [SECRETS.secret_of(1, ref) for ref in refs or (NEW,)]
    return headers_of("evt_1", at_s or int(time.time()), body, secrets)


def test_an_event_is_a_cloud_event_that_tells_the_intent() -> None:
    """CloudEvents 1.0, structured; the intent is its subject."""
    body = told(EventType.COMMITTED, resource())
    data = body.pop("data")
    assert body == {
        "specversion": "1.0",
        "id": "evt_019c3266000070008000000000000001_committed",
        "source": "/tidegate",
        "type": "tidegate.intent.committed",
        "subject": str(ID),
        "time": "2026-02-06T12:00:00Z",
        "datacontenttype": "application/json",
    }
    assert data["status"] == "committed"
    assert data["order"]["lines"] == [{"sku": "tea", "quantity": 1, "unit_price": 1_800}]


def test_a_gateway_that_knows_only_its_own_key_finds_its_intent() -> None:
    """As one that sent it by the broker."""
    data = told(EventType.COMMITTED, resource())["data"]
    assert (data["user_id"], data["idempotency_key"]) == ("u-1", "key-1")


@pytest.mark.parametrize(
    ("event", "payable", "status", "deadline"),
    [
        (EventType.COMMITTED, 0, "confirmed", None),
        (EventType.COMMITTED, 700, "awaiting_payment", "2026-02-06T12:00:00Z"),
        (EventType.CONFIRMED, 700, "confirmed", None),
        (EventType.EXPIRED, 700, "expired", None),
        (EventType.CANCELLED, 700, "cancelled", None),
    ],
)
def test_an_event_tells_the_order_as_it_stood_then(
    event: EventType, payable: int, status: str, deadline: str | None
) -> None:
    """However far it has gone on until the event is delivered: every attempt says the same."""
    order = told(event, resource(payable=payable))["data"]["order"]
    assert (order["status"], order["payment_deadline"]) == (status, deadline)


def test_a_refusal_says_its_reason() -> None:
    """And has no order."""
    data = told(EventType.REFUSED, resource(order=None, refusal=Refusal.SOLD_OUT))["data"]
    assert (data["status"], data["reason"], data["order"]) == ("refused", "sold_out", None)


def test_an_issued_coupon_comes_with_its_code() -> None:
    """As the API tells it: the gateway shows it to the user."""
    coupon = CouponResource(coupon_id=ID, value=2_500, valid_until=AT)
    data = told(EventType.COMMITTED, resource(order=None, kind="issuance", coupon=coupon))["data"]
    assert CODES.coupon_id_of(data["coupon"]["code"]) == ID


def test_a_change_of_level_has_no_subject() -> None:
    """It concerns everybody."""
    event_id = level_event_id(1_770_379_200_000, "shedding")
    body = json.loads(level_body(event_id, AT, b'{"level":"shedding"}'))
    assert "subject" not in body
    assert (body["type"], body["data"]) == ("tidegate.level.changed", {"level": "shedding"})


@pytest.mark.parametrize("event", EventType)
def test_an_id_names_its_event_and_holds_no_full_stop(event: EventType) -> None:
    """The signed content is delimited by them."""
    event_id = intent_event_id(ID, event)
    assert "." not in event_id
    assert intent_of_event_id(event_id) == (ID, event.value.rpartition(".")[2])


@pytest.mark.parametrize("text", ["", "evt_", "evt_x_y", "evt_level_1_closed", f"msg_{ID.hex}_x"])
def test_what_is_no_id_of_an_event_names_none(text: str) -> None:
    """An operator may have mistyped it."""
    assert intent_of_event_id(text) is None


def test_the_official_library_verifies_the_signature() -> None:
    """With the secret as it was shown."""
    body = intent_body(EventType.COMMITTED, AT, resource(), "key-1", CODES)
    webhook = Webhook(spell(SECRETS.secret_of(1, NEW)))
    assert webhook.verify(body, signed(body))["subject"] == str(ID)


@pytest.mark.parametrize("skew_s", [-400, 400])
def test_the_official_library_refuses_an_old_or_a_future_timestamp(skew_s: int) -> None:
    """A recorded message cannot be sent again later."""
    body = b"{}"
    headers = signed(body, int(time.time()) + skew_s)
    with pytest.raises(WebhookVerificationError, match="too"):
        Webhook(spell(SECRETS.secret_of(1, NEW))).verify(body, headers)


@pytest.mark.parametrize("forged", ["body", "webhook-id", "webhook-timestamp", "webhook-signature"])
def test_the_official_library_refuses_whatever_was_changed(forged: str) -> None:
    """Body, id and time are all signed."""
    body = b'{"a":1}'
    headers = signed(body)
    if forged == "body":
        body = b'{"a":2}'
    elif forged == "webhook-timestamp":
        headers[forged] = str(int(headers[forged]) + 1)
    elif forged == "webhook-signature":
        headers[forged] = signed(b"another")[forged]
    else:
        headers[forged] = "evt_2"
    with pytest.raises(WebhookVerificationError, match="No matching"):
        Webhook(spell(SECRETS.secret_of(1, NEW))).verify(body, headers)


def test_during_a_rotation_both_secrets_verify() -> None:
    """Their signatures stand beside each other."""
    headers = signed(b"{}", refs=(NEW, OLD))
    assert headers["webhook-signature"].count(" ") == 1
    for ref in (NEW, OLD):
        assert Webhook(spell(SECRETS.secret_of(1, ref))).verify(b"{}", headers) == {}


def test_a_secret_is_one_endpoints_and_one_references() -> None:
    """32 bytes: within the 24 to 64 of Standard Webhooks."""
    found = {SECRETS.secret_of(n, ref) for n in (1, 2) for ref in (NEW, OLD)}
    assert len(found) == 4
    assert {len(secret) for secret in found} == {32}


def test_a_secret_outlives_the_rotation_of_the_master() -> None:
    """Until the old master is dropped; then the endpoint has to be rotated."""
    ref = SECRETS.new_ref()
    rotated = WebhookSecrets("another-" * 5, (MASTER,))
    assert rotated.secret_of(1, ref) == SECRETS.secret_of(1, ref)
    assert rotated.new_ref().partition("-")[0] != ref.partition("-")[0]
    with pytest.raises(SecretGone):
        WebhookSecrets("another-" * 5).secret_of(1, ref)


def test_a_former_secret_that_is_gone_signs_no_more_and_stops_nothing() -> None:
    """The current one's absence does: a letter that nobody signed is nobody's."""
    gone = WebhookSecrets("another master that was taken away").new_ref()
    writer, letter = Writer(SECRETS, CODES), Letter("evt_1", b"{}")

    def endpoint(*refs: str) -> Endpoint:
        return Endpoint(
            endpoint_id=1,
            gateway_id="chat",
            url="https://hooks.example/",
            secret_refs=refs,
            failures=0,
            pause_s=0.0,
            failing_s=0.0,
        )

    headers = writer.sign(endpoint(NEW, gone), letter)
    assert " " not in headers["webhook-signature"]
    Webhook(spell(SECRETS.secret_of(1, NEW))).verify(letter.body, headers)
    assert " " in writer.sign(endpoint(NEW, OLD), letter)["webhook-signature"]
    with pytest.raises(SecretGone):
        writer.sign(endpoint(gone, NEW), letter)
