"""The plan of a chaos run follows from scenario, seed and duration, and from nothing else."""

from __future__ import annotations

import pytest

from deploy.chaos.harm import KINDS
from deploy.chaos.plan import MIXED, Recurring, mix, plan
from deploy.chaos.scenario import INVARIANTS
from deploy.chaos.scenarios import PARTS, SCENARIOS, faults_of

FREEZE = Recurring(
    kind="freeze", targets=("a", "b", "c"), every_s=(0.5, 1.0), for_s=(0.2, 3.0), amount=(1, 9)
)
KILL = Recurring(kind="kill", every_s=(0.3, 0.6), times_max=4)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_seed_plans_the_same_faults(name: str) -> None:
    once, again = (faults_of(SCENARIOS[name], 7, 20) for _ in range(2))
    assert once == again


def test_no_two_scenarios_share_a_name() -> None:
    assert len(SCENARIOS) == sum(map(len, PARTS))


def test_another_seed_plans_others() -> None:
    assert plan("x", [FREEZE], 1, 20) != plan("x", [FREEZE], 2, 20)


def test_a_longer_run_goes_on_where_a_shorter_one_ended() -> None:
    """So a violation that came late comes again with its seed."""
    short, long = plan("x", [FREEZE, KILL], 1, 10), plan("x", [FREEZE, KILL], 1, 30)
    begun = [(fault.at_s, fault.kind, fault.target, fault.pick) for fault in long]
    assert [(f.at_s, f.kind, f.target, f.pick) for f in short] == begun[: len(short)]
    assert len(long) > len(short)


def test_every_fault_is_over_when_the_run_is() -> None:
    assert all(fault.at_s + fault.for_s <= 10 for fault in plan("x", [FREEZE], 3, 10))


def test_faults_come_in_the_order_of_their_times() -> None:
    times = [fault.at_s for fault in plan("x", [FREEZE, KILL], 3, 10)]
    assert times == sorted(times)


def test_each_target_has_its_turn_before_one_has_a_second() -> None:
    targets = [fault.target for fault in plan("x", [FREEZE], 5, 30)]
    for turn in range(0, len(targets) - 3, 3):
        assert set(targets[turn : turn + 3]) == {"a", "b", "c"}


def test_what_is_planned_a_few_times_only_is() -> None:
    assert len(plan("x", [KILL], 1, 60)) == 4


def test_a_mix_overlaps_three_scenarios_and_others_later() -> None:
    parts = [(kind, [Recurring(kind=kind, every_s=(0.5, 1))]) for kind in "abcdefgh"]
    faults = mix(parts, 11, 45)
    windows = [
        {fault.kind for fault in faults if begin <= fault.at_s < begin + 15}
        for begin in (0, 15, 30)
    ]
    assert [len(window) for window in windows] == [MIXED] * 3
    assert len(set.union(*windows)) > MIXED


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "plain-kombu"])
def test_every_scenario_does_something_that_can_be_done_and_says_what_it_attacks(name: str) -> None:
    scenario = SCENARIOS[name]
    faults = faults_of(scenario, 1, scenario.duration_s)
    assert faults
    assert {fault.kind for fault in faults} <= set(KINDS)
    assert scenario.attacks
    assert set(scenario.attacks) <= set(INVARIANTS)


def test_every_kind_of_fault_is_in_some_scenario() -> None:
    planned = {one.kind for scenario in SCENARIOS.values() for one in scenario.recurring}
    assert planned == set(KINDS)
