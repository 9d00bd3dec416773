"""A campaign, a user with a coupon, and an order that meets no refusal; each test spoils one thing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from workers.domain.decide import decide
from workers.domain.intent import Intent, IntentBody, Kind, Line
from workers.domain.outcome import Outcome
from workers.domain.snapshot import Budget, Campaign, Coupon, CouponTerms, Item, Snapshot

OPENING = datetime(2026, 2, 6, 2, tzinfo=UTC)
CLOSING = OPENING + timedelta(days=22)
ACCEPTED = OPENING + timedelta(hours=1)
NOW = ACCEPTED + timedelta(seconds=2)
COUPON_ID = UUID(int=7)

TERMS = CouponTerms(kind="amount_off", amount=2500, valid_from=OPENING, valid_until=CLOSING)
CAMPAIGN = Campaign(
    campaign_id="spring",
    currency="CNY",
    starts_at=OPENING,
    ends_at=CLOSING,
    orders_per_user_max=3,
    coupons_per_user_max=2,
    payment_window_ms=900_000,
    coupon=TERMS,
)
TEA = Item(price=1800, merchant_id="tea-house", merchant_paused=False, available=10)
COUPON = Coupon(campaign_id="spring", user_id="u-1", value=2500)
BUDGET = Budget(budget=100_000, reserved=2500, spent=0)


def an_order(number: int = 1, **changes: Any) -> Intent:
    """Return the wish of u-1 for one tea; keys of the body may be given beside the intent's."""
    return _intent(Kind.ORDER, number, {"lines": (Line("tea", 1),)} | changes)


def an_issuance(number: int = 1, **changes: Any) -> Intent:
    """Return the wish of u-1 for a coupon."""
    return _intent(Kind.ISSUANCE, number, changes)


def _intent(kind: Kind, number: int, given: dict[str, Any]) -> Intent:
    body = {name: given.pop(name) for name in IntentBody.__struct_fields__ if name in given}
    fields: dict[str, Any] = {
        "intent_id": UUID(int=1000 + number),
        "kind": kind,
        "gateway_id": "g",
        "user_id": "u-1",
        "campaign_id": "spring",
        "accepted_at": ACCEPTED,
    }
    return Intent(**fields | given, body=IntentBody(**body))


def a_snapshot(**changes: Any) -> Snapshot:
    """Return what the store would read for them."""
    whole = Snapshot(
        campaigns={"spring": CAMPAIGN},
        items={("spring", "tea"): TEA},
        coupons={COUPON_ID: COUPON},
        budgets={"spring": BUDGET},
    )
    return replace(whole, **changes)


def with_terms(**changes: Any) -> dict[str, Campaign]:
    """Return the campaigns, the coupon's terms changed."""
    return {"spring": replace(CAMPAIGN, coupon=replace(TERMS, **changes))}


def decide_one(intent: Intent, snapshot: Snapshot, now: datetime = NOW) -> Outcome:
    """Decide one intent by itself."""
    (outcome,) = decide([intent], snapshot, now)
    return outcome
