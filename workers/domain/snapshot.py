"""The snapshot: what `decide` may know, read under locks before it is asked."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from msgspec import Struct, field

from workers.domain.intent import Kind


class CouponTerms(Struct, frozen=True, kw_only=True):
    """What a campaign's coupons give.

    `amount_off`: `amount` minor units. `percent_off`: `percent` of the eligible lines, rounded down,
    at most `amount`. Either way `amount` is the greatest value: what issuance holds in the budget.
    """

    kind: str
    amount: int
    percent: int = 0
    minimum_total: int = 0
    skus: frozenset[str] = frozenset()  # empty: every item of the campaign
    valid_from: datetime
    valid_until: datetime


class Campaign(Struct, frozen=True, kw_only=True):
    """A campaign's terms. Windows are half open: from `starts_at` until before `ends_at`."""

    campaign_id: str
    currency: str
    starts_at: datetime
    ends_at: datetime
    orders_per_user_max: int
    coupons_per_user_max: int
    payment_window_ms: int
    coupon: CouponTerms | None = None


class Item(Struct, frozen=True, kw_only=True, gc=False):
    """One SKU of a campaign: its price (minor units), its merchant, the units on sale now.

    `version` counts the changes of its stock.
    """

    price: int
    merchant_id: str
    merchant_paused: bool
    available: int
    reserved: int = 0
    version: int = 0


class Coupon(Struct, frozen=True, kw_only=True, gc=False):
    """A coupon as it stands. `value` is what it holds in the budget, in minor units."""

    campaign_id: str
    user_id: str
    value: int
    redeemed: bool = False
    expired: bool = False


class Budget(Struct, frozen=True, kw_only=True):
    """A campaign's budget, in minor units. `version` counts its changes."""

    budget: int
    reserved: int
    spent: int
    version: int = 0

    @property
    def available(self) -> int:
        """What may still be promised."""
        return self.budget - self.reserved - self.spent


CounterKey = tuple[str, str, Kind]  # campaign, user, kind


class Snapshot(Struct, frozen=True, kw_only=True):
    """Everything a batch touches. What is missing does not exist; a missing counter is zero."""

    campaigns: dict[str, Campaign] = field(default_factory=dict)
    items: dict[tuple[str, str], Item] = field(default_factory=dict)  # (campaign, sku)
    coupons: dict[UUID, Coupon] = field(default_factory=dict)
    counters: dict[CounterKey, int] = field(default_factory=dict)
    budgets: dict[str, Budget] = field(default_factory=dict)
