"""Calendars on real servers: whatever is lost, no slot is handed out twice."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import redis
from kit import World, at_once, comes_true
from msgspec.structs import replace

from workers.contract.calendar import Calendar, CalendarState, Wish
from workers.contract.gate import GateUnreachable, open_client
from workers.domain.appointment import BLOCK_MS, BOOKED_AHEAD_MS_MAX, Block, Pace, Window
from workers.service.appointments import KeptCalendars, keep_calendars
from workers.store import calendars
from workers.store.pool import PRODUCER, WORKER, Connection

LEAD_MS = 1_000
PACE = Pace(per_s=100, lead_ms=LEAD_MS)  # slots of 10 ms: their starts tell them apart
_users = itertools.count(1)


class _Store:
    """The store's functions on one connection, as the governor has them."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def read(self) -> Mapping[str, int | None]:
        return calendars.read(self.connection)

    def extend(self, blocks: Mapping[str, Block]) -> set[str]:
        return calendars.extend(self.connection, blocks)


@pytest.fixture
def gateways(world: World) -> World:
    """A world with two live gateways and one that is revoked."""
    world.admin.execute("DELETE FROM gateways")
    world.admin.execute(
        "INSERT INTO gateways (gateway_id, scopes, revoked_at)"
        " VALUES ('g-1', '{}', NULL), ('g-2', '{}', NULL), ('gone', '{}', now())"
    )
    return world


@pytest.fixture
def store(gateways: World) -> _Store:
    return _Store(gateways.connection(WORKER))


@pytest.fixture
def calendar(valkey_url: str) -> Calendar:
    return _calendar(valkey_url)


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url) as client:
        yield client


def _calendar(url: str) -> Calendar:
    return Calendar(open_client(url, timeout_ms=2_000), "test")


def _keep(store: _Store, calendar: Calendar) -> KeptCalendars:
    return keep_calendars(store, calendar, lead_ms=LEAD_MS)


def _book(calendar: Calendar, count: int, gateway: str = "g-1", pace: Pace = PACE) -> list[Window]:
    wishes = [Wish(gateway, f"u-{next(_users)}", "spring") for _ in range(count)]
    return [window for window in calendar.book(wishes, pace).windows if window is not None]


def _starts(windows: list[Window]) -> list[int]:
    return [window.starts_ms for window in windows]


# The recorded time -------------------------------------------------------------------------------


def test_live_gateways_are_read_with_what_is_recorded(store: _Store) -> None:
    """A gateway without a calendar has none yet; a revoked one is of no interest."""
    assert store.read() == {"g-1": None, "g-2": None}
    blocks = {"g-1": Block(None, 0, 1_770_343_200_123), "g-2": Block(None, 0, 5)}
    assert store.extend(blocks) == {"g-1", "g-2"}
    assert store.read() == {"g-1": 1_770_343_200_123, "g-2": 5}
    assert store.extend({}) == set()


def test_only_one_claimant_takes_a_block(store: _Store) -> None:
    """Whoever read what is no longer recorded takes nothing, whatever else it takes."""
    assert store.extend({"g-1": Block(None, 0, 1_000)}) == {"g-1"}
    assert store.extend({"g-1": Block(None, 0, 2_000)}) == set()
    assert store.extend({"g-1": Block(1_000, 1_000, 3_000)}) == {"g-1"}
    stale, fresh = Block(1_000, 1_000, 9_000), Block(None, 0, 7_000)
    assert store.extend({"g-1": stale, "g-2": fresh}) == {"g-2"}
    assert store.read() == {"g-1": 3_000, "g-2": 7_000}


def test_recorded_time_never_goes_back(store: _Store) -> None:
    """Whatever a claimant believes."""
    store.extend({"g-1": Block(None, 0, 5_000)})
    for until_ms in (4_999, 5_000):
        assert store.extend({"g-1": Block(5_000, 0, until_ms)}) == set()
    assert store.read()["g-1"] == 5_000


def test_what_is_finer_than_a_millisecond_is_rounded_up(gateways: World, store: _Store) -> None:
    """To begin too late wastes a slot; too early would give one twice."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=7, microseconds=1)
    gateways.admin.execute("INSERT INTO calendars VALUES ('g-1', %s)", (moment,))
    assert store.read()["g-1"] == 8


def test_claimants_at_once_take_each_block_once(gateways: World) -> None:
    """Two governors, in opposite orders: no deadlock, one winner for each calendar and time."""
    stores = [_Store(gateways.connection(WORKER)) for _ in range(4)]
    names = [f"h-{number}" for number in range(40)]

    def claims(number: int) -> list[tuple[str, int]]:
        won = []
        for turn in range(15):
            order = random.Random(number * 100 + turn).sample(names, len(names))
            read = None if turn == 0 else turn * 1_000
            block = Block(read, 0, (turn + 1) * 1_000)
            won += [(one, turn) for one in stores[number].extend(dict.fromkeys(order, block))]
        return won

    results = at_once([lambda n=n: claims(n) for n in range(4)])
    won = [claim for result in results for claim in result]
    assert len(won) == len(set(won)) == 15 * len(names)
    assert gateways.deadlocks() == 0


@pytest.mark.parametrize("recorded_ms", [None, 1_000])
def test_a_claimant_that_had_to_wait_sees_what_was_taken(
    gateways: World, recorded_ms: int | None
) -> None:
    """It judges by what is recorded when it has the row, not when it asked."""
    first, second = _Store(gateways.connection(WORKER)), _Store(gateways.connection(WORKER))
    if recorded_ms is not None:
        first.extend({"g-1": Block(None, 0, recorded_ms)})
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s"
    second_pid = second.connection.info.backend_pid
    with ThreadPoolExecutor() as pool:
        with first.connection.transaction():
            assert first.extend({"g-1": Block(recorded_ms, 0, 5_000)}) == {"g-1"}
            late = pool.submit(second.extend, {"g-1": Block(recorded_ms, 0, 9_000)})
            assert comes_true(lambda: gateways.value(waiting, second_pid) == 1)
        assert late.result() == set()
    assert first.read()["g-1"] == 5_000


def test_the_producer_may_not_move_a_calendar(gateways: World) -> None:
    """What a flush must not forget is the governor's alone."""
    producer = gateways.connection(PRODUCER)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        calendars.extend(producer, {"g-1": Block(None, 0, 1)})


# Keeping -----------------------------------------------------------------------------------------


def test_after_a_tick_every_live_gateway_can_book(store: _Store, calendar: Calendar) -> None:
    """Before it nobody can; what may be handed out is recorded, a block and the lead ahead."""
    assert _book(calendar, 3) == []
    before_ms = calendar.begin().now_ms
    kept = _keep(store, calendar)
    assert kept == KeptCalendars(extended=2, restored=2)
    assert [len(_book(calendar, 3, gateway)) for gateway in ("g-1", "g-2", "gone")] == [3, 3, 0]
    state = calendar.begin()
    assert state.limits_ms == store.read()
    reached_ms = state.limits_ms["g-1"] - LEAD_MS - BLOCK_MS
    assert before_ms <= reached_ms <= state.now_ms


def test_a_tick_with_nothing_to_do_writes_nothing(gateways: World, store: _Store) -> None:
    """Four ticks a second cost the database a read each, and a write a minute."""
    calendar = _calendar(gateways.valkey_url)
    _keep(store, calendar)
    recorded = gateways.rows("SELECT * FROM calendars ORDER BY 1")
    _book(calendar, 100)
    assert _keep(store, calendar) == KeptCalendars()
    assert gateways.rows("SELECT * FROM calendars ORDER BY 1") == recorded


def test_a_busy_calendar_goes_on_without_a_gap(store: _Store, calendar: Calendar) -> None:
    """Ticks raise the limit before the cursor comes there: slots follow one another throughout."""
    starts = []
    for _ in range(10):
        kept = _keep(store, calendar)
        assert kept.restored == 0 or not starts
        starts += _starts(_book(calendar, 3_000))
    assert len(starts) == 30_000
    assert {later - earlier for earlier, later in itertools.pairwise(starts)} == {10}


def test_nobody_is_booked_beyond_the_bound(store: _Store, calendar: Calendar) -> None:
    """However often a fault makes calendars begin anew, blocks do not run away."""
    store.extend({"g-1": Block(None, 0, calendar.begin().now_ms + BOOKED_AHEAD_MS_MAX + 1_000)})
    recorded = store.read()["g-1"]
    for _ in range(3):
        _keep(store, calendar)
    assert store.read()["g-1"] == recorded
    assert _book(calendar, 3) == []
    assert len(_book(calendar, 3, "g-2")) == 3


# Faults ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["flushall", "function_flush", "both"])
def test_after_a_flush_no_slot_is_handed_out_again(
    store: _Store, calendar: Calendar, client: redis.Redis, loss: str
) -> None:
    """Nothing until the governor came round; then later than all that was given, by a block at most."""
    _keep(store, calendar)
    before = _starts(_book(calendar, 2_000))
    if loss != "function_flush":
        client.flushall()
    if loss != "flushall":
        client.function_flush()
    assert _book(calendar, 10) == []
    kept = _keep(store, calendar)
    assert kept == KeptCalendars(extended=2, restored=2)
    after = _starts(_book(calendar, 2_000))
    assert len({*before, *after}) == 4_000
    assert max(before) < min(after) <= max(before) + BLOCK_MS


def test_slots_stay_distinct_whatever_fails_in_between(
    gateways: World, store: _Store, client: redis.Redis
) -> None:
    """Flushes, lost libraries, a pace that changes, a governor that dies between its steps."""
    chance = random.Random(20260206)
    given: dict[str, list[int]] = {"g-1": [], "g-2": []}
    calendars_seen = [_calendar(gateways.valkey_url) for _ in range(2)]
    for _ in range(200):
        one = chance.choice(calendars_seen)
        step = chance.random()
        if step < 0.03:
            client.flushall()
        elif step < 0.05:
            client.function_flush()
        elif step < 0.12:
            with suppress(ZeroDivisionError):
                _keep(_dies_after_recording(store), one)
        elif step < 0.50:
            _keep(store, one)
        else:
            gateway = chance.choice(list(given))
            pace = replace(PACE, per_s=chance.choice((60, 100, 900)))
            given[gateway] += _starts(_book(one, chance.randint(1, 300), gateway, pace))
    for starts in given.values():
        assert len(starts) > 3_000
        assert starts == sorted(set(starts))


def _dies_after_recording(store: _Store) -> _Store:
    class _Dies(_Store):
        def extend(self, blocks: Mapping[str, Block]) -> set[str]:
            super().extend(blocks)
            raise ZeroDivisionError

    return _Dies(store.connection)


def test_a_flush_in_the_midst_of_a_tick_is_told(
    store: _Store, calendar: Calendar, client: redis.Redis
) -> None:
    """The block was recorded and is lost; the next tick begins behind it."""

    class _Flushed(_Store):
        def extend(self, blocks: Mapping[str, Block]) -> set[str]:
            client.flushall()
            return super().extend(blocks)

    assert _keep(_Flushed(store.connection), calendar).forgotten
    assert _book(calendar, 1) == []
    lost_ms = store.read()["g-1"] or 0
    assert _keep(store, calendar) == KeptCalendars(extended=2, restored=2)
    assert _starts(_book(calendar, 1)) == [lost_ms]


def test_two_governors_at_once_hand_out_each_slot_once(gateways: World) -> None:
    """Leadership may be split for a moment: the database gives each block to one of them."""
    url = gateways.valkey_url
    sides = [(_Store(gateways.connection(WORKER)), _calendar(url)) for _ in range(3)]

    def governs(store: _Store, calendar: Calendar) -> list[int]:
        starts = []
        for _ in range(25):
            _keep(store, calendar)
            starts += _starts(_book(calendar, 100))
        return starts

    _keep(*sides[0])  # who loses the first block would book before its winner has brought it
    results = at_once([lambda side=side: governs(*side) for side in sides])
    starts = [start for result in results for start in result]
    assert len(starts) == len(set(starts)) == 7_500


def test_two_gates_after_a_split_hand_out_different_slots(store: _Store, valkey_url: str) -> None:
    """An old primary that lives on was given its blocks; the new one is given others."""
    old, new = (
        Calendar(open_client(valkey_url, timeout_ms=2_000), prefix) for prefix in ("old", "new")
    )
    starts = []
    for _ in range(6):
        for side in (old, new):
            _keep(store, side)
            starts += _starts(_book(side, 500))
    assert len(starts) == len(set(starts)) == 6_000
    assert set(old.begin().limits_ms) == set(new.begin().limits_ms) == {"g-1", "g-2"}


def test_a_governor_that_was_overtaken_hands_out_nothing(store: _Store, valkey_url: str) -> None:
    """Its block was made from what is recorded no more: another gate may be handing it out."""
    old, new = (
        Calendar(open_client(valkey_url, timeout_ms=2_000), prefix) for prefix in ("old", "new")
    )

    class _Overtaken(_Store):
        def read(self) -> Mapping[str, int | None]:
            recorded = super().read()
            assert _keep(store, new).extended == 2
            return recorded

    assert _keep(_Overtaken(store.connection), old) == KeptCalendars()
    assert (len(_book(old, 5)), len(_book(new, 5))) == (0, 5)


def test_while_the_gate_is_away_no_slot_time_is_spent(store: _Store, calendar: Calendar) -> None:
    """Or an hour without Valkey would move every calendar beyond its horizon."""

    class _Away(Calendar):
        def begin(self) -> CalendarState:
            raise GateUnreachable

    _keep(store, calendar)
    recorded = store.read()
    away = _Away(open_client("redis://127.0.0.1:1", timeout_ms=100), "test")
    for _ in range(5):
        with pytest.raises(GateUnreachable):
            _keep(store, away)
    assert store.read() == recorded


def test_while_the_database_is_away_a_calendar_ends_at_its_limit(
    gateways: World, calendar: Calendar
) -> None:
    """What is recorded may be handed out, and nothing else."""
    store = _Store(gateways.connection(WORKER))
    _keep(store, calendar)
    store.connection.close()
    starts = []
    for _ in range(60):
        with pytest.raises(psycopg.Error):
            _keep(store, calendar)
        starts += _starts(_book(calendar, 500))
    limit_ms = calendar.begin().limits_ms["g-1"]
    assert limit_ms - 10 <= max(starts) < limit_ms
    assert BLOCK_MS / 10 - 500 <= len(starts) <= BLOCK_MS / 10
