"""The calendar on a real Valkey: who gets which window, once; and what it does without its memory."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from uuid import UUID

import msgspec
import pytest
import redis
from gate_world import OwnValkey, server_time_us
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from workers.contract.calendar import LIBRARY_VERSION, Calendar, Holder, Wish
from workers.contract.gate import GateUnreachable, open_client
from workers.contract.ids import uuid7
from workers.domain.appointment import ASKED_LATELY_MS, Arrival, Block, Pace, Window, arrival

HASH = "{test}:calendars"
ASKED = "{test}:calendars:asked"
TEN = [f"g-{number}" for number in range(1, 11)]
PACE = Pace(per_s=100, lead_ms=2_000, width_ms=5_000)
FAR_MS = 10**8
FAR_US = FAR_MS * 1_000


def _calendar(url: str, prefix: str = "test", *, timeout_ms: int = 2_000) -> Calendar:
    return Calendar(open_client(url, timeout_ms=timeout_ms), prefix)


def _ready(url: str, *gateways: str, reach_ms: int = 3_600_000, prefix: str = "test") -> Calendar:
    """A calendar whose gateways may hand out slots as far as it reaches from now."""
    calendar = _calendar(url, prefix)
    now_ms = calendar.begin().now_ms
    block = Block(None, 0, now_ms + reach_ms)
    assert calendar.extend(dict.fromkeys(gateways or ("g-1",), block))
    return calendar


def _ahead(url: str, ahead_ms: int = 600_000) -> Calendar:
    """One whose slots are so far ahead that no clock drives them on, however slow the machine."""
    calendar = _calendar(url)
    now_ms = calendar.begin().now_ms
    assert calendar.extend({"g-1": Block(None, now_ms + ahead_ms, now_ms + 3_600_000)})
    return calendar


def _now_ms(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return server_time_us(client) // 1_000


def _wishes(count: int, *, first: int = 0, **fields: Any) -> list[Wish]:
    given = {"gateway_id": "g-1", "campaign_id": "c-1"} | fields
    return [Wish(user_id=f"u-{first + number}", **given) for number in range(count)]


def _given(windows: Sequence[Window | None]) -> list[Window]:
    made = [window for window in windows if window is not None]
    assert len(made) == len(windows), "somebody got no window"
    return made


def _steps(windows: Sequence[Window]) -> set[int]:
    return {later.starts_ms - earlier.starts_ms for earlier, later in pairwise(windows)}


def _begun(calendar: Calendar, url: str) -> Window:
    """The window of u-0, which it could come in now."""
    window = _given(calendar.book(_wishes(1), replace(PACE, lead_ms=0)).windows)[0]
    _wait_until(url, window.starts_ms)
    return window


def _holder(window: Window, *, user: str = "u-0", key: UUID | None = None) -> Holder:
    return Holder("g-1", user, "c-1", window, key or uuid7())


def _book_one(calendar: Calendar, **fields: Any) -> Window:
    return _given(calendar.book(_wishes(1, **fields), PACE).windows)[0]


def _open(client: redis.Redis, ago_ms: int = 0) -> Window:
    """A window that began so long ago, as a ticket proves it; the gate knows nothing of it."""
    starts_ms = server_time_us(client) // 1_000 - ago_ms
    return Window(starts_ms, starts_ms + 5_000)


def _wait_until(url: str, at_ms: int) -> None:
    while (left_ms := at_ms - _now_ms(url)) >= 0:
        time.sleep((left_ms + 1) / 1_000)


# Slots -------------------------------------------------------------------------------------------


def test_windows_follow_one_another_at_the_pace(valkey_url: str) -> None:
    """The first opens after the lead; each next one a slot later: they add up to the capacity."""
    calendar = _ready(valkey_url)
    before_ms = _now_ms(valkey_url)
    windows = _given(calendar.book(_wishes(300), PACE).windows)
    starts = [window.starts_ms for window in windows]
    assert before_ms + 2_000 <= starts[0] <= _now_ms(valkey_url) + 2_000
    assert {later - earlier for earlier, later in pairwise(starts)} == {10}
    assert {window.width_ms for window in windows} == {5_000}


def test_the_cursor_goes_on_from_call_to_call(valkey_url: str) -> None:
    """Whoever asks later comes later, whichever process asks."""
    calendar, other = _ahead(valkey_url), _calendar(valkey_url)
    first = _given(calendar.book(_wishes(10), PACE).windows)
    second = _given(other.book(_wishes(10, first=10), PACE).windows)
    assert second[0].starts_ms - first[-1].starts_ms == 10
    assert calendar.cursors()["g-1"] - second[-1].starts_ms in (10, 11)


def test_no_fraction_of_a_slot_is_lost_between_calls(valkey_url: str) -> None:
    """A slot of 142.25 microseconds, rounded each time, would not add up."""
    calendar, client = _ahead(valkey_url), redis.Redis.from_url(valkey_url)
    pace = replace(PACE, per_s=1_000_000 / 142.25)
    before_us = float(client.hget(HASH, "cursor:g-1") or 0)
    windows = [
        window
        for first in range(210)
        for window in _given(calendar.book(_wishes(1, first=first), pace).windows)
    ]
    after_us = float(client.hget(HASH, "cursor:g-1") or 0)
    assert after_us - before_us == pytest.approx(210 * 142.25, abs=5)
    # 7.03 slots fit a millisecond: seven, and now and then one more.
    assert max(Counter(window.starts_ms for window in windows).values()) in (7, 8)


def test_unasked_slots_pass(valkey_url: str) -> None:
    """A calendar does not save up: what nobody asked for in time goes to newcomers."""
    calendar = _ready(valkey_url)
    pace = replace(PACE, lead_ms=0)
    _given(calendar.book(_wishes(1), pace).windows)
    time.sleep(0.2)
    now_ms = _now_ms(valkey_url)
    assert _given(calendar.book(_wishes(1, first=1), pace).windows)[0].starts_ms >= now_ms


def test_a_lone_gateway_books_the_whole_pace(valkey_url: str) -> None:
    """What nine others could hand out and do not ask for is not left to nobody."""
    calendar = _ready(valkey_url, *TEN)
    windows = _given(calendar.book(_wishes(300), PACE).windows)
    assert windows[-1].starts_ms - windows[0].starts_ms == 299 * 10


def test_gateways_that_ask_share_the_pace_from_then_on(valkey_url: str) -> None:
    """Whoever asks lately has an even share, the one that asks more often no larger one."""
    calendar = _ready(valkey_url, *TEN)
    alone = _given(calendar.book(_wishes(100), PACE).windows)
    second = _given(calendar.book(_wishes(100, gateway_id="g-2"), PACE).windows)
    first = _given(calendar.book(_wishes(100, first=100), PACE).windows)
    assert _steps(second) == _steps(first) == {20}
    assert first[0].starts_ms - alone[-1].starts_ms == 10  # what is given stands
    both = [*_wishes(40, first=500), *_wishes(40, first=500, gateway_id="g-3")]
    windows = _given(calendar.book(both, PACE).windows)
    assert _steps(windows[:40]) == _steps(windows[40:]) == {30}


def test_windows_of_all_who_ask_add_up_to_the_pace(valkey_url: str) -> None:
    """Ten ask at once: a second of slots holds as many windows as the pace serves in one."""
    calendar = _ready(valkey_url, *TEN)
    wishes = [wish for name in TEN for wish in _wishes(50, gateway_id=name)]
    starts = [window.starts_ms for window in _given(calendar.book(wishes, PACE).windows)]
    assert Counter((start - starts[0]) // 1_000 for start in starts) == dict.fromkeys(range(5), 100)


def test_who_has_not_asked_lately_leaves_its_share_to_the_others(valkey_url: str) -> None:
    """Until it asks again, as if it had never rested; the record of who asked ends by itself."""
    calendar, client = _ready(valkey_url, *TEN), redis.Redis.from_url(valkey_url)
    for name in TEN[:2]:
        calendar.book(_wishes(1, gateway_id=name), PACE)
    assert 0 < client.pttl(ASKED) <= ASKED_LATELY_MS + 1
    rest_us = ASKED_LATELY_MS * 1_000
    client.zadd(ASKED, {"g-2": server_time_us(client) - rest_us})
    alone = _given(calendar.book(_wishes(5, first=10), PACE).windows)
    assert _steps(alone) == {10}
    assert client.zrange(ASKED, 0, -1) == [b"g-1"]
    client.zadd(ASKED, {"g-1": server_time_us(client) + rest_us + FAR_US})  # the clock was set back
    back = _given(calendar.book(_wishes(5, first=10, gateway_id="g-2"), PACE).windows)
    assert _steps(back) == {10}
    assert _steps(_given(calendar.book(_wishes(5, first=20), PACE).windows)) == {20}


def test_a_gateway_without_a_calendar_takes_no_share(valkey_url: str) -> None:
    """It gets nothing, so that others would have to book less for nothing."""
    calendar = _ready(valkey_url)
    assert calendar.book(_wishes(1, gateway_id="stranger"), PACE).windows == [None]
    both = [*_wishes(1, gateway_id="stranger"), *_wishes(5)]
    assert _steps(_given(calendar.book(both, PACE).windows[1:])) == {10}


def test_without_capacity_there_is_no_window(valkey_url: str) -> None:
    """Whoever has one is told it all the same."""
    calendar, none = _ready(valkey_url), replace(PACE, per_s=0)
    window = _book_one(calendar)
    assert calendar.book(_wishes(2), none).windows == [window, None]


def test_a_gateway_can_invent_users_but_not_capacity(valkey_url: str) -> None:
    """Each has a calendar of its share; a flood of one does not move the others'."""
    calendar = _ready(valkey_url, "g-1", "g-2")
    calendar.book(_wishes(1, first=900, gateway_id="g-2"), PACE)
    flood = _given(calendar.book(_wishes(200), PACE).windows)
    calm = _given(calendar.book(_wishes(4, gateway_id="g-2"), PACE).windows)
    assert flood[-1].starts_ms - flood[0].starts_ms == 199 * 20
    assert _steps(calm) == {20}
    assert calm[0].starts_ms < flood[150].starts_ms


def test_a_batch_larger_than_a_call_is_answered_in_order(valkey_url: str) -> None:
    """The calls of one batch follow one another on the cursor."""
    windows = _given(_ready(valkey_url).book(_wishes(1_200), PACE).windows)
    assert windows == sorted(windows, key=lambda window: window.starts_ms)
    assert len({window.starts_ms for window in windows}) == 1_200


def test_beyond_the_horizon_there_is_no_window(valkey_url: str) -> None:
    """A window ends within the pace's horizon and the campaign, or there is none; nothing moves."""
    calendar = _ready(valkey_url)
    near = replace(PACE, horizon_ms=2_000 + 5_000 + 95)
    windows = calendar.book(_wishes(12), near).windows
    assert [window is not None for window in windows] == [True] * 10 + [False] * 2
    cursor_ms = calendar.cursors()["g-1"]
    for until_ms in (1, cursor_ms + 4_998):
        assert calendar.book(_wishes(1, first=50, until_ms=until_ms), PACE).windows == [None]
    assert calendar.book(_wishes(1, first=50), replace(PACE, lead_ms=FAR_MS)).windows == [None]
    assert calendar.cursors()["g-1"] == cursor_ms
    mixed = calendar.book([*_wishes(1, first=60, until_ms=1), *_wishes(1, first=61)], PACE).windows
    assert [window is not None for window in mixed] == [False, True]


def test_a_window_may_end_with_its_campaign(valkey_url: str) -> None:
    """By the gate's clock, to the millisecond: whoever asks may have another."""
    calendar = _ahead(valkey_url)
    cursor_ms = calendar.cursors()["g-1"]
    wishes = [
        *_wishes(1, until_ms=cursor_ms + 4_999),
        *_wishes(1, first=1, until_ms=cursor_ms + 5_000),
    ]
    assert calendar.book(wishes, PACE).windows == [None, Window(cursor_ms, cursor_ms + 5_000)]


def test_the_gates_own_time_is_told_with_the_windows(valkey_url: str) -> None:
    """How long it is until a window opens is reckoned by the clock that will judge who comes."""
    calendar = _ready(valkey_url)
    before_ms = _now_ms(valkey_url)
    booked = calendar.book(
        _wishes(600), PACE
    )  # two calls: the earlier time, that nobody comes early
    assert before_ms <= booked.now_ms <= _now_ms(valkey_url)
    assert booked.now_ms <= _given(booked.windows)[0].starts_ms - PACE.lead_ms <= booked.now_ms + 1


# Owners ------------------------------------------------------------------------------------------


def test_an_owner_who_asks_again_gets_the_same_window(valkey_url: str) -> None:
    """In the same call, from another process, beyond the horizon, or while the rest is full."""
    calendar = _ahead(valkey_url)
    windows = _given(calendar.book(_wishes(3) + _wishes(3), PACE).windows)
    assert windows[:3] == windows[3:]
    assert _calendar(valkey_url).book(_wishes(3), PACE).windows == windows[:3]
    assert calendar.book(_wishes(3), replace(PACE, horizon_ms=0, per_s=0)).windows == windows[:3]
    assert _book_one(calendar, first=3).starts_ms - windows[2].starts_ms == 10


def test_an_owner_is_a_user_of_a_gateway_in_a_campaign(valkey_url: str) -> None:
    """Another in any of the three is another owner; no name can be shifted into the next."""
    calendar = _ready(valkey_url, "a", "ab")
    wishes = [
        Wish(gateway, user, campaign)
        for gateway in ("a", "ab")
        for campaign in ("c", "cd", "bc")
        for user in ("d", "", "dd", "é\n\0")
    ]
    _given(calendar.book(wishes, PACE).windows)
    with redis.Redis.from_url(valkey_url) as client:
        assert len(client.keys("{test}:appointment:*")) == len(wishes)
        assert not client.keys("*u-*")


def test_a_window_is_kept_through_its_grace_and_no_longer(valkey_url: str) -> None:
    """Until then the owner has a place; after it, the next question earns a new one."""
    calendar = _ready(valkey_url)
    pace = replace(PACE, lead_ms=0, width_ms=100)
    first = _given(calendar.book(_wishes(1), pace).windows)[0]
    while (now_ms := _now_ms(valkey_url)) < first.grace_ends_ms - 40:
        asked = _given(calendar.book(_wishes(1), pace).windows)[0]
        assert asked == first or _now_ms(valkey_url) >= first.grace_ends_ms
        time.sleep(0.01)
    assert now_ms >= first.ends_ms, "the grace was looked at"
    _wait_until(valkey_url, first.grace_ends_ms)
    with redis.Redis.from_url(valkey_url) as client:
        assert client.keys("{test}:appointment:*") == []
    assert _given(calendar.book(_wishes(1), pace).windows)[0].starts_ms > first.starts_ms


def test_who_was_turned_away_gets_a_new_window_before_newcomers(valkey_url: str) -> None:
    """At once, and once: the new window stands, whoever of its owner's intents asks."""
    calendar = _ready(valkey_url)
    pace = replace(PACE, lead_ms=0)
    old = _begun(calendar, valkey_url)
    turned_away, newcomer = _wishes(1, was_turned_away=True), _wishes(1, first=9)
    later, new = _given(calendar.book(newcomer + turned_away, pace).windows)
    assert old.starts_ms < new.starts_ms < later.starts_ms
    far = replace(PACE, lead_ms=60_000)
    standing = _given(calendar.book(_wishes(1, first=5, was_turned_away=True), far).windows)
    assert calendar.book(_wishes(1, first=5, was_turned_away=True), pace).windows == standing
    assert calendar.book(_wishes(1, first=5), pace).windows == standing


def test_who_was_turned_away_is_not_bound_by_the_paces_horizon(valkey_url: str) -> None:
    """Only by what its campaign has left; else the promise would end with the first full half hour."""
    calendar = _ahead(valkey_url)
    full, ends_ms = replace(PACE, horizon_ms=0), calendar.cursors()["g-1"] + 5_000
    assert calendar.book(_wishes(1), full).windows == [None]
    for until_ms, fits in ((ends_ms - 1, False), (ends_ms, True)):
        wishes = _wishes(1, was_turned_away=True, until_ms=until_ms)
        assert (calendar.book(wishes, full).windows != [None]) == fits


# Used --------------------------------------------------------------------------------------------


def test_a_window_is_used_by_one_intent_only(valkey_url: str) -> None:
    """However often that one asks; another of the same owner is told that it is used."""
    calendar = _ready(valkey_url)
    window = _open(redis.Redis.from_url(valkey_url))
    mine, other = _holder(window), _holder(window)
    assert calendar.use([mine, other, mine]) == [
        Arrival.IN_WINDOW,
        Arrival.USED,
        Arrival.IN_WINDOW,
    ]
    assert _calendar(valkey_url).use([other, mine]) == [Arrival.USED, Arrival.IN_WINDOW]
    assert calendar.use([_holder(window, user="u-1")]) == [Arrival.IN_WINDOW]


def test_who_comes_early_has_used_nothing(valkey_url: str) -> None:
    """The window is still its owner's, for whichever intent comes in it."""
    calendar, client = _ready(valkey_url), redis.Redis.from_url(valkey_url)
    window = _open(client, ago_ms=-300)
    assert calendar.use([_holder(window)]) == [Arrival.EARLY]
    _wait_until(valkey_url, window.starts_ms)
    assert calendar.use([_holder(window)]) == [Arrival.IN_WINDOW]


def test_a_ticket_is_believed_where_the_gate_knows_only_an_older_window(valkey_url: str) -> None:
    """A replica that lagged has missed the last that was told."""
    calendar, client = _ready(valkey_url), redis.Redis.from_url(valkey_url)
    calendar.use([_holder(_open(client, ago_ms=2_000))])
    newer = _open(client, ago_ms=1_000)
    assert calendar.use([_holder(newer), _holder(newer)]) == [Arrival.IN_WINDOW, Arrival.USED]


def test_after_its_window_was_used_an_owner_gets_a_new_one(valkey_url: str) -> None:
    """A second order is a second wish; the ticket of the first proves no place any more."""
    calendar = _ready(valkey_url)
    window = _begun(calendar, valkey_url)
    holder = _holder(window)
    assert calendar.use([holder]) == [Arrival.IN_WINDOW]
    new = _book_one(calendar)
    assert new.starts_ms > window.starts_ms
    assert calendar.use([holder, _holder(window)]) == [Arrival.USED] * 2
    assert calendar.use([_holder(new)]) == [Arrival.EARLY]


def test_a_window_that_was_given_back_can_be_used(valkey_url: str) -> None:
    """Only by who had it; the same window stands for its owner."""
    calendar = _ready(valkey_url)
    client = redis.Redis.from_url(valkey_url)
    window = _begun(calendar, valkey_url)
    mine, other = _holder(window), _holder(window)
    calendar.use([mine])
    calendar.give_back([other])
    assert calendar.use([other]) == [Arrival.USED]
    calendar.give_back([mine, mine])
    (key,) = client.keys("{test}:appointment:*")
    assert 0 < client.pttl(key) <= window.grace_ends_ms - window.starts_ms
    assert calendar.book(_wishes(1), PACE).windows == [window]
    assert calendar.use([other, mine]) == [Arrival.IN_WINDOW, Arrival.USED]


def test_giving_back_what_is_not_there_does_nothing(valkey_url: str) -> None:
    """A flush in between leaves no trace."""
    calendar = _ready(valkey_url)
    client = redis.Redis.from_url(valkey_url)
    calendar.give_back([_holder(_open(client))])
    assert client.keys("{test}:appointment:*") == []


def test_a_ticket_outlives_the_gates_memory(valkey_url: str) -> None:
    """After a flush it is believed, and still used once; and it stands if its owner asks again."""
    calendar, client = _ready(valkey_url), redis.Redis.from_url(valkey_url)
    window = _open(client)
    client.flushall()
    assert calendar.use([_holder(window), _holder(window)]) == [Arrival.IN_WINDOW, Arrival.USED]


def test_an_early_holder_whom_the_gate_has_forgotten_is_told_its_window_again(
    valkey_url: str,
) -> None:
    """It has no second one, and comes in the first; a later ticket does not take its place."""
    calendar, client = _ready(valkey_url), redis.Redis.from_url(valkey_url)
    window = _open(client, ago_ms=-1_000)
    later = Window(window.starts_ms + 1, window.ends_ms + 1)
    assert calendar.use([_holder(window), _holder(later)]) == [Arrival.EARLY] * 2
    (key,) = client.keys("{test}:appointment:*")
    assert 0 < client.pttl(key) <= window.grace_ends_ms - window.starts_ms + 1_000
    assert calendar.book(_wishes(1), PACE).windows == [window]
    _wait_until(valkey_url, window.starts_ms)
    assert calendar.use([_holder(window), _holder(window)]) == [Arrival.IN_WINDOW, Arrival.USED]


def test_the_ticket_of_a_replaced_window_is_worth_nothing(valkey_url: str) -> None:
    """An owner holds one place: the last it was given."""
    calendar, client = _ready(valkey_url), redis.Redis.from_url(valkey_url)
    old = _open(client, ago_ms=1_000)
    new = _book_one(calendar)
    assert new.starts_ms > old.starts_ms
    assert calendar.use([_holder(old)]) == [Arrival.USED]
    assert calendar.book(_wishes(1), PACE).windows == [new]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-12_000, 2_000), st.integers(1, 6_000)), min_size=1, max_size=30)
)
def test_the_calendar_judges_arrivals_as_the_rule_does(
    valkey_of_module: str, windows: list[tuple[int, int]]
) -> None:
    """By its own clock: nobody's window is taken too early or too late."""
    calendar, now_ms = _calendar(valkey_of_module), _now_ms(valkey_of_module)
    holders = [
        Holder("g-1", uuid7().hex, "c-1", Window(now_ms + after, now_ms + after + width), uuid7())
        for after, width in windows
    ]
    arrivals = calendar.use(holders)
    then_ms = _now_ms(valkey_of_module)
    for holder, told in zip(holders, arrivals, strict=True):
        possible = {arrival(holder.window, at_ms) for at_ms in range(now_ms, then_ms + 1)}
        assert told in possible


# Memory ------------------------------------------------------------------------------------------


def test_without_a_block_nothing_is_booked(valkey_url: str) -> None:
    """Not before the first block, not at its end, and again with the next."""
    calendar = _calendar(valkey_url)
    assert calendar.book(_wishes(2), PACE).windows == [None, None]
    now_ms = calendar.begin().now_ms
    assert calendar.book(_wishes(2), PACE).windows == [None, None]
    limit_ms = now_ms + 64_000
    assert calendar.extend({"g-1": Block(None, limit_ms - 4_000, limit_ms)})
    windows = calendar.book(_wishes(450), PACE).windows
    made = [window for window in windows if window is not None]
    assert len(made) == 400
    assert max(window.starts_ms for window in made) == limit_ms - 10
    assert windows == made + [None] * (450 - len(made))
    assert calendar.extend({"g-1": Block(limit_ms, limit_ms, limit_ms + 1_000)})
    assert _book_one(calendar, first=900).starts_ms - made[-1].starts_ms == 10


def test_a_later_block_moves_the_cursor_and_an_earlier_one_nothing(valkey_url: str) -> None:
    """What lies between two blocks may be somebody else's; what lies behind is gone."""
    calendar = _calendar(valkey_url)
    now_ms = calendar.begin().now_ms
    calendar.extend({"g-1": Block(None, 0, now_ms + 60_000)})
    calendar.extend({"g-1": Block(None, now_ms + 90_000, now_ms + 120_000)})
    assert _book_one(calendar).starts_ms == now_ms + 90_000
    calendar.extend({"g-1": Block(None, now_ms + 60_000, now_ms + 200_000)})
    state = calendar.begin()
    assert state.limits_ms == {"g-1": now_ms + 120_000}
    assert state.cursors_ms == {"g-1": now_ms + 90_010}


def test_a_flush_stops_booking_until_the_calendar_begins_anew(valkey_url: str) -> None:
    """Whoever extended it before the flush cannot do so after it."""
    calendar, client = _ready(valkey_url), redis.Redis.from_url(valkey_url)
    _book_one(calendar)
    client.flushall()
    assert calendar.book(_wishes(1), PACE).windows == [None]
    assert not calendar.extend({"g-1": Block(None, 0, FAR_MS)})
    assert client.dbsize() == 0
    assert calendar.begin().limits_ms == {}
    assert calendar.book(_wishes(1), PACE).windows == [None]


def test_a_lost_library_counts_as_lost_memory(valkey_url: str) -> None:
    """FUNCTION FLUSH, and the load that follows it, begin a new incarnation; owners keep theirs."""
    calendar, client = _ready(valkey_url), redis.Redis.from_url(valkey_url)
    window = _book_one(calendar)
    client.function_flush()
    assert calendar.book(_wishes(2), PACE).windows == [window, None]
    state = calendar.begin()
    assert (state.cursors_ms, state.limits_ms) == ({}, {})


def test_a_restart_counts_as_lost_memory_though_the_keys_are_back(own_valkey: OwnValkey) -> None:
    """A cursor of a restarted server may be an old one: it is forgotten."""
    calendar = _ready(own_valkey.url)
    window = _book_one(calendar)
    own_valkey.restart()
    with redis.Redis.from_url(own_valkey.url) as client:
        assert client.hexists(HASH, "cursor:g-1")
    assert calendar.book(_wishes(2), PACE).windows == [window, None]
    state = calendar.begin()
    assert (state.cursors_ms, state.limits_ms) == ({}, {})
    assert calendar.begin().limits_ms == {}


def test_two_keepers_share_one_beginning(valkey_url: str) -> None:
    """Whoever begins second finds what the first has begun."""
    calendar, other = _calendar(valkey_url), _calendar(valkey_url)
    now_ms = calendar.begin().now_ms
    assert calendar.extend({"g-1": Block(None, 0, now_ms + 60_000)})
    assert other.begin().limits_ms == {"g-1": now_ms + 60_000}
    assert calendar.extend({"g-2": Block(None, 0, now_ms + 60_000)})
    assert set(other.begin().limits_ms) == {"g-1", "g-2"}


def test_deployments_that_share_a_server_do_not_disturb_each_other(valkey_url: str) -> None:
    """A beginning under one prefix is none under another."""
    calendar = _ready(valkey_url)
    other = _ready(valkey_url, prefix="other")
    assert calendar.begin().limits_ms
    _book_one(calendar)
    _book_one(other)


def test_many_gateways_are_extended_at_once(valkey_url: str) -> None:
    """Beyond what one call takes, by several."""
    calendar = _calendar(valkey_url)
    now_ms = calendar.begin().now_ms
    blocks = {f"g-{number}": Block(None, 0, now_ms + 60_000) for number in range(1_300)}
    assert calendar.extend(blocks)
    assert len(calendar.begin().limits_ms) == 1_300
    assert calendar.extend({})


def test_an_older_library_is_replaced_and_a_newer_one_kept(valkey_url: str) -> None:
    """Processes of two releases share a server; the gate's own library is not touched."""
    calendar, client = _ready(valkey_url), redis.Redis.from_url(valkey_url)
    (library,) = client.function_list("tidegate_calendar", withcode=True)
    source = library[-1].decode()
    line = f"local VERSION = {LIBRARY_VERSION}"
    for version, kept in ((0, LIBRARY_VERSION), (LIBRARY_VERSION + 1, LIBRARY_VERSION + 1)):
        client.function_load(source.replace(line, f"local VERSION = {version}"), replace=True)
        assert calendar.book(_wishes(1), PACE).windows == [None]
        assert client.fcall("tidegate_calendar_version", 0) == kept


# Faults ------------------------------------------------------------------------------------------


def test_a_server_that_hangs_or_is_gone_is_unreachable_in_time(own_valkey: OwnValkey) -> None:
    """Nobody waits for a window longer than the timeout: a server that hangs would never answer."""
    calendar = _calendar(own_valkey.url, timeout_ms=300)
    calls = (
        lambda: calendar.book(_wishes(3), PACE).windows,
        lambda: calendar.use([_holder(Window(1, 2))]),
        lambda: calendar.give_back([_holder(Window(1, 2))]),
        calendar.begin,
        lambda: calendar.extend({"g-1": Block(None, 0, 1)}),
        calendar.cursors,
    )
    calendar.begin()
    for number in (signal.SIGSTOP, signal.SIGKILL):
        own_valkey.process.send_signal(number)
        for call in calls:
            with pytest.raises(GateUnreachable):
                call()
    own_valkey.restart()
    assert calendar.book(_wishes(1), PACE).windows == [None]


def test_out_of_memory_gives_no_window_but_keeps_the_calendar(own_valkey: OwnValkey) -> None:
    """Booking fails closed; the keeper goes on, and a window can be given back."""
    calendar, client = _ready(own_valkey.url), redis.Redis.from_url(own_valkey.url)
    holder = _holder(_open(client))
    calendar.use([holder])
    client.config_set("maxmemory", 1)
    for call in (
        lambda: calendar.book(_wishes(1), PACE).windows,
        lambda: calendar.use([replace(holder, user_id="u-2")]),
    ):
        with pytest.raises(GateUnreachable, match="maxmemory"):
            call()
    limit_ms = calendar.begin().limits_ms["g-1"]
    assert calendar.extend({"g-1": Block(limit_ms, limit_ms, limit_ms + 1)})
    calendar.give_back([holder])
    client.config_set("maxmemory", 0)
    assert calendar.use([replace(holder, key=uuid7())]) == [Arrival.IN_WINDOW]


def test_one_access_rule_covers_the_calendar(own_valkey: OwnValkey) -> None:
    """A user confined to the prefix's keys, and to few commands, can run it."""
    admin: Any = redis.Redis.from_url(own_valkey.url)
    commands = "+fcall +function|load +mget +set +del +hget +hmget +hset +hgetall +time +zadd"
    commands += " +zcount +zmscore +zremrangebyscore +pexpire"
    admin.execute_command(
        *("ACL", "SETUSER", "gate", "on", ">pass", "~{test}:*", *commands.split())
    )
    calendar = _ready(f"{own_valkey.url}?username=gate&password=pass")
    _book_one(calendar)
    holder = _holder(_open(admin), user="u-9")
    assert calendar.use([holder]) == [Arrival.IN_WINDOW]
    calendar.give_back([holder])
    assert calendar.cursors()


def test_a_client_with_hidden_retries_is_refused() -> None:
    """A command that is repeated unseen could give a block twice."""
    with pytest.raises(ValueError, match="retry"):
        Calendar(redis.Redis(), "test")


PACKED = {
    "book_2": [0, 5_000, 1, 1_000.0, 5, ["g-1"], ["{test}:appointment:x", 1, 60_000, 0, 0]],
    "use": ["{test}:appointment:x", 1, 2, 3, "me"],
    "give_back": ["{test}:appointment:x", 1, 2, 3, "me"],
    "extend": ["g-1", 0, 5],
}


@pytest.mark.parametrize(
    ("function", "told"), [("book_2", [0, 0]), ("use", [0]), ("give_back", 0), ("extend", 1)]
)
def test_the_calls_that_malformed_ones_differ_from_are_good(
    valkey_url: str, function: str, told: object
) -> None:
    """Or nothing could be learned from those."""
    _calendar(valkey_url).begin()
    client = redis.Redis.from_url(valkey_url)
    packed = msgspec.msgpack.encode(PACKED[function])
    reply = _fcall(client, function, packed)
    assert (msgspec.msgpack.decode(reply)[1:] if isinstance(reply, bytes) else reply) == told


def _fcall(client: redis.Redis, function: str, packed: bytes) -> Any:
    keys = [HASH, ASKED] if function == "book_2" else [HASH]
    return client.fcall(f"tidegate_calendar_{function}", len(keys), *keys, 1, packed)


def _wrong(function: str, at: int, value: object) -> tuple[str, bytes]:
    packed = list(PACKED[function])
    packed[at] = value
    return function, msgspec.msgpack.encode(packed)


@pytest.mark.parametrize(
    ("function", "packed"),
    [
        *[(function, b"\xc1") for function in PACKED],
        *[(function, msgspec.msgpack.encode(7)) for function in PACKED],
        *[_wrong("book_2", 0, value) for value in (-1, None, "x", float("nan"))],
        *[_wrong("book_2", 1, value) for value in (0, 100_000, None)],
        *[_wrong("book_2", at, value) for at in (2, 3, 4) for value in (-1, None)],
        *[_wrong("book_2", 5, value) for value in (7, [7], [["g-1"]], [])],
        *[_wrong("book_2", 6, value) for value in (7, ["k"], [7, 1, 1, 0, 0], ["k", 2, 1, 0, 0])],
        *[_wrong("book_2", 6, value) for value in (["k", 1, -1, 0, 0], ["k", 1, 1, -1, 0])],
        _wrong("book_2", 6, ["k", 1, 1, 0, 0] * 1_001),
        *[_wrong("use", at, False) for at in range(5)],
        *[_wrong("use", at, value) for at, value in ((2, 1), (3, 1), (4, ""), (4, "x" * 65))],
        *[_wrong("extend", at, False) for at in range(3)],
        *[_wrong("extend", at, value) for at, value in ((1, -1), (2, 0))],
    ],
)
def test_a_malformed_call_writes_nothing(valkey_url: str, function: str, packed: bytes) -> None:
    """Whatever is wrong is found before the first write: a failed function is not rolled back."""
    _calendar(valkey_url).begin()
    client = redis.Redis.from_url(valkey_url)
    before = client.hgetall(HASH)
    with pytest.raises(redis.ResponseError, match=r"^TIDEGATE_USAGE "):
        _fcall(client, function, packed)
    assert (client.hgetall(HASH), client.dbsize()) == (before, 1)


@pytest.mark.parametrize("function", ["book_2", "use", "give_back", "begin", "extend"])
def test_every_function_checks_its_call(valkey_url: str, function: str) -> None:
    """A call of the wrong shape is answered with TIDEGATE_USAGE, an older library says so."""
    _calendar(valkey_url).book(_wishes(1), PACE)
    client = redis.Redis.from_url(valkey_url)
    name = f"tidegate_calendar_{function}"
    for keys, arguments in ((1, ["1"]), (3, ["1", "x"]), (1, ["x", "y"]), (1, ["1", "", "z"])):
        with pytest.raises(redis.ResponseError, match=r"^TIDEGATE_USAGE "):
            client.fcall(name, keys, *[f"key-{n}" for n in range(keys)], *arguments)
    with pytest.raises(redis.ResponseError, match=r"^TIDEGATE_OUTDATED "):
        client.fcall(name, 1, HASH, LIBRARY_VERSION + 1, "x")
    assert client.dbsize() == 0
