"""Figures: all that the live view shows, as one object; `tidegate top --json` prints it.

Numbers are raw: a key's name has its unit, `_per_s` is of the last seconds. Null is "nobody says":
the series is not shown by any source that answers. `tidegate top --schema` prints these descriptions
as JSON Schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

Number = float | None


class Flow(Struct, frozen=True):
    """Something counted."""

    total: Annotated[Number, Meta(description="Since its process began; the exporter's: ever.")] = (
        None
    )
    per_s: Annotated[Number, Meta(description="A second, over `window_s`.")] = None


class Spread(Struct, frozen=True):
    """Durations over `window_s`; quantiles are interpolated within a histogram's buckets."""

    count: Annotated[Number, Meta(description="How many there were.")] = None
    mean_s: Annotated[Number, Meta(description="Mean.")] = None
    p50_s: Annotated[Number, Meta(description="Median.")] = None
    p99_s: Annotated[
        Number,
        Meta(
            description="99th percentile; beyond the greatest finite bucket, that bucket's bound."
        ),
    ] = None


class SourceFigures(Struct, frozen=True, kw_only=True):
    """A source and how it is."""

    name: Annotated[str, Meta(description="As in endpoints.json, or host and port.")]
    url: Annotated[str, Meta(description="Where it is asked.")]
    state: Annotated[
        str, Meta(description="`answers`, `away`, or `unheard` before its first answer.")
    ]
    age_s: Annotated[Number, Meta(description="Since its last answer.")] = None
    error: Annotated[str, Meta(description="Why the last call failed; empty if it did not.")] = ""
    process: Annotated[str, Meta(description="What it runs as, by its build info.")] = ""
    version: Annotated[str, Meta(description="Its version, by its build info.")] = ""
    up_s: Annotated[Number, Meta(description="Since its process started.")] = None


class LevelFigures(Struct, frozen=True, kw_only=True):
    """The overload level, as `/v1/status` tells it; without a key, as the governor shows it."""

    level: Annotated[
        str | None, Meta(description="`normal`, `throttled`, `shedding`, `closed`.")
    ] = None
    reason: Annotated[
        str, Meta(description="Why it is not normal: wait, postgres, valkey, dispatch, operator.")
    ] = ""
    since: Annotated[datetime | None, Meta(description="When it began.")] = None
    until: Annotated[datetime | None, Meta(description="When an operator's order ends.")] = None
    governed: Annotated[bool | None, Meta(description="Whether a governor measures the load.")] = (
        None
    )
    ordered: Annotated[bool | None, Meta(description="Whether an operator orders it.")] = None
    issuance: Annotated[str, Meta(description="`open` or `paused`.")] = ""
    redemption: Annotated[str, Meta(description="`open` or `paused`.")] = ""
    admit_ratio: Annotated[
        Number, Meta(description="Share of the intents lately that no limit of ours refused.")
    ] = None
    retry_after_s: Annotated[
        Number, Meta(description="How long a new order had best wait; 0: not at all.")
    ] = None
    admitted_per_s: Annotated[
        Number, Meta(description="The rate let in while shedding; null while there is none.")
    ] = None
    service_per_s: Annotated[
        Number, Meta(description="Intents decided a second when there is no lack of work.")
    ] = None


class IntentFigures(Struct, frozen=True, kw_only=True):
    """Intents: what was asked, and what became of it."""

    offered: Annotated[Flow, Meta(description="Answered by the intake, whatever the answer.")]
    accepted: Annotated[Flow, Meta(description="Got a receipt; as the API counts.")]
    replayed: Annotated[Flow, Meta(description="Known keys, told what became of them.")]
    refused: Annotated[
        Flow, Meta(description="Told no at once: limited, not accepted, issuance paused.")
    ]
    unanswered: Annotated[
        Flow, Meta(description="Told that the system cannot answer: no, or unknown.")
    ]
    journalled: Annotated[Flow, Meta(description="Receipts, as the tables count them.")]
    committed: Annotated[Flow, Meta(description="Became an order or a coupon; by the tables.")]
    refused_later: Annotated[Flow, Meta(description="Refused after a receipt; by the tables.")]
    decided: Annotated[Flow, Meta(description="Outcomes that the governor heard of.")]


class WaitFigures(Struct, frozen=True, kw_only=True):
    """Waits."""

    predicted_s: Annotated[Number, Meta(description="Predicted for an intent accepted now.")] = None
    predicted_then_s: Annotated[
        Number, Meta(description="Predicted for those decided now, when they were accepted.")
    ] = None
    true_s: Annotated[
        Number, Meta(description="What those decided now have waited; the median.")
    ] = None
    sojourn: Annotated[Spread, Meta(description="From acceptance to outcome; by the workers.")]
    sojourn_p99_s: Annotated[
        Number, Meta(description="The same, 99th percentile of the governor's last interval.")
    ] = None
    receipt: Annotated[Spread, Meta(description="From a POST /v1/intents to its answer.")]


class GateRefusal(Struct, frozen=True, kw_only=True):
    """Refused by the gate."""

    class_: Annotated[
        str, Meta(description="`appointment`, `redemption`, `order` or `issuance`.")
    ] = field(name="class")
    layer: Annotated[str, Meta(description="What bound: a limit, the level, stock, …")]
    total: Annotated[Number, Meta(description="Since the API began.")]
    per_s: Annotated[Number, Meta(description="A second, over `window_s`.")]


class OutcomeRefusal(Struct, frozen=True, kw_only=True):
    """Refused after a receipt."""

    reason: Annotated[str, Meta(description="The published reason.")]
    total: Annotated[Number, Meta(description="Ever; by the tables.")]
    per_s: Annotated[Number, Meta(description="A second, over `window_s`.")]


class RefusalFigures(Struct, frozen=True, kw_only=True):
    """Who is refused, and by what."""

    answers: Annotated[Mapping[str, Flow], Meta(description="The intake's answers, by word.")]
    gate: Annotated[
        Sequence[GateRefusal], Meta(description="By class and layer, the most frequent first.")
    ]
    outcomes: Annotated[
        Sequence[OutcomeRefusal], Meta(description="By reason, the most frequent first.")
    ]
    admitted: Annotated[Mapping[str, Flow], Meta(description="Let in by the gate, by class.")]
    appointments: Annotated[
        Mapping[str, Flow], Meta(description="Windows in time `given`, `kept`, `missed`.")
    ]


class WorkerFigures(Struct, frozen=True, kw_only=True):
    """A worker."""

    name: Annotated[str, Meta(description="Its source's name.")]
    up: Annotated[bool, Meta(description="Whether it answers.")]
    active: Annotated[Number, Meta(description="Tasks at work.")] = None
    batches_per_s: Annotated[Number, Meta(description="Batches committed a second.")] = None
    intents_per_s: Annotated[Number, Meta(description="Intents in them a second.")] = None


class PipelineFigures(Struct, frozen=True, kw_only=True):
    """The way from a receipt to its outcome."""

    in_flight: Annotated[Number, Meta(description="Accepted, no outcome; by the gate.")] = None
    open: Annotated[Number, Meta(description="Journalled, no outcome; by the tables.")] = None
    oldest_age_s: Annotated[Number, Meta(description="Age of the oldest open intent.")] = None
    queues: Annotated[Mapping[str, float], Meta(description="Messages in each queue.")]
    intake_waiting: Annotated[Number, Meta(description="Intents waiting for a lane.")] = None
    intake_batch_size: Annotated[
        Number, Meta(description="Intents in a batch of the intake; mean over `window_s`.")
    ] = None
    intake_stages_s: Annotated[
        Mapping[str, float], Meta(description="Mean time of an intake batch, by stage.")
    ]
    batches: Annotated[Flow, Meta(description="Batches that workers committed.")]
    batch_size: Annotated[
        Number, Meta(description="Intents in a worker's batch; mean over `window_s`.")
    ] = None
    stages_s: Annotated[
        Mapping[str, float], Meta(description="Mean time of a worker's batch, by stage.")
    ]
    contentions: Annotated[Flow, Meta(description="Batches begun again: another in the way.")]
    failures: Annotated[Flow, Meta(description="Failures of single intents.")]
    faults: Annotated[Flow, Meta(description="Batches put off by a fault of the system.")]
    quarantined: Annotated[Number, Meta(description="Intents in quarantine.")] = None
    redispatched: Annotated[Flow, Meta(description="Intents hinted at again.")]
    dispatch_lag_s: Annotated[Number, Meta(description="How overdue the oldest hint is.")] = None
    outbox_waiting: Annotated[Number, Meta(description="Webhook events to be delivered.")] = None
    outbox_dead: Annotated[Number, Meta(description="Webhook events given up.")] = None
    outbox_oldest_age_s: Annotated[
        Number, Meta(description="Age of the webhook event that waits longest.")
    ] = None
    workers: Annotated[Sequence[WorkerFigures], Meta(description="Every worker known.")]


class PostgresFigures(Struct, frozen=True, kw_only=True):
    """PostgreSQL."""

    up: Annotated[bool | None, Meta(description="Whether it answers exporter or governor.")] = None
    probe_s: Annotated[Number, Meta(description="Latency of the governor's probe.")] = None
    connections_ratio: Annotated[
        Number, Meta(description="Connections open, of those that may be.")
    ] = None
    ledger_drift: Annotated[
        Mapping[str, float], Meta(description="What does not add up, by check; must be 0.")
    ]


class ValkeyFigures(Struct, frozen=True, kw_only=True):
    """Valkey."""

    up: Annotated[bool | None, Meta(description="Whether it answers exporter or governor.")] = None
    probe_s: Annotated[Number, Meta(description="Latency of the governor's probe.")] = None
    memory_ratio: Annotated[Number, Meta(description="Memory used, of maxmemory.")] = None
    outcomes_heard: Annotated[
        bool | None, Meta(description="Whether the API hears announced outcomes.")
    ] = None
    hints_failed: Annotated[Flow, Meta(description="Hints that the broker did not take.")]


class DependencyFigures(Struct, frozen=True, kw_only=True):
    """What the deployment stands on, and whether an order comes through it."""

    postgres: Annotated[PostgresFigures, Meta(description="PostgreSQL.")]
    valkey: Annotated[ValkeyFigures, Meta(description="Valkey.")]
    heartbeat_age_s: Annotated[
        Number, Meta(description="Since the exporter's own last order came through.")
    ] = None
    heartbeat_s: Annotated[Number, Meta(description="From post to outcome of that order.")] = None


class Units(Struct, frozen=True, kw_only=True):
    """Units of stock by state; `initial` is the sum of the others."""

    initial: Annotated[Number, Meta(description="There were.")] = None
    available: Annotated[Number, Meta(description="Left.")] = None
    reserved: Annotated[Number, Meta(description="In orders not paid yet.")] = None
    sold: Annotated[Number, Meta(description="Sold.")] = None


class Budget(Struct, frozen=True, kw_only=True):
    """A campaign's money, in minor units."""

    currency: Annotated[str, Meta(description="ISO 4217.")] = ""
    initial: Annotated[Number, Meta(description="There was.")] = None
    available: Annotated[Number, Meta(description="Left.")] = None
    reserved: Annotated[Number, Meta(description="In coupons that may still be used.")] = None
    spent: Annotated[Number, Meta(description="Spent.")] = None


class CampaignFigures(Struct, frozen=True, kw_only=True):
    """A campaign."""

    campaign: Annotated[str, Meta(description="Its id.")]
    issuance: Annotated[str, Meta(description="`open` or `paused`; empty: nobody says.")] = ""
    resume_at: Annotated[datetime | None, Meta(description="When a pause ends.")] = None
    starts_at: Annotated[datetime | None, Meta(description="When it begins.")] = None
    ends_at: Annotated[datetime | None, Meta(description="When it ends.")] = None
    budget: Annotated[Budget, Meta(description="Its money.")]
    issued: Annotated[Flow, Meta(description="Coupons issued, those in bulk included.")]
    redeemed: Annotated[Flow, Meta(description="Coupons used on an order.")]
    committed: Annotated[Flow, Meta(description="Intents that became an order or a coupon.")]
    refused: Annotated[Flow, Meta(description="Intents refused after a receipt.")]
    stock: Annotated[Units, Meta(description="Of all its items together.")]
    items: Annotated[Mapping[str, Units], Meta(description="By item.")]


class Figures(Struct, frozen=True, kw_only=True):
    """A deployment at one moment."""

    at: Annotated[datetime, Meta(description="When this was put together.")]
    window_s: Annotated[float, Meta(description="Over how long rates and quantiles are.")]
    troubles: Annotated[Sequence[str], Meta(description="What an operator should look at.")]
    level: Annotated[LevelFigures, Meta(description="How far the system has closed.")]
    intents: Annotated[IntentFigures, Meta(description="Asked for, and what became of it.")]
    waits: Annotated[WaitFigures, Meta(description="Predicted and true waits.")]
    refusals: Annotated[RefusalFigures, Meta(description="Who is refused, and by what.")]
    pipeline: Annotated[PipelineFigures, Meta(description="From receipt to outcome.")]
    dependencies: Annotated[DependencyFigures, Meta(description="PostgreSQL and Valkey.")]
    campaigns: Annotated[Sequence[CampaignFigures], Meta(description="Campaigns, by id.")]
    sources: Annotated[Sequence[SourceFigures], Meta(description="Who says all this.")]


def schema() -> dict[str, Any]:
    """Describe every key of the object, as JSON Schema."""
    return msgspec.json.schema(Figures)
