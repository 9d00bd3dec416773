"""What a batch leaves of what is scarce, for the gate to know as soon as it is true."""

from __future__ import annotations

from collections.abc import Iterator

from workers.contract.admission import Balance
from workers.domain.movements import Movements
from workers.domain.snapshot import Snapshot


def balances_after(snapshot: Snapshot, moved: Movements, scarce_max: int) -> list[Balance]:
    """Return the balances that the batch has changed, once it is committed, of what is scarce.

    Stock is scarce with `scarce_max` units or fewer, a budget with as many coupons of the greatest
    value. The snapshot was read under locks that the batch still held at its commit, and each row is
    written once: so its next version is this one.
    """
    return [*_stock(snapshot, moved, scarce_max), *_budgets(snapshot, moved, scarce_max)]


def _stock(snapshot: Snapshot, moved: Movements, scarce_max: int) -> Iterator[Balance]:
    for (campaign_id, sku), delta in moved.stock.items():
        item = snapshot.items[campaign_id, sku]
        available = item.available + delta.available
        if available <= scarce_max:
            key = f"stock:{campaign_id}:{sku}"
            yield Balance(key, item.version + 1, available, item.reserved + delta.reserved)


def _budgets(snapshot: Snapshot, moved: Movements, scarce_max: int) -> Iterator[Balance]:
    for campaign_id, delta in moved.budgets.items():
        budget = snapshot.budgets[campaign_id]
        coupon = snapshot.campaigns[campaign_id].coupon
        available = budget.available - delta.reserved - delta.spent
        if coupon is not None and available <= coupon.amount * scarce_max:
            reserved = budget.reserved + delta.reserved
            yield Balance(f"budget:{campaign_id}", budget.version + 1, available, reserved)
