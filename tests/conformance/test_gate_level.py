"""Shedding at the gate: the admitted rate, its shares by class, and fairness between gateways."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import pytest
import redis
from gate_world import (
    NEVER,
    NO_LIMITS,
    admitted,
    advance,
    candidates,
    limits,
    open_gate,
    server_time_us,
)

from workers.contract.gate import Candidate, Gate
from workers.domain.overload import SHARES, IntentClass, Level, Policy

APPOINTMENT, REDEMPTION, ORDER = (
    IntentClass.APPOINTMENT,
    IntentClass.REDEMPTION,
    IntentClass.ORDER,
)
Cell = tuple[str, IntentClass]

RATE = 100
STEP_S = 0.1  # of pretended time: 10 are admitted in each
STEPS = 60


def _shed(gate: Gate, rate: float = RATE) -> None:
    policy = Policy(level=Level.SHEDDING, admitted_per_s=rate)
    assert gate.publish(policy, epoch=1, lease_ms=60_000)


def _wanted(asks: Mapping[Cell, int]) -> list[Candidate]:
    return [
        candidate
        for (gateway, intent_class), count in asks.items()
        for candidate in candidates(count, gateway_id=gateway, intent_class=intent_class)
    ]


class _Flood(NamedTuple):
    """What came of a flood: admitted a second, and as a part of what was asked.

    Real time passes beside the pretended. It may bring room, so it counts in `per_s`, which is what
    an upper bound is for; it may be lost, so it counts not in `sure_per_s`, for lower bounds.
    """

    per_s: dict[Cell, float]
    sure_per_s: dict[Cell, float]
    parts: dict[Cell, float]


def _flood(url: str, asks: Mapping[Cell, int], rate: float = RATE) -> _Flood:
    """Ask for so many of each cell in every step."""
    gate, client = open_gate(url), redis.Redis.from_url(url)
    _shed(gate, rate)
    wanted, taken = _wanted(asks), Counter[Cell]()
    started_us = server_time_us(client)
    for _ in range(STEPS):
        verdicts = gate.admit(wanted, NO_LIMITS)
        assert {v.limit for v in verdicts} <= {None, "level"}
        for candidate, verdict in zip(wanted, verdicts, strict=True):
            taken[candidate.gateway_id, candidate.intent_class] += verdict.admitted
        advance(client, "test", STEP_S)
    passed_s = STEPS * STEP_S + (server_time_us(client) - started_us) / 1_000_000
    return _Flood(
        {cell: count / passed_s for cell, count in taken.items()},
        {cell: count / (STEPS * STEP_S) for cell, count in taken.items()},
        {cell: count / STEPS / asks[cell] for cell, count in taken.items()},
    )


def _classes(per_s: Mapping[Cell, float]) -> dict[IntentClass, float]:
    return {c: sum(n for (_, one), n in per_s.items() if one is c) for c in IntentClass}


GONE = -2  # what PTTL answers of a key that has just expired
SLACK = 1.06  # The bursts at the beginning are a few percent.


def test_the_total_holds_and_every_class_has_its_floor(valkey_url: str) -> None:
    """Ten times what fits, of every class: as much as fits is admitted, nobody is starved."""
    flood = _flood(valkey_url, {("g-1", c): 34 for c in (ORDER, REDEMPTION, APPOINTMENT)})
    assert sum(flood.per_s.values()) <= SLACK * RATE
    assert sum(flood.sure_per_s.values()) >= 0.97 * RATE
    for one in (APPOINTMENT, REDEMPTION, ORDER):
        assert _classes(flood.sure_per_s)[one] >= SHARES[one].floor * RATE


@pytest.mark.parametrize("one", [APPOINTMENT, REDEMPTION, ORDER])
def test_a_class_alone_has_its_cap_and_no_more(valkey_url: str, one: IntentClass) -> None:
    """Being of the better class is no way past the limit; nor does what nobody asks for idle."""
    flood, cap = _flood(valkey_url, {("g-1", one): 100}), SHARES[one].cap * RATE
    assert flood.per_s["g-1", one] <= SLACK * cap
    assert flood.sure_per_s["g-1", one] >= 0.97 * cap


def test_a_class_below_its_floor_passes_whatever_floods(valkey_url: str) -> None:
    """Four fifths of the floor in plain orders are all admitted beside better classes' floods."""
    asks = {("g-1", APPOINTMENT): 50, ("g-1", REDEMPTION): 50, ("g-1", ORDER): 1}
    rate = 1 / STEP_S / (0.8 * SHARES[ORDER].floor)
    flood = _flood(valkey_url, asks, rate)
    assert flood.parts["g-1", ORDER] == 1
    assert sum(flood.per_s.values()) <= SLACK * rate


@pytest.mark.parametrize("one", [REDEMPTION, ORDER])
def test_a_greedy_gateway_does_not_crowd_out_a_modest_one(
    valkey_url: str, one: IntentClass
) -> None:
    """Who asks for less than its share gets all of it, though the other asks a hundred times."""
    flood = _flood(valkey_url, {("greedy", one): 200, ("modest", one): 2})
    assert flood.parts["modest", one] == 1
    cap = SHARES[one].cap * RATE
    assert sum(flood.per_s.values()) <= SLACK * cap
    assert sum(flood.sure_per_s.values()) >= 0.97 * cap


def test_greedy_gateways_share_evenly_however_greedy(valkey_url: str) -> None:
    """Beyond the guarantees a tenth is left to who comes first; the rest is even."""
    flood = _flood(valkey_url, {("greedier", ORDER): 150, ("greedy", ORDER): 15})
    share = SHARES[ORDER].cap * RATE / 2
    assert 0.85 * share <= flood.sure_per_s["greedy", ORDER]
    assert flood.per_s["greedier", ORDER] <= 1.2 * share


def test_a_gateway_s_better_class_does_not_crowd_out_another_s_orders(valkey_url: str) -> None:
    """The guarantee is for each class of each gateway: their sum stays within the total."""
    asks = {("a", REDEMPTION): 100, ("a", ORDER): 100, ("b", ORDER): 100, ("b", REDEMPTION): 2}
    flood = _flood(valkey_url, asks)
    assert flood.parts["b", REDEMPTION] == 1
    assert flood.sure_per_s["b", ORDER] >= SHARES[ORDER].floor * RATE / 2
    assert sum(flood.per_s.values()) <= SLACK * RATE
    assert sum(flood.sure_per_s.values()) >= 0.97 * RATE


def test_many_gateways_do_not_add_up_to_more_than_the_rate(valkey_url: str) -> None:
    """What is guaranteed beyond the room there is stays as a debt: forty cells share one rate."""
    asks = {(f"g-{n}", one): 5 for n in range(20) for one in (ORDER, REDEMPTION)}
    per_s = _flood(valkey_url, asks).per_s
    # At the beginning each of 40 cells takes the one that it always may.
    assert sum(per_s.values()) <= SLACK * RATE + 40 / (STEPS * STEP_S)


def test_who_asks_no_more_leaves_its_share_to_the_others(valkey_url: str) -> None:
    """A guaranteed rate is for who asked within two seconds."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    _shed(gate)
    gate.admit(_wanted({(f"g-{n}", ORDER): 1 for n in range(9)}), NO_LIMITS)
    alone_ms = 1_000 / (0.9 * SHARES[ORDER].cap * RATE)
    assert _interval_ms(gate) == pytest.approx(9 * alone_ms, abs=2)
    advance(client, "test", 1.9)
    gate.admit(candidates(gateway_id="g-0"), NO_LIMITS)
    advance(client, "test", 0.2)
    assert _interval_ms(gate) == pytest.approx(2 * alone_ms, abs=2)
    assert client.zcard("{test}:level") == 2
    kept_ms = [client.pttl(key) for key in client.keys("{test}:level*")]
    assert all(0 <= ms <= 2_000 for ms in kept_ms if ms != GONE)


def _interval_ms(gate: Gate) -> int:
    """Return how far apart those refused of the first gateway are told to come back."""
    verdicts = gate.admit(candidates(20), NO_LIMITS)
    return verdicts[-1].retry_after_ms - verdicts[-2].retry_after_ms


def test_better_classes_are_taken_first_then_the_earlier(valkey_url: str) -> None:
    """Of one batch; the verdicts come in the order of the question."""
    gate = open_gate(valkey_url)
    asked = (ORDER, IntentClass.ISSUANCE, REDEMPTION, ORDER, APPOINTMENT)
    wanted = [candidates(intent_class=one)[0] for one in asked]
    only_one = limits(campaign=NEVER)
    assert admitted(gate.admit(wanted, only_one)) == [False] * 4 + [True]
    two = open_gate(valkey_url, "two", in_flight_max=4)
    assert admitted(two.admit(wanted, NO_LIMITS)) == [True, False, True, True, True]


def test_who_the_level_refuses_is_admitted_when_told(valkey_url: str) -> None:
    """The wait is that of the gateway's own guaranteed rate, which nobody else can take."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    _shed(gate, 10)
    verdicts = gate.admit(candidates(4), NO_LIMITS)
    assert admitted(verdicts) == [True, False, False, False]
    waits = [v.retry_after_ms for v in verdicts[1:]]
    interval_ms = 1_000 / (0.9 * SHARES[ORDER].cap * 10)
    assert waits[0] <= interval_ms
    assert [later - waits[0] for later in waits[1:]] == [
        pytest.approx(interval_ms, abs=2),
        pytest.approx(2 * interval_ms, abs=2),
    ]
    for wait, before in zip(waits, [0, *waits], strict=False):
        advance(client, "test", (wait - before) / 1_000)
        assert gate.admit(candidates(), NO_LIMITS)[0].admitted


def test_who_the_level_refuses_consumes_nothing(valkey_url: str) -> None:
    """Nor does who another layer refuses consume of the level's rates."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    _shed(gate, 1)
    verdicts = gate.admit(candidates(9), limits(user=NEVER))
    assert admitted(verdicts) == [True] + [False] * 8
    tats = [client.get(f"{{test}}:level:{name}") for name in ("total", "cap:3", "3:g-1")]
    for _ in range(3):
        assert gate.admit(candidates(5), limits(user=NEVER))[0].limit == "user"
    assert tats == [client.get(f"{{test}}:level:{name}") for name in ("total", "cap:3", "3:g-1")]
    quota = gate.admit(candidates(5, user_id="u-2"), limits(user=NEVER))[0].user_quota
    assert quota is not None
    assert quota.remaining == 1


def test_bursts_are_short(valkey_url: str) -> None:
    """What was not asked for is not saved up: a tenth of a second's worth passes at once."""
    gate = open_gate(valkey_url)
    _shed(gate, 1_000)
    passed = sum(admitted(gate.admit(candidates(500), NO_LIMITS)))
    assert passed == 1 + SHARES[ORDER].cap * 1_000 / 10


@pytest.mark.parametrize("level", [Level.NORMAL, Level.THROTTLED])
def test_no_class_is_limited_before_shedding(valkey_url: str, level: Level) -> None:
    """Rates are for `shedding`, and only where the governor states one."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    policy = Policy(level=level, admitted_per_s=1)
    assert gate.publish(policy, epoch=1, lease_ms=60_000)
    assert all(admitted(gate.admit(candidates(500), NO_LIMITS)))
    assert gate.publish(Policy(level=Level.SHEDDING), epoch=1, lease_ms=60_000)
    assert all(admitted(gate.admit(candidates(500), NO_LIMITS)))
    assert not client.exists("{test}:level", "{test}:level:total")


def test_a_rate_of_nothing_admits_next_to_nothing(valkey_url: str) -> None:
    """It neither opens the gate nor breaks it."""
    gate = open_gate(valkey_url)
    _shed(gate, 0)
    assert sum(admitted(gate.admit(candidates(100), NO_LIMITS))) == 1
    assert sum(admitted(gate.admit(candidates(100), NO_LIMITS))) == 0


def test_a_flush_while_shedding_leaves_the_small_rate(valkey_url: str) -> None:
    """With the policy its debts are forgotten; what stands in is the unreconciled rate."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    _shed(gate)
    gate.admit(candidates(50), NO_LIMITS)
    client.flushall()
    assert sum(admitted(gate.admit(candidates(50), NO_LIMITS))) == 2
    assert gate.reconcile(list).finished
    _shed(gate)
    burst = 1 + int(0.1 * SHARES[ORDER].cap * RATE)
    assert sum(admitted(gate.admit(candidates(50), NO_LIMITS))) == burst
