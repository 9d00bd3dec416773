"""A webhook as it travels: a CloudEvents 1.0 body in structured JSON, signed as Standard Webhooks.

A body is made of what is committed, and reads the same whenever it is made: an event tells the
intent as it stood then, also where its order has gone on since. Its id is made of what it tells of,
so that every attempt, and every replay, carries the same one.

Secrets are not stored: each is derived from the deployment's master secret and a reference, which
names the master by a piece of its hash.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from workers.contract.couponcode import CouponCodes
from workers.contract.resource import IntentResource
from workers.contract.signing import derive_key
from workers.contract.view import ToldIntent, told
from workers.domain.delivery import EventType
from workers.domain.outcome import OrderStatus

CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - it begins every secret
# The subject of what concerns the whole system.
SYSTEM: Final = UUID(int=0)
SOURCE: Final = "/tidegate"

_NONCE_BYTES = 4
_encode = msgspec.json.Encoder().encode


class SecretGone(Exception):
    """A secret's master is none of ours any more: rotate the endpoint's secret."""


class WebhookSecrets:
    """Derives the secrets of endpoints. New ones use `master`; those of `old_masters` still sign."""

    def __init__(self, master: str, old_masters: Sequence[str] = ()) -> None:
        self._masters = {_fingerprint(each): each for each in (*reversed(old_masters), master)}
        self._newest = _fingerprint(master)

    def new_ref(self) -> str:
        """Make a reference for a secret that is nobody's yet."""
        return f"{self._newest}-{secrets.token_hex(_NONCE_BYTES)}"

    def secret_of(self, endpoint_id: int, ref: str) -> bytes:
        """Return the secret of a reference: 32 bytes. Raises SecretGone."""
        master = self._masters.get(ref.partition("-")[0])
        if master is None:
            raise SecretGone(f"endpoint {endpoint_id}: its secret's master is gone; rotate it")
        return derive_key(master, f"webhook:{endpoint_id}:{ref}")


def _fingerprint(master: str) -> str:
    return derive_key(master, "webhook-master").hex()[:8]


def spell(secret: bytes) -> str:
    """Write a secret as its receiver configures it."""
    return SECRET_PREFIX + base64.b64encode(secret).decode()


def headers_of(
    message_id: str, timestamp_s: int, body: bytes, signed_by: Sequence[bytes]
) -> dict[str, str]:
    """Sign a body with each of the secrets; return all headers that say what it is."""
    content = f"{message_id}.{timestamp_s}.".encode() + body
    signatures = [
        "v1," + base64.b64encode(hmac.digest(secret, content, "sha256")).decode()
        for secret in signed_by
    ]
    return {
        "content-type": CONTENT_TYPE,
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(signatures),
    }


class CloudEvent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The envelope; `subject` is the intent, and absent where the whole system is meant."""

    specversion: str
    id: str
    source: str
    type: EventType
    subject: UUID | None = None
    time: datetime
    datacontenttype: str
    data: Any


class IntentData(ToldIntent, frozen=True, kw_only=True):
    """The intent resource, without the chat's message, and with whose wish it was.

    Who sent it by the broker knows no id of ours, but knows its own key.
    """

    user_id: str
    idempotency_key: str


class LevelData(Struct, frozen=True, kw_only=True):
    """A change of the overload level; `reason` as `domain.overload.Policy` has it."""

    level: str
    before: str
    reason: str
    since: datetime


def intent_event_id(intent_id: UUID, event: EventType) -> str:
    """Name an event of an intent: each happens to it once. No full stop: the signature has them."""
    return f"evt_{intent_id.hex}_{event.rpartition('.')[2]}"


def level_event_id(since_ms: int, level: str) -> str:
    """Name a change of level."""
    return f"evt_level_{since_ms}_{level}"


def intent_of_event_id(event_id: str) -> tuple[UUID, str] | None:
    """Read the intent, and the last word of the event, out of an id; None where it is none."""
    prefix, _, rest = event_id.partition("_")
    hexed, _, word = rest.partition("_")
    if prefix != "evt" or not word:
        return None
    try:
        return UUID(hexed), word
    except ValueError:
        return None


def intent_body(
    event: EventType,
    occurred_at: datetime,
    resource: IntentResource,
    idempotency_key: str,
    codes: CouponCodes,
    source: str = SOURCE,
) -> bytes:
    """Write an event of an intent, which it tells as it stood when the event happened."""
    stood = as_of(resource, event)
    data = IntentData(
        user_id=stood.user_id, idempotency_key=idempotency_key, **told(stood, codes.code_of)
    )
    event_id = intent_event_id(stood.intent_id, event)
    return _envelope(event_id, event, occurred_at, stood.intent_id, data, source)


def as_of(resource: IntentResource, event: EventType) -> IntentResource:
    """Return an intent as it stood when an event had just happened to its order."""
    order = resource.order
    if order is None:
        return resource
    match event:
        case EventType.COMMITTED:
            status = OrderStatus.AWAITING_PAYMENT if order.payable else OrderStatus.CONFIRMED
        case EventType.CONFIRMED:
            status = OrderStatus.CONFIRMED
        case EventType.EXPIRED:
            status = OrderStatus.EXPIRED
        case EventType.CANCELLED:
            status = OrderStatus.CANCELLED
        case _:
            return resource
    return replace(resource, order=replace(order, status=status))


def level_body(event_id: str, occurred_at: datetime, data: bytes, source: str = SOURCE) -> bytes:
    """Write a change of level, from the JSON that was noted of it."""
    return _envelope(event_id, EventType.LEVEL_CHANGED, occurred_at, None, Raw(data), source)


def body_of_test(event_id: str, now: datetime, gateway_id: str, source: str = SOURCE) -> bytes:
    """Write an event that tells nothing but that events arrive."""
    return _envelope(event_id, EventType.TEST, now, None, {"gateway_id": gateway_id}, source)


def _envelope(
    event_id: str,
    event: EventType,
    at: datetime,
    subject: UUID | None,
    data: object,
    source: str,
) -> bytes:
    return _encode(
        CloudEvent(
            specversion="1.0",
            id=event_id,
            source=source,
            type=event,
            subject=subject,
            time=at,
            datacontenttype="application/json",
            data=data,
        )
    )
