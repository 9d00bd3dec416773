"""Reading what is told of intents and coupons."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from workers.contract.resource import CouponResource, IntentResource, OrderResource
from workers.domain.intent import IntentBody
from workers.domain.outcome import OrderStatus, PricedLine, Refusal
from workers.store.journal import KEYS_OUTLIVE
from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("resources")
_decode_body = msgspec.json.Decoder(IntentBody).decode

COUPONS_MAX = 1_000  # of one user in one answer


class UserCoupon(Struct, frozen=True, kw_only=True):
    """A coupon as its holder sees it; `value` in minor units of `currency`.

    `status` is `issued` (redeemable within its window), `redeemed` or `expired`.
    """

    coupon_id: UUID
    campaign_id: str
    value: int
    currency: str
    status: str
    issued_at: datetime
    valid_from: datetime
    valid_until: datetime


def read_many(connection: Connection, intent_ids: Sequence[UUID]) -> dict[UUID, IntentResource]:
    """Return what became of these intents so far, in one statement; unknown ids are left out."""
    rows = connection.execute(
        _SQL.resources_read_many, {"intent_ids": list(intent_ids)}, binary=True
    )
    return {row[0]: _resource(row) for row in rows}


def coupons_of_user(connection: Connection, gateway_id: str, user_id: str) -> list[UserCoupon]:
    """Return a user's coupons, the newest first, at most `COUPONS_MAX`.

    Those that this gateway had issued, and those that were issued in bulk, as long as keys live.
    """
    parameters = {
        "user_id": user_id,
        "gateway_id": gateway_id,
        "keys_outlive_ms": KEYS_OUTLIVE // timedelta(milliseconds=1),
        "limit": COUPONS_MAX,
    }
    rows = connection.execute(_SQL.coupons_of_user, parameters, binary=True)
    return [
        UserCoupon(
            coupon_id=coupon_id,
            campaign_id=campaign_id,
            value=value,
            currency=currency,
            status=status,
            issued_at=issued_at,
            valid_from=valid_from,
            valid_until=valid_until,
        )
        for (
            coupon_id,
            campaign_id,
            value,
            currency,
            status,
            issued_at,
            valid_from,
            valid_until,
        ) in rows
    ]


def check(connection: Connection) -> None:
    """Raise psycopg.Error unless the journal can be read."""
    connection.execute(_SQL.reading_check)


def _resource(row: tuple[Any, ...]) -> IntentResource:
    intent_id, kind, gateway_id, user_id, body_text, accepted_at, decided_at, reason = row[:8]
    body = _body(body_text)
    value, valid_until = row[17:]
    return IntentResource(
        intent_id=intent_id,
        kind=kind,
        gateway_id=gateway_id,
        user_id=user_id,
        locale=body.locale,
        accepted_at=accepted_at,
        decided_at=decided_at,
        refusal=None if reason is None else Refusal(reason),
        order=None if row[8] is None else _order(intent_id, row[8:17], body),
        coupon=None
        if value is None
        else CouponResource(coupon_id=intent_id, value=value, valid_until=valid_until),
    )


def _body(text: str) -> IntentBody:
    try:
        return _decode_body(text)
    except msgspec.MsgspecError:
        return IntentBody()  # of another version; its outcome can be told without it


def _order(order_id: UUID, row: tuple[Any, ...], body: IntentBody) -> OrderResource:
    status, total, discount, payable, currency, payment_deadline, skus, quantities, prices = row
    lines = {
        sku: PricedLine(sku, quantity, price)
        for sku, quantity, price in zip(skus, quantities, prices, strict=True)
    }
    return OrderResource(
        order_id=order_id,
        status=OrderStatus(status),
        # As they were posted: what is told of an order reads the same whoever tells it.
        lines=tuple([lines[line.sku] for line in body.lines] or lines.values()),
        total=total,
        discount=discount,
        payable=payable,
        currency=currency,
        payment_deadline=payment_deadline,
    )
