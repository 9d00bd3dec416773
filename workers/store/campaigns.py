"""Campaigns at rest: what an application of a file reads, under locks, and what it writes.

Locks in the one global order, so that a campaign can be changed while it sells: the campaign's own
lock (only applications take it), its budget, its stock by sku.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from workers.contract.ids import uuid7
from workers.domain.campaign_change import Plan, Standing, StandingItem
from workers.domain.campaign_tables import RateLimits
from workers.domain.snapshot import Budget, Campaign
from workers.store.batch import campaign_of
from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("campaigns")
_encode = msgspec.json.Encoder(enc_hook=str).encode
_decode_limits = msgspec.json.Decoder(RateLimits).decode


class CampaignSummary(Struct, frozen=True, kw_only=True):
    """A campaign at a glance. Money in minor units of its currency; `state` as of now."""

    campaign_id: str
    starts_at: datetime
    ends_at: datetime
    state: str
    currency: str
    budget: int
    reserved: int
    spent: int
    skus: int
    available: int
    sold: int


class OfferedItem(Struct, frozen=True, kw_only=True):
    """An item of a campaign with its stock as it stands."""

    sku: str
    merchant_id: str
    merchant_paused: bool
    price: int
    initial: int
    available: int
    reserved: int
    sold: int


class Action(Struct, frozen=True, kw_only=True):
    """What an operator did, when and why."""

    acted_at: datetime
    actor: str
    action: str
    reason: str | None
    detail: msgspec.Raw


def lock_standing(
    connection: Connection, campaign_id: str, merchant_ids: Iterable[str]
) -> Standing:
    """Lock a campaign against other applications, buyers and issuers; read it as it stands."""

    def ask(name: str, **more: object) -> list[tuple[Any, ...]]:
        parameters = {"campaign_id": campaign_id, **more}
        return connection.execute(_SQL[name], parameters).fetchall()

    ask("campaign_lock")
    budget = ask("budget_lock")
    ask("stock_lock")
    terms = read_terms(connection, campaign_id)
    return Standing(
        now=ask("clock_read")[0][0],
        campaign=terms and terms[0],
        time_zone=terms[1] if terms else "",
        rate_limits=terms[2] if terms else RateLimits(),
        budget=_budget(budget[0]) if budget else None,
        merchants=dict(ask("merchants_read", merchant_ids=sorted(merchant_ids))),
        items={
            sku: StandingItem(
                price=price, merchant_id=merchant_id, opening=opening, available=available
            )
            for sku, price, merchant_id, opening, available in ask("items_read")
        },
        deltas={(sku, change_id): delta for sku, change_id, delta in ask("stock_changes_read")},
    )


def read_terms(connection: Connection, campaign_id: str) -> tuple[Campaign, str, RateLimits] | None:
    """Return a campaign's terms, its time zone and its rate limits; None where there is none."""
    row = connection.execute(_SQL.campaign_read, {"campaign_id": campaign_id}).fetchone()
    if row is None:
        return None
    *terms, time_zone, limits = row
    return campaign_of(tuple(terms)), time_zone, _decode_limits(limits)


def _budget(row: tuple[Any, ...]) -> Budget:
    budget, reserved, spent = row
    return Budget(budget=budget, reserved=reserved, spent=spent)


def write_plan(connection: Connection, plan: Plan) -> None:
    """Write what is planned, and enter the supply it brings or takes in the ledger."""
    campaign_id = plan.file.campaign.campaign_id

    def tell(name: str, **parameters: object) -> None:
        connection.execute(_SQL[name], {"campaign_id": campaign_id, **parameters})

    with connection.pipeline():
        if plan.terms_changed:
            tell("campaign_put", **_campaign_row(plan))
        _write_goods(tell, plan)
        if plan.budget_opened:
            tell("budget_open", budget=plan.file.budget)
        elif plan.budget_change:
            tell("budget_change", change=plan.budget_change)
        _enter_supply(connection, uuid7(), _supplied(plan))


def _campaign_row(plan: Plan) -> dict[str, object]:
    terms, coupon = plan.file.campaign, plan.file.campaign.coupon
    return {
        "currency": terms.currency,
        "time_zone": plan.file.time_zone,
        "starts_at": terms.starts_at,
        "ends_at": terms.ends_at,
        "orders_per_user_max": terms.orders_per_user_max,
        "coupons_per_user_max": terms.coupons_per_user_max,
        "payment_window_ms": terms.payment_window_ms,
        "coupon_kind": coupon and coupon.kind,
        "coupon_amount": coupon and coupon.amount,
        "coupon_percent": (coupon and coupon.percent) or None,
        "coupon_minimum_total": coupon and coupon.minimum_total,
        "coupon_skus": coupon and sorted(coupon.skus),
        "coupons_valid_from": coupon and coupon.valid_from,
        "coupons_valid_until": coupon and coupon.valid_until,
        "rate_limits": _encode(plan.file.rate_limits).decode(),
    }


def _write_goods(tell: Callable[..., None], plan: Plan) -> None:
    if plan.merchants:
        tell(
            "merchants_put",
            merchant_ids=[merchant.id for merchant in plan.merchants],
            maxima=[merchant.orders_per_minute_max for merchant in plan.merchants],
        )
    if plan.items:
        tell(
            "items_put",
            skus=[item.sku for item in plan.items],
            merchant_ids=[item.merchant for item in plan.items],
            prices=[item.price for item in plan.items],
        )
    if plan.openings:
        tell(
            "stock_open",
            skus=[item.sku for item in plan.openings],
            units=[item.stock for item in plan.openings],
        )
    if plan.stock_changes:
        tell(
            "stock_change",
            change_ids=[change.delta_id for change in plan.stock_changes],
            skus=[change.sku for change in plan.stock_changes],
            deltas=[change.delta for change in plan.stock_changes],
        )


def _supplied(plan: Plan) -> dict[str, int]:
    """Say what more (or less) of each unit there is."""
    campaign_id = plan.file.campaign.campaign_id
    supplied = {f"budget:{campaign_id}": plan.budget_change}
    stock = [(item.sku, item.stock) for item in plan.openings]
    stock += [(change.sku, change.delta) for change in plan.stock_changes]
    for sku, units in stock:
        unit = f"stock:{campaign_id}:{sku}"
        supplied[unit] = supplied.get(unit, 0) + units
    return {unit: amount for unit, amount in supplied.items() if amount}


def _enter_supply(connection: Connection, batch_id: UUID, supplied: dict[str, int]) -> None:
    if not supplied:
        return
    entries = [(f"{unit}:supply", -amount) for unit, amount in supplied.items()]
    entries += [(f"{unit}:available", amount) for unit, amount in supplied.items()]
    connection.execute(
        _SQL.ledger_enter,
        {
            "batch_id": batch_id,
            "accounts": [account for account, _ in entries],
            "deltas": [delta for _, delta in entries],
        },
    )


def record_action(
    connection: Connection,
    actor: str,
    action: str,
    subject: str,
    reason: str | None = None,
    **detail: object,
) -> None:
    """Keep who did what to whom, and why; commits with what was done."""
    connection.execute(
        _SQL.action_record,
        {
            "actor": actor,
            "action": action,
            "subject": subject,
            "reason": reason,
            "detail": _encode(detail).decode(),
        },
    )


def count_touched(connection: Connection, campaign_id: str) -> tuple[int, int]:
    """Count the users a campaign has met, and the coupons they hold; looks at all of them."""
    users, coupons = connection.execute(
        _SQL.touched_count, {"campaign_id": campaign_id}
    ).fetchall()[0]
    return users, coupons


def list_campaigns(connection: Connection, campaign_id: str | None = None) -> list[CampaignSummary]:
    """Return all campaigns by their start, or the one that is named."""
    rows = connection.execute(_SQL.campaigns_list, {"campaign_id": campaign_id})
    names = CampaignSummary.__struct_fields__
    return [CampaignSummary(**dict(zip(names, row, strict=True))) for row in rows]


def list_items(connection: Connection, campaign_id: str) -> list[OfferedItem]:
    """Return a campaign's items by sku."""
    rows = connection.execute(_SQL.items_list, {"campaign_id": campaign_id})
    names = OfferedItem.__struct_fields__
    return [OfferedItem(**dict(zip(names, row, strict=True))) for row in rows]


def list_actions(connection: Connection, subject: str, count_max: int = 20) -> list[Action]:
    """Return the latest of what operators did to a subject."""
    rows = connection.execute(_SQL.actions_list, {"subject": subject, "count_max": count_max})
    return [
        Action(
            acted_at=acted_at,
            actor=actor,
            action=action,
            reason=reason,
            detail=msgspec.Raw(detail),
        )
        for acted_at, actor, action, reason, detail in rows
    ]
