"""The governor's rules one by one; how they work together is seen in tests/simulation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from workers.domain.governor import Band, Sample, State, Tuning, policy_of, step, taken_over
from workers.domain.overload import SHARES, IntentClass, Level, Policy
from workers.domain.service_rate import PAUSE_S, ServiceRate, doubted, measured, remembered

TUNING = Tuning()
NOW_MS = 1_770_000_000_000
TICK_S = 0.25
PER_S = 1_000.0  # the service rate of most tests


def sample(at_s: float, wait_ms: float = 100, **more: Any) -> Sample:
    """A sample of a healthy system, with so much in flight that it waits so long."""
    parts: dict[str, Any] = {
        "at_s": at_s,
        "interval_s": TICK_S,
        "postgres_ms": 2.0,
        "valkey_ms": 0.3,
        "in_flight": round(wait_ms * PER_S / 1_000),
        "accepted": round(PER_S * TICK_S),
        "decided": round(PER_S * TICK_S),
        "oldest_ms": float(wait_ms),
        "sojourn_p50_ms": float(wait_ms),
        "sojourn_p99_ms": float(wait_ms),
        "postgres_connections_share": 0.3,
        "valkey_memory_share": 0.2,
        "dispatch_lag_ms": 10.0,
    }
    return Sample(**(parts | more))


def after(state: State, seconds: float, wait_ms: float = 100, **more: Any) -> State:
    """The state after so many seconds of samples that are all alike."""
    return history(state, seconds, wait_ms, **more)[-1]


def history(state: State, seconds: float, wait_ms: float = 100, **more: Any) -> list[State]:
    states, start_s = [state], state.at_s or 0.0
    for tick in range(1, round(seconds / TICK_S) + 1):
        states.append(step(states[-1], sample(start_s + tick * TICK_S, wait_ms, **more), TUNING))
    return states


def levels(states: Iterable[State]) -> list[Level]:
    """The levels in the order of their coming, without repeats."""
    found: list[Level] = []
    for state in states:
        if not found or found[-1] is not state.level:
            found.append(state.level)
    return found


def admitted(state: State) -> float:
    per_s = policy_of(state, TUNING, NOW_MS).admitted_per_s
    assert per_s is not None
    return per_s


CALM = after(after(State(), 5, wait_ms=300), 5)  # its rate was measured before it was calm
SHEDDING = after(after(CALM, 3, wait_ms=2_000), 5, wait_ms=1_500)
CLOSED = after(CALM, 4, postgres_ms=None)


# Levels


def test_before_any_sample_nothing_is_bounded() -> None:
    """A governor that knows nothing forbids nothing."""
    policy = policy_of(State(), TUNING, NOW_MS)
    assert policy.level is Level.NORMAL
    assert policy.admitted_per_s is None
    assert policy.service_per_s is None
    assert policy.reason == ""


def test_a_short_wait_is_normal() -> None:
    """And nothing but the generous bound of waits holds."""
    policy = policy_of(CALM, TUNING, NOW_MS)
    assert policy.level is Level.NORMAL
    assert policy.admitted_per_s is None
    assert policy.service_per_s == pytest.approx(PER_S, rel=0.01)
    assert policy.predicted_wait_ms == pytest.approx(100, abs=2)
    assert policy.wait_max_ms == TUNING.wait_max_ms


def test_a_level_is_entered_only_after_its_persistence() -> None:
    """Two samples may be noise."""
    states = history(after(CALM, 0), 5, wait_ms=1_100)
    first = next(n for n, state in enumerate(states) if state.wait_ms >= 750)
    throttled = next(n for n, state in enumerate(states) if state.level is Level.THROTTLED)
    assert (throttled - first) * TICK_S == pytest.approx(TUNING.enter_after_s)


def test_a_single_wild_sample_moves_nothing() -> None:
    """Forty times what it was, for once."""
    wild = step(CALM, sample(10.25, wait_ms=4_000), TUNING)
    assert levels([wild, *history(wild, 20)]) == [Level.NORMAL]


def test_a_very_long_wait_is_shed_without_a_detour() -> None:
    """Both levels are asked for, and the higher one is taken."""
    assert levels(history(CALM, 5, wait_ms=10_000)) == [Level.NORMAL, Level.SHEDDING]


def test_a_wait_that_jumps_about_both_thresholds_pauses_issuance() -> None:
    """Every other sample says that nothing waits; smoothed, they ask for both levels in turn."""
    state = CALM
    for _ in range(8):
        state = after(after(state, TICK_S, wait_ms=3_200), TICK_S, wait_ms=0)
    assert state.level is Level.THROTTLED


def test_half_of_the_target_pauses_issuance_before_anyone_is_shed() -> None:
    """`throttled` comes first when the wait grows slowly."""
    state = after(CALM, 5, wait_ms=1_000)
    assert state.level is Level.THROTTLED
    assert policy_of(state, TUNING, NOW_MS).issuance_paused
    assert policy_of(state, TUNING, NOW_MS).admitted_per_s is None


def test_a_level_is_left_step_by_step_after_its_calm() -> None:
    """Five seconds for each step."""
    states = history(SHEDDING, 20)
    assert levels(states) == [Level.SHEDDING, Level.THROTTLED, Level.NORMAL]
    held_s = sum(state.level is Level.THROTTLED for state in states) * TICK_S
    assert held_s >= TUNING.leave_after_s


@pytest.mark.parametrize("wait_ms", [800, 1_100, 1_500])
def test_a_wait_between_the_thresholds_moves_nothing(wait_ms: float) -> None:
    """Neither up nor down, for as long as it lasts."""
    assert levels(history(SHEDDING, 60, wait_ms=wait_ms)) == [Level.SHEDDING]


def test_calm_that_is_interrupted_begins_anew() -> None:
    """Four seconds of calm, again and again, are no calm."""
    state = SHEDDING
    for _ in range(5):
        state = after(state, 4, wait_ms=200)
        assert state.level is Level.SHEDDING
        state = after(state, 1.5, wait_ms=1_200)


def test_the_reason_names_what_holds_the_level_and_ends_with_it() -> None:
    """`wait` while it sheds, nothing when it is normal."""
    assert policy_of(SHEDDING, TUNING, NOW_MS).reason == "wait"
    assert policy_of(after(SHEDDING, 20), TUNING, NOW_MS).reason == ""


# Age and silence


def test_one_intent_that_is_held_up_does_not_close_the_shop() -> None:
    """The oldest is ten minutes old; what is decided is fresh."""
    state = after(CALM, 10, oldest_ms=600_000.0)
    assert state.level is Level.NORMAL


def test_age_proves_a_short_prediction_wrong() -> None:
    """Little seems to be in flight, but what is decided is old, and so is the oldest open."""
    state = after(CALM, 5, wait_ms=50, oldest_ms=9_000.0, sojourn_p50_ms=8_000.0)
    assert state.level is Level.SHEDDING


def test_while_age_contradicts_the_prediction_less_is_admitted_than_decided() -> None:
    """Whatever is in the dark drains."""
    state = after(CALM, 20, wait_ms=50, oldest_ms=9_000.0, sojourn_p50_ms=8_000.0)
    assert admitted(state) == pytest.approx(TUNING.share_doubtful * PER_S, rel=0.01)


def test_silence_after_an_acceptance_is_a_wait() -> None:
    """Dead workers: hardly anything is in flight, and nothing comes out."""
    state = after(CALM, 4, in_flight=3, accepted=1, decided=0, oldest_ms=60_000.0)
    assert state.level is Level.SHEDDING
    assert policy_of(state, TUNING, NOW_MS).predicted_wait_ms == pytest.approx(4_000, abs=300)
    assert admitted(state) == pytest.approx(TUNING.share_min * PER_S, rel=0.01)


def test_silence_at_night_is_no_sign() -> None:
    """Nothing is accepted, so nothing need be decided; not even if one intent is held up."""
    state = after(CALM, 600, in_flight=1, accepted=0, decided=0, oldest_ms=600_000.0)
    assert state.level is Level.NORMAL
    assert state.wait_ms < TICK_S * 1_000


def test_what_the_gate_counts_and_the_journal_does_not_hold_is_no_silence() -> None:
    """Whoever it was that died between the two left nothing that could be decided."""
    phantom = {"in_flight": 1, "decided": 0, "oldest_ms": 0.0}
    state = after(
        step(CALM, sample(10.25, accepted=1, **phantom), TUNING), 60, accepted=0, **phantom
    )
    assert (state.level, state.silence_ms) == (Level.NORMAL, 0.0)
    blind = after(state, 1, in_flight=1, accepted=0, decided=0, oldest_ms=None)
    assert blind.silence_ms <= 1_000, "what is not known now was known to be nothing before"


def test_silence_is_heard_while_the_journal_cannot_be_read() -> None:
    """That the oldest is not known is no proof that there is none."""
    state = after(CALM, 4, in_flight=1, accepted=1, decided=0, oldest_ms=None)
    assert state.level is Level.SHEDDING


def test_silence_ends_with_the_first_decision() -> None:
    """And the wait is again what is in flight over the rate."""
    silent = after(CALM, 4, in_flight=3, accepted=1, decided=0, oldest_ms=60_000.0)
    heard = step(silent, sample((silent.at_s or 0) + TICK_S, in_flight=3), TUNING)
    assert heard.wait_ms < 10


# Dependencies


def test_a_database_that_is_away_closes_after_two_seconds() -> None:
    """And not before; the reason says so."""
    assert after(CALM, 2, postgres_ms=None).level is Level.NORMAL
    assert CLOSED.level is Level.CLOSED
    assert CLOSED.reason == "postgres"


def test_probes_that_are_answered_now_and_then_keep_it_open() -> None:
    """Only an unbroken absence closes."""
    state = CALM
    for _ in range(10):
        state = after(after(state, 1.5, postgres_ms=None), TICK_S)
        assert state.level is not Level.CLOSED


def test_closed_opens_to_shedding_with_a_rate() -> None:
    """Never straight to normal, and at the rate that was measured before."""
    states = history(CLOSED, 2.5)
    assert levels(states) == [Level.CLOSED, Level.SHEDDING]
    assert admitted(states[-1]) >= PER_S


def test_what_comes_back_is_measured_anew() -> None:
    """The old rate is told at once, and outweighed sooner than one that was never interrupted."""
    opened = after(CLOSED, 2.5)
    assert opened.service.per_s == pytest.approx(PER_S, rel=0.01)
    slower = {"decided": round(PER_S * TICK_S / 2), "wait_ms": 300}
    rates = [after(state, 1, **slower).service.per_s for state in (opened, CALM)]
    assert rates[0] < 0.95 * rates[1]


def test_closed_stays_closed_while_the_database_flaps() -> None:
    """A single failed probe puts the opening off."""
    state = CLOSED
    for _ in range(5):
        state = after(after(state, 1.5), TICK_S, postgres_ms=None)
        assert state.level is Level.CLOSED


def test_a_valkey_that_is_away_closes() -> None:
    """The gate itself is missing; each API says so by itself until it is back."""
    state = after(CALM, 4, valkey_ms=None, in_flight=None, valkey_memory_share=None)
    assert state.level is Level.CLOSED
    assert state.reason == "valkey"


def test_a_full_valkey_closes_until_there_is_room() -> None:
    """A little below the threshold is not room."""
    full = after(CALM, 3, valkey_memory_share=0.96)
    assert full.level is Level.CLOSED
    assert full.reason == "valkey"
    assert after(full, 30, valkey_memory_share=0.90).level is Level.CLOSED
    assert after(full, 30, valkey_memory_share=0.80).level is Level.NORMAL


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("postgres_ms", 600.0, "postgres"),
        ("postgres_connections_share", 0.97, "postgres"),
        ("dispatch_lag_ms", 4_000.0, "dispatch"),
    ],
)
def test_what_slows_us_pauses_issuance_and_sheds_nobody(
    part: str, value: float, reason: str
) -> None:
    """The wait decides about orders."""
    state = after(CALM, 30, **{part: value})
    assert state.level is Level.THROTTLED
    assert state.reason == reason
    assert after(state, 10).level is Level.NORMAL


# The rate


def shedding_at(wait_ms: float) -> State:
    return after(SHEDDING, 4, wait_ms=wait_ms)


def test_at_the_target_as_much_is_admitted_as_is_decided() -> None:
    """So the wait stays there."""
    assert admitted(shedding_at(1_500)) == pytest.approx(PER_S, rel=0.01)


@pytest.mark.parametrize(("wait_ms", "share"), [(2_500, 0.5), (2_000, 0.75), (1_100, 1.2)])
def test_the_rate_makes_up_for_the_distance_to_the_target(wait_ms: float, share: float) -> None:
    """Within two seconds, were nothing to change."""
    assert admitted(shedding_at(wait_ms)) == pytest.approx(share * PER_S, rel=0.02)


def test_the_rate_has_a_floor_and_a_ceiling() -> None:
    """A trickle even then, and no flood into an empty queue."""
    assert admitted(shedding_at(60_000)) == pytest.approx(TUNING.share_min * PER_S, rel=0.01)
    assert admitted(shedding_at(0)) == pytest.approx(TUNING.share_max * PER_S, rel=0.01)


@pytest.mark.parametrize("one", [each for each in IntentClass if each is not IntentClass.ISSUANCE])
def test_a_class_that_asks_alone_keeps_the_queue_that_holds_the_level(one: IntentClass) -> None:
    """Its cap is made good by a shorter wait; below `shedding.leave` the level would fall, and flap."""
    shortfall = 1 / SHARES[one].cap - 1
    wait_ms = TUNING.target_wait_ms - 1_000 * TUNING.correct_over_s * shortfall
    assert 1 + shortfall < TUNING.share_max
    assert wait_ms > TUNING.shedding.leave * TUNING.target_wait_ms


def test_while_shedding_nobody_is_admitted_to_twice_the_target() -> None:
    """The bound of the promise."""
    assert policy_of(SHEDDING, TUNING, NOW_MS).wait_max_ms == 1.9 * TUNING.target_wait_ms


def test_shedding_before_any_measurement_admits_a_small_rate() -> None:
    """Workers that were dead from the start: silence is all there is."""
    state = after(State(), 3, accepted=10, decided=0, in_flight=100, oldest_ms=9_000.0)
    assert state.level is Level.SHEDDING
    assert 0 < admitted(state) <= TUNING.unmeasured_per_s
    longer = after(state, 10, accepted=10, decided=0, in_flight=100, oldest_ms=19_000.0)
    assert admitted(longer) == TUNING.share_min * TUNING.unmeasured_per_s


# A new leader


def test_a_new_leader_goes_on_at_the_level_and_rate_it_finds() -> None:
    """Nobody who comes to the gate notices."""
    found = policy_of(SHEDDING, TUNING, NOW_MS)
    state = taken_over(found, at_s=77.0)
    told = policy_of(step(state, sample(77.25, wait_ms=1_500), TUNING), TUNING, NOW_MS)
    assert told.level is Level.SHEDDING
    assert told.reason == "wait"
    assert told.admitted_per_s == pytest.approx(found.admitted_per_s, rel=0.05)


def test_where_nothing_was_published_a_leader_begins_without_memory() -> None:
    """The first governor of a deployment."""
    assert taken_over(None, at_s=5.0) == State()
    assert taken_over(Policy(), at_s=5.0).service.per_s is None


# Missing parts and nonsense


def test_a_sample_in_which_nothing_could_be_read_changes_no_measure() -> None:
    """What was known stays known."""
    blind = Sample(at_s=10.25, interval_s=TICK_S, postgres_ms=1.0, valkey_ms=1.0)
    state = step(CALM, blind, TUNING)
    assert state.service == CALM.service
    assert state.in_flight == CALM.in_flight
    assert state.level is Level.NORMAL


MAYBE = st.none() | st.floats(0, 1e7)
COUNT = st.none() | st.integers(0, 10**7)
SHARE = st.none() | st.floats(0, 1)
PARTS = st.fixed_dictionaries(
    {
        "interval_s": st.floats(0, 60),
        "postgres_ms": MAYBE,
        "valkey_ms": MAYBE,
        "in_flight": COUNT,
        "accepted": COUNT,
        "decided": COUNT,
        "oldest_ms": MAYBE,
        "sojourn_p50_ms": MAYBE,
        "sojourn_p99_ms": MAYBE,
        "postgres_connections_share": SHARE,
        "valkey_memory_share": SHARE,
        "dispatch_lag_ms": MAYBE,
    }
)


@settings(max_examples=300, deadline=None, database=None)
@given(st.lists(PARTS, max_size=12))
def test_every_sample_leads_to_a_policy_that_can_be_kept(parts: list[dict[str, Any]]) -> None:
    """Whatever is missing or absurd: rates are finite and above zero, a fall is by one step."""
    state, at_s = State(), 0.0
    for part in parts:
        at_s += part["interval_s"]
        before, state = state, step(state, Sample(at_s=at_s, **part), TUNING)
        policy = policy_of(state, TUNING, NOW_MS)
        assert state.level.rank >= before.level.rank - 1
        assert (policy.reason == "") == (policy.level is Level.NORMAL)
        assert (policy.admitted_per_s is None) == (policy.level.rank < Level.SHEDDING.rank)
        assert policy.predicted_wait_ms >= 0
        for per_s in (policy.admitted_per_s, policy.service_per_s):
            assert per_s is None or (math.isfinite(per_s) and per_s > 0)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"target_wait_ms": 0}, "target_wait_ms"),
        ({"shedding": Band(1.0, 1.0)}, "leave below"),
        ({"shedding": Band(2.0, 1.2)}, "keeps the wait"),
        ({"throttled": Band(1.5, 0.2)}, "above throttled"),
        ({"share_min": 0.0}, "share_min"),
        ({"share_max": 0.9}, "share_max"),
        ({"leave_after_s": 0.1}, "leave_after_s"),
        ({"correct_over_s": 0.0}, "correct_over_s"),
        ({"unreachable_after_s": -1.0}, "times"),
        ({"unmeasured_per_s": 0.0}, "unmeasured_per_s"),
        ({"wait_max_ms": 2_000}, "wait_max_ms"),
        ({"shedding_wait_max": 1.0}, "shedding_wait_max"),
    ],
)
def test_a_tuning_that_cannot_work_is_refused(fault: dict[str, Any], told: str) -> None:
    """With the fault in its words."""
    with pytest.raises(ValueError, match=told):
        Tuning(**fault)


# The service rate


def rate_after(rate: ServiceRate, seconds: float, per_s: float, busy: bool = True) -> ServiceRate:
    for _ in range(round(seconds / TICK_S)):
        rate = measured(rate, round(per_s * TICK_S), TICK_S, busy=busy)
    return rate


STEADY = rate_after(ServiceRate(), 10, PER_S)


def test_a_rate_is_told_from_the_third_sample_on() -> None:
    """One or two may be anything."""
    assert rate_after(ServiceRate(), 2 * TICK_S, PER_S).per_s is None
    assert rate_after(ServiceRate(), 3 * TICK_S, PER_S).per_s == pytest.approx(PER_S)


def test_idle_time_is_not_slowness() -> None:
    """A night with an intent now and then changes nothing."""
    assert rate_after(STEADY, 36_000, 4, busy=False).per_s == STEADY.per_s


def test_what_flows_can_be_served() -> None:
    """Served without a queue: more than the estimate lifts it, less says nothing."""
    slow = rate_after(ServiceRate(), 10, 4)
    lifted = rate_after(slow, 20, PER_S, busy=False)
    assert lifted.per_s == pytest.approx(PER_S, rel=0.05)
    assert rate_after(lifted, 10, PER_S / 2, busy=False).per_s == lifted.per_s
    assert rate_after(ServiceRate(), 10, PER_S, busy=False).per_s is None


def test_what_flows_past_intents_that_are_stuck_measures_nothing() -> None:
    """Who waits behind a queue of an interval's length is older than that."""
    few: dict[str, Any] = {"in_flight": 500, "decided": 25, "accepted": 25, "oldest_ms": 60_000.0}
    assert after(CALM, 10, sojourn_p50_ms=20.0, **few).service.per_s == CALM.service.per_s
    queued = after(CALM, 20, sojourn_p50_ms=5_000.0, **few)
    assert queued.service.per_s == pytest.approx(25 / TICK_S, rel=0.05)


def test_while_hardly_anything_waits_enough_is_admitted_to_measure_by() -> None:
    """An estimate of a bad moment would have to double ten times; the wait is bounded anyway."""
    slow = replace(SHEDDING, service=remembered(2.0))
    assert admitted(replace(slow, in_flight=0.0)) == pytest.approx(TUNING.unmeasured_per_s)
    assert admitted(replace(slow, in_flight=2.0)) < TUNING.unmeasured_per_s / 2
    assert admitted(replace(slow, in_flight=3.0)) == pytest.approx(2.0)


def test_a_pause_is_not_slowness() -> None:
    """Ten seconds without a decision, then the first batch: a little less than before."""
    back = rate_after(rate_after(STEADY, 10, 0), TICK_S, PER_S)
    assert back.per_s == pytest.approx(PER_S, rel=0.01)


def test_the_space_between_batches_is_part_of_the_rate() -> None:
    """One commit of 500 each half second is 1,000 a second."""
    rate = ServiceRate()
    for _ in range(20):
        rate = measured(measured(rate, 0, TICK_S, busy=True), 500, TICK_S, busy=True)
    assert rate.per_s == pytest.approx(1_000, rel=0.01)
    assert PAUSE_S > TICK_S


def test_a_lucky_burst_lifts_the_rate_by_a_quarter_at_most() -> None:
    """However lucky, and whether there was a queue or not."""
    lucky, idle = (measured(STEADY, 100_000, TICK_S, busy=busy) for busy in (True, False))
    for rate in (lucky, idle):
        assert rate.per_s is not None
        assert rate.per_s <= 1.25 * PER_S
    assert rate_after(lucky, 5, PER_S).per_s == pytest.approx(PER_S, rel=0.05)


@pytest.mark.parametrize("factor", [0.5, 2, 5])
def test_a_rate_that_truly_changed_is_followed_in_seconds(factor: float) -> None:
    """Within a fifth after five seconds."""
    changed = rate_after(STEADY, 5, factor * PER_S)
    assert changed.per_s == pytest.approx(factor * PER_S, rel=0.2)


def test_a_doubted_rate_is_outweighed_sooner() -> None:
    """The same number, but less of it is left after a second."""
    trusting, doubting = (rate_after(rate, 1, PER_S / 2) for rate in (STEADY, doubted(STEADY)))
    assert doubted(STEADY).per_s == pytest.approx(STEADY.per_s)
    assert trusting.per_s is not None
    assert doubting.per_s is not None
    assert doubting.per_s < 0.85 * trusting.per_s


def test_a_remembered_rate_is_told_at_once() -> None:
    """None stays unknown."""
    assert remembered(123.0).per_s == pytest.approx(123.0)
    assert remembered(None).per_s is None
    assert doubted(ServiceRate()) == ServiceRate()
