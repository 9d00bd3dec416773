"""Identifiers: unique, in the order of their making, and telling their time."""

from __future__ import annotations

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
    made = uuid7_many(100)
    after_ms = time.time_ns() // 1_000_000
    assert {(one.version, one.variant) for one in made} == {(7, RFC_4122)}
    # Ids made before in the same process may have borrowed some milliseconds from the future.
    assert all(before_ms <= _made_at_ms(one) <= after_ms + 100 for one in made)


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
    first = uuid7()
    an_hour_ago = time.time_ns() - 3_600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: an_hour_ago)
    made = uuid7_many(10_000)
    assert first < made[0]
    assert made == sorted(made)
    assert _made_at_ms(made[-1]) - _made_at_ms(first) <= 4


def test_two_processes_that_make_ids_in_one_millisecond_do_not_meet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """62 random bits keep apart what clock and counter do not."""
    monkeypatch.setattr(ids, "_last_ms", 0)
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    one = uuid7_many(1_000)
    monkeypatch.setattr(ids, "_last_ms", 0)
    other = uuid7_many(1_000)
    assert [a.int >> 64 for a in one] == [b.int >> 64 for b in other]
    assert not set(one) & set(other)


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
