"""Coupon codes: shown again without being stored, verified without the database.

A code is base32 (RFC 4648, no padding) of one byte of key version, the coupon's id and 80 bits of
HMAC-SHA256 over both: 44 characters. Guessing at 10,000 a second for 30 days finds one of a million
live codes with a chance of 2 in 100 million.

The key version is a byte of the key's own hash, not a number that somebody counts: masters can be
rotated, reordered and dropped without telling the codes in the users' hands.
"""

from __future__ import annotations

import hmac
import re
from hashlib import sha256
from typing import Final
from uuid import UUID

from workers.contract.ids import uuid_of
from workers.contract.signing import Mac, derive_key

CODE_CHARS: Final = 44
INPUT_CHARS_MAX: Final = 128  # Room for a hyphen or a space after every character, no more.

_ID_BYTES: Final = 16
_MAC_BYTES: Final = 10
_SPARE_BITS: Final = 4  # 44 characters hold 220 bits, a code's 27 bytes are 216.
_DIGITS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
# Two digits at a time; b32encode goes by single ones, and takes three times as long.
_PAIRS: Final = [high + low for high in _DIGITS for low in _DIGITS]
_SHIFTS: Final = range(5 * (CODE_CHARS - 2), -1, -10)
_SEPARATORS: Final = b"- \t\r\n"
_CODE: Final = re.compile(b"[A-Z2-7]{%d}" % CODE_CHARS)
# base32's digits as int(text, 32) reads them; b32decode would take 8 µs more.
_TO_DIGITS: Final = bytes.maketrans(_DIGITS.encode(), b"0123456789ABCDEFGHIJKLMNOPQRSTUV")


class CouponCodes:
    """Makes and checks codes. New ones use `master`; those of `old_masters` remain valid."""

    def __init__(self, master: str, old_masters: tuple[str, ...] = ()) -> None:
        keys = [derive_key(secret, "coupon-code") for secret in (master, *old_masters)]
        self._key = Mac(keys[0], _MAC_BYTES)
        self._version = _version(keys[0])
        self._keys: dict[int, list[Mac]] = {}
        for key in keys:
            self._keys.setdefault(_version(key), []).append(Mac(key, _MAC_BYTES))

    def code_of(self, coupon_id: UUID) -> str:
        """Return the coupon's code: 44 characters of A to Z and 2 to 7."""
        claim = bytes([self._version]) + coupon_id.bytes
        return _encode(claim + self._key.of(claim))

    def coupon_id_of(self, code: str) -> UUID | None:
        """Return the id that a code proves, or None for one that is malformed or forged.

        Lower case, hyphens and white space are accepted, as people and chats write them.
        """
        claim = self._proven(code)
        return None if claim is None else uuid_of(claim[1:])

    def proves(self, code: str) -> bool:
        """Say whether a code proves a coupon, where nobody wants its id."""
        return self._proven(code) is not None

    def _proven(self, code: str) -> bytes | None:
        """Return what a code claims, if its signature is ours."""
        raw = _decode(code)
        if raw is None:
            return None
        claim, mac = raw[: 1 + _ID_BYTES], raw[1 + _ID_BYTES :]
        proven = False
        for key in self._keys.get(claim[0], ()):
            proven |= hmac.compare_digest(key.of(claim), mac)
        return claim if proven else None


def _version(key: bytes) -> int:
    return sha256(b"coupon-code-version" + key).digest()[0]


def _encode(raw: bytes) -> str:
    value = int.from_bytes(raw, "big") << _SPARE_BITS
    return "".join([_PAIRS[value >> shift & 0x3FF] for shift in _SHIFTS])


def _decode(code: str) -> bytes | None:
    if len(code) > INPUT_CHARS_MAX or not code.isascii():
        return None
    compact = code.encode()
    if not _CODE.fullmatch(compact):
        compact = compact.translate(None, _SEPARATORS).upper()
        if not _CODE.fullmatch(compact):
            return None
    value = int(compact.translate(_TO_DIGITS), 32)
    if value % (1 << _SPARE_BITS):
        return None  # Only the spelling whose spare bits are zero is a code.
    return (value >> _SPARE_BITS).to_bytes(1 + _ID_BYTES + _MAC_BYTES, "big")
