"""The announcement: what a worker's batch tells every API process that waits for outcomes.

A MessagePack array of [id, record] pairs; the id's 16 bytes, the record's bytes as they are. Each
subscriber reads all announcements and keeps the few it waits for, so ids stay bytes (a set finds
them ten times faster than it finds a UUID) and records stay undecoded.

Announcements are heard or missed; the truth of an outcome is in the journal.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Annotated
from uuid import UUID

import msgspec

_Id = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[_Id, bytes]]).decode


class MalformedAnnouncement(ValueError):
    """Not an announcement of outcomes."""


def encode(outcomes: Sequence[tuple[UUID, bytes]]) -> bytes:
    """Put records of outcomes, in any form of their own, into one announcement."""
    return _encode([(intent_id.bytes, record) for intent_id, record in outcomes])


def decode(announcement: bytes) -> list[tuple[bytes, bytes]]:
    """Return (id, record) pairs, each id as `UUID.bytes`. Raises `MalformedAnnouncement`."""
    try:
        return _decode(announcement)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise MalformedAnnouncement(str(error)) from error


def select(announcement: bytes, wanted: Container[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the pairs whose id, as `UUID.bytes`, is wanted. Raises `MalformedAnnouncement`."""
    return [pair for pair in decode(announcement) if pair[0] in wanted]
