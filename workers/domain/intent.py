"""Intents: what a gateway may say, strictly shaped, and what the journal keeps of it.

A shape is a type: the decoder refuses unknown fields, wrong types, floats for integers and
over-long strings, and names the field. What an intent's texts may hold is checked for all of them
together: a pattern matched for each was half of what reading an intent cost. What depends on the
campaign is decided later, by a worker.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
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
_NAME_IN_WORDS = "must be letters, digits, `.`, `_` or `-`, beginning with a letter or digit"

_LOCALE = r"^[A-Za-z0-9-]+\Z"


def _text(least: int, most: int, pattern: str) -> Meta:
    """Describe a text; its pattern is only told here, and checked by `_check`."""
    return Meta(min_length=least, max_length=most, extra_json_schema={"pattern": pattern})


UserId = Annotated[str, _text(1, 128, _PRINTABLE)]
ConversationId = Annotated[str, _text(1, 128, _PRINTABLE)]
CampaignId = Annotated[str, _text(1, 64, _NAME)]
Sku = Annotated[str, _text(1, 64, _NAME)]
CouponCode = Annotated[str, _text(1, 80, _PRINTABLE)]
Locale = Annotated[str, _text(2, 35, _LOCALE)]
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
        skus = {line.sku for line in self.lines}
        if len(skus) < len(self.lines):
            raise ValueError("`lines` names a sku twice; add its quantities into one line")
        _check(self.user_id, self.conversation_id, self.coupon_code)
        _check_names(self.campaign_id, self.locale)
        if not _names.issuperset(skus):
            _check_skus(self.lines)


class IssuanceIntent(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The wish for a coupon, as a gateway posts it."""

    user_id: UserId
    campaign_id: CampaignId
    conversation_id: ConversationId | None = None
    locale: Locale | None = None
    ttl_ms: TtlMs = TTL_MS_DEFAULT

    def __post_init__(self) -> None:
        _check(self.user_id, self.conversation_id, None)
        _check_names(self.campaign_id, self.locale)


_is_printable = re.compile(_PRINTABLE).match
_is_name = re.compile(_NAME).match
_is_locale = lru_cache(maxsize=256)(re.compile(_LOCALE).match)
# Names are of campaigns and items: few, and the same all day. Those that were found to be some.
_names: set[str] = set()
_NAMES_MAX = 4_096


def _check(user_id: str, conversation_id: str | None, coupon_code: str | None) -> None:
    """Raise ValueError of a control character."""
    together = f"{user_id}{conversation_id}{coupon_code}"  # None is letters, too
    if together.isascii() and together.isprintable():
        return
    texts = {"user_id": user_id, "conversation_id": conversation_id, "coupon_code": coupon_code}
    for field, text in texts.items():
        if text is not None and not _is_printable(text):
            raise ValueError(f"`{field}` holds a control character; leave it out")


def _check_names(campaign_id: str, locale: str | None) -> None:
    """Raise ValueError of a name that is none."""
    if campaign_id not in _names and not _learn(campaign_id):
        raise ValueError(f"`campaign_id` {_NAME_IN_WORDS}")
    if locale is not None and not _is_locale(locale):
        raise ValueError("`locale` is a language tag: letters, digits and `-`, such as zh-CN")


def _check_skus(lines: Iterable[Line]) -> None:
    """Raise ValueError of the first name that is none."""
    for place, line in enumerate(lines):
        if not _learn(line.sku):
            raise ValueError(f"`lines[{place}].sku` {_NAME_IN_WORDS}")


def _learn(name: str) -> bool:
    """Say whether it is a name, and remember one that is."""
    if not _is_name(name):
        return False
    if len(_names) >= _NAMES_MAX:
        _names.clear()
    _names.add(name)
    return True


class IntentBody(Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """The part of an intent that the journal keeps as one JSON value.

    A coupon is kept by its id: codes are secrets. `coupon_forged` marks a code whose signature does
    not verify; it is refused by the worker, like an unknown one, in the same words and time.
    `traceparent` is the place in a trace that the outcome is told under, of an intent whose trace is
    followed, with the `tracestate` beside it; hints get lost, and a batch claims what none of its
    hints named.
    """

    lines: tuple[Line, ...] = ()
    coupon_id: UUID | None = None
    coupon_forged: bool = False
    conversation_id: str | None = None
    locale: str | None = None
    ttl_ms: int = TTL_MS_DEFAULT
    expected_total: Money | None = None
    traceparent: str | None = None
    tracestate: str | None = None


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
