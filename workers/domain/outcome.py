"""Outcomes: the one terminal result of an intent, and the published order of refusals."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from msgspec import Struct

from workers.domain.intent import Intent


class Refusal(StrEnum):
    """Reasoned noes. The order is the precedence: the first that applies is told."""

    DEADLINE_EXPIRED = "deadline_expired"
    CAMPAIGN_NOT_ACTIVE = "campaign_not_active"
    UNKNOWN_SKU = "unknown_sku"
    COUPON_UNKNOWN = "coupon_unknown"
    COUPON_EXPIRED = "coupon_expired"
    COUPON_NOT_YET_VALID = "coupon_not_yet_valid"
    COUPON_ALREADY_REDEEMED = "coupon_already_redeemed"
    COUPON_NOT_APPLICABLE = "coupon_not_applicable"
    MINIMUM_NOT_MET = "minimum_not_met"
    PRICE_CHANGED = "price_changed"
    USER_LIMIT_REACHED = "user_limit_reached"
    BUDGET_EXHAUSTED = "budget_exhausted"
    MERCHANT_UNAVAILABLE = "merchant_unavailable"
    SOLD_OUT = "sold_out"
    COULD_NOT_BE_PROCESSED = "could_not_be_processed"


class OrderStatus(StrEnum):
    """States of an order; the transitions are in `workers.domain.lifecycle`."""

    AWAITING_PAYMENT = "awaiting_payment"
    CONFIRMED = "confirmed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class PricedLine(Struct, frozen=True, gc=False):
    """A line at the price it was sold for, in minor units of the order's currency."""

    sku: str
    quantity: int
    unit_price: int


class Order(Struct, frozen=True, kw_only=True, gc=False):
    """A sale as decided. Its id is the intent's: one intent, at most one order.

    `coupon_value` is what the coupon holds in the budget (minor units); `discount` is what this
    order takes of it. `payment_deadline` is set only while there is something left to pay.
    """

    status: OrderStatus
    lines: tuple[PricedLine, ...]
    total: int
    discount: int
    payable: int
    currency: str
    coupon_id: UUID | None = None
    coupon_value: int = 0
    payment_deadline: datetime | None = None


class IssuedCoupon(Struct, frozen=True, kw_only=True, gc=False):
    """A coupon as issued. Its id is the intent's; `value` (minor units) is held in the budget."""

    value: int
    valid_until: datetime


class Outcome(Struct, frozen=True, kw_only=True, gc=False):
    """What became of an intent: a refusal, an order, or a coupon; exactly one of the three."""

    intent: Intent
    refusal: Refusal | None = None
    order: Order | None = None
    coupon: IssuedCoupon | None = None
