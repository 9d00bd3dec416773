"""The announcement: cheap to hear, safe to mishear."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.contract import announce
from workers.contract.ids import uuid7_many

ids = st.binary(min_size=16, max_size=16).map(lambda raw: UUID(bytes=raw))


@given(st.lists(st.tuples(ids, st.binary(max_size=60)), max_size=20))
def test_what_is_announced_is_heard_in_order(outcomes: list[tuple[UUID, bytes]]) -> None:
    """Records arrive as they were, whatever bytes they hold."""
    heard = announce.decode(announce.encode(outcomes))
    assert heard == [(intent_id.bytes, record) for intent_id, record in outcomes]


def test_who_waits_hears_its_own_only() -> None:
    """Of a batch for everybody, a process takes what it waits for."""
    made = uuid7_many(100)
    blob = announce.encode([(intent_id, intent_id.bytes[-3:]) for intent_id in made])
    wanted = {made[3].bytes: "first", made[70].bytes: "second"}
    assert announce.select(blob, wanted) == [
        (made[3].bytes, made[3].bytes[-3:]),
        (made[70].bytes, made[70].bytes[-3:]),
    ]


@given(st.binary(max_size=40))
def test_noise_on_the_channel_is_named_as_such(noise: bytes) -> None:
    """Anyone with the right to publish can publish anything: it is refused, never misread."""
    try:
        heard = announce.decode(noise)
    except announce.MalformedAnnouncement:
        return
    assert all(len(intent_id) == 16 for intent_id, _ in heard)


@pytest.mark.parametrize(
    "noise", [b"", b"\xc1", b"\x91\x92\xc4\x01x\xc4\x00", b"\x91\x91\xc0", b"hello", b"\x90\x00"]
)
def test_malformed_announcements_are_refused(noise: bytes) -> None:
    """Ids of another length, other shapes and trailing bytes are no announcements."""
    with pytest.raises(announce.MalformedAnnouncement):
        announce.decode(noise)
