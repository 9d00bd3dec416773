"""Polls: a few at once, then a pace; slower as the system closes; and a memory with a bound."""

from __future__ import annotations

import itertools

import pytest

from producer.http import polls
from producer.http.polls import ALL, EACH, Polls
from producer.http.problems import Code, Problem
from workers.contract.admission import RateLimit
from workers.domain.overload import Level


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def refused(kept: Polls, asked: object, level: Level = Level.NORMAL) -> Problem:
    with pytest.raises(Problem) as caught:
        kept.take(asked, level)
    return caught.value


def taken(kept: Polls, asked: object, level: Level) -> int:
    """How many are taken at once."""
    for count in range(1_000):
        try:
            kept.take(asked, level)
        except Problem:
            return count
    raise AssertionError("no bound")


def test_an_intent_may_be_asked_for_some_times_at_once_and_then_at_a_pace(clock: Clock) -> None:
    """Five at once, and one every 100 ms; each intent has its own."""
    kept = Polls(clock)
    assert taken(kept, "a", Level.NORMAL) == 5
    assert taken(kept, "b", Level.NORMAL) == 5
    clock.now += 0.11
    assert taken(kept, "a", Level.NORMAL) == 1


def test_who_asks_too_often_is_told_when_to_ask(clock: Clock) -> None:
    """429 of the layer `polls`; whoever keeps to the wait is taken."""
    kept = Polls(clock)
    taken(kept, "a", Level.SHEDDING)
    problem = refused(kept, "a", Level.SHEDDING)
    assert (problem.code, problem.limit) == (Code.QUOTA_EXCEEDED, "polls")
    assert problem.retry_after_ms is not None
    assert dict(problem.headers)[b"ratelimit-policy"] == b'"polls";q=2;w=4'
    clock.now += problem.retry_after_ms / 1_000
    assert taken(kept, "a", Level.SHEDDING) == 1


def test_being_refused_costs_nothing(clock: Clock) -> None:
    """Whoever asks in vain is not put off further for it."""
    kept = Polls(clock)
    taken(kept, "a", Level.NORMAL)
    for _ in range(100):
        refused(kept, "a")
    clock.now += 0.11
    assert taken(kept, "a", Level.NORMAL) == 1


def test_polls_are_slowed_level_by_level() -> None:
    """Each level allows less than the one before, at once and in the long run."""
    rates = [EACH[level] for level in Level]
    assert all(a.rate > b.rate and a.burst >= b.burst for a, b in itertools.pairwise(rates))


def test_an_intent_may_be_asked_for_again_as_soon_as_the_level_falls(clock: Clock) -> None:
    """What was taken at a slow pace is not owed at a quick one."""
    kept = Polls(clock)
    taken(kept, "a", Level.CLOSED)
    clock.now += 0.11
    assert taken(kept, "a", Level.NORMAL) == 5


def test_while_it_sheds_all_polls_together_are_bounded(clock: Clock) -> None:
    """Polls are shed first, as ours (503), whoever asks."""
    kept = Polls(clock)
    for n in range(ALL[Level.SHEDDING].burst):
        kept.take(n, Level.SHEDDING)
    problem = refused(kept, "one more", Level.SHEDDING)
    assert (problem.code, problem.limit) == (Code.REDUCED_CAPACITY, "polls")
    kept.take("one more", Level.NORMAL)


def test_the_memory_of_askers_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are free to invent."""
    monkeypatch.setattr(polls, "_KEPT_MAX", 100)
    monkeypatch.setitem(polls.EACH, Level.NORMAL, RateLimit(1, 1))
    kept = Polls(clock)
    for n in range(10_000):
        kept.take(n, Level.NORMAL)
        assert len(kept) <= 200
    refused(kept, 9_999)
    refused(kept, 9_950)  # of the older generation
