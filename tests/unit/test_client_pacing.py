"""The three rules of when to send: budget, throttle, waits."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from client_world import a_world, an_order
from hypothesis import example, given
from hypothesis import strategies as st

from producer.client.model import Committed, TurnedAway, Unknown
from producer.client.pacing import (
    WAIT_S_MAX,
    RetryBudget,
    Throttle,
    backoff_s,
    http_date,
    later_s,
    told_s,
    within_s,
)
from producer.client.replies import Reply

NOW = datetime(2026, 2, 6, 2, 0, tzinfo=UTC)
DRAWN = st.floats(0.0, 1.0, exclude_max=True)


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.sampled_from("fnd")), max_size=400))
def test_repeats_never_exceed_a_tenth_the_reserve_and_the_trickle(
    moves: list[tuple[float, str]],
) -> None:
    """However first sends (f), noes (n) and doubts (d) come."""
    budget, now, first, repeats = RetryBudget(), 0.0, 0, 0
    for pause_s, move in moves:
        now += pause_s
        if move == "f":
            budget.deposit(now)
            first += 1
        else:
            repeats += budget.withdraw(now, in_doubt=move == "d")
        assert repeats <= 0.1 * first + 10 + 0.1 * now + 1e-6


def test_the_lower_half_of_the_budget_is_for_those_in_doubt() -> None:
    """A no can be told; a doubt can only be asked about."""
    budget = RetryBudget()
    assert sum(budget.withdraw(0.0, in_doubt=False) for _ in range(20)) == 5
    assert sum(budget.withdraw(0.0, in_doubt=True) for _ in range(20)) == 5
    for _ in range(10):
        budget.deposit(0.0)
    assert budget.withdraw(0.0, in_doubt=True)
    assert not budget.withdraw(0.0, in_doubt=True)


class Backend:
    """Takes so many calls a second."""

    def __init__(self, per_s: float) -> None:
        self.per_s = per_s
        self.sent: list[bool] = []
        self._second, self._taken = -1, 0

    def take(self, now: float) -> bool:
        if int(now) != self._second:
            self._second, self._taken = int(now), 0
        self._taken += 1
        self.sent.append(self._taken <= self.per_s)
        return self.sent[-1]


def play(
    throttle: Throttle,
    backend: Backend,
    offered_per_s: float,
    seconds: int,
    began: float,
    seed: int,
) -> tuple[int, int]:
    """Offer at random moments, at this rate; return how many were sent, and taken."""
    random, now, before = Random(seed), began, len(backend.sent)
    while now < began + seconds:
        now += random.expovariate(offered_per_s)
        if throttle.admits(now, random.random()):
            throttle.heard(now, accepted=backend.take(now))
    sent = backend.sent[before:]
    return len(sent), sum(sent)


@pytest.mark.parametrize("offered_per_s", [100.0, 400.0])
@pytest.mark.parametrize("k", [1.1, 2.0])
def test_at_overload_k_times_as_much_is_sent_as_is_taken(k: float, offered_per_s: float) -> None:
    """However many times the load is."""
    throttle, backend = Throttle(k), Backend(20)
    play(throttle, backend, offered_per_s, 300, 0.0, seed=1)
    sent, taken = play(throttle, backend, offered_per_s, 240, 300.0, seed=2)
    assert sent / taken == pytest.approx(k, rel=0.12)


def test_below_overload_nothing_is_held_back() -> None:
    """Up to half may be turned away before this rule says anything."""
    throttle, backend = Throttle(), Backend(100)
    for n in range(20):
        offered = 60.0 + 3 * n
        sent, _ = play(throttle, backend, offered, 10, 10.0 * n, seed=n)
        assert sent == pytest.approx(offered * 10, rel=0.2)
    assert throttle.admits(200.0, 0.0)


def test_a_few_unlucky_calls_tell_nothing() -> None:
    """A gateway with little to send is not silenced by its first answers."""
    throttle = Throttle()
    for _ in range(Throttle.requests_min - 1):
        assert throttle.admits(0.0, 0.0)
        throttle.heard(0.0, accepted=False)
    assert throttle.admits(0.0, 0.0)
    throttle.heard(0.0, accepted=False)
    assert not throttle.admits(0.0, 0.0)


def test_a_dead_api_is_tried_once_a_second_and_trusted_soon_after_it_is_back() -> None:
    """Five minutes of nothing are forgotten within one."""
    throttle, backend = Throttle(), Backend(0)
    play(throttle, backend, 100.0, 180, 0.0, seed=1)
    sent, _ = play(throttle, backend, 100.0, 120, 180.0, seed=2)
    assert 110 <= sent <= 130
    backend.per_s = 1_000
    play(throttle, backend, 100.0, 60, 300.0, seed=3)
    sent, taken = play(throttle, backend, 100.0, 10, 360.0, seed=4)
    assert sent == taken == pytest.approx(1_000, rel=0.2)


def test_what_a_wish_waits_for_its_outcome_is_no_sign_of_overload() -> None:
    """Calls under way are not counted yet."""
    throttle = Throttle()
    assert all(throttle.admits(0.0, 0.0) for _ in range(1_000))


def test_issuance_paused_holds_no_orders_back() -> None:
    """Each kind of wish has a throttle of its own."""
    world, _ = a_world()
    for _ in range(50):
        world.core.throttles["issuance"].heard(world.now, accepted=False)
    world.core.throttles["issuance"].admits(world.now, 0.99)
    world.core.throttles["order"].heard(world.now, accepted=True)
    assert all(world.core.admits("order") for _ in range(50))
    assert not all(world.core.admits("issuance") for _ in range(50))


def test_a_wish_held_back_is_told_as_turned_away_by_the_client() -> None:
    """With words for the chat, and a time; the API hears nothing of it."""
    world, _ = a_world()
    throttle = world.core.throttles["order"]
    throttle.admits(world.now, 0.99)
    for _ in range(10_000):
        throttle.heard(world.now, accepted=False)
    result = world.call(world.core.submit(an_order("k-1", locale="el"), 30))
    assert isinstance(result, TurnedAway)
    assert (result.limit, result.code) == ("client", "held_back")
    assert result.retry_after_s is not None
    assert result.retry_after_s >= 1.0
    assert "δευτερόλεπτα" in result.message
    assert not world.sent


def test_who_keeps_an_appointment_is_not_held_back() -> None:
    """The capacity is set aside."""
    world, api = a_world(lambda request: "appoint" if not api.tickets else "commit")
    api.wait_s = 0.0
    told = world.call(world.core.submit(an_order("k-1"), 0))
    world.now += 1.0
    for _ in range(10_000):
        world.core.throttles["order"].heard(world.now, accepted=False)
    world.core.admits("order")
    assert isinstance(world.call(world.core.submit(an_order("k-2"), 0)), TurnedAway)
    assert isinstance(world.call(world.core.submit(told.wish, 0)), Committed)
    assert (set(api.held), api.tickets) == ({"k-1"}, {"t1": 1})


def test_retry_after_is_seconds_or_a_date_and_the_later_wait_holds() -> None:
    """Whatever is told is the least."""
    assert told_s("7", None, NOW) == 7
    assert told_s("7", 7_250, NOW) == 7.25
    assert told_s("8", 7_250, NOW) == 8
    assert told_s("Fri, 06 Feb 2026 02:01:00 GMT", None, NOW) == 60
    assert told_s("Fri, 06 Feb 2026 01:00:00 GMT", None, NOW) == 0
    assert told_s(None, None, NOW) is None
    assert told_s("soon", None, NOW) is None
    assert told_s("-5", 1_000, NOW) == 1
    assert told_s("9" * 400, 1e300, NOW) == timedelta(days=366).total_seconds()


@given(st.floats(0, 1e6), DRAWN, st.integers(1, 100))
def test_jitter_only_ever_adds_to_a_wait(wait_s: float, drawn: float, attempt: int) -> None:
    """And keeps within an appointment's window."""
    assert wait_s <= later_s(wait_s, drawn) <= wait_s * 1.1 + 0.1
    assert 0 <= within_s(wait_s, drawn) <= wait_s / 2
    assert 0.05 <= backoff_s(attempt, drawn) <= 5.0


HUGE = st.integers(-(10**30), 10**30)
DATES = st.builds("Sat, {} Jan {} {}:00:00 {:+}".format, HUGE, HUGE, HUGE, HUGE)


@given(st.text() | DATES)
@example("Sat, 01 Jan 99999999999 00:00:00 GMT")
def test_whatever_an_api_says_of_the_time_is_read_or_is_nothing(header: str) -> None:
    """What raised would tell the chat nothing of its wish."""
    date = http_date(header)
    assert date is None or date.tzinfo is not None
    told = told_s(header, None, NOW)
    assert told is None or 0 <= told <= WAIT_S_MAX


@pytest.mark.parametrize(
    "date", ["Fri, 01 Jan 0100 00:00:00 GMT", "Sat, 01 Jan 9999999999 00:00 GMT"]
)
@pytest.mark.parametrize("told", ["resume_at", "appointment", "retry-after"])
def test_a_time_beyond_all_calendars_is_a_long_wait_and_no_fault(date: str, told: str) -> None:
    """From an API, or a proxy, whose clock is not set."""
    last = "9999-12-31T23:59:59Z"
    body = {
        "resume_at": {"resume_at": last},
        "appointment": {"appointment": {"ticket": "t", "not_before": last, "not_after": last}},
        "retry-after": {},
    }[told]
    headers = {"date": date, "retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}
    if told != "retry-after":
        del headers["retry-after"]
    world, _ = a_world()
    answer = json.dumps({"code": "reduced_capacity", "accepted": "no", **body}).encode()
    world.serve = lambda request: Reply(503, headers, answer)
    told_as = world.call(world.core.submit(an_order(), 1.0))
    assert isinstance(told_as, TurnedAway | Unknown)
    assert told_as.retry_after_s == WAIT_S_MAX
