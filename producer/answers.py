"""What the intake takes, and the answers it gives: one per posted intent, in order."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from config.tracing import Context
from workers.contract.admission import RateLimit
from workers.contract.resource import IntentResource
from workers.domain.appointment import Appointment
from workers.domain.intent import IssuanceIntent, Kind, OrderIntent
from workers.domain.overload import Level

_ORDER, _ISSUANCE = Kind.ORDER, Kind.ISSUANCE  # looking one up in its enumeration takes longer
INTAKE_LIMIT = "intake"  # the layer that binds when too many wait for a lane
CALLERS_LIMITS = ("user", "conversation", "gateway")  # the caller can do something about these

NotAcceptedReason = Literal[
    "sold_out", "likely_sold_out", "budget_exhausted", "campaign_not_active", "merchant_unavailable"
]


class Posted(Struct, frozen=True, kw_only=True):
    """One well-shaped intent, with who posted it and under which key.

    `intent_id` is made by the intake's caller and becomes the intent's id if it is accepted.
    `appointment` is the ticket it came with, unread; `traceparent` is its place in a trace that is
    followed, with the `tracestate` beside it. None is part of the intent's fingerprint.
    """

    intent_id: UUID
    gateway_id: str
    idempotency_key: str
    intent: OrderIntent | IssuanceIntent
    appointment: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None

    def at(self, place: Context) -> Posted:
        """Return it with its place in a trace that is followed."""
        return replace(self, traceparent=place.traceparent(), tracestate=place.state or None)

    @property
    def kind(self) -> Kind:
        """What it wishes for."""
        return _ORDER if isinstance(self.intent, OrderIntent) else _ISSUANCE


class Accepted(Struct, frozen=True):
    """Journalled: the receipt."""

    intent_id: UUID
    accepted_at: datetime


class Replayed(Struct, frozen=True):
    """The key is known, with this very intent: what became of it so far."""

    resource: IntentResource


class Conflict(Struct, frozen=True):
    """The key is known, with another intent."""

    intent_id: UUID


class Limited(Struct, frozen=True):
    """The gate's no. `limit` names the layer that bound; nothing was journalled.

    `retry_after_ms` is the least wait, without jitter; with an appointment it is the time until the
    window begins. The chat is told the window's clock time if `appointment.not_before` is in a time
    zone other than UTC, else how long it takes. `quota` is the limit itself, where one was stated.
    """

    limit: str
    retry_after_ms: int
    level: Level = Level.NORMAL
    appointment: Appointment | None = None
    quota: RateLimit | None = None


class NotAccepted(Struct, frozen=True):
    """A business no, found without the journal. Nothing was journalled.

    `final`: asking again cannot help, as things stand. `odds` is the chance, 0 to 1, that units come
    back for this intent; None where nobody can say.
    """

    reason: NotAcceptedReason
    final: bool
    odds: float | None = None
    try_again_at: datetime | None = None


class IssuancePaused(Struct, frozen=True):
    """No coupons are given out at present, by load everywhere or by an operator's word.

    `resume_at` is known only of a pause that ends by itself.
    """

    resume_at: datetime | None
    level: Level
    by: Literal["load", "operator"]


class Unanswered(Struct, frozen=True):
    """A dependency failed us. `accepted` is "unknown" where a commit may have happened unheard."""

    accepted: Literal["no", "unknown"]
    dependency: str  # "postgres" or "valkey", for the operator; never shown with its error


Answer = Accepted | Replayed | Conflict | Limited | NotAccepted | IssuancePaused | Unanswered
