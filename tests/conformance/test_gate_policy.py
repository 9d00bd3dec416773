"""The governor's word at the gate: who may give it, how long it holds, what outranks it."""

from __future__ import annotations

import msgspec
import pytest
import redis
from gate_world import (
    NO_LIMITS,
    OwnValkey,
    admitted,
    advance,
    await_server_ms,
    candidates,
    lapse,
    limits,
    open_gate,
    server_time_us,
)
from msgspec.structs import replace

from workers.contract.gate import Gate, Limits, Published, RateLimit, Verdict
from workers.domain.overload import IntentClass, Level, Policy

LEASE_MS = 60_000
CLOSED = Policy(level=Level.CLOSED, reason="postgres")
LEAD_KEY, POLICY_KEY = "{test}:lead", "{test}:policy"


def _publish(gate: Gate, policy: Policy) -> None:
    assert gate.publish(policy, epoch=1, lease_ms=LEASE_MS)


def _standing(verdict: Verdict) -> tuple[bool, str | None, Level, bool]:
    return verdict.admitted, verdict.limit, verdict.level, verdict.policy_fresh


def test_without_a_governor_only_limits_hold(valkey_url: str) -> None:
    """A gate that never heard of a policy is open, and says that nobody governs."""
    gate = open_gate(valkey_url)
    classes = [candidates(intent_class=one)[0] for one in IntentClass]
    assert {_standing(v) for v in gate.admit(classes, NO_LIMITS)} == {
        (True, None, Level.NORMAL, False)
    }
    assert gate.policy() == Published(None, 0, 0, in_flight=4, reconciled=True)


def test_what_is_published_is_read_back_whole(valkey_url: str) -> None:
    """Who asks the gate gets the policy as the governor made it, with its epoch and lease."""
    gate = open_gate(valkey_url)
    policy = Policy(
        level=Level.SHEDDING,
        reason="wait",
        since_ms=1_770_343_200_123,
        until_ms=1_770_343_300_000,
        admitted_per_s=812.5,
        service_per_s=900.25,
        predicted_wait_ms=8_123,
        wait_max_ms=9_000,
    )
    assert gate.publish(policy, epoch=1_770_343_200_123, lease_ms=3_000)
    published = gate.policy()
    assert published.policy == published.current == policy
    assert published.epoch == 1_770_343_200_123
    assert 2_000 < published.lease_left_ms <= 3_000


@pytest.mark.parametrize("level", Level)
def test_each_level_closes_what_it_says(valkey_url: str, level: Level) -> None:
    """Throttled pauses issuance, shedding bounds orders, closed takes nothing."""
    gate = open_gate(valkey_url)
    _publish(gate, Policy(level=level))
    order, issuance = (
        gate.admit(candidates(intent_class=one), NO_LIMITS)[0]
        for one in (IntentClass.REDEMPTION, IntentClass.ISSUANCE)
    )
    open_to = {Level.NORMAL: (True, True), Level.CLOSED: (False, False)}
    assert (order.admitted, issuance.admitted) == open_to.get(level, (True, False))
    for verdict in (order, issuance):
        assert verdict.limit == (None if verdict.admitted else "level")
        assert (verdict.level, verdict.policy_fresh, verdict.retry_after_ms) == (level, True, 0)


def test_a_policy_holds_as_long_as_its_lease(valkey_url: str) -> None:
    """A governor that died keeps nothing closed; its last word can be read, but is not in force."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    _publish(gate, CLOSED)
    assert _standing(gate.admit(candidates(), NO_LIMITS)[0]) == (
        False,
        "level",
        Level.CLOSED,
        True,
    )
    lapse(client, POLICY_KEY)
    assert _standing(gate.admit(candidates(), NO_LIMITS)[0]) == (True, None, Level.NORMAL, False)
    published = gate.policy()
    assert (published.policy, published.current, published.lease_left_ms) == (CLOSED, None, 0)
    _publish(gate, CLOSED)
    assert not gate.admit(candidates(), NO_LIMITS)[0].admitted


def test_a_lease_ends_by_the_server_s_clock(valkey_url: str) -> None:
    """Of the policy and of the lead; nobody has to end it."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    assert gate.take_lead("one", 1) is not None
    assert gate.publish(CLOSED, epoch=10**13, lease_ms=1)
    await_server_ms(client, server_time_us(client) // 1_000 + 1)
    assert gate.admit(candidates(), NO_LIMITS)[0].admitted
    assert gate.take_lead("two", LEASE_MS) == 10**13 + 1


def test_a_lapsed_policy_leaves_the_limits_in_force(valkey_url: str) -> None:
    """Nobody governs; the fixed bounds do."""
    gate, client = open_gate(valkey_url, in_flight_max=3), redis.Redis.from_url(valkey_url)
    _publish(gate, CLOSED)
    lapse(client, POLICY_KEY)
    verdicts = gate.admit(candidates(5), NO_LIMITS)
    assert admitted(verdicts) == [True] * 3 + [False] * 2
    assert verdicts[-1].limit == "in_flight"


@pytest.mark.parametrize("level", [Level.NORMAL, Level.SHEDDING])
def test_a_lapsed_policy_goes_on_bounding_the_wait(valkey_url: str, level: Level) -> None:
    """Its level and its rate hold no longer; what it measured does, and the wait is told by it."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    policy = Policy(level=level, admitted_per_s=1, service_per_s=100, wait_max_ms=1_000)
    _publish(gate, policy)
    lapse(client, POLICY_KEY)
    verdicts = gate.admit(candidates(150), NO_LIMITS)
    assert admitted(verdicts) == [True] * 101 + [False] * 49
    assert {_standing(v) for v in verdicts[101:]} == {(False, "deadline", Level.NORMAL, False)}
    assert {v.predicted_wait_ms for v in verdicts} == {1_010}
    assert [v.retry_after_ms for v in verdicts[101:103]] == [10, 20]


@pytest.mark.parametrize(("lapsed", "fits"), [(False, 1), (True, 41)])
def test_a_last_rate_near_zero_closes_nothing_once_it_has_lapsed(
    valkey_url: str, lapsed: bool, fits: int
) -> None:
    """What nobody measures any more counts for what is trusted where nothing is known."""
    gate = open_gate(valkey_url, unreconciled_rate=20)
    client = redis.Redis.from_url(valkey_url)
    _publish(gate, Policy(service_per_s=0.001, wait_max_ms=2_000))
    if lapsed:
        lapse(client, POLICY_KEY)
    verdicts = gate.admit(candidates(60), NO_LIMITS)
    assert sum(admitted(verdicts)) == fits
    assert verdicts[-1].limit == "deadline"
    assert verdicts[0].predicted_wait_ms == (2_050 if lapsed else 1_000_000)


@pytest.mark.parametrize("service", [None, 0.0])
def test_a_lapsed_policy_that_knew_no_rate_tells_no_wait(
    valkey_url: str, service: float | None
) -> None:
    """As a fresh one: what was never measured is not made up, and no longest wait judges by it."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    _publish(gate, Policy(service_per_s=service, wait_max_ms=1))
    lapse(client, POLICY_KEY)
    verdicts = gate.admit(candidates(100), NO_LIMITS)
    assert {(v.admitted, v.predicted_wait_ms) for v in verdicts} == {(True, 0)}


def test_an_ordered_level_takes_no_admitted_rate_of_a_lapsed_policy(valkey_url: str) -> None:
    """That rate was steered by samples which nobody takes any more."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    _publish(gate, Policy(admitted_per_s=1))
    lapse(client, POLICY_KEY)
    order = Limits(ordered=Policy(level=Level.SHEDDING))
    assert all(admitted(gate.admit(candidates(50), order)))


def test_an_operator_s_rate_outranks_a_lapsed_one(valkey_url: str) -> None:
    """Lower than what is trusted by itself, too: it is somebody's word."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    _publish(gate, Policy(service_per_s=100, wait_max_ms=1_000))
    lapse(client, POLICY_KEY)
    order = Limits(ordered=Policy(service_per_s=5))
    assert sum(admitted(gate.admit(candidates(50), order))) == 6


def test_a_flush_forgets_the_policy_and_the_next_one_is_heard(valkey_url: str) -> None:
    """The small rate of a gate that knows nothing stands in until both are known again."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    _publish(gate, CLOSED)
    client.flushall()
    verdicts = gate.admit(candidates(50), NO_LIMITS)
    assert sum(admitted(verdicts)) == 2
    assert {(v.level, v.policy_fresh, v.reconciled) for v in verdicts} == {
        (Level.NORMAL, False, False)
    }
    _publish(gate, CLOSED)
    assert not gate.admit(candidates(), NO_LIMITS)[0].admitted


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("governed", [False, True])
def test_what_an_operator_ordered_outranks_what_is_published(
    valkey_url: str, level: Level, governed: bool
) -> None:
    """Tighter or looser, and with no governor at all."""
    gate = open_gate(valkey_url)
    if governed:
        _publish(gate, CLOSED if level is not Level.CLOSED else Policy())
    wanted = [candidates(intent_class=one)[0] for one in (IntentClass.ORDER, IntentClass.ISSUANCE)]
    verdicts = gate.admit(wanted, Limits(ordered=Policy(level=level, reason="operator")))
    assert admitted(verdicts) == [level is not Level.CLOSED, level is Level.NORMAL]
    assert {(v.level, v.policy_fresh) for v in verdicts} == {(level, governed)}


def test_an_order_ends_when_it_said_it_would(valkey_url: str) -> None:
    """By the gate's clock: a caller that cannot read the orders any more keeps nothing closed."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    now_ms = server_time_us(client) // 1_000
    for until_ms, holds in ((now_ms + 60_000, True), (now_ms - 1, False)):
        order = Policy(level=Level.CLOSED, until_ms=until_ms)
        assert gate.admit(candidates(), Limits(ordered=order))[0].admitted is not holds


def test_numbers_that_an_order_leaves_open_are_the_published_ones(valkey_url: str) -> None:
    """An operator says how far to close; how much fits through, the governor has measured."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    _publish(gate, Policy(admitted_per_s=10, service_per_s=50, wait_max_ms=10_000))
    shed = Limits(ordered=Policy(level=Level.SHEDDING))
    verdicts = gate.admit(candidates(20), shed)
    assert 1 <= sum(admitted(verdicts)) < 5
    assert verdicts[-1].limit == "level"
    assert verdicts[0].predicted_wait_ms == sum(admitted(verdicts)) * 1_000 / 50
    advance(client, "test", 2)
    own = Limits(ordered=Policy(level=Level.SHEDDING, admitted_per_s=1e6, service_per_s=1e5))
    assert all(admitted(gate.admit(candidates(20), own)))


def test_the_shorter_of_two_longest_waits_holds(valkey_url: str) -> None:
    """An order that says nothing of waits does not lengthen them."""
    gate = open_gate(valkey_url)
    _publish(gate, Policy(service_per_s=10, wait_max_ms=500))
    assert sum(admitted(gate.admit(candidates(20), Limits(ordered=Policy())))) == 6
    short = Limits(ordered=Policy(wait_max_ms=100))
    assert sum(admitted(gate.admit(candidates(20), short))) == 0


def test_who_would_be_served_too_late_is_refused(valkey_url: str) -> None:
    """The predicted wait counts whom this call admits; a wait of just the deadline is in time."""
    gate = open_gate(valkey_url)
    _publish(gate, Policy(service_per_s=100, wait_max_ms=60_000))
    wanted = candidates(150, ttl_ms=1_000)
    verdicts = gate.admit(wanted, NO_LIMITS)
    assert admitted(verdicts) == [True] * 101 + [False] * 49
    assert {v.predicted_wait_ms for v in verdicts} == {1_010}
    assert {v.limit for v in verdicts[101:]} == {"deadline"}
    assert [v.retry_after_ms for v in verdicts[101:104]] == [10, 20, 30]
    gate.settle([one.intent_id for one in wanted[:3]], b"")
    assert admitted(gate.admit(candidates(4, ttl_ms=1_000), NO_LIMITS)) == [True] * 3 + [False]


def test_each_candidate_has_its_own_deadline_up_to_the_longest_wait(valkey_url: str) -> None:
    """Patience lets one in where haste is refused; beyond wait_max_ms it helps nobody."""
    gate = open_gate(valkey_url)
    _publish(gate, Policy(service_per_s=100, wait_max_ms=2_000))
    gate.admit(candidates(100), NO_LIMITS)
    wanted = [candidates(ttl_ms=ttl)[0] for ttl in (999, 1_000, 5_000, 1_000)]
    assert admitted(gate.admit(wanted, NO_LIMITS)) == [False, True, True, False]
    gate.admit(candidates(99), NO_LIMITS)
    assert not any(admitted(gate.admit(candidates(2, ttl_ms=600_000), NO_LIMITS)))


def test_without_a_service_rate_no_wait_is_predicted(valkey_url: str) -> None:
    """By what was not measured yet, or is nothing, no longest wait judges anybody."""
    gate = open_gate(valkey_url)
    for service in (None, 0.0):
        _publish(gate, Policy(service_per_s=service, wait_max_ms=0))
        verdicts = gate.admit(candidates(20), NO_LIMITS)
        assert all(admitted(verdicts))
        assert {v.predicted_wait_ms for v in verdicts} == {0}


@pytest.mark.parametrize(
    ("policy", "lapsed"),
    [(None, False), (Policy(), False), (Policy(), True), (Policy(service_per_s=0.0), True)],
)
def test_before_the_first_measure_each_deadline_bounds_the_queue(
    valkey_url: str, policy: Policy | None, lapsed: bool
) -> None:
    """By the rate that is trusted where nothing is known; what is guessed is told to nobody."""
    gate, client = open_gate(valkey_url, unreconciled_rate=20), redis.Redis.from_url(valkey_url)
    if policy is not None:
        _publish(gate, policy)
        if lapsed:
            lapse(client, POLICY_KEY)
    verdicts = gate.admit(candidates(60, ttl_ms=1_000), NO_LIMITS)
    assert admitted(verdicts) == [True] * 21 + [False] * 39
    assert {v.limit for v in verdicts[21:]} == {"deadline"}
    assert [v.retry_after_ms for v in verdicts[21:23]] == [50, 100]
    assert {v.predicted_wait_ms for v in verdicts} == {0}
    patient = gate.admit(candidates(30, ttl_ms=2_000), NO_LIMITS)
    assert admitted(patient) == [True] * 20 + [False] * 10


def test_the_deadline_is_told_only_if_it_keeps_waiting_longest(valkey_url: str) -> None:
    """Who comes back when told finds every layer ready."""
    gate = open_gate(valkey_url)
    _publish(gate, Policy(service_per_s=1, wait_max_ms=1_000))
    slow = limits(user=RateLimit(0.1, 1))
    assert gate.admit(candidates(3), slow)[2].limit == "user"
    fast = limits(user=RateLimit(1_000, 1))
    assert gate.admit(candidates(3, user_id="u-2"), fast)[2].limit == "deadline"


def test_one_leads_and_the_others_wait(valkey_url: str) -> None:
    """A lease is renewed by its owner with the same epoch, and given to nobody else meanwhile."""
    gate = open_gate(valkey_url)
    epoch = gate.take_lead("one", 60_000)
    assert epoch is not None
    assert gate.take_lead("two", 60_000) is None
    assert gate.take_lead("one", 60_000) == epoch


def test_a_lease_that_lapsed_is_anybody_s_at_a_higher_epoch(valkey_url: str) -> None:
    """Its former owner leads anew as well, if it comes first."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    epochs = []
    for owner in ("one", "two", "two"):
        epochs.append(gate.take_lead(owner, LEASE_MS))
        lapse(client, LEAD_KEY)
    assert None not in epochs
    assert epochs == sorted(set(epochs))


def test_an_old_leader_s_policy_is_refused(valkey_url: str) -> None:
    """A governor that slept through its lease cannot undo what its successor said, or will say."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    old = gate.take_lead("old", LEASE_MS)
    lapse(client, LEAD_KEY)
    new = gate.take_lead("new", 60_000)
    assert old is not None
    assert new is not None
    assert not gate.publish(CLOSED, epoch=old, lease_ms=LEASE_MS)
    assert gate.policy().policy is None
    assert gate.publish(Policy(), epoch=new, lease_ms=LEASE_MS)
    assert not gate.publish(CLOSED, epoch=old, lease_ms=LEASE_MS)
    assert gate.policy().policy == Policy()


def test_a_lower_epoch_is_refused_without_any_leader_known(valkey_url: str) -> None:
    """What was published fences by itself."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    assert gate.publish(Policy(), epoch=7, lease_ms=LEASE_MS)
    lapse(client, POLICY_KEY)
    assert not gate.publish(CLOSED, epoch=6, lease_ms=LEASE_MS)
    assert gate.publish(CLOSED, epoch=7, lease_ms=LEASE_MS)
    assert client.exists("{test}:lead") == 0


def test_epochs_grow_across_a_flush(valkey_url: str) -> None:
    """The next leader fences all that were before, though the gate has forgotten them."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    before = gate.take_lead("one", 60_000)
    assert before is not None
    await_server_ms(client, before)
    client.flushall()
    after = gate.take_lead("two", 60_000)
    assert after is not None
    assert after > before
    assert not gate.publish(CLOSED, epoch=before, lease_ms=LEASE_MS)


def test_an_epoch_from_a_clock_that_ran_ahead_is_outgrown(valkey_url: str) -> None:
    """Epochs grow by one where time does not make them."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    assert gate.publish(Policy(), epoch=10**13, lease_ms=LEASE_MS)
    assert gate.take_lead("one", LEASE_MS) == 10**13 + 1
    lapse(client, LEAD_KEY)
    assert gate.take_lead("two", LEASE_MS) == 10**13 + 2


def test_leases_of_a_clock_that_was_set_back_count_as_lapsed(valkey_url: str) -> None:
    """Else a step of the clock would keep a dead leader, and its policy, for as long as the step."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    lease_us = 3_000_000
    for ends_us, lapsed in ((lease_us - 1_000, False), (3_600_000_000, True)):
        lease = [5, server_time_us(client) + ends_us, lease_us]
        client.set("{test}:lead", msgspec.msgpack.encode([*lease, "one"]))
        client.set("{test}:policy", msgspec.msgpack.encode([*lease, 3, -1, -1, 1_000, ""]))
        assert gate.admit(candidates(), NO_LIMITS)[0].admitted is lapsed
        assert (gate.policy().lease_left_ms == 0) is lapsed
        assert (gate.take_lead("two", 3_000) is not None) is lapsed


def test_what_is_no_policy_under_its_key_counts_as_none(valkey_url: str) -> None:
    """Rubbish there does not stop the gate, and the next policy replaces it."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    for rubbish in (b"", b"\xc1", msgspec.msgpack.encode([1, 2])):
        client.set("{test}:policy", rubbish)
        client.set("{test}:lead", rubbish)
        assert gate.admit(candidates(), NO_LIMITS)[0].admitted
        assert gate.policy().policy is None
    epoch = gate.take_lead("one", 3_000)
    assert epoch is not None
    assert gate.publish(CLOSED, epoch=epoch, lease_ms=3_000)


def test_a_server_out_of_memory_still_hears_the_governor(own_valkey: OwnValkey) -> None:
    """Closing, and telling so, must work when nothing else does."""
    gate, client = open_gate(own_valkey.url), redis.Redis.from_url(own_valkey.url)
    client.config_set("maxmemory", 1)
    epoch = gate.take_lead("one", 3_000)
    assert epoch is not None
    assert gate.publish(CLOSED, epoch=epoch, lease_ms=3_000)
    assert gate.policy().current == CLOSED


def test_a_paused_merchant_takes_no_orders(valkey_url: str) -> None:
    """Whatever room there is; the others sell on, and who is not named has no limit."""
    gate = open_gate(valkey_url)
    rules = Limits(merchants={"shut": None, "open": RateLimit(100, 100)})
    wanted = [
        candidates(merchants=merchants)[0]
        for merchants in (("shut",), ("open",), ("open", "shut"), ("unnamed",), ())
    ]
    verdicts = gate.admit(wanted, rules)
    assert admitted(verdicts) == [False, True, False, True, True]
    assert (verdicts[0].limit, verdicts[0].retry_after_ms) == ("merchant", 0)
    busy = replace(rules, gateways={"g-1": RateLimit(0.001, 1)})
    assert [v.limit for v in gate.admit(candidates(2, merchants=("shut",)), busy)] == [
        "merchant",
        "merchant",
    ]


def test_a_merchant_takes_what_its_kitchen_can(valkey_url: str) -> None:
    """One limit over all campaigns and gateways; an order counts once, however many lines."""
    gate = open_gate(valkey_url)
    rules = Limits(merchants={"m-1": RateLimit(10, 3), "m-2": RateLimit(10, 100)})
    wanted = [
        candidates(gateway_id=f"g-{n}", campaign_id=f"c-{n}", merchants=("m-1", "m-2", "m-1"))[0]
        for n in range(5)
    ]
    verdicts = gate.admit(wanted, rules)
    assert admitted(verdicts) == [True] * 3 + [False] * 2
    assert [(v.limit, v.retry_after_ms) for v in verdicts[3:]] == [
        ("merchant", 100),
        ("merchant", 200),
    ]
    assert admitted(gate.admit(candidates(97, merchants=("m-2",)), rules)) == [True] * 97
    assert gate.admit(candidates(merchants=("m-2",)), rules)[0].limit == "merchant"
