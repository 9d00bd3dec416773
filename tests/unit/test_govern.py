"""The governor's tick, on a gate and sources of paper."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from workers.contract.admission import Balance
from workers.contract.gate import GateUnreachable, Published
from workers.domain.governor import Tuning
from workers.domain.overload import Level, Policy
from workers.runtime.looking import PostgresLook, Probe, Sources
from workers.service.govern import Governor, Heard, Look
from workers.store.levels import LevelOrder
from workers.store.load import Load

LOAD = Load(oldest_ms=20.0, overdue_ms=-4_000.0, open_count=7, connections_share=0.1, ordered=None)
QUIET = Look(postgres_ms=1.0, load=LOAD)
NOW = datetime(2026, 2, 6, tzinfo=UTC)


class PaperGate:
    """Lends the lead as the real gate does, on a clock of the test's."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.away = False
        self.epoch = 0
        self.owner = ""
        self.lead_ends_s = 0.0
        self.lease_ends_s = 0.0
        self.published: list[tuple[int, Policy]] = []
        self.in_flight = 0
        self.reconciled = True
        self.told: list[Sequence[Balance]] = []

    def take_lead(self, owner: str, lease_ms: int) -> int | None:
        self._reach()
        if self.now_s < self.lead_ends_s and owner != self.owner:
            return None
        if owner != self.owner or self.now_s >= self.lead_ends_s:
            self.epoch += 1
        self.owner, self.lead_ends_s = owner, self.now_s + lease_ms / 1_000
        return self.epoch

    def policy(self) -> Published:
        self._reach()
        epoch, policy = self.published[-1] if self.published else (0, None)
        left_ms = max(0, round((self.lease_ends_s - self.now_s) * 1_000))
        return Published(policy, epoch, left_ms, self.in_flight, self.reconciled)

    def publish(self, policy: Policy, *, epoch: int, lease_ms: int) -> bool:
        self._reach()
        if epoch < self.epoch:
            return False
        self.published.append((epoch, policy))
        self.lease_ends_s = self.now_s + lease_ms / 1_000
        return True

    def tell_balances(self, balances: Sequence[Balance]) -> None:
        self._reach()
        self.told.append(balances)

    def _reach(self) -> None:
        if self.away:
            raise GateUnreachable


class PaperSources:
    def __init__(self) -> None:
        self.heard: Heard | None = Heard(0, [])
        self.seen = QUIET

    def hear(self) -> Heard | None:
        return self.heard

    def look(self) -> Look:
        return self.seen


class World:
    def __init__(self) -> None:
        self.gate = PaperGate()
        self.sources = PaperSources()

    def governor(self, owner: str = "a") -> Governor:
        return Governor(
            self.sources,
            self.gate,
            Tuning(),
            owner=owner,
            lease_ms=3_000,
            clock=lambda: self.gate.now_s,
            unix_ms=lambda: round(self.gate.now_s * 1_000),
        )

    def ticks(self, *governors: Governor, count: int = 1) -> list[Any]:
        """Let each tick, a quarter of a second apart; return the last round's reports."""
        for _ in range(count):
            self.gate.now_s += 0.25
            reports = [governor.tick() for governor in governors]
        return reports


@pytest.fixture
def world() -> World:
    return World()


def test_who_leads_publishes_with_every_tick(world: World) -> None:
    governor = world.governor()
    world.ticks(governor, count=3)
    assert [epoch for epoch, _ in world.gate.published] == [1, 1, 1]
    assert world.gate.published[-1][1].level is Level.NORMAL


def test_of_two_one_governs_and_the_other_watches(world: World) -> None:
    first, second = world.governor("a"), world.governor("b")
    reports = world.ticks(first, second, count=20)
    assert [report.epoch for report in reports] == [1, None]
    assert {epoch for epoch, _ in world.gate.published} == {1}


def test_the_lead_passes_within_a_lease_and_the_level_with_it(world: World) -> None:
    """Who takes over goes on from there: from `normal` it would let everybody in."""
    first, second = world.governor("a"), world.governor("b")
    world.sources.seen = replace(QUIET, postgres_ms=None, load=None)
    world.ticks(first, second, count=12)
    assert world.gate.published[-1][1].level is Level.CLOSED
    world.ticks(second, count=13)
    assert (world.gate.owner, world.gate.published[-1][0]) == ("b", 2)
    assert {policy.level for epoch, policy in world.gate.published if epoch == 2} == {Level.CLOSED}


def test_a_level_that_goes_on_began_at_one_moment_however_long_looks_take(world: World) -> None:
    """Whoever hears another moment takes it for another level, and tells thousands."""
    governor, look = world.governor(), world.sources.look
    took_s = itertools.cycle([0.001, 0.125, 0.0304, 0.0076])

    def slow() -> Look:
        world.gate.now_s += next(took_s)
        return look()

    world.sources.look = slow  # type: ignore[method-assign]
    for seen, level in ((QUIET, Level.NORMAL), (Look(), Level.CLOSED)):
        world.sources.seen = seen
        world.ticks(governor, count=12)
        reached_ms = world.gate.now_s * 1_000
        world.ticks(governor, count=20)
        told = [policy for _, policy in world.gate.published[-20:]]
        assert {policy.level for policy in told} == {level}
        assert len({policy.since_ms for policy in told}) == 1
        assert reached_ms - 4_000 < told[0].since_ms <= reached_ms


def test_a_level_that_another_leader_found_began_when_it_began(world: World) -> None:
    first, second = world.governor("a"), world.governor("b")
    world.sources.seen = replace(QUIET, postgres_ms=None, load=None)
    world.ticks(first, second, count=20)
    since_ms = world.gate.published[-1][1].since_ms
    world.ticks(second, count=20)
    assert world.gate.epoch == 2
    assert {policy.since_ms for epoch, policy in world.gate.published if epoch == 2} == {since_ms}


def test_a_word_of_long_ago_is_no_beginning(world: World) -> None:
    world.gate.published.append((4, Policy(level=Level.CLOSED, reason="valkey")))
    world.gate.epoch, world.gate.now_s = 4, 1_000.0
    world.ticks(world.governor())
    assert world.gate.published[-1][1].level is Level.NORMAL


def test_who_watched_long_ago_begins_anew(world: World) -> None:
    first, second = world.governor("a"), world.governor("b")
    world.sources.seen = replace(QUIET, postgres_ms=None, load=None)
    world.ticks(first, second, count=12)
    world.gate.now_s += 60
    world.ticks(second)
    assert [epoch for epoch, _ in world.gate.published][-1] == 2
    assert world.gate.published[-1][1].level is Level.NORMAL


def test_who_slept_through_its_lease_publishes_nothing_when_it_wakes(world: World) -> None:
    """It sleeps in the midst of a tick, between taking the lead and publishing."""
    first, second = world.governor("a"), world.governor("b")
    world.ticks(first, count=4)

    def sleep() -> Look:
        world.sources.look = awake  # type: ignore[method-assign]
        world.gate.now_s += 10
        world.ticks(second, count=2)
        return QUIET

    awake = world.sources.look
    world.sources.look = sleep  # type: ignore[method-assign]
    report = first.tick()
    assert (report.published, report.epoch) == (False, None)
    assert [epoch for epoch, _ in world.gate.published] == [1, 1, 1, 1, 2, 2]
    assert world.ticks(first)[0].epoch is None


def test_while_the_gate_is_away_a_leader_measures_on_and_speaks_when_it_is_back(
    world: World,
) -> None:
    governor = world.governor()
    world.ticks(governor, count=4)
    world.gate.away = True
    reports = world.ticks(governor, count=12)
    assert (reports[0].published, reports[0].sample.valkey_ms) == (False, None)
    world.gate.away = False
    world.ticks(governor)
    assert world.gate.published[-1][1].level is Level.CLOSED
    assert world.gate.published[-1][1].reason == "valkey"


def test_handing_over_lets_another_lead_at_once(world: World) -> None:
    first, second = world.governor("a"), world.governor("b")
    world.ticks(first, second, count=4)
    first.hand_over()
    assert world.ticks(second)[0].epoch == 2


def test_who_never_led_hands_nothing_over(world: World) -> None:
    first, second = world.governor("a"), world.governor("b")
    world.ticks(first, second)
    second.hand_over()
    assert world.gate.owner == "a"


def test_a_sample_says_what_came_and_what_left(world: World) -> None:
    governor = world.governor()
    world.gate.in_flight = 100
    world.ticks(governor, count=2)
    world.sources.heard = Heard(40, [10.0, 30.0, 20.0])
    world.gate.in_flight = 160
    [report] = world.ticks(governor)
    sample = report.sample
    assert (sample.decided, sample.in_flight, sample.accepted) == (40, 160, 100)
    assert (sample.sojourn_p50_ms, sample.sojourn_p99_ms) == (20.0, 30.0)
    assert (sample.interval_s, sample.oldest_ms, sample.dispatch_lag_ms) == (0.25, 20.0, 0.0)


def test_what_cannot_be_read_is_none(world: World) -> None:
    governor = world.governor()
    world.ticks(governor, count=2)
    world.sources.heard, world.sources.seen = None, Look()
    world.gate.reconciled = False
    [report] = world.ticks(governor)
    sample = report.sample
    assert report.published
    assert (sample.decided, sample.accepted, sample.in_flight) == (None, None, None)
    assert (sample.postgres_ms, sample.oldest_ms, sample.dispatch_lag_ms) == (None, None, None)


def test_while_the_gate_has_forgotten_the_journal_counts(world: World) -> None:
    governor = world.governor()
    world.gate.in_flight = 1_000
    world.ticks(governor, count=2)
    world.gate.reconciled, world.gate.in_flight = False, 0
    [report] = world.ticks(governor)
    assert (report.sample.in_flight, report.sample.accepted) == (7, None)


def test_an_order_is_left_to_the_gates_and_given_a_rate_where_it_sheds(world: World) -> None:
    governor = world.governor()
    for level in (Level.CLOSED, Level.SHEDDING, Level.THROTTLED):
        ordered = LevelOrder(level=level, reason="drill", ordered_at=NOW, until=None)
        world.sources.seen = replace(QUIET, load=replace(LOAD, ordered=ordered))
        world.ticks(governor, count=2)
        policy = world.gate.published[-1][1]
        assert policy.level is Level.NORMAL
        assert (policy.admitted_per_s is not None) is (level is Level.SHEDDING)


def test_an_order_stands_until_a_look_says_that_it_does_not(world: World) -> None:
    """Shedding that lost its rate with one slow look would bound nothing."""
    governor = world.governor()
    ordered = LevelOrder(level=Level.SHEDDING, reason="drill", ordered_at=NOW, until=None)
    world.sources.seen = replace(QUIET, load=replace(LOAD, ordered=ordered))
    world.ticks(governor, count=2)
    world.sources.seen = replace(QUIET, load=None)
    [report] = world.ticks(governor)
    assert report.ordered == ordered
    assert world.gate.published[-1][1].admitted_per_s is not None
    world.sources.seen = QUIET
    [report] = world.ticks(governor)
    assert report.ordered is None
    assert world.gate.published[-1][1].admitted_per_s is None


def test_where_nothing_is_open_a_phantom_in_the_gate_sheds_nobody(world: World) -> None:
    """An API that died between the gate and the journal left an id that nobody will decide."""
    governor = world.governor()
    world.sources.seen = replace(QUIET, load=replace(LOAD, oldest_ms=None, open_count=0))
    world.ticks(governor, count=2)
    world.gate.in_flight = 1
    [report] = world.ticks(governor)
    assert (report.sample.accepted, report.sample.oldest_ms) == (1, 0.0)
    world.ticks(governor, count=80)
    assert {policy.level for _, policy in world.gate.published} == {Level.NORMAL}


def test_what_is_scarce_is_told_at_once_and_again_before_it_is_forgotten(world: World) -> None:
    governor = world.governor()
    tea, bun = Balance("stock:s:tea", 1, 5, 0), Balance("stock:s:bun", 1, 900_000, 0)

    def tell(*balances: tuple[Balance, bool]) -> list[Balance]:
        world.gate.told.clear()
        world.sources.seen = replace(QUIET, balances=balances)
        world.ticks(governor)
        return [one for told in world.gate.told for one in told]

    world.ticks(governor)
    assert tell((tea, True), (bun, False)) == [tea]
    assert tell((tea, True)) == []
    sold = replace(tea, version=2, available=4)
    assert tell((sold, True)) == [sold]
    assert tell((sold, True)) == []
    assert tell((sold, True)) == [sold]  # a second after the first
    more = replace(tea, version=3, available=900_000)
    assert tell((more, False)) == [more]  # scarce no longer: nobody may be refused by the old one
    assert tell((replace(more, version=4), False)) == []


# Probes --------------------------------------------------------------------------------------------


def test_a_probe_that_hangs_says_how_long_it_waits_and_then_that_nobody_answers() -> None:
    free = threading.Event()
    probe = Probe("test", lambda: free.wait(30), timeout_s=0.3)
    probe.ask()
    waiting = probe.answer(0.05)
    assert waiting.value is None
    assert waiting.ms is not None
    assert waiting.ms >= 50
    time.sleep(0.3)
    probe.ask()  # the first question is still open
    assert probe.answer(0) == type(waiting)(None, None)
    free.set()
    assert probe.answer(1).value is True
    probe.ask()
    again = probe.answer(1)
    assert again.value is True
    assert again.ms is not None
    assert again.ms < 300


def test_a_probe_that_fails_is_asked_again() -> None:
    answers = iter([None, 7])

    def read() -> int:
        found = next(answers)
        if found is None:
            raise ConnectionError("refused")
        return found

    probe = Probe("test", read, timeout_s=1)
    probe.ask()
    assert probe.answer(1).ms is None
    probe.ask()
    assert probe.answer(1).value == 7


def test_a_probe_that_failed_counts_as_away_until_it_answers() -> None:
    """However long it takes to fail again: a connection may be refused at once, or after seconds."""
    free, asked = threading.Event(), itertools.count()

    def read() -> bool:
        if next(asked) == 0:
            raise ConnectionError("refused")
        return free.wait(30)

    probe = Probe("test", read, timeout_s=30)
    probe.ask()
    assert probe.answer(5).ms is None
    probe.ask()
    assert probe.answer(0).ms is None
    free.set()
    assert probe.answer(5).value is True


def test_a_look_that_came_too_late_is_taken_by_the_next() -> None:
    """A database that takes a little longer than a look may is slow, and not unknown."""
    free, counted = threading.Semaphore(0), itertools.count(1)

    def read() -> PostgresLook:
        assert free.acquire(timeout=30)
        return PostgresLook(200.0, replace(LOAD, open_count=next(counted)), None)

    sources = Sources(lambda: None, read, lambda: 0.5, wait_s=0, timeout_s=30)
    answered = sources._postgres._answered

    def found() -> int | None:
        load = sources.look().load
        return None if load is None else load.open_count

    assert found() is None
    for number in (1, 2, 3):
        free.release()
        assert answered.wait(5)
        assert found() == number
    assert found() is None, "what was told once is not told again"
    sources._wait_s = 5
    free.release()
    assert found() == 4
    free.release()
    assert found() == 5, "an answer in time is told before a late one"
