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
from workers.domain.outcome import OrderStatus, Outcome, PricedLine
from workers.domain.snapshot import CounterKey

# Looking a member of an enum up takes a tenth of a microsecond; an order does so three times.
_ORDER, _ISSUANCE, _CONFIRMED = Kind.ORDER, Kind.ISSUANCE, OrderStatus.CONFIRMED


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
    sold: dict[tuple[str, str], int] = {}  # units, by (campaign, sku)
    reserved: dict[tuple[str, str], int] = {}
    for outcome in outcomes:
        intent, order = outcome.intent, outcome.order
        campaign_id = intent.campaign_id
        if order is not None:
            moved.count((campaign_id, intent.user_id, _ORDER), 1)
            paid = order.status is _CONFIRMED
            _add_units(sold if paid else reserved, campaign_id, order.lines)
            if paid and order.coupon_id is not None:  # unpaid, it goes on holding the budget
                moved.move_budget(campaign_id, -order.coupon_value, order.discount)
        elif outcome.coupon is not None:
            moved.move_budget(campaign_id, outcome.coupon.value, 0)
            moved.count((campaign_id, intent.user_id, _ISSUANCE), 1)
    for key in sold.keys() | reserved.keys():
        r, s = reserved.get(key, 0), sold.get(key, 0)
        moved.stock[key] = StockDelta(-r - s, r, s)
    return moved


def _add_units(
    units: dict[tuple[str, str], int], campaign_id: str, lines: Iterable[PricedLine]
) -> None:
    for line in lines:
        key = (campaign_id, line.sku)
        units[key] = units.get(key, 0) + line.quantity


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
