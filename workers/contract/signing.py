"""Keys derived from the deployment's master secret, one for each purpose, and signatures.

Derivation is HKDF with SHA-256 (RFC 5869): whoever learns one derived key learns neither the master
nor another purpose's key.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Final

MASTER_CHARS_MIN: Final = 16  # Below this somebody typed a password instead of making a secret.

_SALT: Final = b"tidegate"
_BLOCK_BYTES: Final = 64  # of SHA-256; a derived key is shorter


class Mac:
    """HMAC-SHA256 (RFC 2104) with one key, both of whose pads are hashed beforehand.

    `hmac.digest` lets go of Python's lock for a microsecond's work; on a busy event loop the thread
    that checks a batch would then wait for the lock once for each.
    """

    def __init__(self, key: bytes, mac_bytes: int) -> None:
        """Keep a key of up to 64 bytes; `mac_bytes` of each HMAC are used."""
        padded = key.ljust(_BLOCK_BYTES, b"\0")
        self._inner = sha256(bytes([byte ^ 0x36 for byte in padded])).copy
        self._outer = sha256(bytes([byte ^ 0x5C for byte in padded])).copy
        self._mac_bytes = mac_bytes

    def of(self, signed: bytes) -> bytes:
        """Return the first bytes of the HMAC."""
        inner = self._inner()
        inner.update(signed)
        outer = self._outer()
        outer.update(inner.digest())
        return outer.digest()[: self._mac_bytes]


def derive_key(master: str, purpose: str) -> bytes:
    """Return the 32-byte key of one purpose. Raises ValueError for a master that is too short."""
    if len(master) < MASTER_CHARS_MIN:
        raise ValueError(f"expected a master secret of at least {MASTER_CHARS_MIN} characters")
    extracted = hmac.digest(_SALT, master.encode(), "sha256")
    return hmac.digest(extracted, purpose.encode() + b"\x01", "sha256")


def signing_key(master: str, key_id: str) -> str:
    """Return the key, in hex, with which the gateway of `key_id` signs what it sends by Celery.

    It can be shown again without being stored, and never travels with a message.
    """
    return derive_key(master, f"celery-intake:{key_id}").hex()


def sign(body: bytes, key: str) -> str:
    """Return the HMAC-SHA256 of the body in hex."""
    return hmac.digest(key.encode(), body, "sha256").hex()


def verify(body: bytes, key: str, signature: str) -> bool:
    """Say whether the signature is the body's, in the same time wherever it differs."""
    return hmac.compare_digest(sign(body, key).encode(), signature.encode(errors="replace"))
