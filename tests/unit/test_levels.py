"""The level as an API process knows it: whose word holds, and who hears of it."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace

from producer import levels
from producer.answers import Accepted, IssuancePaused, Limited, NotAccepted
from producer.levels import LevelBook, Standing, standing_of
from producer.limits import Rules, Term
from workers.contract.admission import Limits
from workers.contract.gate import GateUnreachable
from workers.contract.ids import uuid7
from workers.domain.overload import Level, Policy

NOW = datetime(2026, 2, 6, 2, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1_000)
BEFORE = Standing(since_ms=NOW_MS - 60_000)
SHEDDING = Policy(
    level=Level.SHEDDING, reason="wait", since_ms=NOW_MS - 5_000, predicted_wait_ms=12_000
)


class Said(Struct, frozen=True):
    """What a gate tells."""

    policy: Policy | None = SHEDDING
    epoch: int = 7
    lease_left_ms: int = 2_500
    in_flight: int = 400


def ordering(level: Level, until_ms: int | None = None) -> Rules:
    """Rules with an operator's word."""
    policy = Policy(level=level, reason="operator", since_ms=NOW_MS - 1_000, until_ms=until_ms)
    return Rules(limits=Limits(ordered=policy))


def test_the_governors_word_holds_while_its_lease_does() -> None:
    """Level, reason, since and wait are as published."""
    now = standing_of(Said(), Rules(), BEFORE, NOW_MS)
    assert (now.level, now.reason, now.since_ms) == (Level.SHEDDING, "wait", SHEDDING.since_ms)
    assert (now.governed, now.reachable, now.epoch, now.in_flight) == (True, True, 7, 400)
    assert (now.issuance_paused, now.redemption_paused) == (True, False)
    assert now.predicted_wait_ms == now.retry_after_ms(NOW_MS) == 12_000


@pytest.mark.parametrize("said", [Said(lease_left_ms=0), Said(policy=None, epoch=0)])
def test_a_lapsed_lease_falls_back_to_the_fixed_limits_and_says_so(said: Said) -> None:
    """As the gate does: a dead governor's last word must not keep the shop shut."""
    now = standing_of(said, Rules(), BEFORE, NOW_MS)
    assert (now.level, now.governed, now.reachable) == (Level.NORMAL, False, True)
    assert now.predicted_wait_ms is None


def test_an_operators_word_outranks_the_governors_either_way() -> None:
    """Shut what would be open, and open what would be shut."""
    closed = standing_of(Said(), ordering(Level.CLOSED), BEFORE, NOW_MS)
    assert (closed.level, closed.reason, closed.governed) == (Level.CLOSED, "operator", True)
    assert standing_of(Said(), ordering(Level.NORMAL), BEFORE, NOW_MS).level is Level.NORMAL


def test_an_order_for_a_time_ends_by_itself_and_tells_when() -> None:
    """Nobody has to be awake for it; until then it says when to come back."""
    rules = ordering(Level.CLOSED, until_ms=NOW_MS + 90_000)
    now = standing_of(Said(), rules, BEFORE, NOW_MS)
    assert (now.until_ms, now.retry_after_ms(NOW_MS)) == (NOW_MS + 90_000, 90_000)
    later = standing_of(Said(), rules, BEFORE, NOW_MS + 90_000)
    assert (later.level, later.until_ms) == (Level.SHEDDING, None)


def test_without_the_gate_all_is_closed_whatever_an_operator_ordered() -> None:
    """Nothing can be admitted; an operator's own `closed` keeps its reason."""
    for rules in (Rules(), ordering(Level.NORMAL)):
        now = standing_of(None, rules, BEFORE, NOW_MS)
        assert (now.level, now.reason) == (Level.CLOSED, "valkey")
        assert (now.governed, now.reachable, now.since_ms) == (False, False, NOW_MS)
        again = standing_of(None, rules, now, NOW_MS + 700)
        assert again.since_ms == NOW_MS
    assert standing_of(None, ordering(Level.CLOSED), BEFORE, NOW_MS).reason == "operator"


def test_campaigns_stand_as_operators_left_them() -> None:
    """Paused until lifted, until a time, no longer; those that are over are not told of."""
    term = Term(NOW - timedelta(days=1), NOW + timedelta(days=1))
    rules = Rules(
        windows={
            **dict.fromkeys(("open", "lifted", "timed", "past"), term),
            "over": Term(NOW - timedelta(days=2), NOW),
        },
        issuance_pauses={
            "lifted": None,
            "timed": NOW + timedelta(minutes=5),
            "past": NOW - timedelta(seconds=1),
        },
    )
    told = standing_of(Said(), rules, BEFORE, NOW_MS).campaigns
    assert {name: (one.paused, one.resume_at) for name, one in told.items()} == {
        "open": (False, None),
        "lifted": (True, None),
        "timed": (True, NOW + timedelta(minutes=5)),
        "past": (False, None),
    }


def test_figures_are_no_news_and_everything_else_is() -> None:
    """Thousands are woken for a change, and not for a number that moves all the time."""
    quiet = {"predicted_wait_ms": 1, "in_flight": 9, "admit_ratio": 0.5, "epoch": 8}
    assert replace(BEFORE, **quiet).news == BEFORE.news
    changes: dict[str, Any] = {
        "level": Level.CLOSED,
        "reason": "wait",
        "since_ms": 1,
        "until_ms": 1,
        "governed": True,
        "reachable": False,
        "campaigns": {"a": None},
    }
    assert {*quiet, *changes} == set(Standing.__struct_fields__)
    for name, value in changes.items():
        assert replace(BEFORE, **{name: value}).news != BEFORE.news


def test_listeners_are_woken_on_their_loop_when_there_is_news(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once for each change; and within a second and a bit without the gate, for `closed`."""
    monkeypatch.setattr(levels, "ASK_INTERVAL_S", 0.01)
    monkeypatch.setattr(levels, "SILENCE_S_MAX", 0.2)
    said: list[Said | None] = [Said(policy=Policy())]
    woken: list[tuple[Level, int]] = []
    figures = itertools.count()

    def ask() -> Said:
        if said[0] is None:
            raise GateUnreachable
        return replace(said[0], in_flight=next(figures))  # moves all the time, and is no news

    async def scenario() -> None:
        book = LevelBook(ask)
        book.listen(lambda: woken.append((book.standing.level, threading.get_ident())))
        book.start()
        await asyncio.sleep(0.1)
        woken.clear()  # that it is governed was news
        said[0] = Said()
        await asyncio.sleep(0.1)
        assert [level for level, _ in woken] == [Level.SHEDDING]
        said[0] = None
        await asyncio.sleep(0.05)
        assert book.standing.level is Level.SHEDDING, "one call that fails is no news"
        await asyncio.sleep(0.4)
        assert [level for level, _ in woken] == [Level.SHEDDING, Level.CLOSED]
        assert book.policy is None, "of a lease that nobody can vouch for"
        assert {thread for _, thread in woken} == {threading.get_ident()}
        book.close()

    asyncio.run(scenario())


def test_a_fault_in_asking_does_not_stop_the_book(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that died would tell yesterday's level for ever."""
    monkeypatch.setattr(levels, "ASK_INTERVAL_S", 0.01)
    faults = [RuntimeError("a bug")]

    def ask() -> Said:
        if faults:
            raise faults.pop()
        return Said()

    book = LevelBook(ask)
    book.start()
    deadline = time.monotonic() + 5
    while book.standing.level is not Level.SHEDDING:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    book.close()


def test_a_book_that_is_closed_asks_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would tell of a closed shop when the servers have gone before it."""
    monkeypatch.setattr(levels, "ASK_INTERVAL_S", 0.001)
    asked = threading.Event()

    def ask() -> Said:
        asked.set()
        return Said()

    book = LevelBook(ask)
    book.close()  # one that was never started has nothing to stop
    book = LevelBook(ask)
    book.start()
    assert asked.wait(5)
    book.close()
    assert not book._thread.is_alive()


def test_the_admit_ratio_counts_what_limits_of_ours_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A caller beyond its own quota says nothing of us, nor does a sold-out shelf."""
    accepted = Accepted(uuid7(), NOW)
    book = LevelBook()
    for _ in range(60):
        book.observe(
            [accepted, Limited("level", 1), Limited("user", 1), NotAccepted("sold_out", True)]
        )
        book.observe([accepted, accepted, IssuancePaused(None, Level.THROTTLED, "load")])
        ratio = book._tally.ratio()
    assert ratio == pytest.approx(0.6, abs=0.01)
    for _ in range(60):
        ratio = book._tally.ratio()
    assert ratio == pytest.approx(1.0, abs=0.01)
