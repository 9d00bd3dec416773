"""What is shown of campaigns: those the status names, and those the exporter may."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from deploy.top.figures import Budget, CampaignFigures, Units
from deploy.top.numbers import Numbers
from deploy.top.reading import CampaignStatus


def campaigns_of(told: Mapping[str, CampaignStatus], numbers: Numbers) -> list[CampaignFigures]:
    """Put together what is known of each campaign, by id."""
    shown = {
        campaign
        for name in ("tidegate_stock_units", "tidegate_budget_minor_units")
        for (campaign,) in numbers.gauges(name, "campaign")
    }
    return [
        _campaign(campaign, told.get(campaign, CampaignStatus()), numbers)
        for campaign in sorted({*told, *shown})
    ]


def _campaign(campaign: str, told: CampaignStatus, numbers: Numbers) -> CampaignFigures:
    paused = numbers.gauge("tidegate_issuance_paused", campaign=campaign)
    told_by_exporter = "" if paused is None else "paused" if paused else "open"
    return CampaignFigures(
        campaign=campaign,
        issuance=told.issuance or told_by_exporter,
        resume_at=told.resume_at,
        starts_at=told.starts_at,
        ends_at=told.ends_at,
        budget=_budget(campaign, numbers),
        issued=numbers.flow("tidegate_coupons_issued_total", campaign=campaign),
        redeemed=numbers.flow("tidegate_coupons_redeemed_total", campaign=campaign),
        committed=numbers.flow("tidegate_intents_committed_total", campaign=campaign),
        refused=numbers.flow("tidegate_intents_refused_total", campaign=campaign),
        stock=_stock(campaign, numbers),
        items=_items(campaign, numbers),
    )


def _budget(campaign: str, numbers: Numbers) -> Budget:
    amounts = numbers.gauges("tidegate_budget_minor_units", "currency", "state", campaign=campaign)
    states = {state: amount for (_, state), amount in amounts.items()}
    currency = next((currency for currency, _ in amounts), "")
    return msgspec.convert({**states, "currency": currency}, Budget)


def _stock(campaign: str, numbers: Numbers) -> Units:
    states = numbers.gauges("tidegate_stock_units", "state", campaign=campaign)
    return msgspec.convert({state: units for (state,), units in states.items()}, Units)


def _items(campaign: str, numbers: Numbers) -> dict[str, Units]:
    items: dict[str, dict[str, float]] = {}
    states = numbers.gauges("tidegate_stock_units", "sku", "state", campaign=campaign)
    for (sku, state), units in sorted(states.items()):
        items.setdefault(sku, {})[state] = units
    return {sku: msgspec.convert(units, Units) for sku, units in items.items()}
