"""Movements: what outcomes and transitions change in stock, budgets and counters, as sums.

Nothing is created or lost: the units that leave `available` arrive in `reserved` or `sold`, and the
money that leaves what is free of a budget arrives in `reserved` or `spent`. So the entries of
`ledger_entries` sum to zero per SKU and per budget, whatever happened.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from msgspec import Struct, field

from workers.domain.intent import Kind
from workers.domain.outcome import Order, OrderStatus, Outcome, PricedLine
from workers.domain.snapshot import CounterKey


class StockDelta(NamedTuple):
    """A change of one SKU's units. The three always sum to zero."""

    available: int
    reserved: int
    sold: int


class BudgetDelta(NamedTuple):
    """A change of one budget, in minor units; what is free changes by minus their sum."""

    reserved: int
    spent: int


class Movements(Struct):
    """The sums of a batch, by SKU of a campaign, by campaign, and by user's counter."""

    stock: dict[tuple[str, str], StockDelta] = field(default_factory=dict)
    budgets: dict[str, BudgetDelta] = field(default_factory=dict)
    counters: dict[CounterKey, int] = field(default_factory=dict)

    def move_units(
        self,
        campaign_id: str,
        lines: Iterable[PricedLine],
        available: int,
        reserved: int,
        sold: int,
    ) -> None:
        """Add each line's quantity times the three signs (-1, 0 or 1)."""
        stock = self.stock
        for line in lines:
            key, n = (campaign_id, line.sku), line.quantity
            a, r, s = stock.get(key, (0, 0, 0))
            stock[key] = StockDelta(a + available * n, r + reserved * n, s + sold * n)

    def move_budget(self, campaign_id: str, reserved: int, spent: int) -> None:
        """Add a change of a budget."""
        r, s = self.budgets.get(campaign_id, (0, 0))
        self.budgets[campaign_id] = BudgetDelta(r + reserved, s + spent)

    def count(self, key: CounterKey, step: int) -> None:
        """Add `step` to a user's counter."""
        self.counters[key] = self.counters.get(key, 0) + step

    def add(self, other: Movements) -> None:
        """Add another's sums to these."""
        for key, (available, reserved, sold) in other.stock.items():
            a, r, s = self.stock.get(key, (0, 0, 0))
            self.stock[key] = StockDelta(a + available, r + reserved, s + sold)
        for campaign_id, delta in other.budgets.items():
            self.move_budget(campaign_id, *delta)
        for counter, step in other.counters.items():
            self.count(counter, step)


def movements_of(outcomes: Iterable[Outcome]) -> Movements:
    """Sum what the outcomes of a batch take."""
    moved = Movements()
    for outcome in outcomes:
        intent = outcome.intent
        if outcome.order is not None:
            _add_order(moved, intent.campaign_id, outcome.order)
            moved.count((intent.campaign_id, intent.user_id, Kind.ORDER), 1)
        elif outcome.coupon is not None:
            moved.move_budget(intent.campaign_id, outcome.coupon.value, 0)
            moved.count((intent.campaign_id, intent.user_id, Kind.ISSUANCE), 1)
    return moved


def _add_order(moved: Movements, campaign_id: str, order: Order) -> None:
    if order.status is OrderStatus.CONFIRMED:
        moved.move_units(campaign_id, order.lines, -1, 0, 1)
        if order.coupon_id is not None:
            moved.move_budget(campaign_id, -order.coupon_value, order.discount)
    else:  # awaiting payment: the coupon goes on holding the budget
        moved.move_units(campaign_id, order.lines, -1, 1, 0)


def ledger_entries(moved: Movements) -> list[tuple[str, int]]:
    """Return the (account, delta) pairs of a batch, by account; no zeros; zero in sum per unit."""
    entries = []
    for (campaign_id, sku), units in moved.stock.items():
        for state, delta in zip(StockDelta._fields, units, strict=True):
            entries.append((f"stock:{campaign_id}:{sku}:{state}", delta))
    for campaign_id, (reserved, spent) in moved.budgets.items():
        entries.append((f"budget:{campaign_id}:available", -reserved - spent))
        entries.append((f"budget:{campaign_id}:reserved", reserved))
        entries.append((f"budget:{campaign_id}:spent", spent))
    return sorted((account, delta) for account, delta in entries if delta)
