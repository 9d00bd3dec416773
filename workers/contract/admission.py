"""What the gate is asked and what it answers: limits, candidates, verdicts."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from msgspec import Struct

LAYERS: Final = ("user", "conversation", "gateway", "campaign", "sku", "in_flight")

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


class Candidate(Struct, frozen=True, gc=False):
    """An intent as the gate sees it. Each of its SKUs counts once, whatever the quantity."""

    intent_id: UUID
    gateway_id: str
    user_id: str
    campaign_id: str
    conversation_id: str | None
    skus: tuple[str, ...]


class Quota(Struct, frozen=True, gc=False):
    """What is left of a limit after the call, and when all of it will be back."""

    limit: RateLimit
    remaining: int
    reset_ms: int


class Verdict(Struct, frozen=True, gc=False):
    """The gate's answer to one candidate.

    `limit` names the binding layer (one of `LAYERS`) of a refusal: the one that keeps the candidate
    waiting longest. `retry_after_ms` is when it will have room, without jitter; for `in_flight` it
    is a guess. `reconciled` is false while the gate rebuilds its memory and admits only the
    unreconciled rate; who is beyond that is refused as `in_flight`. `in_flight` is the number after
    the whole call. Quotas are as after the whole call; None where no limit is.
    """

    admitted: bool
    limit: str | None
    retry_after_ms: int
    reconciled: bool
    in_flight: int
    user_quota: Quota | None
    gateway_quota: Quota | None
