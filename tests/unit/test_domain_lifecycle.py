"""The life of an order: every event in every state, and each release exactly once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from workers.domain.intent import Kind
from workers.domain.lifecycle import (
    Answer,
    LockedOrder,
    Payment,
    PaymentStatus,
    Transition,
    cancel,
    expire,
    pay,
)
from workers.domain.movements import BudgetDelta, Movements, StockDelta, ledger_entries
from workers.domain.outcome import OrderStatus, PricedLine

DEADLINE = datetime(2026, 2, 6, 12, tzinfo=UTC)
EARLY, LATE = DEADLINE - timedelta(microseconds=1), DEADLINE
COUPON_ID = UUID(int=7)

AWAITING = LockedOrder(
    order_id=UUID(int=1),
    campaign_id="spring",
    user_id="u-1",
    status=OrderStatus.AWAITING_PAYMENT,
    lines=(PricedLine("tea", 2, 1800),),
    discount=2500,
    payable=1100,
    payment_deadline=DEADLINE,
    coupon_id=COUPON_ID,
    coupon_value=2500,
    budget_available=0,
)
ACCEPTED = Payment("r-1", 1100, PaymentStatus.ACCEPTED)
PAID = replace(AWAITING, status=OrderStatus.CONFIRMED, payments=(ACCEPTED,))
EXPIRED = replace(AWAITING, status=OrderStatus.EXPIRED)
CANCELLED = replace(AWAITING, status=OrderStatus.CANCELLED)
TEA = ("spring", "tea")
COUNTER = ("spring", "u-1", Kind.ORDER)


def after(order: LockedOrder, moved: Transition) -> LockedOrder:
    """Return the order as the store would read it after the transition."""
    payments = [
        replace(p, status=PaymentStatus.REFUND_DUE) if p.reference in moved.refunds else p
        for p in order.payments
    ]
    if moved.payment is not None:
        payments.append(moved.payment)
    return replace(order, status=moved.status, payments=tuple(payments))


def test_a_payment_in_time_confirms_the_order() -> None:
    """Units go from reserved to sold; the coupon's reservation becomes the discount spent."""
    moved = pay(AWAITING, "r-1", 1100, EARLY)
    assert (moved.answer, moved.status) == (Answer.PAID, OrderStatus.CONFIRMED)
    assert moved.payment == ACCEPTED
    assert moved.movements.stock == {TEA: StockDelta(0, -2, 2)}
    assert moved.movements.budgets == {"spring": BudgetDelta(-2500, 2500)}
    assert moved.movements.counters == {}
    assert moved.coupon_returned is None


def test_what_the_coupon_did_not_give_returns_to_the_budget_with_the_payment() -> None:
    """Reserved falls by the coupon's whole value, spent rises by the discount."""
    order = replace(AWAITING, discount=2000, payable=1600)
    moved = pay(order, "r-1", 1600, EARLY)
    assert moved.movements.budgets == {"spring": BudgetDelta(-2500, 2000)}


@pytest.mark.parametrize("now", [LATE, LATE + timedelta(days=1)])
def test_a_payment_at_or_past_the_deadline_expires_the_order_and_is_refunded(now: datetime) -> None:
    """The late payer need not wait for the sweeper to learn it, and loses nothing."""
    moved = pay(AWAITING, "r-1", 1100, now)
    assert (moved.answer, moved.status) == (Answer.PAYMENT_TOO_LATE, OrderStatus.EXPIRED)
    assert moved.payment == Payment("r-1", 1100, PaymentStatus.REFUND_DUE)
    assert_released(moved)


def assert_released(moved: Transition) -> None:
    """Units, counter and coupon are returned; the budget stays reserved by the coupon."""
    assert moved.movements.stock == {TEA: StockDelta(2, -2, 0)}
    assert moved.movements.budgets == {}
    assert moved.movements.counters == {COUNTER: -1}
    assert (moved.coupon_returned, moved.coupon_value) == (COUPON_ID, 2500)


def test_the_sweeper_releases_an_order_past_its_deadline() -> None:
    """What a late payment would do, without a payment."""
    moved = expire(AWAITING, LATE)
    assert (moved.answer, moved.status) == (Answer.EXPIRED, OrderStatus.EXPIRED)
    assert_released(moved)


def test_a_cancelled_unpaid_order_is_released() -> None:
    """Before or past its deadline: the user asked."""
    moved = cancel(AWAITING)
    assert (moved.answer, moved.status) == (Answer.CANCELLED, OrderStatus.CANCELLED)
    assert_released(moved)


def test_a_cancelled_paid_order_is_undone() -> None:
    """Units return from sold, the discount to the budget and the coupon; the money is owed."""
    moved = cancel(PAID)
    assert (moved.answer, moved.status) == (Answer.CANCELLED, OrderStatus.CANCELLED)
    assert moved.movements.stock == {TEA: StockDelta(2, 0, -2)}
    assert moved.movements.budgets == {"spring": BudgetDelta(2500, -2500)}
    assert moved.movements.counters == {COUNTER: -1}
    assert moved.refunds == ("r-1",)
    assert (moved.coupon_returned, moved.coupon_value) == (COUPON_ID, 2500)


@pytest.mark.parametrize(
    ("available", "value"),
    [
        pytest.param(10_000, 2500, id="all of it while the budget has it"),
        pytest.param(300, 2100, id="what is left where the rest was given away"),
        pytest.param(0, 1800, id="never less than the order took"),
    ],
)
def test_a_coupon_of_an_undone_order_gets_back_what_the_budget_still_has(
    available: int, value: int
) -> None:
    """The unspent rest of a coupon was free for others since the order was confirmed."""
    order = replace(PAID, discount=1800, payable=1100, budget_available=available)
    moved = cancel(order)
    assert moved.coupon_value == value
    assert moved.movements.budgets == {"spring": BudgetDelta(value, -1800)}


def test_an_order_without_a_coupon_moves_no_budget() -> None:
    """Neither when paid, nor undone, nor released."""
    order = replace(AWAITING, coupon_id=None, coupon_value=0, discount=0, payable=3600)
    paid = replace(order, status=OrderStatus.CONFIRMED)
    for moved in (pay(order, "r", 3600, EARLY), cancel(order), cancel(paid), expire(order, LATE)):
        assert moved.movements.budgets == {}
        assert moved.coupon_returned is None


# Every event in every state: the answer, and the state after it.
TABLE = [
    (AWAITING, "pay early", Answer.PAID, OrderStatus.CONFIRMED),
    (AWAITING, "pay late", Answer.PAYMENT_TOO_LATE, OrderStatus.EXPIRED),
    (AWAITING, "pay wrong", Answer.AMOUNT_WRONG, OrderStatus.AWAITING_PAYMENT),
    (AWAITING, "pay wrong late", Answer.AMOUNT_WRONG, OrderStatus.AWAITING_PAYMENT),
    (AWAITING, "cancel", Answer.CANCELLED, OrderStatus.CANCELLED),
    (AWAITING, "expire early", Answer.NOT_DUE, OrderStatus.AWAITING_PAYMENT),
    (AWAITING, "expire late", Answer.EXPIRED, OrderStatus.EXPIRED),
    (PAID, "pay early", Answer.ALREADY_PAID, OrderStatus.CONFIRMED),
    (PAID, "pay late", Answer.ALREADY_PAID, OrderStatus.CONFIRMED),
    (PAID, "pay wrong", Answer.AMOUNT_WRONG, OrderStatus.CONFIRMED),
    (PAID, "pay again", Answer.RECORDED_FOR_REFUND, OrderStatus.CONFIRMED),
    (PAID, "cancel", Answer.CANCELLED, OrderStatus.CANCELLED),
    (PAID, "expire late", Answer.NOT_DUE, OrderStatus.CONFIRMED),
    (EXPIRED, "pay early", Answer.PAYMENT_TOO_LATE, OrderStatus.EXPIRED),
    (EXPIRED, "pay wrong", Answer.AMOUNT_WRONG, OrderStatus.EXPIRED),
    (EXPIRED, "cancel", Answer.NOT_CANCELLABLE, OrderStatus.EXPIRED),
    (EXPIRED, "expire late", Answer.NOT_DUE, OrderStatus.EXPIRED),
    (CANCELLED, "pay early", Answer.RECORDED_FOR_REFUND, OrderStatus.CANCELLED),
    (CANCELLED, "pay wrong", Answer.AMOUNT_WRONG, OrderStatus.CANCELLED),
    (CANCELLED, "cancel", Answer.ALREADY_CANCELLED, OrderStatus.CANCELLED),
    (CANCELLED, "expire late", Answer.NOT_DUE, OrderStatus.CANCELLED),
]
EVENTS: dict[str, Any] = {
    "pay early": lambda order: pay(order, "r-1", 1100, EARLY),
    "pay late": lambda order: pay(order, "r-1", 1100, LATE),
    "pay again": lambda order: pay(order, "r-2", 1100, EARLY),
    "pay wrong": lambda order: pay(order, "r-1", 1099, EARLY),
    "pay wrong late": lambda order: pay(order, "r-1", 1101, LATE),
    "cancel": cancel,
    "expire early": lambda order: expire(order, EARLY),
    "expire late": lambda order: expire(order, LATE),
}


@pytest.mark.parametrize(
    ("order", "event", "answer", "status"),
    [pytest.param(*row, id=f"{row[0].status}: {row[1]}") for row in TABLE],
)
def test_every_event_in_every_state_has_its_answer(
    order: LockedOrder, event: str, answer: Answer, status: OrderStatus
) -> None:
    """The published diagram, row by row."""
    moved = EVENTS[event](order)
    assert (moved.answer, moved.status) == (answer, status)
    assert moved.changed == bool(moved.payment or moved.status is not order.status)


@pytest.mark.parametrize(
    ("order", "event"), [(row[0], row[1]) for row in TABLE if "wrong" in row[1]]
)
def test_a_wrong_amount_changes_nothing(order: LockedOrder, event: str) -> None:
    """Not even the state of an order past its deadline."""
    moved = EVENTS[event](order)
    assert (moved.changed, moved.payment, moved.movements) == (False, None, Movements())


def test_a_payment_after_the_end_is_recorded_for_refund() -> None:
    """An expired or cancelled order takes no money, and forgets none."""
    for order in (EXPIRED, CANCELLED):
        moved = pay(order, "r-9", 1100, LATE)
        assert moved.payment == Payment("r-9", 1100, PaymentStatus.REFUND_DUE)
        assert moved.movements == Movements()


@pytest.mark.parametrize(
    ("order", "event", "answer"),
    [
        (AWAITING, "pay early", Answer.ALREADY_PAID),
        (AWAITING, "pay late", Answer.PAYMENT_TOO_LATE),
        (EXPIRED, "pay late", Answer.PAYMENT_TOO_LATE),
        (CANCELLED, "pay late", Answer.RECORDED_FOR_REFUND),
        (PAID, "pay again", Answer.RECORDED_FOR_REFUND),
    ],
)
def test_the_same_reference_again_gets_its_answer_and_changes_nothing(
    order: LockedOrder, event: str, answer: Answer
) -> None:
    """A gateway that lost our reply asks again; nothing is recorded twice."""
    once = after(order, EVENTS[event](order))
    again = EVENTS[event](once)
    assert (again.answer, again.changed, again.payment) == (answer, False, None)


def test_a_reference_of_a_payment_that_was_refunded_says_so() -> None:
    """A paid order was cancelled: its reference is no longer `already_paid`."""
    cancelled = after(PAID, cancel(PAID))
    assert pay(cancelled, "r-1", 1100, EARLY).answer is Answer.RECORDED_FOR_REFUND


def test_an_order_without_anything_to_pay_takes_no_payment() -> None:
    """Not even one of nothing."""
    free = replace(AWAITING, status=OrderStatus.CONFIRMED, payable=0, payment_deadline=None)
    for amount in (0, 1100):
        assert pay(free, "r-1", amount, EARLY).answer is Answer.AMOUNT_WRONG


@given(st.lists(st.sampled_from(sorted(EVENTS)), max_size=8))
def test_whatever_happens_everything_is_released_at_most_once(events: list[str]) -> None:
    """Over any life: units, money, coupon and counter are where the last state says."""
    order, total, returned = AWAITING, Movements(), 0
    taken = Movements()
    taken.move_units("spring", order.lines, -1, 1, 0)
    taken.count(COUNTER, 1)
    total.add(taken)
    for event in events:
        moved = EVENTS[event](order)
        total.add(moved.movements)
        returned += moved.coupon_returned is not None
        order = after(order, moved)
    held = order.status in (OrderStatus.AWAITING_PAYMENT, OrderStatus.CONFIRMED)
    sold = order.status is OrderStatus.CONFIRMED
    where = {True: StockDelta(-2, 0, 2), False: StockDelta(-2, 2, 0)}[sold]
    assert total.stock[TEA] == (where if held else StockDelta(0, 0, 0))
    assert total.counters[COUNTER] == int(held)
    assert returned == (not held)
    spent = total.budgets.get("spring", BudgetDelta(0, 0))
    assert spent == (BudgetDelta(-2500, 2500) if sold else BudgetDelta(0, 0))
    assert sum(p.status is PaymentStatus.ACCEPTED for p in order.payments) == int(sold)
    assert sum(delta for _, delta in ledger_entries(total)) == 0
