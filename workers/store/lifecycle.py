"""Carrying out what `workers.domain.lifecycle` decides: payment, cancel, expiry, each in one commit.

Locks in the one global order: order rows, budgets, stock by sku, coupons by id, user counters. The
clock is read after them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import psycopg

from workers.contract.ids import uuid7
from workers.domain import lifecycle
from workers.domain.lifecycle import LockedOrder, Payment, PaymentStatus, Transition
from workers.domain.movements import Movements
from workers.domain.outcome import OrderStatus, PricedLine
from workers.store.applying import write_movements
from workers.store.errors import Fault, fault_of
from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("lifecycle")

CONTENTION_RETRIES_MAX = 5
STRETCH = 20  # coupons looked at for each that may be expired at once: milliseconds, however many
T = TypeVar("T")
Event = Callable[[LockedOrder, datetime], Transition]


def pay(
    connection: Connection, order_id: UUID, gateway_id: str, reference: str, amount: int
) -> Transition | None:
    """Take a payment of `amount` minor units; None where this gateway has no such order."""
    return _change_one(
        connection, order_id, gateway_id, lambda o, now: lifecycle.pay(o, reference, amount, now)
    )


def cancel(connection: Connection, order_id: UUID, gateway_id: str) -> Transition | None:
    """Cancel an order; None where this gateway has no such order."""
    return _change_one(connection, order_id, gateway_id, lambda o, _: lifecycle.cancel(o))


def expire_due(connection: Connection, count_max: int) -> int:
    """Expire up to `count_max` orders whose payment deadline has come; return how many."""

    def once() -> list[Transition]:
        rows = connection.execute(_SQL.orders_due_lock, {"count_max": count_max}).fetchall()
        return _transit(connection, rows, lifecycle.expire)

    return len(_in_transaction(connection, once))


def expire_coupons(connection: Connection, after: UUID, count_max: int) -> tuple[int, UUID | None]:
    """Expire unredeemed coupons whose window is over, in order of their ids, from `after` on.

    Each returns to the budget all it held. Looks at a stretch of coupons, expires `count_max` of them
    at most, and returns how many, and where to go on from (None: the end was reached).
    """
    parameters = {"after": after, "count_max": count_max, "stretch": count_max * STRETCH}
    rows = connection.execute(_SQL.coupons_due, parameters, binary=True).fetchall()
    due = sorted(row for row in rows if row[1] is not None)
    go_on: UUID | None = next((row[0] for row in rows if row[1] is None), None)
    if len(due) == count_max:
        go_on = due[-1][0]
    if not due:
        return 0, go_on

    def once() -> list[Any]:
        campaigns = sorted({campaign_id for _, campaign_id in due})
        connection.execute(_SQL.budgets_lock, {"campaign_ids": campaigns})
        expired = connection.execute(
            _SQL.coupons_expire, {"coupon_ids": [coupon_id for coupon_id, _ in due]}
        ).fetchall()
        moved = Movements()
        for campaign_id, value in expired:
            moved.move_budget(campaign_id, -value, 0)
        write_movements(connection, uuid7(), moved, counted=())
        return expired

    expired = _in_transaction(connection, once)
    return len(expired), go_on


def _change_one(
    connection: Connection, order_id: UUID, gateway_id: str, event: Event
) -> Transition | None:
    def once() -> list[Transition]:
        parameters = {"order_ids": [order_id], "gateway_id": gateway_id}
        rows = connection.execute(_SQL.orders_lock, parameters).fetchall()
        return _transit(connection, rows, event)

    return next(iter(_in_transaction(connection, once)), None)


def _in_transaction(connection: Connection, once: Callable[[], list[T]]) -> list[T]:
    """Run and commit `once`, again where others were in its way; raises what is not contention."""
    for attempt in range(CONTENTION_RETRIES_MAX + 1):
        try:
            with connection.transaction():
                return once()
        except psycopg.Error as error:
            if fault_of(error) is not Fault.CONTENTION or attempt == CONTENTION_RETRIES_MAX:
                raise
            time.sleep(random.uniform(0.002, 0.02) * (attempt + 1))
    raise AssertionError("the last attempt returns or raises")


def _transit(
    connection: Connection, rows: Sequence[tuple[Any, ...]], event: Event
) -> list[Transition]:
    if not rows:
        return []
    orders, now = _gather(connection, rows)
    transitions = [event(order, now) for order in orders]
    _apply(connection, [transition for transition in transitions if transition.changed])
    return transitions


def _gather(
    connection: Connection, rows: Sequence[tuple[Any, ...]]
) -> tuple[list[LockedOrder], datetime]:
    """Lock the rest of what these orders touch, then read the clock."""
    order_ids = [row[0] for row in rows]
    lines = connection.execute(_SQL.order_lines_read, {"order_ids": order_ids}).fetchall()
    campaign_of = {row[0]: row[1] for row in rows}
    goods = sorted({(campaign_of[order_id], sku) for order_id, sku, _, _ in lines})
    coupon_ids = [row[9] for row in rows if row[9] is not None]
    with connection.pipeline():
        campaigns = sorted({row[1] for row in rows if row[9] is not None})
        budgets = connection.execute(_SQL.budgets_lock, {"campaign_ids": campaigns})
        connection.execute(
            _SQL.stock_lock,
            {"campaign_ids": [c for c, _ in goods], "skus": [sku for _, sku in goods]},
        )
        coupons = connection.execute(_SQL.coupons_lock, {"coupon_ids": coupon_ids})
        connection.execute(
            _SQL.counters_lock,
            {"campaign_ids": [row[1] for row in rows], "user_ids": [row[2] for row in rows]},
        )
        payments = connection.execute(_SQL.payments_read, {"order_ids": order_ids})
        clock = connection.execute(_SQL.clock_read)
        orders = _orders(rows, lines, dict(budgets), dict(coupons), payments.fetchall())
        now: datetime = clock.fetchall()[0][0]
    return orders, now


def _orders(
    rows: Iterable[tuple[Any, ...]],
    lines: Iterable[tuple[Any, ...]],
    budgets: dict[str, int],
    coupons: dict[UUID, int],
    payments: Iterable[tuple[Any, ...]],
) -> list[LockedOrder]:
    lines_of: dict[UUID, list[PricedLine]] = {}
    for order_id, sku, quantity, unit_price in lines:
        lines_of.setdefault(order_id, []).append(PricedLine(sku, quantity, unit_price))
    payments_of: dict[UUID, list[Payment]] = {}
    for order_id, reference, amount, status in payments:
        payments_of.setdefault(order_id, []).append(
            Payment(reference, amount, PaymentStatus(status))
        )
    return [
        LockedOrder(
            order_id=order_id,
            campaign_id=campaign_id,
            user_id=user_id,
            status=OrderStatus(status),
            lines=tuple(lines_of.get(order_id, ())),
            discount=discount,
            payable=payable,
            payment_deadline=payment_deadline,
            coupon_id=coupon_id,
            coupon_value=coupons.get(coupon_id, 0),
            payments=tuple(payments_of.get(order_id, ())),
            budget_available=budgets.get(campaign_id, 0),
        )
        for (
            order_id,
            campaign_id,
            user_id,
            status,
            _total,
            discount,
            payable,
            _currency,
            payment_deadline,
            coupon_id,
        ) in rows
    ]


def _apply(connection: Connection, changed: Sequence[Transition]) -> None:
    if not changed:
        return
    moved = Movements()
    for transition in changed:
        moved.add(transition.movements)
    with connection.pipeline():
        write_movements(connection, uuid7(), moved, counted=moved.counters)
        connection.execute(
            _SQL.orders_set,
            {
                "order_ids": [transition.order_id for transition in changed],
                "statuses": [transition.status.value for transition in changed],
            },
        )
        _write_coupons(connection, changed)
        _write_payments(connection, changed)


def _write_coupons(connection: Connection, changed: Sequence[Transition]) -> None:
    returned = [t for t in changed if t.coupon_returned is not None]
    if returned:
        connection.execute(
            _SQL.coupons_return,
            {
                "coupon_ids": [t.coupon_returned for t in returned],
                "values": [t.coupon_value for t in returned],
            },
        )


def _write_payments(connection: Connection, changed: Sequence[Transition]) -> None:
    refunds = [(t.order_id, reference) for t in changed for reference in t.refunds]
    if refunds:
        connection.execute(
            _SQL.payments_refund,
            {
                "order_ids": [order_id for order_id, _ in refunds],
                "references": [reference for _, reference in refunds],
            },
        )
    paid = [(t.order_id, t.payment) for t in changed if t.payment is not None]
    if paid:
        connection.execute(
            _SQL.payments_insert,
            {
                "order_ids": [order_id for order_id, _ in paid],
                "references": [payment.reference for _, payment in paid],
                "amounts": [payment.amount for _, payment in paid],
                "statuses": [payment.status.value for _, payment in paid],
            },
        )
