"""What a gateway is told of an intent, whether it asks over HTTP or hears by webhook."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from msgspec import Struct

from workers.contract.resource import CouponResource, IntentResource, OrderResource
from workers.domain.intent import Kind
from workers.domain.outcome import OrderStatus, PricedLine, Refusal

Codes = Callable[[UUID], str]  # a coupon's code from its id


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


class ToldIntent(Struct, frozen=True, kw_only=True):
    """An intent, in what every way of telling it has. `reason` is a refusal's."""

    intent_id: UUID
    kind: Kind
    status: Literal["accepted", "committed", "refused"]
    reason: Refusal | None
    order: OrderView | None
    coupon: CouponView | None
    accepted_at: datetime
    decided_at: datetime | None


def told(resource: IntentResource, codes: Codes) -> dict[str, Any]:
    """Return the fields of a `ToldIntent`."""
    return {
        "intent_id": resource.intent_id,
        "kind": Kind(resource.kind),
        "status": resource.status,
        "reason": resource.refusal,
        "order": None if resource.order is None else _order(resource.order),
        "coupon": None if resource.coupon is None else _coupon(resource.coupon, codes),
        "accepted_at": resource.accepted_at,
        "decided_at": resource.decided_at,
    }


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
