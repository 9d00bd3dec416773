"""What comes of a call: values, each with a text for the chat where a user waits for one.

Amounts are minor units of the currency beside them, times are UTC, ids are the API's. Words that the
API may one day have more of (reasons, limits, levels, states) are strings: a gateway must not break
because an answer has become richer. Every result can be kept: `msgspec.json.encode` writes it, and
`msgspec.json.decode(…, type=SubmitResult)` reads it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, Required, TypedDict
from uuid import UUID

from msgspec import Struct, field

from workers.domain.money import Money
from workers.domain.outcome import PricedLine

Kind = Literal["order", "issuance"]


class OrderFields(TypedDict, total=False):
    """The wish to buy. `lines` is units by SKU; the rest is as in the API."""

    user_id: Required[str]
    campaign_id: Required[str]
    lines: Required[Mapping[str, int]]
    coupon_code: str | None
    conversation_id: str | None
    locale: str | None
    ttl_ms: int
    expected_total: Money | None


class IssuanceFields(TypedDict, total=False):
    """The wish for a coupon."""

    user_id: Required[str]
    campaign_id: Required[str]
    conversation_id: str | None
    locale: str | None
    ttl_ms: int


class KeyedOrderFields(OrderFields, total=False):
    """A wish to buy within a batch, under a key of the caller's own."""

    idempotency_key: str


class Appointment(Struct, frozen=True):
    """A place in time: who comes back in this window with the ticket is admitted, if goods remain."""

    ticket: str
    not_before: datetime
    not_after: datetime


class Wish(Struct, frozen=True, kw_only=True):
    """A wish as it is sent, and sent again: always this body under this key.

    `key_told` says that others may have used the key before. `not_before` is when it may be sent, by
    this machine's clock, None: at once; `window_s` is how long its appointment lasts from then, and
    `ticket` names it. `doubt_since` is when an answer was lost last (this machine's clock), None where
    the wish is surely not accepted.
    """

    kind: Kind
    body: str
    locale: str | None
    idempotency_key: str
    key_told: bool = False
    not_before: datetime | None = None
    window_s: float = 0.0
    ticket: str | None = None
    doubt_since: datetime | None = None

    def __repr__(self) -> str:
        """Leave out what no log should hold: the user, and the coupon's code."""
        return f"Wish(kind={self.kind!r}, idempotency_key={self.idempotency_key!r})"


class _Told(Struct, frozen=True, kw_only=True, tag=True, tag_field="result"):
    message: str  # fit to be shown in the chat, in the wish's language
    idempotency_key: str = ""  # "" where only the intent's id was given


class Order(Struct, frozen=True, kw_only=True):
    """An order. `payable` is `total` less `discount`; pay it before `payment_deadline`."""

    order_id: UUID
    status: str
    lines: tuple[PricedLine, ...]
    total: int
    discount: int
    payable: int
    currency: str
    payment_deadline: datetime | None = None


class Coupon(Struct, frozen=True, kw_only=True):
    """A coupon just issued; `value` is the most it takes off, in minor units."""

    code: str
    value: int
    valid_until: datetime


class Committed(_Told, frozen=True, kw_only=True):
    """The outcome: an order. `replayed`: the key was known before this call."""

    intent_id: UUID
    order: Order
    replayed: bool = False


class Issued(_Told, frozen=True, kw_only=True):
    """The outcome: a coupon."""

    intent_id: UUID
    coupon: Coupon
    replayed: bool = False


class Refused(_Told, frozen=True, kw_only=True):
    """The outcome: a reasoned no. It will not change; another wish needs another key."""

    intent_id: UUID
    reason: str
    replayed: bool = False


class Accepted(_Told, frozen=True, kw_only=True):
    """The receipt: the outcome will come; `follow` waits for it."""

    intent_id: UUID
    estimated_wait_ms: int = 0
    poll_after_ms: int = 500
    replayed: bool = False


class NotAccepted(_Told, frozen=True, kw_only=True):
    """A business no before anything was accepted.

    `final`: asking again is of no use. Else `odds` (0 to 1) is how likely it would be of use, and
    `try_again_at` when, where they are known.
    """

    reason: str
    final: bool = False
    odds: float | None = None
    try_again_at: datetime | None = None


class TurnedAway(_Told, frozen=True, kw_only=True):
    """Not taken for now, and the call's patience would have ended before the next try.

    `limit` is what bound: a layer of the API's, `client` (this SDK holds back, so as not to add to an
    overload) or `connection` (the API was not reached). `level` is the overload level, where told.
    `retry_after_s` counts from this answer; None: nobody knows when. Keep the value, and give it to
    `resume` when the time has come: the same wish, the same key, and its place in time.
    """

    limit: str
    wish: Wish
    level: str | None = None
    retry_after_s: float | None = None
    appointment: Appointment | None = None
    code: str = ""  # the API's word for the problem
    detail: str = ""  # for a log

    @property
    def try_again_at(self) -> datetime | None:
        """When to come back, by this machine's clock."""
        return self.wish.not_before


class Unknown(_Told, frozen=True, kw_only=True):
    """Nobody could be asked whether it was accepted. Only `resume` may repeat it, never a new key."""

    wish: Wish
    retry_after_s: float
    detail: str = ""


class WaitNotice(Struct, frozen=True, kw_only=True):
    """The SDK waits, and comes back by itself at `until` (this machine's clock).

    `reason`: `turned_away` (will try again), `appointment` (has a place in time) or `unknown` (an
    answer was lost and is asked for again).
    """

    message: str
    reason: Literal["turned_away", "appointment", "unknown"]
    until: datetime
    wait_s: float
    idempotency_key: str
    level: str | None = None
    limit: str | None = None


class Paid(_Told, frozen=True, kw_only=True):
    """The payment is recorded, and the order confirmed."""

    order: Order


class Cancelled(_Told, frozen=True, kw_only=True):
    """The order is cancelled; stock, coupon and budget are returned."""

    order: Order


class NotDone(_Told, frozen=True, kw_only=True):
    """A payment or cancel that did not do what it wished; `refund`: the money goes back."""

    reason: str  # payment_too_late, recorded_for_refund, amount_wrong, not_cancellable
    refund: bool


class Unconfirmed(_Told, frozen=True, kw_only=True):
    """A payment or cancel whose end nobody could tell. Repeat it as it was: it counts once."""

    retry_after_s: float


class Unreadable(_Told, frozen=True, kw_only=True):
    """A question that could not be answered for now. It says nothing about the answer."""

    retry_after_s: float


class UserCoupon(Struct, frozen=True, kw_only=True):
    """A coupon of a user's: issued, redeemed or expired."""

    code: str
    campaign_id: str
    status: str
    value: int
    currency: str
    issued_at: datetime
    valid_from: datetime
    valid_until: datetime


class Status(Struct, frozen=True, kw_only=True):
    """How it goes. `messages` are texts for the chat by language."""

    level: str
    since: datetime | None = None
    issuance: str = "open"
    redemption: str = "open"
    estimated_wait_ms: int | None = None
    retry_after_ms: int | None = None
    admit_ratio: float | None = None
    campaigns: dict[str, object] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)


Outcome = Committed | Issued | Refused
IntentResult = Outcome | Accepted
SubmitResult = IntentResult | NotAccepted | TurnedAway | Unknown
