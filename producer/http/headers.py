"""Reading header fields: pure functions over raw bytes, strict where a mistake would cost money."""

from __future__ import annotations

import re
from collections.abc import Sequence

IDEMPOTENCY_KEY_LENGTH_MAX = 255
TICKET_LENGTH_MAX = 512

# An RFC 8941 string: printable ASCII, with `\` before `"` and `\`.
_QUOTED = re.compile(rb'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_BARE = re.compile(rb"[\x21\x23-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")  # what most keys are
_ESCAPED = re.compile(rb'\\(["\\])')
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TICKET = re.compile(rb"[\x21-\x7e]{1,%d}" % TICKET_LENGTH_MAX)
_WAIT = re.compile(rb'(?:^|,)[ \t]*wait[ \t]*=[ \t]*"?(\d{1,9})"?[ \t]*(?=[,;]|$)', re.IGNORECASE)
_CHARSET = re.compile(rb'[ \t]*charset[ \t]*=[ \t]*"?utf-?8"?[ \t]*', re.IGNORECASE)
_RANGE = re.compile(
    r"((?:[a-z]{1,8}|\*)(?:-[a-z0-9]{1,8})*)(?:;q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?))?"
)

JSON = (b"application/json",)
NDJSON = (b"application/x-ndjson", b"application/ndjson", b"application/jsonl")


class HeaderError(ValueError):
    """A header field that cannot be read; the message says what would be."""


def idempotency_key(raw: bytes) -> str:
    """Read a key, quoted as a structured-field string or bare; both spell the same key."""
    if _BARE.fullmatch(raw):
        return raw.decode()
    value = raw.strip(b" \t")
    if value.startswith(b'"'):
        quoted = _QUOTED.fullmatch(value)
        if quoted is None:
            raise HeaderError('begins with a quote, and is no structured-field string like "k-1"')
        value = _ESCAPED.sub(rb"\1", quoted[1])
    try:
        key = value.decode()
    except UnicodeDecodeError:
        raise HeaderError("is not UTF-8") from None
    if not 1 <= len(key) <= IDEMPOTENCY_KEY_LENGTH_MAX:
        raise HeaderError(f"must have 1 to {IDEMPOTENCY_KEY_LENGTH_MAX} characters")
    if _CONTROL.search(key):
        raise HeaderError("must hold no control characters")
    return key


def ticket(raw: bytes) -> str:
    """Read an appointment's ticket: visible ASCII without spaces; whose it is, is judged later."""
    if _TICKET.fullmatch(raw) is None:
        raise HeaderError(f"must have 1 to {TICKET_LENGTH_MAX} visible ASCII characters")
    return raw.decode()


def wait_s(raw: bytes, longest_s: int) -> int:
    """Read `Prefer: wait=N`; at most `longest_s`, 0 where the caller prefers nothing readable."""
    found = _WAIT.search(raw)
    return min(int(found[1]), longest_s) if found else 0


def is_media_type(raw: bytes | None, accepted: Sequence[bytes]) -> bool:
    """Tell whether a Content-Type is one of `accepted`, in UTF-8."""
    if raw is None:
        return False
    if raw in accepted:
        return True
    media_type, *parameters = raw.split(b";")
    if media_type.strip().lower() not in accepted:
        return False
    charsets = [p for p in parameters if p.strip().lower().startswith(b"charset")]
    return all(_CHARSET.fullmatch(charset) for charset in charsets)


def languages(raw: bytes) -> list[str]:
    """Read `Accept-Language`: tags in lower case (or `*`), the most wanted first."""
    wanted: list[tuple[float, str]] = []
    for part in raw.decode("latin-1").lower().replace(" ", "").split(","):
        found = _RANGE.fullmatch(part)
        if found is not None:
            weight = float(found[2]) if found[2] else 1.0
            if weight > 0:
                wanted.append((-weight, found[1]))
    wanted.sort(key=lambda range_: range_[0])  # stable: equal weights stay in the order given
    return [language for _, language in wanted]
