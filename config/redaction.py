"""What may be written of a log event: no secret, no user's id, nothing that could look like a line.

By its key: secrets are masked, ids of users become a keyed digest that names the same user in every
process and can be turned back by nobody who lacks the key. In texts: passwords of URLs, keys of
gateways, coupon codes. Exceptions lose what they quote (`config.exceptions`). Texts lose whatever
does not print, so that no value begins a line of its own or paints a terminal; structures have
bounds, and objects of no plain type are named by their type.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Set
from datetime import date, datetime, timedelta
from enum import Enum
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from config import exceptions

MASK: Final = "***"
TEXT_CHARS_MAX: Final = 500
TRACE_CHARS_MAX: Final = 2_500  # of an exception's frames; the end is kept, where it happened
_ITEMS_MAX = 32
_DEPTH_MAX = 4
_DIGEST_HEX = 12  # 48 bits: a million users, and hardly two of one digest

# Keys whose values are never written, whole or as the last part of a longer key (`db_password`).
_SECRET_KEY = re.compile(
    r"(^|[_.-])(password|passwd|dsn|coupon_code|api_key|authorization|cookie|secret|secrets|master"
    r"|token|ticket|appointment|signature|idempotency_key|payment_reference)$",
    re.IGNORECASE,
)
_USER_KEY = re.compile(r"(^|[_.-])(user_id|conversation_id)$", re.IGNORECASE)
# Secrets that travel inside texts: passwords of URLs and of libpq, keys of gateways, secrets of
# webhooks, what follows `Bearer`, and coupon codes.
_CODE_CHARS: Final = 44
_SECRET_TEXT = re.compile(
    r"(?<=://)(?P<user>[^:/@\s]*):[^@\s]+@"
    r"|\b(?P<word>(?:ssl)?password\s*=\s*)(?:'(?:[^'\\]|\\.)*'|[^&\s]+)"
    r"|(?P<scheme>\bBearer\s+)\S+"
    r"|\b(?:tg|whsec)_[A-Za-z0-9_+/=-]{8,}"
    rf"|\b[A-Z2-7]{{{_CODE_CHARS}}}\b"
)


class Redaction:
    """Makes events fit to be written. `pepper` is the secret behind the digests of users' ids."""

    def __init__(self, pepper: str) -> None:
        self._key = hashlib.sha256(b"tidegate log " + pepper.encode()).digest()

    def event(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return what may be written of an event; plain values only."""
        return {key: self._value(key, value, 0) for key, value in event.items()}

    def digest(self, user_id: str) -> str:
        """Name a user without telling who it is."""
        raw = user_id.encode(errors="surrogatepass")
        return hashlib.blake2b(raw, key=self._key, digest_size=_DIGEST_HEX // 2).hexdigest()

    def _value(self, key: str, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        rule = _rule_of(key)
        if rule is _Rule.MASK:
            return MASK if value else value
        if rule is _Rule.HASH:
            return self.digest(str(value))
        if isinstance(value, str):
            return _frames(value) if key == "exception" else text(value)
        return self._structure(value, depth)

    def _structure(self, value: Any, depth: int) -> Any:
        if isinstance(value, int | float):
            return value if abs(value) < 1 << 63 else str(value)
        if isinstance(value, UUID | timedelta):
            return str(value)
        if isinstance(value, datetime | date):
            return value.isoformat()
        if isinstance(value, Enum):
            return text(str(value.value))
        if isinstance(value, BaseException):
            return {name: text(str(part)) for name, part in exceptions.told(value).items()}
        if depth < _DEPTH_MAX and isinstance(value, Mapping):
            pairs = [(str(key), leaf) for key, leaf in list(value.items())[:_ITEMS_MAX]]
            return {text(key): self._value(key, leaf, depth + 1) for key, leaf in pairs}
        if depth < _DEPTH_MAX and isinstance(value, list | tuple | Set):
            return [self._value("", leaf, depth + 1) for leaf in list(value)[:_ITEMS_MAX]]
        return f"<{type(value).__name__}>"


class _Rule(Enum):
    PLAIN = 0
    MASK = 1
    HASH = 2


@lru_cache(1_024)
def _rule_of(key: str) -> _Rule:
    if _SECRET_KEY.search(key):
        return _Rule.MASK
    return _Rule.HASH if _USER_KEY.search(key) else _Rule.PLAIN


def text(value: str) -> str:
    """Return a text that is one line, prints, and holds no secret that is known by its looks."""
    if len(value) < _CODE_CHARS and value.isalnum():  # most are, and no such secret is
        return value
    return _printing(_SECRET_TEXT.sub(_mask, value[: 4 * TEXT_CHARS_MAX]))[:TEXT_CHARS_MAX]


def _frames(value: str) -> str:
    """As `text`, for what has lines of its own: they come from files of code."""
    masked = _SECRET_TEXT.sub(_mask, value)
    return "\n".join(_printing(line) for line in masked.split("\n"))[-TRACE_CHARS_MAX:]


def _printing(value: str) -> str:
    if value.isprintable():
        return value
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in value)


def _mask(found: re.Match[str]) -> str:
    if found["user"] is not None:
        return f"{found['user']}:{MASK}@"
    return f"{found['word'] or found['scheme'] or ''}{MASK}"
