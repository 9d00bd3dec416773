"""What the intake takes, and the answers it gives: one per posted intent, in order."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import Struct

from workers.contract.resource import IntentResource
from workers.domain.intent import IssuanceIntent, Kind, OrderIntent

INTAKE_LIMIT = "intake"  # the layer that binds when too many wait for a lane


class Posted(Struct, frozen=True, kw_only=True):
    """One well-shaped intent, with who posted it and under which key.

    `intent_id` is made by the intake's caller and becomes the intent's id if it is accepted.
    """

    intent_id: UUID
    gateway_id: str
    idempotency_key: str
    intent: OrderIntent | IssuanceIntent

    @property
    def kind(self) -> Kind:
        """What it wishes for."""
        return Kind.ORDER if isinstance(self.intent, OrderIntent) else Kind.ISSUANCE


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
    """The gate's no. `limit` names the layer that bound; nothing was journalled."""

    limit: str
    retry_after_ms: int


class Unanswered(Struct, frozen=True):
    """A dependency failed us. `accepted` is "unknown" where a commit may have happened unheard."""

    accepted: Literal["no", "unknown"]
    dependency: str  # "postgres" or "valkey", for the operator; never shown with its error


Answer = Accepted | Replayed | Conflict | Limited | Unanswered
