"""What applying a campaign file changes: planned whole, or refused whole.

A running campaign is changed under the feet of millions, so a file says what should be, and the
plan is the difference to what stands, within what buyers and holders may rely on:

- Stock moves by a difference only. `stock` is the opening stock and stays what it was: written
  again while units are being sold, it would undo sales. `stock_delta` adds or takes, once for each
  of its ids however often the file is applied.
- The budget is never below what is reserved and spent.
- Once a coupon is out its terms stand: what it gives, on what, from which total. It may become
  valid for longer, never for shorter; and it never loses a day it was promised.
- Nothing is removed by leaving it out: orders refer to it.

The same file again plans nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from msgspec import Struct, field

from workers.domain.campaign import CampaignFile
from workers.domain.campaign_faults import Faults
from workers.domain.campaign_tables import ItemTable, MerchantTable, RateLimits
from workers.domain.snapshot import Budget, Campaign

# What a coupon gives, on what, and from which total.
_FIXED_ONCE_OUT = frozenset(
    f"coupon.{name}" for name in ("kind", "amount", "percent", "minimum_total", "skus")
)
_Difference = tuple[object, object]  # old, new
_NO_BUDGET = Budget(budget=0, reserved=0, spent=0)


class StandingItem(Struct, frozen=True, kw_only=True):
    """An item as it stands. `opening` is its stock without what was added or taken since."""

    price: int
    merchant_id: str
    opening: int
    available: int


class Standing(Struct, frozen=True, kw_only=True):
    """What applying a file may depend on, read under locks. No `campaign`: there is none yet.

    `merchants` holds orders a minute by id. `deltas` are the stock changes applied so far, by SKU
    and id. `now` is the database's clock.
    """

    now: datetime
    campaign: Campaign | None = None
    time_zone: str = ""
    rate_limits: RateLimits = RateLimits()
    budget: Budget | None = None
    merchants: Mapping[str, int | None] = field(default_factory=dict)
    items: Mapping[str, StandingItem] = field(default_factory=dict)
    deltas: Mapping[tuple[str, str], int] = field(default_factory=dict)


class StockChange(Struct, frozen=True):
    """Units to be added to an item, or taken (below zero)."""

    sku: str
    delta_id: str
    delta: int


class Plan(Struct, frozen=True, kw_only=True):
    """What is to be written, and in words: `changes`, and `notes` on what stays as it is.

    `terms_changed`: the campaign's own row. `items` are new or have another price or merchant;
    `openings` are those of them that are new. `budget_change` is minor units more or less.
    """

    file: CampaignFile
    created: bool
    terms_changed: bool
    merchants: tuple[MerchantTable, ...]
    items: tuple[ItemTable, ...]
    openings: tuple[ItemTable, ...]
    stock_changes: tuple[StockChange, ...]
    budget_opened: bool
    budget_change: int
    changes: tuple[str, ...]
    notes: tuple[str, ...]


def plan(file: CampaignFile, standing: Standing) -> Plan:
    """Plan how `file` is applied to what stands; raise CampaignFileError with all that forbids it."""
    faults = Faults()
    terms = _terms_differences(file, standing)
    _check_terms(file, standing, terms, faults)
    _check_stock(file, standing, faults)
    faults.raise_any()
    merchants = tuple(m for m in file.merchants if _merchant_differs(m, standing))
    items = tuple(item for item in file.items if _item_differs(item, standing))
    stock_changes = tuple(_stock_changes(file, standing))
    return Plan(
        file=file,
        created=standing.campaign is None,
        terms_changed=standing.campaign is None or bool(terms.keys() - {"campaign.budget"}),
        merchants=merchants,
        items=items,
        openings=tuple(item for item in items if item.sku not in standing.items),
        stock_changes=stock_changes,
        budget_opened=standing.budget is None and file.campaign.coupon is not None,
        budget_change=file.budget - (standing.budget or _NO_BUDGET).budget,
        changes=tuple(_words(file, standing, terms, merchants, items, stock_changes)),
        notes=(*_known_deltas(file, standing), *_left_out(file, standing)),
    )


def _facts(
    campaign: Campaign, time_zone: str, limits: RateLimits, budget: int
) -> dict[str, object]:
    """Spell a campaign's own terms by the keys of its file."""
    coupon = campaign.coupon
    facts: dict[str, object] = {
        "campaign.currency": campaign.currency,
        "campaign.time_zone": time_zone,
        "campaign.starts_at": campaign.starts_at,
        "campaign.ends_at": campaign.ends_at,
        "campaign.orders_per_user_max": campaign.orders_per_user_max,
        "campaign.coupons_per_user_max": campaign.coupons_per_user_max,
        "campaign.payment_window_minutes": campaign.payment_window_ms // 60_000,
        "campaign.budget": budget,
        "campaign.coupons_valid_from": coupon and coupon.valid_from,
        "campaign.coupons_valid_until": coupon and coupon.valid_until,
        "coupon.kind": coupon and coupon.kind,
        "coupon.amount": coupon and coupon.amount,
        "coupon.percent": coupon and coupon.percent,
        "coupon.minimum_total": coupon and coupon.minimum_total,
        "coupon.skus": coupon and sorted(coupon.skus),
    }
    for layer in RateLimits.__struct_fields__:
        limit = getattr(limits, layer)
        facts[f"rate_limits.{layer}"] = limit and f"{limit.rate:g}/s, burst {limit.burst}"
    return facts


def _terms_differences(file: CampaignFile, standing: Standing) -> dict[str, _Difference]:
    if standing.campaign is None:
        return {}
    budget = standing.budget or _NO_BUDGET
    old = _facts(standing.campaign, standing.time_zone, standing.rate_limits, budget.budget)
    new = _facts(file.campaign, file.time_zone, file.rate_limits, file.budget)
    return {key: (old[key], new[key]) for key in old if old[key] != new[key]}


def _check_terms(
    file: CampaignFile, standing: Standing, terms: Mapping[str, _Difference], faults: Faults
) -> None:
    if "campaign.currency" in terms:
        old, new = terms["campaign.currency"]
        mend = "keep it; another currency is another campaign"
        faults.note("campaign.currency", f"is {new}, was {old} when it was applied first", mend)
    held = standing.budget or _NO_BUDGET
    promised = held.reserved + held.spent
    if file.budget < promised:
        problem = f"is {file.budget}, but {held.reserved} are reserved and {held.spent} spent"
        faults.note("campaign.budget", problem, f"write at least {promised}")
    if promised == 0:
        return
    for key in sorted(_FIXED_ONCE_OUT & terms.keys()):
        old, new = terms[key]
        mend = f"keep {_spelt(old)}; coupons are out, and keep what they were promised"
        faults.note(key, f"is {_spelt(new)}", mend)
    _check_window(file, standing, faults)


def _check_window(file: CampaignFile, standing: Standing, faults: Faults) -> None:
    """A coupon that is out may be good for longer, never for shorter."""
    old = standing.campaign and standing.campaign.coupon
    new = file.campaign.coupon
    if not old or not new:
        return
    if new.valid_until < old.valid_until:
        mend = f"write {old.valid_until.isoformat()} or later; coupons are out"
        faults.note("campaign.coupons_valid_until", f"is {new.valid_until.isoformat()}", mend)
    # A later start that is past already takes nothing from anybody.
    if new.valid_from > max(old.valid_from, standing.now):
        mend = f"write {old.valid_from.isoformat()} or earlier; coupons are out"
        faults.note("campaign.coupons_valid_from", f"is {new.valid_from.isoformat()}", mend)


def _check_stock(file: CampaignFile, standing: Standing, faults: Faults) -> None:
    for i, item in enumerate(file.items):
        stands = standing.items.get(item.sku)
        if stands is not None and item.stock != stands.opening:
            problem = f"is {item.stock}, the opening stock was {stands.opening}"
            mend = f"keep {stands.opening}, and write the difference as `stock_delta`"
            faults.note(f"items[{i}].stock", problem, mend)
        if item.stock_delta is None:
            continue
        known = standing.deltas.get((item.sku, _delta_id(item)))
        if known is not None and known != item.stock_delta:
            problem = f"{_delta_id(item)!r} was applied as {known:+d}"
            faults.note(f"items[{i}].stock_delta_id", problem, "give this change an id of its own")
        available = stands.available if stands is not None else item.stock
        if known is None and available + item.stock_delta < 0:
            problem = f"is {item.stock_delta}, but only {available} are available"
            faults.note(f"items[{i}].stock_delta", problem, "take no more than is available")


def _delta_id(item: ItemTable) -> str:
    """Return what a stock change is known by: its own id, or its number."""
    return item.stock_delta_id or f"{item.stock_delta:+d}"


def _merchant_differs(merchant: MerchantTable, standing: Standing) -> bool:
    return merchant.id not in standing.merchants or (
        standing.merchants[merchant.id] != merchant.orders_per_minute_max
    )


def _item_differs(item: ItemTable, standing: Standing) -> bool:
    stands = standing.items.get(item.sku)
    return stands is None or (stands.price, stands.merchant_id) != (item.price, item.merchant)


def _stock_changes(file: CampaignFile, standing: Standing) -> Iterator[StockChange]:
    for item in file.items:
        if item.stock_delta is not None and (item.sku, _delta_id(item)) not in standing.deltas:
            yield StockChange(item.sku, _delta_id(item), item.stock_delta)


def _words(
    file: CampaignFile,
    standing: Standing,
    terms: Mapping[str, _Difference],
    merchants: Iterable[MerchantTable],
    items: Iterable[ItemTable],
    stock_changes: Iterable[StockChange],
) -> Iterator[str]:
    if standing.campaign is None:
        yield f"campaign {file.campaign.campaign_id}: new"
    for key, (old, new) in terms.items():
        yield f"{key}: {_spelt(old)} -> {_spelt(new)}"
    for merchant in merchants:
        most = merchant.orders_per_minute_max
        yield f"merchant {merchant.id}: {f'{most} orders a minute' if most else 'no maximum'}"
    for item in items:
        stands = standing.items.get(item.sku)
        if stands is None:
            yield f"item {item.sku}: new, {item.stock} at {item.price}"
            continue
        if stands.price != item.price:
            yield f"item {item.sku}: price {stands.price} -> {item.price}"
        if stands.merchant_id != item.merchant:
            yield f"item {item.sku}: merchant {stands.merchant_id} -> {item.merchant}"
    for change in stock_changes:
        yield f"item {change.sku}: stock {change.delta:+d} (`{change.delta_id}`)"


def _known_deltas(file: CampaignFile, standing: Standing) -> Iterator[str]:
    for item in file.items:
        if item.stock_delta is not None and (item.sku, _delta_id(item)) in standing.deltas:
            yield (
                f"item {item.sku}: stock change `{_delta_id(item)}` was applied before, and is not "
                "again; another one needs another `stock_delta_id`"
            )


def _left_out(file: CampaignFile, standing: Standing) -> Iterator[str]:
    for sku in sorted(standing.items.keys() - {item.sku for item in file.items}):
        yield (
            f"item {sku}: not in the file, and stays on sale; to withdraw it, take what is "
            "available by `stock_delta`"
        )


def _spelt(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return "none" if value is None else str(value)
