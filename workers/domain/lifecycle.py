"""The life of an order after it was decided: payment, cancel, expiry. Each happens exactly once.

                            decide
                 payable > 0 │ │ payable = 0
                             ▼ └──────────────────────┐
                  ┌── awaiting_payment ──(a) pay──▶ confirmed
                  │          │                        │
        (b) expire│          │(c) cancel              │(d) cancel
      or late pay ▼          ▼                        │
               expired    cancelled ◀─────────────────┘

  (a) before the deadline, with the amount payable: units reserved → sold; the coupon's reservation
      becomes the discount spent, and the rest of it is free again.
  (b) at or past the deadline, by the sweeper or by a payment that comes too late, which is recorded
      for refund: units reserved → available; the coupon is its holder's again, the budget still
      reserved by it; the user's order counter goes back by one.
  (c) as (b), because the user asked.
  (d) units sold → available; the discount returns to the budget, and the coupon takes out of it
      again what it held before, as far as it is still free: the rest of its value was given away
      when the order was confirmed. An accepted payment falls due for refund.

`expired` and `cancelled` are final: nothing leaves them, so nothing is released twice. Every event
in every state has an answer, and a payment is never forgotten: either it is the order's, or it is
recorded for refund, or (`amount_wrong`) it was refused before anything was recorded.

`now` is the database's clock, read after the order was locked; a late lock cannot make an early
payment late by another machine's clock.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from msgspec import Struct, field

from workers.domain.intent import Kind
from workers.domain.movements import Movements
from workers.domain.outcome import OrderStatus, PricedLine


class PaymentStatus(StrEnum):
    """What a recorded payment is: the order's own, or owed back."""

    ACCEPTED = "accepted"
    REFUND_DUE = "refund_due"


class Answer(StrEnum):
    """What an event came to. The first three groups changed something; the last changed nothing."""

    PAID = "paid"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    PAYMENT_TOO_LATE = "payment_too_late"  # recorded for refund; the order is expired
    RECORDED_FOR_REFUND = "recorded_for_refund"  # the order is paid by another, or cancelled

    ALREADY_PAID = "already_paid"  # the same reference again
    ALREADY_CANCELLED = "already_cancelled"
    AMOUNT_WRONG = "amount_wrong"
    NOT_DUE = "not_due"  # nothing to expire
    NOT_CANCELLABLE = "not_cancellable"  # expired before


class Payment(Struct, frozen=True):
    """A payment as recorded: the gateway's reference, and minor units of the order's currency."""

    reference: str
    amount: int
    status: PaymentStatus


class LockedOrder(Struct, frozen=True, kw_only=True):
    """An order under its lock, with all that a transition may touch.

    `coupon_value` is what its coupon holds, or held until it was spent; `budget_available` is what
    is free of the campaign's budget, and is needed only to cancel a confirmed order.
    """

    order_id: UUID
    campaign_id: str
    user_id: str
    status: OrderStatus
    lines: tuple[PricedLine, ...]
    discount: int
    payable: int
    payment_deadline: datetime | None = None
    coupon_id: UUID | None = None
    coupon_value: int = 0
    payments: tuple[Payment, ...] = ()
    budget_available: int = 0


class Transition(Struct, frozen=True, kw_only=True):
    """What an event does to an order: all of it is to be applied, in one commit.

    `status` is the state after the event. `payment` is to be recorded (a new row), and the payments
    of `refunds` (references) become `refund_due`. `coupon_returned`: the coupon may be redeemed
    again, and is then worth `coupon_value`.
    """

    order_id: UUID
    answer: Answer
    status: OrderStatus
    changed: bool = False
    movements: Movements = field(default_factory=Movements)
    payment: Payment | None = None
    refunds: tuple[str, ...] = ()
    coupon_returned: UUID | None = None
    coupon_value: int = 0


def pay(order: LockedOrder, reference: str, amount: int, now: datetime) -> Transition:
    """Take a payment of `amount` minor units. The same reference again gets the same answer."""
    if amount != order.payable or amount == 0:
        return _nothing(order, Answer.AMOUNT_WRONG)
    for known in order.payments:
        if known.reference == reference:
            return _nothing(order, _answer_of_known(order, known))
    if order.status is not OrderStatus.AWAITING_PAYMENT:
        late = order.status is OrderStatus.EXPIRED
        answer = Answer.PAYMENT_TOO_LATE if late else Answer.RECORDED_FOR_REFUND
        return Transition(
            order_id=order.order_id,
            answer=answer,
            status=order.status,
            changed=True,
            payment=Payment(reference, amount, PaymentStatus.REFUND_DUE),
        )
    if _is_due(order, now):
        refund = Payment(reference, amount, PaymentStatus.REFUND_DUE)
        return _release(order, OrderStatus.EXPIRED, Answer.PAYMENT_TOO_LATE, refund)
    return _confirm(order, Payment(reference, amount, PaymentStatus.ACCEPTED))


def cancel(order: LockedOrder) -> Transition:
    """Take the order back, whole: units, coupon, budget, counter, and money owed to the user."""
    match order.status:
        case OrderStatus.AWAITING_PAYMENT:
            return _release(order, OrderStatus.CANCELLED, Answer.CANCELLED)
        case OrderStatus.CONFIRMED:
            return _undo(order)
        case OrderStatus.CANCELLED:
            return _nothing(order, Answer.ALREADY_CANCELLED)
        case OrderStatus.EXPIRED:
            return _nothing(order, Answer.NOT_CANCELLABLE)


def expire(order: LockedOrder, now: datetime) -> Transition:
    """Release an order whose payment deadline has come; leave any other as it is."""
    if order.status is OrderStatus.AWAITING_PAYMENT and _is_due(order, now):
        return _release(order, OrderStatus.EXPIRED, Answer.EXPIRED)
    return _nothing(order, Answer.NOT_DUE)


def _is_due(order: LockedOrder, now: datetime) -> bool:
    return order.payment_deadline is not None and now >= order.payment_deadline


def _nothing(order: LockedOrder, answer: Answer) -> Transition:
    return Transition(order_id=order.order_id, answer=answer, status=order.status)


def _answer_of_known(order: LockedOrder, known: Payment) -> Answer:
    if known.status is PaymentStatus.ACCEPTED:
        return Answer.ALREADY_PAID
    if order.status is OrderStatus.EXPIRED:
        return Answer.PAYMENT_TOO_LATE
    return Answer.RECORDED_FOR_REFUND


def _confirm(order: LockedOrder, payment: Payment) -> Transition:
    moved = Movements()
    moved.move_units(order.campaign_id, order.lines, 0, -1, 1)
    if order.coupon_id is not None:
        moved.move_budget(order.campaign_id, -order.coupon_value, order.discount)
    return Transition(
        order_id=order.order_id,
        answer=Answer.PAID,
        status=OrderStatus.CONFIRMED,
        changed=True,
        movements=moved,
        payment=payment,
    )


def _release(
    order: LockedOrder, status: OrderStatus, answer: Answer, payment: Payment | None = None
) -> Transition:
    """End an order that was never paid."""
    moved = Movements()
    moved.move_units(order.campaign_id, order.lines, 1, -1, 0)
    moved.count((order.campaign_id, order.user_id, Kind.ORDER), -1)
    return Transition(
        order_id=order.order_id,
        answer=answer,
        status=status,
        changed=True,
        movements=moved,
        payment=payment,
        coupon_returned=order.coupon_id,
        coupon_value=order.coupon_value,
    )


def _undo(order: LockedOrder) -> Transition:
    """Cancel a confirmed order."""
    moved = Movements()
    moved.move_units(order.campaign_id, order.lines, 1, 0, -1)
    moved.count((order.campaign_id, order.user_id, Kind.ORDER), -1)
    value = 0
    if order.coupon_id is not None:
        value = min(order.coupon_value, order.discount + order.budget_available)
        moved.move_budget(order.campaign_id, value, -order.discount)
    accepted = (p.reference for p in order.payments if p.status is PaymentStatus.ACCEPTED)
    return Transition(
        order_id=order.order_id,
        answer=Answer.CANCELLED,
        status=OrderStatus.CANCELLED,
        changed=True,
        movements=moved,
        refunds=tuple(accepted),
        coupon_returned=order.coupon_id,
        coupon_value=value,
    )
