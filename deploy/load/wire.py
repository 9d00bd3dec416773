"""The wire: the bytes of a post, and what an answer says. Nothing here does I/O.

A post is one prebuilt run of bytes. An answer is read with a few searches: its status stands at a
fixed place and its length in one header; the body is decoded only as far as the books need it. A
receipt, which nearly every answer is, is read in fewer still where it came in one piece. A server
that answers without Content-Length is not understood: such an answer counts as lost.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_RECEIPT = b"HTTP/1.1 202 "
_BODYLESS = (204, 304)


class WireError(Exception):
    """An answer that is not HTTP/1.1 with a Content-Length."""


class Reply(Struct, frozen=True, gc=False):
    """One HTTP answer. `retry_after_s` is the header's, 0 where there is none."""

    status: int
    body: bytes
    retry_after_s: float
    close: bool


class Kind(Enum):
    """What an answer means to the sender of an intent."""

    ACCEPTED = "accepted"  # a receipt: 202, or 200 with the intent's resource
    NO = "no"  # a business no at the gate: 200 `not_accepted`
    LIMITED = "limited"  # 429: the caller's limit
    SHED = "shed"  # 503: ours, and surely not accepted
    REFUSED = "refused"  # another 4xx: this will never be taken
    UNKNOWN = "unknown"  # 5xx without a clear no: ask again with the same key


class _Coupon(Struct):
    code: str | None = None


class Answer(Struct):
    """What the books need of a body: an intent's resource, a `not_accepted`, or a problem."""

    status_code: int = 0
    status: str | int | None = None
    intent_id: str | None = None
    reason: str | None = None
    code: str | None = None
    limit: str | None = None
    level: str | None = None
    accepted: str | None = None
    final: bool | None = None
    retry_after_ms: float | None = None
    accepted_at: datetime | None = None
    decided_at: datetime | None = None
    coupon: _Coupon | None = None

    @property
    def kind(self) -> Kind:
        """Classify by status code and the fields that refine it."""
        code = self.status_code
        if code in (200, 202):
            return Kind.NO if self.status == "not_accepted" else Kind.ACCEPTED
        if code == 429:
            return Kind.LIMITED
        if code == 503 and self.accepted != "unknown":
            return Kind.SHED
        return Kind.REFUSED if 400 <= code < 500 else Kind.UNKNOWN

    @property
    def outcome(self) -> str | None:
        """`committed`, the reason of a refusal, or None while undecided."""
        if self.status == "committed":
            return "committed"
        return (self.reason or "refused") if self.status == "refused" else None

    @property
    def times(self) -> tuple[datetime, datetime] | None:
        """Receipt and outcome by the server's clock, where it says both."""
        if self.accepted_at is None or self.decided_at is None:
            return None
        return self.accepted_at, self.decided_at

    @property
    def why(self) -> str:
        """Name a no: the business reason, the limit that bound, the level, or the problem."""
        kind = self.kind
        if kind is Kind.NO:
            return self.reason or "not_accepted"
        if kind is Kind.LIMITED:
            return f"limit:{self.limit or 'unnamed'}"
        if kind is Kind.SHED:
            return f"limit:{self.limit}" if self.limit else self.level or self.code or "unavailable"
        return self.code or f"http_{self.status_code}"


class _Receipt(Struct, gc=False):
    intent_id: str


_decode_receipt = msgspec.json.Decoder(_Receipt).decode
_decode_one = msgspec.json.Decoder(Answer).decode
_decode_many = msgspec.json.Decoder(list[Answer]).decode
_decode_line = msgspec.json.Decoder(Answer).decode_lines


class Target(Struct, frozen=True):
    """Where the API is. `authority` is what the Host header says."""

    host: str
    port: int
    tls: bool
    authority: str
    api_key: str


def target(url: str, api_key: str) -> Target:
    """Take a base URL apart. Raises ValueError when it is none, or has a path."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise ValueError(f"{url!r} is not a base URL such as http://127.0.0.1:8080")
    tls = parts.scheme == "https"
    return Target(parts.hostname, parts.port or (443 if tls else 80), tls, parts.netloc, api_key)


class Wire:
    """Makes posts for one target; all that never changes is joined once."""

    def __init__(self, to: Target) -> None:
        self._common = (
            f" HTTP/1.1\r\nHost: {to.authority}\r\nAuthorization: Bearer {to.api_key}\r\n"
        ).encode()
        self._heads: dict[str, bytes] = {}

    def post(self, path: str, key: bytes, body: bytes) -> bytes:
        """One intent."""
        return b"%bIdempotency-Key: %b\r\nContent-Length: %d\r\n\r\n%b" % (
            self._head(path),
            key,
            len(body),
            body,
        )

    def batch(self, path: str, keys: Sequence[bytes], bodies: Sequence[bytes]) -> bytes:
        """Many intents in one post, as a JSON array, each with its key as a field."""
        items = (
            b'{"idempotency_key":"%b",%b' % (key, body[1:])
            for key, body in zip(keys, bodies, strict=True)
        )
        body = b"[" + b",".join(items) + b"]"
        return b"%bContent-Length: %d\r\n\r\n%b" % (
            self._head(path + "/batch"),
            len(body),
            body,
        )

    def intent(self, intent_id: str) -> bytes:
        """Ask for one intent's resource."""
        return b"GET /v1/intents/%b%b\r\n" % (intent_id.encode(), self._common)

    def intent_of(self, user_id: str, key: bytes, kind: str) -> bytes:
        """Ask what became of a key."""
        query = urlencode({"user_id": user_id, "idempotency_key": key.decode(), "kind": kind})
        return b"GET /v1/intents?%b%b\r\n" % (query.encode(), self._common)

    def _head(self, path: str) -> bytes:
        head = self._heads.get(path)
        if head is None:
            head = b"POST %b%bContent-Type: application/json\r\n" % (path.encode(), self._common)
            self._heads[path] = head
        return head


def read(data: bytes) -> Reply | None:
    """Read one answer from all bytes received so far; None while it is not complete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    if data.startswith(_RECEIPT):
        body = data[end + 4 :]
        # Spelt otherwise it is read with patience, below; so is one that is not whole, or is the last
        # on its connection.
        whole = data.find(b"\r\ncontent-length: %d\r\n" % len(body), 0, end + 2) > 0
        if whole and data.find(b"onnection:", 0, end) < 0:
            return Reply(202, body, 0.0, False)
    if data[:9] != b"HTTP/1.1 ":
        raise WireError(f"not an answer in HTTP/1.1: {data[:40]!r}")
    status = int(data[9:12])
    if status < 200:
        return read(data[end + 4 :])
    length = _LENGTH.search(data, 0, end)
    if length is None and status not in _BODYLESS:
        raise WireError("an answer without Content-Length")
    size = int(length[1]) if length else 0
    if len(data) < end + 4 + size:
        return None
    body = data[end + 4 : end + 4 + size]
    if status < 300:
        return Reply(status, body, 0.0, _CLOSE.search(data, 0, end) is not None)
    wait = _RETRY_AFTER.search(data, 0, end)
    close = _CLOSE.search(data, 0, end) is not None
    return Reply(status, body, float(wait[1]) if wait else 0.0, close)


def receipt(reply: Reply) -> str | None:
    """Return the intent that this is a plain receipt of; None for any other answer."""
    if reply.status != 202:
        return None
    try:
        return _decode_receipt(reply.body).intent_id
    except msgspec.MsgspecError:
        return None


def answer(reply: Reply) -> Answer:
    """Decode the answer to one intent; a body that cannot be read tells its status alone."""
    try:
        said = _decode_one(reply.body)
    except msgspec.MsgspecError:
        # A receipt that cannot be read is no receipt: the sender does not know.
        return Answer(status_code=reply.status if reply.status >= 300 else 502)
    said.status_code = reply.status
    if said.retry_after_ms is None:
        said.retry_after_ms = reply.retry_after_s * 1_000
    return said


def answers(reply: Reply, count: int) -> list[Answer]:
    """Decode the answers to a batch, in its order; a refusal of the whole counts for each."""
    if reply.status != 200:
        return [answer(reply) for _ in range(count)]
    try:
        array = reply.body.lstrip().startswith(b"[")
        said = _decode_many(reply.body) if array else _decode_line(reply.body)
    except msgspec.MsgspecError:
        said = []
    if len(said) != count:
        return [Answer(status_code=502) for _ in range(count)]
    return said
