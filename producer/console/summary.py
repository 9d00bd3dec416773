"""What the console shows, in one shape; made from what is known, without I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Literal

from msgspec import Struct

from producer.console.trail import Point, Reason, Sample, Trail
from producer.levels import Standing
from workers.domain.overload import Level, Policy
from workers.store.figures import Budget, Campaign, Figures, Stock
from workers.store.overview import Overview

_REFUSING: Final = (
    "limited",
    "not_accepted",
    "issuance_paused",
    "unanswered_no",
    "unanswered_unknown",
)


class Known(Struct, frozen=True, kw_only=True):
    """All that a summary is made of.

    `answers` and `verdicts` are counters of this host's API, by answer and by (class, verdict).
    `overview` is the last that could be read, at `read_at` (Unix time); `postgres` says whether
    the latest attempt was answered. `hints` None: the broker was not heard.
    """

    now: float
    standing: Standing
    policy: Policy | None
    true_ms: int | None
    answers: Mapping[tuple[str, ...], float]
    verdicts: Mapping[tuple[str, ...], float]
    pending: int
    overview: Overview | None
    read_at: float
    postgres: bool
    valkey: bool
    hints: int | None


class LevelShown(Struct, frozen=True, kw_only=True):
    """The level in force; `governed`: the governor is alive. `ordered` is an operator's word."""

    level: Level
    reason: str
    since: datetime
    until: datetime | None
    governed: bool
    ordered: OrderShown | None


class OrderShown(Struct, frozen=True, kw_only=True):
    """The level that an operator ordered, and why. `until` null: until it is lifted."""

    level: Level
    reason: str
    since: datetime
    until: datetime | None


class WaitsShown(Struct, frozen=True, kw_only=True):
    """Predicted for an intent accepted now, and what outcomes have taken; null: not known."""

    predicted_ms: int | None
    true_ms: int | None
    service_per_s: float | None
    admitted_per_s: float | None


class RefusalShown(Struct, frozen=True, kw_only=True):
    """How often a reason was given: by the gate (since it started), or when intents were decided."""

    where: Literal["gate", "decision"]
    reason: str
    last_minute: int
    total: int


class QueueShown(Struct, frozen=True, kw_only=True):
    """What waits. `open` intents have no outcome yet, `pending` ones no receipt."""

    open: int | None
    oldest_age_s: float | None
    in_flight: int
    hints: int | None
    pending: int
    quarantined: int | None
    workers: int | None


class DependencyShown(Struct, frozen=True, kw_only=True):
    """Whether something that is needed answers."""

    name: str
    up: bool


class PauseShown(Struct, frozen=True, kw_only=True):
    """An operator's pause; `until` null: until it is lifted."""

    until: datetime | None
    reason: str | None


class UnitsShown(Struct, frozen=True, kw_only=True):
    """Units of an item or of a campaign; `initial = available + reserved + sold`."""

    initial: int
    available: int
    reserved: int
    sold: int


class ItemShown(UnitsShown, frozen=True, kw_only=True):
    """An item's units."""

    sku: str


class BudgetShown(Struct, frozen=True, kw_only=True):
    """A budget in minor units; `initial = available + reserved + spent`."""

    initial: int
    available: int
    reserved: int
    spent: int


class CampaignShown(Struct, frozen=True, kw_only=True):
    """A campaign; `stock` is the sum of the `items` that are shown.

    `paused` null: it issues, if it has a budget; null where it gives no coupons out.
    """

    campaign_id: str
    currency: str
    paused: PauseShown | None
    budget: BudgetShown | None
    stock: UnitsShown
    items: Sequence[ItemShown]


class MerchantShown(Struct, frozen=True, kw_only=True):
    """A merchant; `paused` null: it sells."""

    merchant_id: str
    paused: PauseShown | None


class ActShown(Struct, frozen=True, kw_only=True):
    """A line of the operators' record."""

    at: datetime
    actor: str
    action: str
    subject: str
    reason: str | None


class SummaryShown(Struct, frozen=True, kw_only=True):
    """How it goes, for operators. `read_at` is when the tables were last read; null: never."""

    at: datetime
    read_at: datetime | None
    level: LevelShown
    rates: Point
    committed: int | None
    waits: WaitsShown
    refusals: Sequence[RefusalShown]
    queue: QueueShown
    dependencies: Sequence[DependencyShown]
    campaigns: Sequence[CampaignShown]
    merchants: Sequence[MerchantShown]
    acts: Sequence[ActShown]


def sample_of(known: Known) -> Sample:
    """Return what is counted now."""
    answers = {labels[0]: count for labels, count in known.answers.items()}
    reasons: Counter[Reason] = Counter()
    for (_, verdict), count in known.verdicts.items():
        if verdict != "admitted":
            reasons["gate", verdict] += int(count)
    figures = known.overview.figures if known.overview else None
    if figures is not None:
        for tally in figures.tallies:
            if tally.reason:
                reasons["decision", tally.reason] += tally.intents
    return Sample(
        at=known.now,
        offered=sum(answers.values()),
        admitted=answers.get("accepted", 0.0),
        refused=sum(answers.get(word, 0.0) for word in _REFUSING),
        committed=_committed(figures) if figures is not None and known.postgres else None,
        reasons=reasons,
        predicted_ms=known.standing.predicted_wait_ms,
        true_ms=known.true_ms,
    )


def summary_of(known: Known, sample: Sample, trail: Trail, point: Point) -> SummaryShown:
    """Return what is shown now; `trail` holds the sample already."""
    overview = known.overview
    policy = known.policy
    return SummaryShown(
        at=_moment(known.now),
        read_at=None if overview is None else _moment(known.read_at),
        level=_level(known.standing, overview),
        rates=point,
        committed=None if overview is None else _committed(overview.figures),
        waits=WaitsShown(
            predicted_ms=known.standing.predicted_wait_ms,
            true_ms=known.true_ms,
            service_per_s=None if policy is None else policy.service_per_s,
            admitted_per_s=None if policy is None else policy.admitted_per_s,
        ),
        refusals=_refusals(sample, trail),
        queue=_queue(known),
        dependencies=[
            DependencyShown(name="PostgreSQL", up=known.postgres),
            DependencyShown(name="Valkey", up=known.valkey),
            DependencyShown(name="Broker", up=known.hints is not None),
            DependencyShown(name="Governor", up=known.standing.governed),
        ],
        campaigns=[] if overview is None else _campaigns(overview),
        merchants=[] if overview is None else _merchants(overview),
        acts=[] if overview is None else _acts(overview),
    )


def _committed(figures: Figures) -> int:
    return sum(tally.intents for tally in figures.tallies if not tally.reason)


def _level(standing: Standing, overview: Overview | None) -> LevelShown:
    ordered = None if overview is None else overview.ordered
    return LevelShown(
        level=standing.level,
        reason=standing.reason,
        since=_moment(standing.since_ms / 1_000),
        until=None if standing.until_ms is None else _moment(standing.until_ms / 1_000),
        governed=standing.governed,
        ordered=None
        if ordered is None
        else OrderShown(
            level=ordered.level,
            reason=ordered.reason,
            since=ordered.ordered_at,
            until=ordered.until,
        ),
    )


def _refusals(sample: Sample, trail: Trail) -> list[RefusalShown]:
    """Return the reasons that were ever given; those of the last minute first."""
    shown = [
        RefusalShown(
            where="gate" if where == "gate" else "decision",
            reason=reason,
            last_minute=int(trail.last_minute((where, reason))),
            total=int(total),
        )
        for (where, reason), total in sample.reasons.items()
        if total
    ]
    return sorted(shown, key=lambda one: (-one.last_minute, -one.total, one.reason))


def _queue(known: Known) -> QueueShown:
    overview = known.overview
    figures = None if overview is None else overview.figures
    return QueueShown(
        open=None if figures is None else figures.open_count,
        oldest_age_s=None if figures is None else round(figures.oldest_age_s, 3),
        in_flight=known.standing.in_flight,
        hints=known.hints,
        pending=known.pending,
        quarantined=None if figures is None else figures.quarantined,
        workers=None if overview is None else overview.workers,
    )


def _campaigns(overview: Overview) -> list[CampaignShown]:
    items: dict[str, list[Stock]] = {}
    for one in overview.figures.stock:
        items.setdefault(one.campaign_id, []).append(one)
    return [
        _campaign(campaign, items.get(campaign.campaign_id, []), overview)
        for campaign in overview.figures.campaigns
    ]


def _budget(budget: Budget | None) -> BudgetShown | None:
    if budget is None:
        return None
    return BudgetShown(
        initial=budget.initial,
        available=budget.available,
        reserved=budget.reserved,
        spent=budget.spent,
    )


def _campaign(campaign: Campaign, items: Sequence[Stock], overview: Overview) -> CampaignShown:
    pause = overview.pauses.get(campaign.campaign_id)
    return CampaignShown(
        campaign_id=campaign.campaign_id,
        currency=campaign.currency,
        paused=None if pause is None else PauseShown(until=pause.until, reason=pause.reason),
        budget=_budget(campaign.budget),
        stock=UnitsShown(
            initial=sum(one.initial for one in items),
            available=sum(one.available for one in items),
            reserved=sum(one.reserved for one in items),
            sold=sum(one.sold for one in items),
        ),
        items=[
            ItemShown(
                sku=one.sku,
                initial=one.initial,
                available=one.available,
                reserved=one.reserved,
                sold=one.sold,
            )
            for one in items
        ],
    )


def _merchants(overview: Overview) -> list[MerchantShown]:
    """Return them by name, so that none moves away from under a finger when it is paused."""
    return [
        MerchantShown(
            merchant_id=one.merchant_id,
            paused=PauseShown(until=one.until, reason=one.reason) if one.paused else None,
        )
        for one in sorted(overview.merchants, key=lambda one: one.merchant_id)
    ]


def _acts(overview: Overview) -> list[ActShown]:
    return [
        ActShown(
            at=one.acted_at,
            actor=one.actor,
            action=one.action,
            subject=one.subject,
            reason=one.reason,
        )
        for one in overview.acts
    ]


def _moment(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)
