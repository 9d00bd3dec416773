"""Appointments: when a holder comes, how far windows may reach, and what a calendar needs next."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.domain.appointment import (
    BLOCK_MS,
    BOOKED_AHEAD_MS_MAX,
    Arrival,
    Block,
    Pace,
    Window,
    appointment,
    arrival,
    earns_appointment,
    next_block,
)
from workers.domain.overload import IntentClass, Level

NOW = 1_770_343_200_000
WINDOW = Window(NOW, NOW + 5_000)


@pytest.mark.parametrize(
    ("after_ms", "came"),
    [
        (-1, Arrival.EARLY),
        (0, Arrival.IN_WINDOW),
        (4_999, Arrival.IN_WINDOW),
        (5_000, Arrival.LATE),
        (9_999, Arrival.LATE),
        (10_000, Arrival.LAPSED),
    ],
)
def test_a_holder_may_be_late_by_the_windows_width_again(after_ms: int, came: Arrival) -> None:
    """Early is told again, late within the grace is served, later is as anybody."""
    assert arrival(WINDOW, NOW + after_ms) is came


def test_only_who_comes_in_the_window_or_its_grace_keeps_the_place() -> None:
    """The class APPOINTMENT is for what was promised, and for once."""
    keep = {came for came in Arrival if came.keeps_place}
    assert keep == {Arrival.IN_WINDOW, Arrival.LATE}


def test_the_holder_is_told_moments_in_utc() -> None:
    """What is told is the window itself, to the millisecond."""
    told = appointment(Window(NOW + 1, NOW + 5_001), "ticket")
    assert told.ticket == "ticket"
    assert told.not_before == datetime(2026, 2, 6, 2, 0, 0, 1_000, tzinfo=UTC)
    assert told.not_after == datetime(2026, 2, 6, 2, 0, 5, 1_000, tzinfo=UTC)


def test_only_load_earns_an_order_a_window() -> None:
    """A 429 is the caller's doing; who waits for a coupon can wait; closed knows no time."""
    layers = (
        *("user", "conversation", "gateway", "campaign", "sku", "in_flight", "merchant", "level"),
        *("deadline", "stock", "budget"),
    )
    earn = {one for one in layers if earns_appointment(one, Level.SHEDDING, IntentClass.ORDER)}
    assert earn == {"level", "deadline", "in_flight", "campaign"}
    assert earns_appointment("level", Level.NORMAL, IntentClass.REDEMPTION)
    assert earns_appointment("level", Level.SHEDDING, IntentClass.APPOINTMENT)
    assert not earns_appointment("level", Level.SHEDDING, IntentClass.ISSUANCE)
    assert not earns_appointment("level", Level.CLOSED, IntentClass.ORDER)


@given(st.floats(0, 1e9))
def test_slots_never_add_up_to_more_than_the_capacity(per_s: float) -> None:
    """A slot lasts as long as the pace takes for one, and no less than the clock can tell."""
    slot_us = Pace(per_s=per_s).slot_us
    if slot_us is None:
        assert per_s * BOOKED_AHEAD_MS_MAX < 1_000
    else:
        assert slot_us >= 1
        assert 1_000_000 / slot_us <= per_s * 1.000001


@pytest.mark.parametrize(("per_s", "slot_us"), [(40, 25_000), (0, None), (1e-6, None)])
def test_without_capacity_there_is_no_slot(per_s: float, slot_us: float | None) -> None:
    """Nor with so little that nobody is booked so far ahead."""
    assert Pace(per_s=per_s).slot_us == slot_us


@pytest.mark.parametrize(
    "wrong",
    [
        {"per_s": -1},
        {"per_s": float("nan")},
        {"per_s": float("inf")},
        {"width_ms": 0},
        {"width_ms": 60_001},
        {"lead_ms": -1},
    ],
)
def test_a_pace_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    """It would be found out only by the people told to come."""
    with pytest.raises(ValueError, match="expected"):
        Pace(**({"per_s": 1.0} | wrong))  # type: ignore[arg-type]


def test_a_calendar_that_was_never_used_gets_a_first_block() -> None:
    """It reaches a block beyond the first window that could be told."""
    assert next_block(NOW, 2_000, None, None, None) == Block(None, 0, NOW + 2_000 + BLOCK_MS)


def test_a_calendar_gets_its_next_block_when_half_of_one_is_left() -> None:
    """An idle calendar costs a write a minute; a busy one never runs dry between two ticks."""
    half = BLOCK_MS // 2
    for cursor, position in ((NOW + 9_000, NOW + 9_000), (NOW - 10**6, NOW), (None, NOW)):
        enough = position + half
        assert next_block(NOW, 0, cursor, enough, enough) is None
        expected = Block(enough - 1, enough - 1, position + BLOCK_MS)
        assert next_block(NOW, 0, cursor, enough - 1, enough - 1) == expected


def test_a_calendar_without_memory_begins_where_the_recorded_time_ends() -> None:
    """What was recorded may have been handed out, to its very end."""
    recorded = NOW + 90_000
    expected = Block(recorded, recorded, recorded + BLOCK_MS)
    assert next_block(NOW, 2_000, None, None, recorded) == expected


def test_what_somebody_else_has_recorded_is_not_handed_out() -> None:
    """A calendar whose limit is not the recorded time is not the only one: it goes on behind it."""
    recorded = NOW + 110_000
    assert next_block(NOW, 0, NOW + 100, NOW + 80_000, recorded) == Block(
        recorded, recorded, recorded + BLOCK_MS
    )


def test_a_database_that_lost_time_does_not_take_a_calendar_back() -> None:
    """Restored from a backup, it is brought up to what the calendar has handed out."""
    limit = NOW + 100_000
    for recorded in (None, NOW - 10**6, limit - 1):
        block = next_block(NOW, 0, NOW, limit, recorded)
        assert block == Block(recorded, limit, NOW + BLOCK_MS)


times = st.integers(NOW - 10**7, NOW + 10**7)


@given(times | st.none(), times | st.none(), times | st.none(), st.integers(0, 60_000))
def test_no_block_ever_begins_before_a_known_limit(
    cursor: int | None, limit: int | None, recorded: int | None, lead_ms: int
) -> None:
    """Blocks follow one another, never reach too far, and are never empty."""
    block = next_block(NOW, lead_ms, cursor, limit, recorded)
    if block is None:
        return
    assert block.recorded_ms == recorded
    assert block.begins_ms == max(limit or 0, recorded or 0)
    assert block.begins_ms < block.until_ms <= NOW + BOOKED_AHEAD_MS_MAX


@given(times | st.none(), times | st.none(), times | st.none(), st.integers(0, 60_000))
def test_a_calendar_that_has_its_block_needs_no_other(
    cursor: int | None, limit: int | None, recorded: int | None, lead_ms: int
) -> None:
    """A tick after a tick has nothing to do, and half a block can be booked: or all is full."""
    cursor = None if cursor is None or limit is None else min(cursor, limit)
    block = next_block(NOW, lead_ms, cursor, limit, recorded)
    if block is not None:
        jumps = block.begins_ms != limit
        cursor = max(cursor or 0, block.begins_ms) if jumps else cursor
        limit = recorded = block.until_ms
    assert next_block(NOW, lead_ms, cursor, limit, recorded) is None
    position = max(cursor or 0, NOW + lead_ms)
    left_ms = max(limit or 0, recorded or 0) - position
    full = max(limit or 0, recorded or 0) >= NOW + BOOKED_AHEAD_MS_MAX
    assert left_ms >= BLOCK_MS / 2 or full
