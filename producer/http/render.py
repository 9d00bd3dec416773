"""What is told of intents, orders and coupons: the shapes of the answers, and their making."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec
from msgspec import Struct

from producer.http.messages import Language, Messages
from workers.contract.resource import CouponResource, IntentResource, OrderResource
from workers.domain.intent import Kind
from workers.domain.outcome import OrderStatus, PricedLine, Refusal
from workers.store.resources import UserCoupon

Codes = Callable[[UUID], str]  # a coupon's code from its id


class Receipt(Struct, frozen=True, kw_only=True):
    """The promise: this intent is journalled, and will have exactly one outcome.

    `estimated_wait_ms` is how long outcomes take at present, as measured.
    """

    intent_id: UUID
    status: Literal["accepted"] = "accepted"
    estimated_wait_ms: int
    poll_after_ms: int


class OrderView(Struct, frozen=True, kw_only=True):
    """An order; amounts in minor units of `currency`. `payable` is `total` less `discount`.

    `payment_deadline` is set while the order awaits its payment.
    """

    order_id: UUID
    status: OrderStatus
    lines: tuple[PricedLine, ...]
    total: int
    discount: int
    payable: int
    currency: str
    payment_deadline: datetime | None


class CouponView(Struct, frozen=True, kw_only=True):
    """A coupon just issued; `value` is the most it takes off, in minor units."""

    code: str
    value: int
    valid_until: datetime


class IntentView(Struct, frozen=True, kw_only=True):
    """The intent resource. `reason` is a refusal's; `message` is fit to be shown in the chat."""

    intent_id: UUID
    kind: Kind
    status: Literal["accepted", "committed", "refused"]
    reason: Refusal | None
    order: OrderView | None
    coupon: CouponView | None
    accepted_at: datetime
    decided_at: datetime | None
    message: str


class UserCouponView(Struct, frozen=True, kw_only=True):
    """A coupon of a user; `value` in minor units of `currency`."""

    code: str
    campaign_id: str
    status: Literal["issued", "redeemed", "expired"]
    value: int
    currency: str
    issued_at: datetime
    valid_from: datetime
    valid_until: datetime


class UserCouponsView(Struct, frozen=True, kw_only=True):
    """A user's coupons, the newest first."""

    user_id: str
    coupons: tuple[UserCouponView, ...]


encode = msgspec.json.Encoder().encode


def receipt(intent_id: bytes, estimated_wait_ms: int, poll_after_ms: int) -> bytes:
    """Write a receipt. By hand: it is the answer that a busy API gives most."""
    return b'{"intent_id":"%b","status":"accepted","estimated_wait_ms":%d,"poll_after_ms":%d}' % (
        intent_id,
        estimated_wait_ms,
        poll_after_ms,
    )


def intent(resource: IntentResource, language: Language, messages: Messages, codes: Codes) -> bytes:
    """Write an intent resource."""
    return encode(
        IntentView(
            intent_id=resource.intent_id,
            kind=Kind(resource.kind),
            status=resource.status,  # type: ignore[arg-type]  # a property that returns these
            reason=resource.refusal,
            order=None if resource.order is None else _order(resource.order),
            coupon=None if resource.coupon is None else _coupon(resource.coupon, codes),
            accepted_at=resource.accepted_at,
            decided_at=resource.decided_at,
            message=message(resource, language, messages),
        )
    )


def message(resource: IntentResource, language: Language, messages: Messages) -> str:
    """Say in the chat's words where an intent stands."""
    if resource.refusal is not None:
        return messages.refusal(language, resource.refusal.value)
    if resource.order is not None:
        return messages.status(language, resource.order.status.value)
    if resource.coupon is not None:
        return messages.status(language, "issued")
    issuance = resource.kind == Kind.ISSUANCE.value
    return messages.status(language, "accepted_issuance" if issuance else "accepted")


def user_coupons(user_id: str, coupons: list[UserCoupon], codes: Codes) -> bytes:
    """Write a user's coupons."""
    return encode(
        UserCouponsView(
            user_id=user_id,
            coupons=tuple(
                UserCouponView(
                    code=codes(coupon.coupon_id),
                    campaign_id=coupon.campaign_id,
                    status=coupon.status,  # type: ignore[arg-type]  # the query returns these
                    value=coupon.value,
                    currency=coupon.currency,
                    issued_at=coupon.issued_at,
                    valid_from=coupon.valid_from,
                    valid_until=coupon.valid_until,
                )
                for coupon in coupons
            ),
        )
    )


def _order(order: OrderResource) -> OrderView:
    return OrderView(
        order_id=order.order_id,
        status=order.status,
        lines=order.lines,
        total=order.total,
        discount=order.discount,
        payable=order.payable,
        currency=order.currency,
        # Kept in the journal as it was; there is something left to pay only in this state.
        payment_deadline=order.payment_deadline
        if order.status is OrderStatus.AWAITING_PAYMENT
        else None,
    )


def _coupon(coupon: CouponResource, codes: Codes) -> CouponView:
    return CouponView(
        code=codes(coupon.coupon_id), value=coupon.value, valid_until=coupon.valid_until
    )
