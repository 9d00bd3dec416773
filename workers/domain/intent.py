"""Intents: what a gateway may say, strictly shaped, and what the journal keeps of it.

A shape is a type: the decoder refuses unknown fields, wrong types, floats for integers and
over-long strings, and names the field. What depends on the campaign is decided later, by a worker.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from workers.domain.money import Money

LINES_MAX = 20  # a chat order, not a warehouse's: bounds the locks one intent can ask for
QUANTITY_MAX = 99  # per line; hoarding is refused by shape before any limit is asked
TTL_MS_DEFAULT = 60_000

# No control characters: they forge log lines, and PostgreSQL refuses NUL.
_PRINTABLE = r"^[^\x00-\x1f\x7f]+\Z"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z"  # no colon: names are parts of account names

UserId = Annotated[str, Meta(min_length=1, max_length=128, pattern=_PRINTABLE)]
ConversationId = Annotated[str, Meta(min_length=1, max_length=128, pattern=_PRINTABLE)]
CampaignId = Annotated[str, Meta(min_length=1, max_length=64, pattern=_NAME)]
Sku = Annotated[str, Meta(min_length=1, max_length=64, pattern=_NAME)]
CouponCode = Annotated[str, Meta(min_length=1, max_length=80, pattern=_PRINTABLE)]
Locale = Annotated[str, Meta(min_length=2, max_length=35, pattern=r"^[A-Za-z0-9-]+\Z")]
IdempotencyKey = Annotated[str, Meta(min_length=1, max_length=255, pattern=_PRINTABLE)]
TtlMs = Annotated[int, Meta(ge=1_000, le=600_000)]


class Kind(StrEnum):
    """What an intent wishes for."""

    ORDER = "order"
    ISSUANCE = "issuance"


class Line(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """So many units of one SKU."""

    sku: Sku
    quantity: Annotated[int, Meta(ge=1, le=QUANTITY_MAX)]


class OrderIntent(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The wish to buy, as a gateway posts it.

    `lines` names each SKU once. `expected_total` is what the user was told to pay; another payable
    amount is refused as `price_changed`. `ttl_ms` is how long the answer is of use, from acceptance.
    """

    user_id: UserId
    campaign_id: CampaignId
    lines: Annotated[tuple[Line, ...], Meta(min_length=1, max_length=LINES_MAX)]
    coupon_code: CouponCode | None = None
    conversation_id: ConversationId | None = None
    locale: Locale | None = None
    ttl_ms: TtlMs = TTL_MS_DEFAULT
    expected_total: Money | None = None

    def __post_init__(self) -> None:
        if len(self.lines) > 1 and len({line.sku for line in self.lines}) < len(self.lines):
            raise ValueError("`lines` names a sku twice; add its quantities into one line")


class IssuanceIntent(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The wish for a coupon, as a gateway posts it."""

    user_id: UserId
    campaign_id: CampaignId
    conversation_id: ConversationId | None = None
    locale: Locale | None = None
    ttl_ms: TtlMs = TTL_MS_DEFAULT


class IntentBody(Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """The part of an intent that the journal keeps as one JSON value.

    A coupon is kept by its id: codes are secrets. `coupon_forged` marks a code whose signature does
    not verify; it is refused by the worker, like an unknown one, in the same words and time.
    """

    lines: tuple[Line, ...] = ()
    coupon_id: UUID | None = None
    coupon_forged: bool = False
    conversation_id: str | None = None
    locale: str | None = None
    ttl_ms: int = TTL_MS_DEFAULT
    expected_total: Money | None = None


class Intent(Struct, frozen=True, kw_only=True, gc=False):
    """A journalled intent: what a worker decides."""

    intent_id: UUID
    kind: Kind
    gateway_id: str
    user_id: str
    campaign_id: str
    accepted_at: datetime
    body: IntentBody

    @property
    def deadline(self) -> datetime:
        """The moment after which an outcome is of no use to the user."""
        return self.accepted_at + _span(self.body.ttl_ms)


@lru_cache(maxsize=1024)
def _span(ms: int) -> timedelta:
    """Make a span of time once: nearly all intents have the same."""
    return timedelta(milliseconds=ms)
