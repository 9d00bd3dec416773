"""The intent resource: what is told of an intent, whoever tells it.

The journal's readers build it from rows, the worker from the outcome it just committed; it crosses
processes as MessagePack. The HTTP layer renders it for its gateway (coupon code, message).
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec
from msgspec import Struct

from workers.domain.outcome import Order, OrderStatus, Outcome, PricedLine, Refusal


class OrderResource(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """An order as told; amounts in minor units of `currency`."""

    order_id: UUID
    status: OrderStatus
    lines: tuple[PricedLine, ...]
    total: int
    discount: int
    payable: int
    currency: str
    payment_deadline: datetime | None = None


class CouponResource(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """A coupon as told; its code is made from its id where it is shown."""

    coupon_id: UUID
    value: int
    valid_until: datetime


class IntentResource(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """An intent and its one outcome. Undecided while `decided_at` is None."""

    intent_id: UUID
    kind: str
    gateway_id: str
    user_id: str
    locale: str | None
    accepted_at: datetime
    decided_at: datetime | None = None
    refusal: Refusal | None = None
    order: OrderResource | None = None
    coupon: CouponResource | None = None

    @property
    def status(self) -> str:
        """`accepted`, `committed` or `refused`."""
        if self.decided_at is None:
            return "accepted"
        return "committed" if self.refusal is None else "refused"


def resource_of(outcome: Outcome, decided_at: datetime) -> IntentResource:
    """Tell an outcome as committed at `decided_at`."""
    intent, order, coupon = outcome.intent, outcome.order, outcome.coupon
    return IntentResource(
        intent_id=intent.intent_id,
        kind=intent.kind,
        gateway_id=intent.gateway_id,
        user_id=intent.user_id,
        locale=intent.body.locale,
        accepted_at=intent.accepted_at,
        decided_at=decided_at,
        refusal=outcome.refusal,
        order=None if order is None else _order_resource(intent.intent_id, order),
        coupon=None
        if coupon is None
        else CouponResource(
            coupon_id=intent.intent_id, value=coupon.value, valid_until=coupon.valid_until
        ),
    )


def _order_resource(order_id: UUID, order: Order) -> OrderResource:
    return OrderResource(
        order_id=order_id,
        status=order.status,
        lines=order.lines,
        total=order.total,
        discount=order.discount,
        payable=order.payable,
        currency=order.currency,
        payment_deadline=order.payment_deadline,
    )


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(IntentResource)


def pack(resource: IntentResource) -> bytes:
    """Encode a resource for another process."""
    return _encoder.encode(resource)


def unpack(packed: bytes | memoryview) -> IntentResource:
    """Decode what `pack` made; raises msgspec.DecodeError on anything else."""
    return _decoder.decode(packed)
