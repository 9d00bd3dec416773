"""Stock and budget at the gate: what is told, what is held in flight, and who is refused by it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import redis
from gate_world import (
    NEVER,
    NO_LIMITS,
    OwnValkey,
    admitted,
    aged_candidates,
    candidates,
    limits,
    open_gate,
    server_time_us,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.contract import packing
from workers.contract.gate import Balance, Candidate, Gate, GateUnreachable, Limits, Units, Verdict
from workers.contract.ids import uuid7
from workers.contract.names import gate_names
from workers.domain.overload import IntentClass, Level, Policy

NAMES = gate_names("test")
TEA, CUP, BUDGET = "stock:c-1:tea", "stock:c-1:cup", "budget:c-1"


def _buyers(count: int = 1, amount: int = 1, key: str = TEA, **fields: Any) -> list[Candidate]:
    return aged_candidates(count, units=(Units(key, amount),), **fields)


def _balance(available: int, reserved: int = 0, *, key: str = TEA, version: int = 1) -> Balance:
    return Balance(key, version, available, reserved)


def _told(verdict: Verdict) -> tuple[bool, str | None, bool, int, int]:
    """Return admitted, layer, final, ahead, left."""
    return verdict.admitted, verdict.limit, verdict.final, verdict.ahead, verdict.left


def _ahead(client: redis.Redis, prefix: str = "test") -> dict[str, int]:
    fields: Any = client.hgetall(f"{{{prefix}}}:ahead")
    return {key.decode(): int(amount) for key, amount in fields.items()}


def _ids(wanted: list[Candidate]) -> list[Any]:
    return [candidate.intent_id for candidate in wanted]


def test_what_is_unknown_is_admitted_and_not_held(valkey_url: str) -> None:
    """The database decides what the gate was not told of."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    assert all(admitted(gate.admit(_buyers(200), NO_LIMITS)))
    gate.tell_balances([_balance(0, key=CUP)])
    assert all(admitted(gate.admit(_buyers(200), NO_LIMITS)))
    assert not client.exists(NAMES.units, NAMES.ahead)


def _told_earlier(client: redis.Redis, seconds: float) -> None:
    """Let time pass for what was told of the tea."""
    fields = msgspec.msgpack.decode(client.hget(NAMES.balances, TEA) or b"", type=list[float])
    fields[3] -= seconds * 1_000_000
    client.hset(NAMES.balances, TEA, msgspec.msgpack.encode(fields))


def _lasts_s(gate: Gate, client: redis.Redis, key: str = TEA) -> float | None:
    """How long what it wants will last, as one hears whom only the rate refuses."""
    shedding = Limits(ordered=Policy(level=Level.SHEDDING, admitted_per_s=0))
    now_ms = server_time_us(client) / 1_000
    refused = gate.admit(_buyers(2, key=key), shedding)[1]
    assert refused.limit == "level"
    until_ms = refused.lasts_until_ms
    return None if until_ms is None else (until_ms - now_ms) / 1_000


def test_who_waits_for_a_rate_hears_until_when_what_it_wants_lasts(valkey_url: str) -> None:
    """By what left between two tellings; the longer between them, the more it weighs."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    gate.tell_balances([_balance(1_100)])
    assert _lasts_s(gate, client) is None  # nothing has been seen to go
    _told_earlier(client, 5)
    gate.tell_balances([_balance(1_000, version=2)])  # 20 a second, believed by half
    assert _lasts_s(gate, client) == pytest.approx(100, rel=0.1)
    _told_earlier(client, 5)
    gate.tell_balances([_balance(1_000, version=2)])  # and now nothing went
    assert _lasts_s(gate, client) == pytest.approx(200, rel=0.1)
    assert _lasts_s(gate, client, CUP) is None  # unknown


def test_units_that_come_back_are_no_taking(valkey_url: str) -> None:
    """A delivery does not make what is left last for ever, nor for a negative time."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    gate.tell_balances([_balance(1_000)])
    _told_earlier(client, 5)
    gate.tell_balances([_balance(2_000, version=2)])
    assert _lasts_s(gate, client) is None


def test_of_ten_thousand_for_a_hundred_units_a_hundred_are_in_flight(valkey_url: str) -> None:
    """Whoever is beyond hears how many are ahead of how many that are left; it is not final."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    gate.tell_balances([_balance(100)])
    wanted = [one for n in range(100) for one in _buyers(100, user_id=f"u-{n}")]
    verdicts = [
        v for n in range(0, 10_000, 700) for v in gate.admit(wanted[n : n + 700], NO_LIMITS)
    ]
    assert admitted(verdicts) == [True] * 100 + [False] * 9_900
    assert {_told(v) for v in verdicts[100:]} == {(False, "stock", False, 100, 100)}
    assert gate.in_flight() == 100
    assert _ahead(client) == {TEA: 100}

    gate.settle(_ids(wanted[:100]), b"", [_balance(0, version=2)])
    assert _told(gate.admit(_buyers(), NO_LIMITS)[0]) == (False, "stock", True, 0, 0)
    assert not client.exists(NAMES.units, NAMES.ahead)


def test_no_stock_is_final_only_when_nothing_is_reserved(valkey_url: str) -> None:
    """What is reserved may come back; what came back is sold."""
    gate = open_gate(valkey_url)
    gate.tell_balances([_balance(0, 2)])
    assert _told(gate.admit(_buyers(), NO_LIMITS)[0]) == (False, "stock", False, 0, 0)
    gate.tell_balances([_balance(0, 0, version=2)])
    assert _told(gate.admit(_buyers(), NO_LIMITS)[0]) == (False, "stock", True, 0, 0)
    gate.tell_balances([_balance(1, 0, version=3)])
    assert admitted(gate.admit(_buyers(2), NO_LIMITS)) == [True, False]


def test_who_wants_more_than_can_ever_be_free_is_told_so_at_once(valkey_url: str) -> None:
    """One unit that nobody else wants does not keep a buyer of two waiting for ever."""
    gate = open_gate(valkey_url)
    gate.tell_balances([_balance(1, 0)])
    assert _told(gate.admit(_buyers(amount=2), NO_LIMITS)[0]) == (False, "stock", True, 0, 1)
    gate.tell_balances([_balance(1, 1, version=2)])
    assert _told(gate.admit(_buyers(amount=2), NO_LIMITS)[0]) == (False, "stock", False, 0, 1)
    assert admitted(gate.admit(_buyers(), NO_LIMITS)) == [True]


def test_a_budget_is_judged_like_stock_and_named_as_what_it_is(valkey_url: str) -> None:
    """Units of a budget are money: sums beyond 32 bits add up."""
    gate = open_gate(valkey_url)
    gate.tell_balances([_balance(3 * 10**11, key=BUDGET)])
    wanted = _buyers(3, 10**11 + 1, BUDGET, intent_class=IntentClass.ISSUANCE)
    verdicts = gate.admit(wanted, NO_LIMITS)
    assert admitted(verdicts) == [True, True, False]
    assert _told(verdicts[2]) == (False, "budget", False, 2 * 10**11 + 2, 3 * 10**11)


def test_who_wants_less_passes_who_wants_too_much(valkey_url: str) -> None:
    """An order is not split, and blocks nobody behind it."""
    gate = open_gate(valkey_url)
    gate.tell_balances([_balance(5)])
    wanted = [_buyers(amount=amount)[0] for amount in (3, 3, 2, 1)]
    verdicts = gate.admit(wanted, NO_LIMITS)
    assert admitted(verdicts) == [True, False, True, False]
    assert [(v.ahead, v.left) for v in verdicts] == [(0, 0), (3, 5), (0, 0), (5, 5)]


def test_better_classes_take_the_last_units(valkey_url: str) -> None:
    """Of one batch, at every level."""
    gate = open_gate(valkey_url)
    gate.tell_balances([_balance(1)])
    asked = (IntentClass.ORDER, IntentClass.REDEMPTION, IntentClass.APPOINTMENT)
    wanted = [_buyers(intent_class=one)[0] for one in asked]
    assert admitted(gate.admit(wanted, NO_LIMITS)) == [False, False, True]


def test_an_order_of_several_goods_takes_all_or_none(valkey_url: str) -> None:
    """What is short of one leaves the others to the next."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    gate.tell_balances([_balance(2), _balance(1, key=CUP)])
    both = (Units(TEA, 1), Units(CUP, 1), Units("stock:c-1:unknown", 1))
    wanted = [*candidates(2, units=both), *_buyers(2)]
    assert admitted(gate.admit(wanted, NO_LIMITS)) == [True, False, True, False]
    assert _ahead(client) == {TEA: 2, CUP: 1}


def test_what_is_gone_for_good_is_named_before_what_is_short(valkey_url: str) -> None:
    """Of several goods, the one that no waiting brings back."""
    gate = open_gate(valkey_url)
    gate.tell_balances([_balance(0, 1), _balance(0, key=CUP)])
    (verdict,) = gate.admit(candidates(units=(Units(TEA, 1), Units(CUP, 1))), NO_LIMITS)
    assert _told(verdict) == (False, "stock", True, 0, 0)


def test_two_lines_of_one_good_are_one_want(valkey_url: str) -> None:
    """Amounts of the same balance add up."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    gate.tell_balances([_balance(3)])
    twice = candidates(2, units=(Units(TEA, 1), Units(TEA, 1)))
    assert admitted(gate.admit(twice, NO_LIMITS)) == [True, False]
    assert _ahead(client) == {TEA: 2}


def test_refused_units_are_not_held_and_refused_intents_take_no_rate(valkey_url: str) -> None:
    """A refusal by any layer consumes nothing of any other."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    gate.tell_balances([_balance(2)])
    greedy = gate.admit(_buyers(3), limits(user=NEVER))
    assert [v.limit for v in greedy] == [None, "user", "user"]
    assert _ahead(client) == {TEA: 1}
    gate.admit(_buyers(user_id="u-2"), NO_LIMITS)
    short = gate.admit(_buyers(user_id="u-3"), limits(user=NEVER))[0]
    assert (short.limit, short.user_quota and short.user_quota.remaining) == ("stock", 1)


def test_sold_out_is_told_before_everything_else(valkey_url: str) -> None:
    """No wait, no pause and no level matters to who can never get it."""
    gate = open_gate(valkey_url)
    gate.tell_balances([_balance(0)])
    shut = Limits(
        gateways={"g-1": NEVER},
        merchants={"m-1": None},
        ordered=Policy(level=Level.CLOSED),
    )
    (verdict,) = gate.admit(_buyers(merchants=("m-1",)), shut)
    assert _told(verdict) == (False, "stock", True, 0, 0)


def test_a_shortage_is_told_after_levels_and_pauses_and_before_rates(valkey_url: str) -> None:
    """Who must wait anyway is told why; the rest may yet come back."""
    gate = open_gate(valkey_url)
    gate.tell_balances([_balance(0, 1)])
    busy = Limits(gateways={"g-1": NEVER}, merchants={"m-1": None})
    closed = Limits(ordered=Policy(level=Level.CLOSED))
    gate.admit(candidates(), busy)
    assert gate.admit(_buyers(), closed)[0].limit == "level"
    assert gate.admit(_buyers(merchants=("m-1",)), busy)[0].limit == "merchant"
    assert gate.admit(_buyers(), busy)[0].limit == "stock"


@pytest.mark.parametrize("leave", ["settle", "release"])
def test_units_return_once(valkey_url: str, leave: str) -> None:
    """However often, and in whatever company, an intent leaves."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    gate.tell_balances([_balance(5)])
    wanted = _buyers(5)
    gate.admit(wanted, NO_LIMITS)
    gone = [*_ids(wanted[:2]), wanted[0].intent_id, uuid7()]
    for _ in range(3):
        gate.settle(gone, b"") if leave == "settle" else gate.release(gone)
        assert _ahead(client) == {TEA: 3}
    assert admitted(gate.admit(_buyers(3), NO_LIMITS)) == [True, True, False]


def test_an_intent_that_is_admitted_twice_is_held_once(valkey_url: str) -> None:
    """A call whose reply was lost may be repeated."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    gate.tell_balances([_balance(5)])
    wanted = _buyers(2)
    gate.admit(wanted, NO_LIMITS)
    gate.admit(wanted, NO_LIMITS)
    assert _ahead(client) == {TEA: 2}
    gate.release(_ids(wanted))
    assert _ahead(client) == {}


def test_settling_moves_units_from_ahead_to_sold_in_one_step(valkey_url: str) -> None:
    """No moment between in which they count twice, or not at all."""
    gate = open_gate(valkey_url)
    gate.tell_balances([_balance(10)])
    wanted = _buyers(10)
    gate.admit(wanted, NO_LIMITS)
    gate.settle(_ids(wanted[:4]), b"", [_balance(6, version=2)])
    (verdict,) = gate.admit(_buyers(), NO_LIMITS)
    assert (verdict.admitted, verdict.ahead, verdict.left) == (False, 6, 6)


def test_the_highest_version_of_a_balance_stays(valkey_url: str) -> None:
    """Readings arrive in any order; within one telling, too."""
    gate = open_gate(valkey_url)
    gate.tell_balances([_balance(3, version=7), _balance(9, version=6)])
    gate.settle([], b"", [_balance(8, version=5)])
    assert admitted(gate.admit(_buyers(4), NO_LIMITS)) == [True, True, True, False]
    gate.tell_balances([_balance(4, version=8)])
    assert admitted(gate.admit(_buyers(2), NO_LIMITS)) == [True, False]


def _age(client: redis.Redis, seconds: float, key: str = TEA) -> None:
    """Let a balance have been told so long ago."""
    fields = msgspec.msgpack.decode(client.hget(NAMES.balances, key) or b"")
    fields[3] -= round(seconds * 1_000_000)
    client.hset(NAMES.balances, key, msgspec.msgpack.encode(fields))


def test_a_stale_balance_judges_nobody(valkey_url: str) -> None:
    """Whoever told it may be dead; units are held all the same, for when it is told again."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    gate.tell_balances([_balance(0), _balance(2, key=CUP)])
    _age(client, 2.5)
    assert not gate.admit(_buyers(), NO_LIMITS)[0].admitted
    for key in (TEA, CUP):
        _age(client, 3.1, key)
    assert admitted(gate.admit(_buyers(3), NO_LIMITS)) == [True] * 3
    assert admitted(gate.admit(_buyers(3, key=CUP), NO_LIMITS)) == [True] * 3
    assert _ahead(client) == {TEA: 3, CUP: 3}


def test_a_balance_told_again_is_fresh_again(valkey_url: str) -> None:
    """The same version is no news, but it still holds; an older one refreshes nothing."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    gate.tell_balances([_balance(0, version=5)])
    _age(client, 4)
    gate.tell_balances([_balance(7, version=4)])
    assert gate.admit(_buyers(), NO_LIMITS)[0].admitted
    gate.tell_balances([_balance(0, version=5)])
    assert not gate.admit(_buyers(), NO_LIMITS)[0].admitted


def test_how_old_a_balance_may_be_is_the_caller_s_number(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No policy lives in the library."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    gate.tell_balances([_balance(0)])
    _age(client, 8)
    monkeypatch.setattr(packing, "BALANCE_AGE_US_MAX", 9_000_000)
    assert not gate.admit(_buyers(), NO_LIMITS)[0].admitted


def test_versions_begin_anew_a_minute_after_the_last(valkey_url: str) -> None:
    """A database that was restored counts from lower ones, and must be believed in the end."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    gate.tell_balances([_balance(0, version=1_000)])
    for age, heard in ((50, False), (11, True)):
        _age(client, age)
        gate.tell_balances([_balance(1, version=3)])
        fields = msgspec.msgpack.decode(client.hget(NAMES.balances, TEA) or b"")
        assert (fields[0] == 3) is heard
    assert 50_000 < client.pttl(NAMES.balances) <= 60_000


def test_a_flush_forgets_balances_and_holds(valkey_url: str) -> None:
    """Then the database decides again; who leaves afterwards returns nothing twice."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    gate.tell_balances([_balance(3)])
    before = _buyers(3)
    gate.admit(before, NO_LIMITS)
    client.flushall()
    assert gate.reconcile(lambda: _ids(before)).finished
    assert all(admitted(gate.admit(_buyers(9), NO_LIMITS)))
    gate.tell_balances([_balance(3, version=2)])
    assert admitted(gate.admit(_buyers(4), NO_LIMITS)) == [True, True, True, False]
    gate.settle(_ids(before), b"", [_balance(3, version=3)])
    assert _ahead(client) == {TEA: 3}


def test_reconciling_returns_units_of_what_is_not_in_flight(valkey_url: str) -> None:
    """A process that died between admission and journal holds nothing for long."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    gate.tell_balances([_balance(10)])
    lost, still_open = _buyers(4), _buyers(6)
    gate.admit([*lost, *still_open], NO_LIMITS)
    report = gate.reconcile(lambda: _ids(still_open), grace_ms=0)
    assert (report.finished, report.removed, report.units_returned) == (True, 4, 4)
    assert _ahead(client) == {TEA: 6}
    client.srem(NAMES.in_flight, *[one.intent_id.bytes for one in still_open[:2]])
    report = gate.reconcile(list, open_count=lambda: 4)
    assert (report.compared_only, report.units_returned) == (True, 2)
    assert _ahead(client) == {TEA: 4}


def test_reconciling_corrects_counts_that_are_wrong(valkey_url: str) -> None:
    """A key that was deleted by hand does not skew the counts for ever."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    gate.tell_balances([_balance(10)])
    wanted = _buyers(6, amount=1)
    gate.admit(wanted, NO_LIMITS)
    client.hset(NAMES.ahead, mapping={TEA: 9, CUP: 4})
    gate.reconcile(list, open_count=lambda: 6)
    assert _ahead(client) == {TEA: 6}
    client.delete(NAMES.ahead)
    gate.release(_ids(wanted[:1]))
    gate.reconcile(list, open_count=lambda: 5)
    assert _ahead(client) == {TEA: 5}
    client.delete(NAMES.units)
    gate.reconcile(list, open_count=lambda: 5)
    assert _ahead(client) == {}


def test_held_units_are_looked_at_in_small_steps(valkey_url: str) -> None:
    """However many are held, no step holds the server for long."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    gate.tell_balances([_balance(100_000)])
    wanted = _buyers(8_000)
    gate.admit(wanted, NO_LIMITS)
    client.srem(NAMES.in_flight, *[one.intent_id.bytes for one in wanted[::2]])
    client.config_resetstat()
    assert gate.reconcile(list, open_count=lambda: 4_000).units_returned == 4_000
    assert client.info("commandstats")["cmdstat_hscan"]["calls"] >= 12
    assert _ahead(client) == {TEA: 4_000}


def test_out_of_memory_units_still_return_and_balances_are_heard(own_valkey: OwnValkey) -> None:
    """What leaves frees memory; nobody new is admitted."""
    gate, client = open_gate(own_valkey.url), redis.Redis.from_url(own_valkey.url)
    gate.tell_balances([_balance(10)])
    wanted = _buyers(3)
    gate.admit(wanted, NO_LIMITS)
    client.config_set("maxmemory", 1)
    with pytest.raises(GateUnreachable, match="maxmemory"):
        gate.admit(_buyers(), NO_LIMITS)
    gate.settle(_ids(wanted[:2]), b"told", [_balance(8, version=2)])
    gate.tell_balances([_balance(7, version=3)])
    gate.reconcile(list, grace_ms=0)
    assert _ahead(client) == {}
    client.config_set("maxmemory", 0)
    assert gate.admit(_buyers(8), NO_LIMITS)[-1].left == 7


def test_no_balances_cost_a_call_no_look_at_any(valkey_url: str) -> None:
    """One look whether there are any; of the units held, none."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    client.config_resetstat()
    wanted = _buyers(100)
    gate.admit(wanted, NO_LIMITS)
    gate.settle(_ids(wanted), b"")
    calls = client.info("commandstats")
    assert calls["cmdstat_exists"]["calls"] == 2
    assert not {f"cmdstat_{name}" for name in ("hget", "hmget", "hset", "hsetnx", "hdel")} & set(
        calls
    )


_deeds = st.lists(
    st.tuples(
        st.sampled_from(["admit", "admit", "settle", "release", "lose", "tell", "reconcile"]),
        st.integers(0, 9),
        st.sampled_from([TEA, CUP]),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(deeds=_deeds)
def test_what_is_ahead_is_what_those_in_flight_hold(
    valkey_of_module: str, deeds: list[tuple[str, int, str]]
) -> None:
    """Whatever happens in whatever order, no unit is counted twice or forgotten."""
    prefix = f"units-{uuid7()}"
    gate, client = open_gate(valkey_of_module, prefix), redis.Redis.from_url(valkey_of_module)
    gate.tell_balances([_balance(12), _balance(5, key=CUP)])
    left, holds, gone = {TEA: 12, CUP: 5}, dict[Any, tuple[str, int]](), list[Any]()
    for version, (deed, number, key) in enumerate(deeds, 2):
        if deed == "admit":
            _admit_as_expected(gate, _buyers(number % 4, number, key), left, holds)
        elif deed == "tell":
            gate.tell_balances([_balance(number + 1, key=key, version=version)])
            left[key] = number + 1
        elif deed == "reconcile":
            gate.reconcile(lambda: list(holds), grace_ms=0)
        else:
            some = list(holds)[:number]
            _leave(gate, client, prefix, deed, [*some, *gone])
            gone += some
            for one in some:
                del holds[one]
            if deed == "lose":
                gate.reconcile(lambda: list(holds), grace_ms=0)
        assert _ahead(client, prefix) == _sums(holds)


def _sums(holds: dict[Any, tuple[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for key, amount in holds.values():
        sums[key] = sums.get(key, 0) + amount
    return {key: amount for key, amount in sums.items() if amount}


def _admit_as_expected(
    gate: Gate, wanted: list[Candidate], left: dict[str, int], holds: dict[Any, tuple[str, int]]
) -> None:
    for candidate, verdict in zip(wanted, gate.admit(wanted, NO_LIMITS), strict=True):
        (units,) = candidate.units
        ahead = _sums(holds).get(units.key, 0)
        assert verdict.admitted is (left[units.key] - ahead >= units.amount)
        if verdict.admitted:
            holds[candidate.intent_id] = (units.key, units.amount)
        else:
            assert (verdict.ahead, verdict.left) == (ahead, left[units.key])


def _leave(gate: Gate, client: redis.Redis, prefix: str, deed: str, ids: list[Any]) -> None:
    if deed == "settle":
        gate.settle(ids, b"")
    elif deed == "release":
        gate.release(ids)
    elif ids:
        client.srem(f"{{{prefix}}}:in_flight", *[one.bytes for one in ids])
