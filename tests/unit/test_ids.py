"""Identifiers: unique, in the order of their making, and telling their time."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.contract import ids
from workers.contract.ids import uuid7, uuid7_floor, uuid7_many


def _made_at_ms(intent_id: UUID) -> int:
    return intent_id.int >> 80


def test_an_id_is_a_uuid_of_version_7_and_tells_its_time() -> None:
    """The layout of RFC 9562: 48 bits of Unix milliseconds, version 7, the RFC's variant."""
    before_ms = time.time_ns() // 1_000_000
    maker = ids._Maker()
    made = [maker.make() for _ in range(100)]
    after_ms = time.time_ns() // 1_000_000
    assert {(one.version, one.variant) for one in made} == {(7, RFC_4122)}
    assert all(before_ms <= _made_at_ms(one) <= after_ms for one in made)


def test_ids_of_one_process_rise_strictly() -> None:
    """Each is greater than all before it, also within a millisecond and past its 4,096."""
    made = [one for count in (1, 5_000, 1, 9_000) for one in uuid7_many(count)] + [uuid7()]
    assert made == sorted(set(made))
    assert [one.bytes for one in made] == sorted(one.bytes for one in made)


def test_threads_make_no_id_twice() -> None:
    """The intake, the batcher and others make ids at once."""
    made: list[list[UUID]] = []

    def _make() -> None:
        own = [one for _ in range(200) for one in uuid7_many(10)]
        assert own == sorted(own)
        made.append(own)

    threads = [threading.Thread(target=_make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one for own in made for one in own}) == 8 * 2_000


def test_a_clock_set_back_does_not_set_ids_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Order within a process outweighs the clock's word."""
    maker = ids._Maker()
    first = maker.make()
    an_hour_ago = time.time_ns() - 3_600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: an_hour_ago)
    made = [maker.make() for _ in range(10_000)]
    assert first < made[0]
    assert made == sorted(made)
    assert _made_at_ms(made[-1]) - _made_at_ms(first) <= 4


def test_two_processes_that_make_ids_in_one_millisecond_do_not_meet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """62 random bits keep apart what clock and counter do not."""
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    one, other = ids._Maker(), ids._Maker()
    made = [(one.make(), other.make()) for _ in range(1_000)]
    assert all(mine.int >> 64 == theirs.int >> 64 for mine, theirs in made)
    assert not {mine for mine, _ in made} & {theirs for _, theirs in made}


def test_a_forked_child_makes_ids_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefork children start as copies: same clock, same counter, but not the same noise."""
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    uuid7()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"".join(one.bytes for one in uuid7_many(100)))
        os._exit(0)
    own = {one.bytes for one in uuid7_many(100)}
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as pipe:
        theirs = pipe.read()
    assert len(theirs) == 1_600
    assert not own & {theirs[at : at + 16] for at in range(0, 1_600, 16)}


def test_no_ids_are_made_for_nothing() -> None:
    """A batch of none has none."""
    assert uuid7_many(0) == []


@given(
    st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1)),  # noqa: DTZ001
    st.integers(-12, 14),
)
def test_the_floor_parts_the_ids_of_before_and_after(at: datetime, hours: int) -> None:
    """A partition's boundary: smaller than every id from then on, greater than every one before."""
    moment = at.replace(tzinfo=timezone(timedelta(hours=hours)))
    floor = uuid7_floor(moment)
    ms = int(moment.astimezone(UTC).timestamp() * 1_000)
    assert (floor.version, floor.variant) == (7, RFC_4122)
    assert _made_at_ms(floor) == ms
    assert floor.int & ((1 << 80) - 1) == 0x7 << 76 | 0b10 << 62
    assert uuid7_floor(moment - timedelta(milliseconds=2)) < floor


def test_an_id_made_now_lies_between_the_floors_around_it() -> None:
    """Pruning by age reads the age from the id."""
    now = datetime.now(UTC)
    made = uuid7()
    assert uuid7_floor(now - timedelta(minutes=1)) < made < uuid7_floor(now + timedelta(minutes=1))
