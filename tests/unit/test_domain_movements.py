"""Movements: what is taken from one balance arrives in another."""

from __future__ import annotations

from uuid import UUID

from domain_builders import CLOSING, an_issuance, an_order

from workers.domain.intent import Kind
from workers.domain.movements import (
    BudgetDelta,
    Movements,
    StockDelta,
    ledger_entries,
    movements_of,
)
from workers.domain.outcome import (
    IssuedCoupon,
    Order,
    OrderStatus,
    Outcome,
    PricedLine,
    Refusal,
)

LINES = (PricedLine("tea", 2, 1800), PricedLine("cake", 1, 2480))
CONFIRMED = Order(
    status=OrderStatus.CONFIRMED,
    lines=LINES,
    total=6080,
    discount=6080,
    payable=0,
    currency="CNY",
    coupon_id=UUID(int=7),
    coupon_value=7000,
)
AWAITING = Order(
    status=OrderStatus.AWAITING_PAYMENT,
    lines=LINES,
    total=6080,
    discount=2500,
    payable=3580,
    currency="CNY",
    coupon_id=UUID(int=8),
    coupon_value=2500,
    payment_deadline=CLOSING,
)
COUPON = IssuedCoupon(value=2500, valid_until=CLOSING)


def test_a_confirmed_order_sells_and_spends() -> None:
    """Units: available to sold. Budget: the coupon's value out of reserved, the discount spent."""
    moved = movements_of([Outcome(intent=an_order(), order=CONFIRMED)])
    assert moved.stock == {
        ("spring", "tea"): StockDelta(-2, 0, 2),
        ("spring", "cake"): StockDelta(-1, 0, 1),
    }
    assert moved.budgets == {"spring": BudgetDelta(-7000, 6080)}
    assert moved.counters == {("spring", "u-1", Kind.ORDER): 1}


def test_an_order_awaiting_payment_reserves_and_spends_nothing() -> None:
    """The budget stays reserved by the coupon, as it was."""
    moved = movements_of([Outcome(intent=an_order(), order=AWAITING)])
    assert moved.stock["spring", "tea"] == StockDelta(-2, 2, 0)
    assert moved.budgets == {}


def test_an_issuance_reserves_the_coupons_value() -> None:
    """And counts for its user."""
    moved = movements_of([Outcome(intent=an_issuance(), coupon=COUPON)])
    assert moved.budgets == {"spring": BudgetDelta(2500, 0)}
    assert moved.counters == {("spring", "u-1", Kind.ISSUANCE): 1}


def test_a_refusal_moves_nothing() -> None:
    """No stock, no budget, no counter."""
    assert movements_of([Outcome(intent=an_order(), refusal=Refusal.SOLD_OUT)]) == Movements()


def test_movements_of_a_batch_are_sums() -> None:
    """One row per balance, however many orders meet on it."""
    orders = [Outcome(intent=an_order(n), order=o) for n, o in enumerate((CONFIRMED, AWAITING))]
    moved = movements_of([*orders, Outcome(intent=an_issuance(3), coupon=COUPON)])
    assert moved.stock["spring", "tea"] == StockDelta(-4, 2, 2)
    assert moved.budgets == {"spring": BudgetDelta(-4500, 6080)}
    assert moved.counters["spring", "u-1", Kind.ORDER] == 2


def test_added_movements_are_those_of_both() -> None:
    """Batches of transitions are summed before they are applied."""
    first = movements_of([Outcome(intent=an_order(), order=CONFIRMED)])
    first.add(movements_of([Outcome(intent=an_order(), order=AWAITING)]))
    first.add(movements_of([Outcome(intent=an_issuance(), coupon=COUPON)]))
    assert first.stock["spring", "tea"] == StockDelta(-4, 2, 2)
    assert first.budgets == {"spring": BudgetDelta(-4500, 6080)}
    assert first.counters["spring", "u-1", Kind.ORDER] == 2


def test_the_ledger_is_entered_by_account_without_zeros() -> None:
    """The accounts are those of the published contract."""
    moved = movements_of([Outcome(intent=an_order(), order=CONFIRMED)])
    assert ledger_entries(moved) == [
        ("budget:spring:available", 920),
        ("budget:spring:reserved", -7000),
        ("budget:spring:spent", 6080),
        ("stock:spring:cake:available", -1),
        ("stock:spring:cake:sold", 1),
        ("stock:spring:tea:available", -2),
        ("stock:spring:tea:sold", 2),
    ]


def test_movements_that_cancel_each_other_are_no_entry() -> None:
    """A budget that gives as much as it gets back has nothing to tell."""
    moved = Movements()
    moved.move_budget("spring", 2500, 0)
    moved.move_budget("spring", -2500, 0)
    assert ledger_entries(moved) == []
