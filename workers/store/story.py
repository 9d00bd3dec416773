"""The whole story of one intent: everything the tables say of it, of one moment."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct

from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("story")
T = TypeVar("T", bound=Struct)


class Wish(Struct, frozen=True):
    """The journal row. None in a story means that it was pruned, or never was."""

    kind: str
    gateway_id: str
    idempotency_key: str
    user_id: str
    campaign_id: str
    body: msgspec.Raw
    accepted_at: datetime


class Open(Struct, frozen=True):
    """Not decided yet: failures of its own, and when it is hinted at and may be claimed again."""

    attempts: int
    last_error: str | None
    retry_after: datetime | None
    dispatch_after: datetime


class Hand(Struct, frozen=True):
    """A batch that has it in hand, or died with it."""

    batch_id: UUID
    worker: str
    claimed_at: datetime


class Decision(Struct, frozen=True):
    """The outcome; no reason: committed."""

    reason: str | None
    decided_at: datetime


class Order(Struct, frozen=True):
    """The order; amounts in minor units of its currency."""

    status: str
    total: int
    discount: int
    payable: int
    currency: str
    coupon_id: UUID | None
    payment_deadline: datetime | None
    batch_id: UUID
    created_at: datetime


class Line(Struct, frozen=True):
    """A line as sold."""

    sku: str
    quantity: int
    unit_price: int


class Payment(Struct, frozen=True):
    """A payment as recorded."""

    reference: str
    amount: int
    status: str
    recorded_at: datetime


class Coupon(Struct, frozen=True):
    """The coupon it was issued, or that its order used."""

    coupon_id: UUID
    user_id: str
    value: int
    issued_at: datetime
    expired_at: datetime | None
    valid_until: datetime | None
    redeemed_by_order: UUID | None
    redeemed_at: datetime | None


class Movement(Struct, frozen=True):
    """A ledger entry of the batch that sold the order, together with its neighbours' orders."""

    account: str
    delta: int
    recorded_at: datetime


class Quarantine(Struct, frozen=True):
    """Why it could not be processed, and its retry."""

    error: str
    attempts: int
    quarantined_at: datetime
    retried_as: UUID | None


class Story(Struct, frozen=True, kw_only=True):
    """All of it. `retry_of` is the quarantined intent whose retry this one is."""

    intent_id: UUID
    status: str  # accepted, committed or refused
    wish: Wish | None
    open: Open | None
    in_hands: list[Hand]
    decision: Decision | None
    order: Order | None
    lines: list[Line]
    coupon: Coupon | None
    payments: list[Payment]
    batch_movements: list[Movement]
    quarantine: Quarantine | None
    retry_of: UUID | None


def read(connection: Connection, intent_id: UUID) -> Story | None:
    """Read an intent's story in one snapshot; None where no table knows the id.

    `connection` must be in no transaction.
    """
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return _read(connection, intent_id)


def _read(connection: Connection, intent_id: UUID) -> Story | None:
    def many(kind: type[T], query: str, **parameters: object) -> list[T]:
        rows = connection.execute(_SQL[query], {"intent_id": intent_id, **parameters})
        return [kind(*_plain(row)) for row in rows]

    def one(kind: type[T], query: str, **parameters: object) -> T | None:
        return next(iter(many(kind, query, **parameters)), None)

    wish, order = one(Wish, "intent_read"), one(Order, "order_read")
    coupon_id = intent_id if order is None else order.coupon_id
    coupon = one(Coupon, "coupon_read", coupon_id=coupon_id)
    decision, quarantine = one(Decision, "outcome_read"), one(Quarantine, "quarantine_read")
    if not any((wish, order, coupon, decision, quarantine)):
        return None
    retried = connection.execute(_SQL.retry_of_read, {"intent_id": intent_id}).fetchone()
    return Story(
        intent_id=intent_id,
        status=_status(wish, decision, quarantine),
        wish=wish,
        open=one(Open, "open_read"),
        in_hands=many(Hand, "claims_read"),
        decision=decision,
        order=order,
        lines=many(Line, "lines_read"),
        coupon=coupon,
        payments=many(Payment, "payments_read"),
        batch_movements=many(Movement, "ledger_read", batch_id=order.batch_id) if order else [],
        quarantine=quarantine,
        retry_of=None if retried is None else retried[0],
    )


def _status(wish: Wish | None, decision: Decision | None, quarantine: Quarantine | None) -> str:
    if decision is not None:
        return "committed" if decision.reason is None else "refused"
    if wish is not None:
        return "accepted"
    return "committed" if quarantine is None else "refused"  # the journal was pruned


def _plain(row: tuple[Any, ...]) -> list[Any]:
    return [msgspec.Raw(value) if isinstance(value, bytes) else value for value in row]
