"""Identifiers: UUIDv7 (RFC 9562), ordered by the time of their making.

Time order keeps B-tree inserts at the right edge and lets tables be range-partitioned by id.
Python's own `uuid.uuid7` comes with 3.14; this is the same layout: 48 bits of Unix milliseconds,
then a counter in `rand_a` that keeps ids of one process monotonic within a millisecond.
"""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime
from uuid import UUID

_lock = threading.Lock()
_last_ms = 0
_sequence = 0


def uuid7() -> UUID:
    """Make an id greater than every id this process made before."""
    return uuid7_many(1)[0]


def uuid7_many(count: int) -> list[UUID]:
    """Make `count` ids in rising order; one call to the system for all their random bits."""
    global _last_ms, _sequence
    noise = os.urandom(8 * count)
    made = []
    with _lock:
        for i in range(count):
            now_ms = time.time_ns() // 1_000_000
            if now_ms > _last_ms:
                _last_ms, _sequence = now_ms, 0
            else:
                # A clock that steps back, or 4,096 ids in one millisecond, borrows from the future.
                _sequence += 1
                if _sequence > 0xFFF:
                    _last_ms, _sequence = _last_ms + 1, 0
            rand_b = int.from_bytes(noise[8 * i : 8 * i + 8], "big") & 0x3FFF_FFFF_FFFF_FFFF
            made.append(
                UUID(int=_last_ms << 80 | 0x7 << 76 | _sequence << 64 | 0b10 << 62 | rand_b)
            )
    return made


def uuid7_floor(at: datetime) -> UUID:
    """Return the smallest UUIDv7 of the moment `at`: a partition's or a retention's boundary."""
    ms = int(at.astimezone(UTC).timestamp() * 1000)
    return UUID(int=ms << 80 | 0x7 << 76 | 0b10 << 62)
