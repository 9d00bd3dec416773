"""What the gate is asked and what it answers: limits, candidates, verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from msgspec import Struct, field

from workers.domain.overload import IntentClass, Level, Policy

LAYERS: Final = (
    "user",
    "conversation",
    "gateway",
    "campaign",
    "sku",
    "in_flight",
    "merchant",
    "level",
    "deadline",
    "stock",
    "budget",
)

RATE_MAX: Final = 1_000_000  # A second: one a microsecond, the clock's own step.
WINDOW_S_MAX: Final = 31 * 86_400  # A longer memory belongs in the database.


class RateLimit(Struct, frozen=True):
    """At most `burst` intents at once and `rate` a second in the long run."""

    rate: float
    burst: int

    def __post_init__(self) -> None:
        if not 0 < self.rate <= RATE_MAX:
            raise ValueError(f"expected a rate above 0 and up to {RATE_MAX}, got {self.rate}")
        if not 1 <= self.burst <= self.rate * WINDOW_S_MAX:
            raise ValueError(
                f"expected a burst from 1 up to what {WINDOW_S_MAX} seconds of the rate bring, "
                f"got {self.burst}"
            )

    @property
    def interval_us(self) -> float:
        """The emission interval: how long one intent's share of the rate lasts."""
        return 1_000_000 / self.rate


class CampaignLimits(Struct, frozen=True):
    """A campaign's limits by layer; `user` and `conversation` hold within one gateway."""

    user: RateLimit | None = None
    conversation: RateLimit | None = None
    campaign: RateLimit | None = None
    sku: RateLimit | None = None


class Limits(Struct, frozen=True):
    """What is in force; whoever is not named has no limit.

    A merchant's None says that it is paused. `ordered` is the operator's policy, which outranks the
    published one; of it the level counts, and those of its numbers that are stated.
    """

    campaigns: Mapping[str, CampaignLimits] = field(default_factory=dict)
    gateways: Mapping[str, RateLimit] = field(default_factory=dict)
    merchants: Mapping[str, RateLimit | None] = field(default_factory=dict)
    ordered: Policy | None = None


class Units(Struct, frozen=True, gc=False):
    """What a candidate would take of something that can run out.

    `key` is `stock:{campaign}:{sku}` or `budget:{campaign}`; `amount` counts pieces of stock, or
    minor units of the budget.
    """

    key: str
    amount: int


class Balance(Struct, frozen=True, gc=False):
    """What a committed row says is left; of two versions the higher is the newer.

    `key` as in `Units`. Versions and amounts are 0 or more.
    """

    key: str
    version: int
    available: int
    reserved: int


class Candidate(Struct, frozen=True, gc=False):
    """An intent as the gate sees it.

    Each of its SKUs and merchants counts once, whatever the quantity. `ttl_ms` is how long its
    outcome is worth waiting for. `units` are of stock for an order, of the budget for an issuance.
    """

    intent_id: UUID
    gateway_id: str
    user_id: str
    campaign_id: str
    conversation_id: str | None
    skus: tuple[str, ...]
    intent_class: IntentClass = IntentClass.ORDER
    ttl_ms: int = 60_000
    units: tuple[Units, ...] = ()
    merchants: tuple[str, ...] = ()


class Quota(Struct, frozen=True, gc=False):
    """What is left of a limit after the call, and when all of it will be back."""

    limit: RateLimit
    remaining: int
    reset_ms: int


class Verdict(Struct, frozen=True, gc=False):
    """The gate's answer to one candidate.

    `limit` names the binding layer (one of `LAYERS`) of a refusal: the one that keeps the candidate
    waiting longest, unless something bars it whatever the rates are; gate.lua has the order.
    `retry_after_ms` is when it will have room, without jitter; for `in_flight` it is a guess; 0 is
    "the gate cannot know": closed, issuance or a merchant paused, stock or budget. `reconciled` is
    false while the gate rebuilds its memory and admits only the unreconciled rate; who is beyond
    that is refused as `in_flight`. `in_flight` and `predicted_wait_ms` (0: no service rate is
    known) are as after the whole call. Quotas, too; None where no limit is.

    `level` is what was in force. `policy_fresh` is false when the governor's lease has lapsed: of
    what it published only the service rate and the longest wait hold then, and the predicted wait
    is by that rate.
    `final` is of `stock` and `budget`: the committed balance has nothing available and nothing
    reserved. `ahead`, `left` and `wanted` likewise: units in flight before this one, committed
    available, and what this one would take.
    `lasts_until_ms` is of other refusals: until when what it wants lasts as it is taken now, in Unix
    ms by the gate's clock; None: nobody knows.
    """

    admitted: bool
    limit: str | None
    retry_after_ms: int
    reconciled: bool
    in_flight: int
    user_quota: Quota | None
    gateway_quota: Quota | None
    level: Level
    policy_fresh: bool
    predicted_wait_ms: int
    final: bool = False
    ahead: int = 0
    left: int = 0
    lasts_until_ms: int | None = None
    wanted: int = 0
