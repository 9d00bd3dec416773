"""Looking at campaigns as they stand."""

from __future__ import annotations

from msgspec import Struct

from workers.domain.campaign_tables import RateLimits
from workers.domain.snapshot import Campaign
from workers.store import campaigns
from workers.store.campaigns import Action, CampaignSummary, OfferedItem
from workers.store.pool import OWNER, Bounds, connect

_BOUNDS = Bounds(statement_timeout_ms=30_000)


class CampaignView(Struct, frozen=True, kw_only=True):
    """A campaign with its terms, its items, and the latest of what operators did to it."""

    summary: CampaignSummary
    time_zone: str
    terms: Campaign
    rate_limits: RateLimits
    items: list[OfferedItem]
    actions: list[Action]


def look_all(dsn: str) -> list[CampaignSummary]:
    """Return all campaigns at a glance."""
    with connect(dsn, OWNER, _BOUNDS, name="campaign") as connection:
        return campaigns.list_campaigns(connection)


def look(dsn: str, campaign_id: str, actions_max: int) -> CampaignView | None:
    """Return a campaign as it stands, or None where there is none."""
    with connect(dsn, OWNER, _BOUNDS, name="campaign") as connection:
        found = campaigns.read_terms(connection, campaign_id)
        if found is None:
            return None
        terms, time_zone, rate_limits = found
        return CampaignView(
            summary=campaigns.list_campaigns(connection, campaign_id)[0],
            time_zone=time_zone,
            terms=terms,
            rate_limits=rate_limits,
            items=campaigns.list_items(connection, campaign_id),
            actions=campaigns.list_actions(connection, f"campaign:{campaign_id}", actions_max),
        )
