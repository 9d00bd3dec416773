"""Tickets: a window that only its holder can show, and only we can have given.

A ticket is base64url (RFC 4648, no padding) of one byte of key version, the window and 112 bits of
HMAC-SHA256: 32 characters, one spelling. The HMAC covers gateway, campaign and user as well, none of
which the ticket contains: shown by anyone else, or for another campaign, it proves nothing.

The key version is a byte of the key's own hash, as with coupon codes: masters can be rotated,
reordered and dropped. A window's ticket is the same however often it is told.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Final

from workers.contract.signing import Mac, derive_key
from workers.domain.appointment import WIDTH_MS_MAX, Window

TICKET_CHARS: Final = 32

_START_BYTES: Final = 6
_WIDTH_BYTES: Final = 3
_WIDTH_BITS: Final = 8 * _WIDTH_BYTES
_CLAIM_BYTES: Final = 1 + _START_BYTES + _WIDTH_BYTES
_START_MS_MAX: Final = (1 << 8 * _START_BYTES) - 1
_MAC_BYTES: Final = 14  # With the claim 24 bytes, which base64 writes without spare bits.
_TICKET: Final = re.compile(f"[A-Za-z0-9_-]{{{TICKET_CHARS}}}")


class Tickets:
    """Signs and reads tickets. New ones use `master`; those of `old_masters` remain valid."""

    def __init__(self, master: str, old_masters: tuple[str, ...] = ()) -> None:
        keys = [derive_key(secret, "appointment-ticket") for secret in (master, *old_masters)]
        self._key = Mac(keys[0], _MAC_BYTES)
        self._head = _version(keys[0]) << _WIDTH_BITS + 8 * _START_BYTES  # of every claim
        self._keys: dict[int, list[Mac]] = {}
        for key in keys:
            self._keys.setdefault(_version(key), []).append(Mac(key, _MAC_BYTES))

    def sign(self, gateway_id: str, user_id: str, campaign_id: str, window: Window) -> str:
        """Return the ticket: 32 characters that fit a header or a URL.

        Raises ValueError for a window before 1970, after 10889, or not of 1 to `WIDTH_MS_MAX` ms.
        """
        starts_ms, width_ms = window.starts_ms, window.width_ms
        if not 0 <= starts_ms <= _START_MS_MAX:
            raise ValueError(f"expected a window in Unix ms, got {window}")
        if not 1 <= width_ms <= WIDTH_MS_MAX:
            raise ValueError(f"expected a window of 1 to {WIDTH_MS_MAX} ms, got {window}")
        claim = (self._head | starts_ms << _WIDTH_BITS | width_ms).to_bytes(_CLAIM_BYTES)
        mac = self._key.of(claim + _holder(gateway_id, user_id, campaign_id))
        return urlsafe_b64encode(claim + mac).decode()

    def read(self, ticket: str, gateway_id: str, user_id: str, campaign_id: str) -> Window | None:
        """Return the window that a ticket proves; None for one that is malformed or not theirs."""
        if not _TICKET.fullmatch(ticket):
            return None
        raw = urlsafe_b64decode(ticket)
        claim, mac = raw[:_CLAIM_BYTES], raw[_CLAIM_BYTES:]
        signed = claim + _holder(gateway_id, user_id, campaign_id)
        proven = False
        for key in self._keys.get(claim[0], ()):
            proven |= hmac.compare_digest(key.of(signed), mac)
        if not proven:
            return None
        starts_ms = int.from_bytes(claim[1 : 1 + _START_BYTES])
        return Window(starts_ms, starts_ms + int.from_bytes(claim[1 + _START_BYTES :]))


def _holder(gateway_id: str, user_id: str, campaign_id: str) -> bytes:
    # The lengths keep apart ("a", "bc") and ("ab", "c"), and the user that follows from both.
    scope = f"{len(gateway_id)}:{gateway_id}{len(campaign_id)}:{campaign_id}{user_id}"
    return scope.encode("utf-8", "surrogatepass")


def _version(key: bytes) -> int:
    return sha256(b"appointment-ticket-version" + key).digest()[0]
