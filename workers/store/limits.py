"""Reading what operators set: rate limits, pauses, the ordered level, and whose a live key is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from msgspec import Struct

from workers.domain.overload import Level
from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("limits")

Goods = Mapping[tuple[str, str], str]  # (campaign, sku): whose it is


class CampaignRow(Struct, frozen=True, kw_only=True):
    """What admission needs of a campaign. `rate_limits` is JSON by layer.

    `coupon_value` is the most that one coupon holds in the budget, in minor units; None: it has no
    coupons. `issuance_resume_at` None: until an operator lifts the pause.
    """

    rate_limits: bytes
    starts_at: datetime
    ends_at: datetime
    coupon_value: int | None
    issuance_paused: bool
    issuance_resume_at: datetime | None
    applied_at: datetime


class MerchantRow(Struct, frozen=True):
    """A merchant that is limited, or paused now."""

    orders_per_minute_max: int | None
    paused: bool


class LevelRow(Struct, frozen=True):
    """The level that an operator ordered and that is in force; `until` None: until it is lifted."""

    level: Level
    ordered_at: datetime
    until: datetime | None


class Rows(Struct, frozen=True, kw_only=True):
    """All of it, in four statements of one moment or nearly so."""

    campaigns: dict[str, CampaignRow]
    gateways: dict[str, tuple[float, int] | None]  # (rate, burst) of its own, or None
    merchants: dict[str, MerchantRow]
    ordered: LevelRow | None


def read_rows(connection: Connection) -> Rows:
    """Read what changes from moment to moment, in one round trip."""
    with connection.pipeline():
        campaigns = connection.execute(_SQL.campaigns_read)
        gateways = connection.execute(_SQL.gateway_limits_read)
        merchants = connection.execute(_SQL.merchants_read)
        ordered = connection.execute(_SQL.level_order_read)
    level = ordered.fetchone()
    names = CampaignRow.__struct_fields__
    return Rows(
        campaigns={
            row[0]: CampaignRow(**dict(zip(names, row[1:], strict=True))) for row in campaigns
        },
        gateways={
            gateway_id: (rate, burst) if rate is not None else None
            for gateway_id, rate, burst in gateways
        },
        merchants={row[0]: MerchantRow(*row[1:]) for row in merchants},
        ordered=None if level is None else LevelRow(Level(level[0]), *level[1:]),
    )


def read_goods(connection: Connection) -> Goods:
    """Return which merchant each item is of: as many rows as there are items."""
    rows = connection.execute(_SQL.goods_read, binary=True)
    return {(campaign_id, sku): merchant_id for campaign_id, sku, merchant_id in rows}


def read_limits(
    connection: Connection,
) -> tuple[dict[str, bytes], dict[str, tuple[float, int] | None]]:
    """Return each campaign's rate limits as JSON, and each live gateway's (rate, burst) or None."""
    rows = read_rows(connection)
    return {name: row.rate_limits for name, row in rows.campaigns.items()}, rows.gateways


def gateway_of_key(connection: Connection, key_id: str, scope: str) -> str | None:
    """Return the gateway of a key that is not revoked, if the gateway has the scope; or None."""
    row = connection.execute(_SQL.gateway_of_key, {"key_id": key_id, "scope": scope}).fetchone()
    return row[0] if row else None
