"""The governor against loads, faults and noise that chance made. The seed of a failure replays it:

python -c "from test_governor_random import a_plan, faults_of; print(faults_of(a_plan(SEED)))"
"""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from world import Plan, Span, run

from workers.domain.governor import Tuning

CAPACITY = 2_000.0
IN_FLIGHT_MAX = 7_000  # at half the capacity seven seconds of work: what a dead governor leaves
TARGET_S = Tuning().target_wait_ms / 1_000
SETTLING_S = 8.0
QUIET_S = 45.0


@dataclass(frozen=True)
class Drawn:
    """A plan, and when in it the system was disturbed: a new load, a fault, its end."""

    plan: Plan
    disturbed_s: tuple[float, ...]
    faults: tuple[Span, ...]


def a_plan(seed: int) -> Drawn:
    """Return a plan of up to two minutes: loads from a twentieth to twenty times the capacity."""
    luck = Random(seed)
    starts, loads, at_s = [], [], 0.0
    for _ in range(luck.randint(1, 5)):
        starts.append(at_s)
        loads.append(CAPACITY * 20 ** luck.uniform(-1, 1))
        at_s += luck.uniform(3, 25)
    end_s = at_s
    starts.append(end_s)
    loads.append(0.3 * CAPACITY)
    halved_s = luck.uniform(0, 2 * end_s)  # as often as not, never

    def newcomers(now: float) -> float:
        return loads[bisect(starts, now) - 1]

    def a_span() -> list[Span]:
        since_s = luck.uniform(0, max(1.0, end_s - 10))
        return [(since_s, since_s + luck.uniform(0.5, 10))] if luck.random() < 0.3 else []

    pauses, away, dead = a_span(), a_span(), a_span()
    plan = Plan(
        newcomers,
        end_s + QUIET_S,
        seed=seed,
        capacity=lambda now: CAPACITY / 2 if halved_s <= now < end_s else CAPACITY,
        retries=luck.choice(["none", "storm"]),
        noise=luck.choice([0.0, 0.2, 0.5]),
        pauses=pauses,
        away=away,
        governor_dead=dead,
        in_flight_max=IN_FLIGHT_MAX,
        workers=luck.randint(1, 6),
    )
    faults = tuple(pauses + away + dead)
    moments = [*starts, halved_s, end_s, *(moment for span in faults for moment in span)]
    return Drawn(plan, tuple(sorted(moments)), faults)


def faults_of(drawn: Drawn) -> list[str]:
    """Return what a plan's history shows that must not be."""
    plan, history = drawn.plan, run(drawn.plan)
    found = history.broken_laws()
    for since_s, until_s in spells(drawn):
        span = f"from {since_s:.0f} to {until_s:.0f} s"
        offered = plan.load(since_s) / plan.capacity(since_s)
        goodput = history.goodput(since_s, until_s)
        if offered >= 1.1 and goodput < 0.95:
            found.append(f"{span} goodput is {goodput:.2f} of the capacity")
        waits_s = history.sojourn_s(0.99, since_s, until_s - 2 * TARGET_S)
        if waits_s > 2 * TARGET_S:
            found.append(f"{span} 1 % wait longer than {waits_s:.2f} s")
    quiet_s = max(plan.seconds - QUIET_S, max((until for _, until in drawn.faults), default=0.0))
    normal_from = history.normal_from(quiet_s)
    if normal_from is None or normal_from > quiet_s + 30:
        found.append(f"normal from {normal_from} on, quiet since {quiet_s:.1f}")
    return found


def spells(drawn: Drawn) -> list[tuple[int, int]]:
    """Return the spans of whole seconds in which nothing changed and the last change has settled."""
    ends = [*drawn.disturbed_s[1:], drawn.plan.seconds]
    found = []
    for moment, end in zip(drawn.disturbed_s, ends, strict=True):
        since_s, until_s = int(moment + SETTLING_S) + 1, int(min(end, drawn.plan.seconds))
        faulty = any(since < until_s and moment < until for since, until in drawn.faults)
        if until_s - since_s >= 4 and not faulty:
            found.append((since_s, until_s))
    return found


@settings(max_examples=25, deadline=None, database=None)
@given(st.integers(0, 2**32))
def test_whatever_comes_the_promise_of_overload_holds(seed: int) -> None:
    """Goodput, sojourn times, recovery, and the laws of every history."""
    assert faults_of(a_plan(seed)) == []
