"""The governor when what it leans on fails: numbers, the database, the governor itself."""

from __future__ import annotations

from functools import cache

import pytest
from world import LEASE_S, History, Plan, run

from workers.domain.governor import Tuning
from workers.domain.overload import Level

CAPACITY = 2_000.0
TUNING = Tuning()
TARGET_S = TUNING.target_wait_ms / 1_000
FAULT_S, HEALED_S, END_S, LENGTH_S = 30.0, 40.0, 70.0, 105.0
SETTLING_S = 6.0


def plan(load: float, **more: object) -> Plan:
    """A load from 5 s on, until 70 s; every refused client comes back five times at once."""

    def newcomers(at_s: float) -> float:
        return CAPACITY * (load if 5 <= at_s < END_S else 0.3)

    return Plan(newcomers, LENGTH_S, retries="storm", **more)  # type: ignore[arg-type]


@cache
def paused(load: float) -> History:
    return run(plan(load, pauses=[(FAULT_S, HEALED_S)]))


@cache
def away(load: float) -> History:
    return run(plan(load, away=[(FAULT_S, HEALED_S)]))


# Noise


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("factor", [2, 10])
def test_numbers_that_are_half_wrong_steer_as_well(factor: int, seed: int) -> None:
    """Every number of every sample is off by up to 50 %."""
    history = run(plan(factor, noise=0.5, seed=seed))
    assert history.goodput(10, END_S) >= 0.95
    assert history.sojourn_s(0.99) <= 2 * TARGET_S
    assert history.moves_between(10, END_S) == 0
    assert (history.normal_from(END_S) or 1e9) <= END_S + 30
    assert history.broken_laws() == []


@pytest.mark.parametrize("seed", range(3))
def test_noise_alone_moves_no_level(seed: int) -> None:
    """At nine tenths of the capacity there is no overload to be seen, however blurred the sight."""
    history = run(Plan(lambda _: 0.9 * CAPACITY, 60, noise=0.5, seed=seed))
    assert history.moves == []


# A pause of the database


@pytest.mark.parametrize("load", [0.5, 0.8, 3, 10])
def test_a_pause_of_ten_seconds_leaves_no_mark(load: float) -> None:
    """What was served before is served after, however many come meanwhile and come back."""
    history = paused(load)
    since = HEALED_S + SETTLING_S
    assert history.goodput(since, END_S) >= 0.95 * min(1.0, load)
    assert history.sojourn_s(0.99, since) <= 2 * TARGET_S
    assert (history.normal_from(END_S) or 1e9) <= END_S + 30
    assert history.broken_laws() == []


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_a_pause_is_no_trigger_of_an_overload_that_outlives_it(load: float) -> None:
    """No metastable state: with less than the capacity it is normal half a minute after."""
    assert (paused(load).normal_from(HEALED_S) or 1e9) <= HEALED_S + 30


@pytest.mark.parametrize("load", [0.5, 3, 10])
def test_in_a_pause_no_more_than_a_trickle_is_admitted(load: float) -> None:
    """The silence is heard while what is in flight over the old rate still looks harmless."""
    accepted = sum(paused(load).accepted[second] for second in range(35, 40))
    assert accepted <= 5 * CAPACITY * 1.2 * TUNING.share_min


@pytest.mark.parametrize("load", [0.5, 3, 10])
def test_the_service_rate_outlives_a_pause(load: float) -> None:
    """A pause is not slowness."""
    rates = [(at, p.service_per_s) for at, p in paused(load).policies]
    before = [per_s for at, per_s in rates if FAULT_S - 5 <= at < FAULT_S and per_s]
    after = [per_s for at, per_s in rates if FAULT_S <= at < HEALED_S + 1 and per_s]
    assert min(after) >= 0.75 * min(before)


# A database that is away


@pytest.mark.parametrize("load", [0.5, 3, 10])
def test_a_database_that_is_away_closes_and_opens_to_shedding(load: float) -> None:
    """Closed after two seconds of it; open two seconds after it answers again."""
    history = away(load)
    moves = [move for move in history.moves if Level.CLOSED in move[1:3]]
    (closed_s, _, _, reason), (opened_s, _, opened_to, _) = moves
    assert FAULT_S + TUNING.unreachable_after_s <= closed_s <= FAULT_S + 3
    assert reason == "postgres"
    assert HEALED_S + TUNING.reopen_after_s - 0.3 <= opened_s <= HEALED_S + 3
    assert opened_to is Level.SHEDDING


@pytest.mark.parametrize("load", [0.5, 0.8, 3, 10])
def test_after_a_database_was_away_all_is_as_before(load: float) -> None:
    """The same facts as after a pause."""
    history = away(load)
    since = HEALED_S + TUNING.reopen_after_s + SETTLING_S
    assert history.goodput(since, END_S) >= 0.95 * min(1.0, load)
    assert history.sojourn_s(0.99, since) <= 2 * TARGET_S
    assert (history.normal_from(END_S) or 1e9) <= END_S + 30
    assert history.broken_laws() == []


# A governor that is dead


@cache
def bereft(load: float, dead_s: float) -> History:
    return run(plan(load, governor_dead=[(FAULT_S, FAULT_S + dead_s)], in_flight_max=12_000))


@pytest.mark.parametrize("load", [3, 10])
def test_without_a_governor_the_gate_keeps_its_bound(load: float) -> None:
    """The lease lapses; the last service rate still bounds the wait, and the workers lack nothing."""
    history = bereft(load, 12)
    after = [count for at, count in history.in_flight if at >= FAULT_S + LEASE_S + 2]
    fits = CAPACITY * TUNING.wait_max_ms / 1_000
    assert 0.9 * fits <= max(after) <= 1.1 * fits
    assert history.sojourn_s(0.99) <= 2 * TARGET_S
    assert history.goodput(FAULT_S, FAULT_S + 12) >= 0.95
    assert history.broken_laws() == []


@pytest.mark.parametrize("load", [3, 10])
def test_a_governor_that_takes_over_finds_the_target_again(load: float) -> None:
    """It drains what piled up without letting the workers idle."""
    history = bereft(load, 12)
    back_s = FAULT_S + 12
    assert history.goodput(back_s, END_S) >= 0.95
    assert history.sojourn_s(0.99, back_s + SETTLING_S) <= 2 * TARGET_S
    assert (history.normal_from(END_S) or 1e9) <= END_S + 30


@pytest.mark.parametrize("load", [3, 10])
def test_a_change_of_leaders_within_the_lease_is_not_felt(load: float) -> None:
    """The new one goes on at the level and the rate that it finds published."""
    history = bereft(load, 2)
    assert history.sojourn_s(0.99) <= 2 * TARGET_S
    assert history.goodput(10, END_S) >= 0.95
    assert history.moves_between(FAULT_S, END_S) == 0
    assert {p.level for at, p in history.policies if FAULT_S <= at < END_S} == {Level.SHEDDING}


# What is in flight and in nobody's hands


@pytest.mark.parametrize("lost", [12, 300])
@pytest.mark.parametrize("load", [0.005, 0.05, 0.5])
def test_intents_that_died_with_their_process_are_taken_for_no_queue(
    load: float, lost: int
) -> None:
    """They are in flight until the gate is reconciled; what flows past them is as quick as ever."""

    def counted(at_s: float) -> int:
        return lost if 5 <= at_s < END_S else 0

    history = run(Plan(lambda _: load * CAPACITY, LENGTH_S, lost=counted))
    assert history.moves == []
    assert history.refused == {}
    assert history.broken_laws() == []


def test_a_service_that_was_slow_with_intents_lost_is_found_well_again() -> None:
    """A rate that was measured while workers started bounds nobody for long once they have."""
    healed_s, reconciled_s, per_s = 15.0, 20.0, 240.0

    def capacity(at_s: float) -> float:
        return CAPACITY if at_s < 5 or at_s >= healed_s else 2.0

    def counted(at_s: float) -> int:
        return 12 if 5 <= at_s < reconciled_s else 0

    slow = {"capacity": capacity, "lost": counted, "measured": False, "batch_max": 1}
    history = run(Plan(lambda _: per_s, 60, **slow))  # type: ignore[arg-type]
    assert min(history.accepted[second] for second in range(22, 60)) >= 0.7 * per_s
    assert all(history.accepted[second] == history.offered[second] for second in range(27, 60))
    assert (history.normal_from(reconciled_s) or 1e9) <= reconciled_s + 15
    assert history.broken_laws() == []
