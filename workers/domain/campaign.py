"""The campaign file: what an operator offers, read strictly, every fault named at once.

A campaign file is read at leisure and then meets millions of people, so nothing in it is guessed:
an unknown key, a number in quotes, a local time that the clocks of the campaign's zone skip or show
twice, an item of a merchant nobody wrote down are each a fault with its key and its mend, and one
reading finds them all.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from msgspec import Struct
from msgspec.structs import replace

from workers.domain.campaign_faults import CampaignFileError, Fault, Faults, nearest
from workers.domain.campaign_tables import (
    CampaignTable,
    CouponTable,
    ItemTable,
    MerchantTable,
    RateLimits,
    read_table,
    read_tables,
)
from workers.domain.campaign_times import read_instant, read_zone
from workers.domain.snapshot import Campaign, CouponTerms

__all__ = ["CampaignFile", "CampaignFileError", "Fault", "parse", "scaled", "shifted"]

FILE_CHARS_MAX = 4_000_000
ITEMS_MAX = 10_000  # applying a file locks the stock of all its items at once
BURST_WINDOW_S_MAX = 31 * 86_400  # the gate remembers a burst no longer
_TABLES = ("campaign", "coupon", "rate_limits", "merchants", "items")


class CampaignFile(Struct, frozen=True, kw_only=True):
    """A campaign as its file offers it: terms, budget (minor units), limits, merchants, items."""

    campaign: Campaign
    time_zone: str
    budget: int
    rate_limits: RateLimits
    merchants: tuple[MerchantTable, ...]
    items: tuple[ItemTable, ...]


def parse(toml_text: str) -> CampaignFile:
    """Read a campaign file. Raises CampaignFileError with every fault of it."""
    faults = Faults()
    tables = _decode(toml_text, faults)
    campaign = coupon = None
    if "campaign" in tables:
        campaign = read_table(tables["campaign"], CampaignTable, "campaign", faults)
    if "coupon" in tables:
        coupon = read_table(tables["coupon"], CouponTable, "coupon", faults)
    limits = read_table(tables.get("rate_limits", {}), RateLimits, "rate_limits", faults)
    merchants = read_tables(tables.get("merchants", []), MerchantTable, "merchants", faults)
    items = read_tables(tables.get("items", []), ItemTable, "items", faults)
    _check_goods(tables, merchants, items, faults)
    _check_coupon(tables, coupon, faults)
    _check_bursts(limits, faults)
    terms = _terms(campaign, coupon, "coupon" in tables, faults)
    faults.raise_any()
    if campaign is None or limits is None or terms is None:
        raise AssertionError("a table was not read, and no fault was noted")
    return CampaignFile(
        campaign=terms,
        time_zone=campaign.time_zone,
        budget=campaign.budget,
        rate_limits=limits,
        merchants=tuple(filter(None, merchants)),
        items=tuple(filter(None, items)),
    )


def shifted(file: CampaignFile, starts_at: datetime) -> CampaignFile:
    """Return the same campaign with all its windows moved, so that it starts at `starts_at`."""
    terms = file.campaign
    by = starts_at - terms.starts_at
    coupon = terms.coupon and replace(
        terms.coupon,
        valid_from=terms.coupon.valid_from + by,
        valid_until=terms.coupon.valid_until + by,
    )
    moved = replace(terms, starts_at=starts_at, ends_at=terms.ends_at + by, coupon=coupon)
    return replace(file, campaign=moved)


def scaled(file: CampaignFile, factor: float) -> CampaignFile:
    """Return the same campaign in another size: opening stock and budget times `factor`.

    At least one unit of each item is left, and the budget of one coupon.
    """
    if factor == 1:
        return file
    coupon = file.campaign.coupon
    items = tuple(replace(item, stock=max(1, round(item.stock * factor))) for item in file.items)
    least = coupon.amount if coupon is not None else 0
    return replace(file, items=items, budget=max(least, round(file.budget * factor)))


def _decode(text: str, faults: Faults) -> Mapping[str, Any]:
    if len(text) > FILE_CHARS_MAX:
        faults.note("file", f"has {len(text)} characters", f"at most {FILE_CHARS_MAX} are read")
        raise CampaignFileError(faults)
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        faults.note("file", f"is not TOML: {error}", "mend its syntax there")
        raise CampaignFileError(faults) from None
    for name in tables.keys() - set(_TABLES):
        faults.note(name, "is not a table of a campaign file", nearest(name, _TABLES))
    for name in ("campaign", "merchants", "items"):
        if name not in tables or tables[name] == []:
            faults.note(name, "is missing", "write it")
    return tables


def _check_goods(
    tables: Mapping[str, Any],
    merchants: list[MerchantTable | None],
    items: list[ItemTable | None],
    faults: Faults,
) -> None:
    if len(items) > ITEMS_MAX:
        faults.note("items", f"are {len(items)}", f"at most {ITEMS_MAX} fit one campaign")
    ids = _named(tables.get("merchants"), "id")
    _refuse_doubles("merchants", "id", ids, faults)
    _refuse_doubles("items", "sku", _named(tables.get("items"), "sku"), faults)
    known = set(ids.values())
    for i, item in enumerate(items):
        if item is None:
            continue
        if item.merchant is not None and item.merchant not in known:
            mend = nearest(item.merchant, known)
            faults.note(f"items[{i}].merchant", f"{item.merchant!r} is no merchant here", mend)
        if item.stock_delta_id is not None and item.stock_delta is None:
            faults.note(f"items[{i}].stock_delta_id", "stands alone", "add its `stock_delta`")
        if item.stock_delta == 0:
            faults.note(f"items[{i}].stock_delta", "is 0", "leave it out")


def _named(tables: object, name: str) -> dict[int, str]:
    """Return the names of an array of tables by place, of faulty tables too."""
    if not isinstance(tables, list):
        return {}
    named = {i: one.get(name) for i, one in enumerate(tables) if isinstance(one, dict)}
    return {i: value for i, value in named.items() if isinstance(value, str)}


def _refuse_doubles(table: str, name: str, values: Mapping[int, str], faults: Faults) -> None:
    seen: dict[str, int] = {}
    for i, value in values.items():
        if value in seen:
            problem = f"{value!r} is that of {table}[{seen[value]}] already"
            faults.note(f"{table}[{i}].{name}", problem, "keep one of them")
        seen.setdefault(value, i)


def _check_coupon(tables: Mapping[str, Any], coupon: CouponTable | None, faults: Faults) -> None:
    if coupon is None:
        return
    if coupon.kind is not None:
        _check_coupon_kind(coupon, faults)
    known = set(_named(tables.get("items"), "sku").values())
    for sku, times in Counter(coupon.skus or ()).items():
        if sku not in known:
            faults.note("coupon.skus", f"{sku!r} is no item here", nearest(sku, known))
        if times > 1:
            faults.note("coupon.skus", f"{sku!r} stands there {times} times", "keep one")


def _check_coupon_kind(coupon: CouponTable, faults: Faults) -> None:
    wanted = ("amount",) if coupon.kind == "amount_off" else ("percent", "amount_max")
    for name in ("amount", "percent", "amount_max"):
        given = getattr(coupon, name) is not None
        if given and name not in wanted:
            mend = f"leave it out; it takes {' and '.join(f'`{w}`' for w in wanted)}"
            faults.note(f"coupon.{name}", f"means nothing for `{coupon.kind}`", mend)
        if not given and name in wanted:
            faults.note(f"coupon.{name}", "is missing", f"`{coupon.kind}` takes it: write it")


def _check_bursts(limits: RateLimits | None, faults: Faults) -> None:
    for layer in RateLimits.__struct_fields__:
        limit = getattr(limits, layer, None)
        if (
            limit
            and None not in (limit.rate, limit.burst)
            and limit.burst > limit.rate * BURST_WINDOW_S_MAX
        ):
            most = int(limit.rate * BURST_WINDOW_S_MAX)
            mend = f"at this rate at most {most}, what {BURST_WINDOW_S_MAX // 86_400} days bring"
            faults.note(f"rate_limits.{layer}.burst", f"is {limit.burst}", mend)


def _terms(
    table: CampaignTable | None, coupon: CouponTable | None, has_coupon: bool, faults: Faults
) -> Campaign | None:
    if table is None:
        return None
    if not has_coupon:
        _refuse_coupon_keys(table, faults)
    elif coupon is not None:
        _check_coupon_keys(table, coupon, faults)
    if table.time_zone is None:
        return None
    zone = read_zone(table.time_zone, "campaign.time_zone", faults)
    if zone is None:
        return None
    starts_at = _instant(table, "starts_at", zone, faults)
    ends_at = _instant(table, "ends_at", zone, faults)
    _check_order("campaign.ends_at", starts_at, ends_at, "`starts_at`", faults)
    terms = _coupon_terms(table, coupon, starts_at, zone, faults) if coupon else None
    if starts_at is None or ends_at is None or faults:
        return None
    return Campaign(
        campaign_id=table.id,
        currency=table.currency,
        starts_at=starts_at,
        ends_at=ends_at,
        orders_per_user_max=table.orders_per_user_max,
        coupons_per_user_max=table.coupons_per_user_max,
        payment_window_ms=table.payment_window_minutes * 60_000,
        coupon=terms,
    )


def _refuse_coupon_keys(table: CampaignTable, faults: Faults) -> None:
    for name in ("budget", "coupons_per_user_max", "coupons_valid_from", "coupons_valid_until"):
        if getattr(table, name):
            faults.note(f"campaign.{name}", "stands without a [coupon]", "add one, or leave it out")


def _check_coupon_keys(table: CampaignTable, coupon: CouponTable, faults: Faults) -> None:
    value = _greatest_value(coupon)
    if table.budget is not None and table.budget < value:
        mend = f"write at least {value}, the greatest value of one coupon"
        faults.note("campaign.budget", f"is {table.budget}: not one coupon could be given", mend)
    if table.coupons_per_user_max == 0:
        mend = "write at least 1, or leave [coupon] out"
        faults.note("campaign.coupons_per_user_max", "is 0 or missing", mend)
    if table.coupons_valid_until is None and not faults.about("campaign.coupons_valid_until"):
        faults.note("campaign.coupons_valid_until", "is missing", "a [coupon] takes it: write it")


def _greatest_value(coupon: CouponTable) -> int:
    return (coupon.amount if coupon.kind == "amount_off" else coupon.amount_max) or 0


def _coupon_terms(
    table: CampaignTable,
    coupon: CouponTable,
    starts_at: datetime | None,
    zone: ZoneInfo,
    faults: Faults,
) -> CouponTerms | None:
    valid_until = _instant(table, "coupons_valid_until", zone, faults)
    valid_from = starts_at
    if table.coupons_valid_from is not None:
        valid_from = _instant(table, "coupons_valid_from", zone, faults)
    key = "campaign.coupons_valid_until"
    _check_order(key, valid_from, valid_until, "`coupons_valid_from`", faults)
    if table.coupons_valid_from is not None:
        _check_order(key, starts_at, valid_until, "`starts_at`", faults)
    if valid_from is None or valid_until is None or faults:
        return None
    return CouponTerms(
        kind=coupon.kind,
        amount=_greatest_value(coupon),
        percent=coupon.percent or 0,
        minimum_total=coupon.minimum_total,
        skus=frozenset(coupon.skus),
        valid_from=valid_from,
        valid_until=valid_until,
    )


def _instant(table: CampaignTable, name: str, zone: ZoneInfo, faults: Faults) -> datetime | None:
    at = getattr(table, name)
    return at and read_instant(at, zone, f"campaign.{name}", faults)


def _check_order(
    key: str, first: datetime | None, then: datetime | None, after: str, faults: Faults
) -> None:
    if first is not None and then is not None and then <= first:
        faults.note(key, f"is not after {after}", "windows run from their start until before it")
