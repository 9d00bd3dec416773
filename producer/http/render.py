"""What is told of intents, orders and coupons: the shapes of the answers, and their making."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from producer.answers import NotAcceptedReason
from producer.http.messages import Language, Messages
from workers.contract import view
from workers.contract.resource import IntentResource
from workers.domain.intent import Kind
from workers.domain.overload import Level
from workers.store.resources import UserCoupon

Codes = view.Codes
_NOES_MAX: Final = 1_024  # reasons, times languages, odds in hundredths and campaigns' times


class Receipt(Struct, frozen=True, kw_only=True):
    """The promise: this intent is journalled, and will have exactly one outcome.

    `estimated_wait_ms` is how long outcomes take at present, as measured.
    """

    intent_id: UUID
    status: Literal["accepted"] = "accepted"
    estimated_wait_ms: int
    poll_after_ms: int


class IntentView(view.ToldIntent, frozen=True, kw_only=True):
    """The intent resource. `reason` is a refusal's; `message` is fit to be shown in the chat."""

    message: str


class UserCouponView(Struct, frozen=True, kw_only=True):
    """A coupon of a user; `value` in minor units of `currency`."""

    code: str
    campaign_id: str
    status: Literal["issued", "redeemed", "expired"]
    value: int
    currency: str
    issued_at: datetime
    valid_from: datetime
    valid_until: datetime


class UserCouponsView(Struct, frozen=True, kw_only=True):
    """A user's coupons, the newest first."""

    user_id: str
    coupons: tuple[UserCouponView, ...]


class NotAcceptedView(Struct, frozen=True, kw_only=True):
    """A business no, before anything was journalled: the key is bound to nothing.

    `final`: asking again cannot help, as things stand. `odds` is the chance, 0 to 1, that there will
    be something left, null where nobody can say; `try_again_at` is when to ask again.
    """

    status: Literal["not_accepted"] = "not_accepted"
    reason: NotAcceptedReason
    final: bool
    odds: Annotated[float, Meta(ge=0, le=1)] | None
    try_again_at: datetime | None
    message: str


class CampaignStatusView(Struct, frozen=True, kw_only=True):
    """A campaign as the chat may want to know it. `resume_at` null: nobody knows, or not paused."""

    issuance: Literal["open", "paused"]
    resume_at: datetime | None
    starts_at: datetime
    ends_at: datetime


class StatusView(Struct, frozen=True, kw_only=True):
    """How it goes, for every chat at once.

    `reason` is why `level` is not normal: wait, postgres, valkey, dispatch or operator. `until` is
    known only of what an operator ordered for a time. `retry_after_ms` is how long a new order had
    best wait, 0 for not at all; the same for all, so add jitter to it. `admit_ratio` is the share of
    the intents lately that no limit of ours refused. `governed` is false while nobody measures the
    load: then only the fixed limits hold. `messages` are texts for the chat by language.
    """

    level: Level
    reason: str
    since: datetime
    until: datetime | None
    governed: bool
    issuance: Literal["open", "paused"]
    redemption: Literal["open", "paused"]
    estimated_wait_ms: int
    retry_after_ms: int
    admit_ratio: float
    campaigns: Mapping[str, CampaignStatusView]
    messages: Mapping[str, str]


encode = msgspec.json.Encoder().encode


def receipt(intent_id: bytes, estimated_wait_ms: int, poll_after_ms: int) -> bytes:
    """Write a receipt. By hand: it is the answer that a busy API gives most."""
    return b'{"intent_id":"%b","status":"accepted","estimated_wait_ms":%d,"poll_after_ms":%d}' % (
        intent_id,
        estimated_wait_ms,
        poll_after_ms,
    )


def intent(resource: IntentResource, language: Language, messages: Messages, codes: Codes) -> bytes:
    """Write an intent resource."""
    said = message(resource, language, messages)
    return encode(IntentView(message=said, **view.told(resource, codes)))


def message(resource: IntentResource, language: Language, messages: Messages) -> str:
    """Say in the chat's words where an intent stands."""
    if resource.refusal is not None:
        return messages.refusal(language, resource.refusal.value)
    if resource.order is not None:
        return messages.status(language, resource.order.status.value)
    if resource.coupon is not None:
        return messages.status(language, "issued")
    issuance = resource.kind == Kind.ISSUANCE.value
    return messages.status(language, "accepted_issuance" if issuance else "accepted")


@lru_cache(_NOES_MAX)
def not_accepted(
    reason: NotAcceptedReason,
    final: bool,
    odds: float | None,
    try_again_at: datetime | None,
    language: Language,
    messages: Messages,
) -> bytes:
    """Write a business no; all who hear the same hear the same bytes."""
    return encode(
        NotAcceptedView(
            reason=reason,
            final=final,
            odds=odds,
            try_again_at=try_again_at,
            message=messages.refusal(language, reason),
        )
    )


def user_coupons(user_id: str, coupons: list[UserCoupon], codes: Codes) -> bytes:
    """Write a user's coupons."""
    return encode(
        UserCouponsView(
            user_id=user_id,
            coupons=tuple(
                UserCouponView(
                    code=codes(coupon.coupon_id),
                    campaign_id=coupon.campaign_id,
                    status=coupon.status,  # type: ignore[arg-type]  # the query returns these
                    value=coupon.value,
                    currency=coupon.currency,
                    issued_at=coupon.issued_at,
                    valid_from=coupon.valid_from,
                    valid_until=coupon.valid_until,
                )
                for coupon in coupons
            ),
        )
    )
