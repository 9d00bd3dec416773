"""Requests as they are sent. No I/O, no clock, no waiting."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct

from producer.client.model import Kind, Wish
from workers.contract.ids import uuid7
from workers.domain.money import Money

BATCH_MAX: Final = 500
BATCH_BYTES_MAX: Final = 1_000_000
PATHS: Final[Mapping[Kind, str]] = {"order": "/v1/intents", "issuance": "/v1/coupons"}
_KEY_LENGTH_MAX: Final = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PLAIN = re.compile(r"[\x21\x23-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_JSON: Final = {"content-type": "application/json"}


class Request(Struct, frozen=True):
    """One call of the API. `timeout_s` is how long the API may take for its answer."""

    method: str
    path: str
    headers: Mapping[str, str | bytes]
    body: bytes
    timeout_s: float


def wish(
    kind: Kind,
    *,
    user_id: str,
    campaign_id: str,
    lines: Mapping[str, int] | None = None,
    coupon_code: str | None = None,
    conversation_id: str | None = None,
    locale: str | None = None,
    ttl_ms: int | None = None,
    expected_total: Money | None = None,
    idempotency_key: str | None = None,
) -> Wish:
    """Make a wish. Without a key it gets one of its own. Raises ValueError for a key of no use."""
    told = idempotency_key is not None
    key = idempotency_key if idempotency_key is not None else str(uuid7())
    if not 1 <= len(key) <= _KEY_LENGTH_MAX or _CONTROL.search(key):
        msg = f"idempotency_key must have 1 to {_KEY_LENGTH_MAX} characters, none of them control"
        raise ValueError(msg)
    if not key.isascii() and (key != key.strip() or key.startswith('"')):
        raise ValueError("idempotency_key is not ASCII: it must not begin with a quote or a space")
    fields = {
        "user_id": user_id,
        "campaign_id": campaign_id,
        "lines": None if lines is None else [_line(sku, units) for sku, units in lines.items()],
        "coupon_code": coupon_code,
        "conversation_id": conversation_id,
        "locale": locale,
        "ttl_ms": ttl_ms,
        "expected_total": expected_total,
    }
    said = {name: value for name, value in fields.items() if value is not None}
    body = msgspec.json.encode(said).decode()
    return Wish(kind=kind, body=body, locale=locale, idempotency_key=key, key_told=told)


def post(sent: Wish, wait_s: int, timeout_s: float) -> Request:
    """Post a wish; `wait_s` > 0 prefers the outcome to a receipt, if it comes in time."""
    headers = {**_JSON, "idempotency-key": _key_header(sent.idempotency_key)}
    if wait_s > 0:
        headers["prefer"] = f"wait={wait_s}"
    if sent.ticket is not None:
        headers["tidegate-appointment"] = sent.ticket
    return Request("POST", PATHS[sent.kind], headers, sent.body.encode(), wait_s + timeout_s)


def post_many(sent: Sequence[Wish], timeout_s: float) -> Request:
    """Post wishes to buy as one batch."""
    items = b",".join(keyed_body(item) for item in sent)
    return Request("POST", "/v1/intents/batch", dict(_JSON), b"[%b]" % items, timeout_s)


def keyed_body(item: Wish) -> bytes:
    """Write a wish as an item of a batch."""
    return b'{"idempotency_key":%b,%b' % (
        msgspec.json.encode(item.idempotency_key),
        item.body.encode()[1:],
    )


def get(path: str, timeout_s: float, **query: str) -> Request:
    """Ask something."""
    return Request("GET", f"{path}?{urlencode(query)}" if query else path, {}, b"", timeout_s)


def change(path: str, body: object, timeout_s: float) -> Request:
    """Ask for something to be done that may be asked for again."""
    return Request("POST", path, dict(_JSON), msgspec.json.encode(body), timeout_s)


def user_path(user_id: str) -> str:
    """Return the path of a user's coupons; a user's id may hold any character."""
    return f"/v1/users/{quote(user_id, safe='')}/coupons"


def _line(sku: str, units: int) -> dict[str, object]:
    return {"sku": sku, "quantity": units}


def _key_header(key: str) -> str | bytes:
    """Write a key bare, or as a structured-field string where bare it would be read otherwise."""
    if _PLAIN.fullmatch(key):
        return key
    if key.isascii():
        return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return key.encode()
