"""The gate against a real Valkey: what it admits, what binds, and what it tells."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import redis
from gate_world import (
    NEVER,
    NO_LIMITS,
    Reference,
    Want,
    admitted,
    advance,
    candidates,
    limits,
    open_gate,
    server_time_us,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workers.contract.gate import CampaignLimits, Candidate, Limits, Quota, RateLimit, Verdict
from workers.contract.ids import uuid7
from workers.contract.names import gate_names
from workers.domain.overload import Level, Policy

LAYERS = ("user", "conversation", "gateway", "campaign", "sku")


def test_what_has_no_limit_is_admitted(valkey_url: str) -> None:
    """Limits that nobody stated do not bind."""
    verdicts = open_gate(valkey_url).admit(candidates(600), NO_LIMITS)
    assert all(admitted(verdicts))
    assert {(v.limit, v.retry_after_ms, v.user_quota, v.gateway_quota) for v in verdicts} == {
        (None, 0, None, None)
    }


def test_a_batch_may_be_empty(valkey_url: str) -> None:
    """Nothing asked, nothing answered."""
    assert open_gate(valkey_url).admit([], NO_LIMITS) == []


def test_a_burst_passes_at_once_and_then_the_rate(valkey_url: str) -> None:
    """In any time t a limit admits burst + rate * t at most, and no less to who keeps asking."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    rate = RateLimit(rate=50, burst=5)
    started_us = asked_us = server_time_us(client)
    count, missed = 0, 0.0
    while asked_us - started_us < 600_000:
        count += gate.admit(candidates(), limits(user=rate))[0].admitted
        pause_us, asked_us = server_time_us(client) - asked_us, server_time_us(client)
        missed += max(0, 50 * pause_us / 1_000_000 - 4)  # A busy machine kept us from asking.
    most = 5 + 50 * (asked_us - started_us) / 1_000_000
    assert most - missed - 4 <= count <= most


@pytest.mark.parametrize("layer", LAYERS)
def test_who_comes_back_when_told_is_admitted(valkey_url: str, layer: str) -> None:
    """A refusal names its layer, and its time is true: not before it, but then."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    asked = limits(**{layer: RateLimit(rate=0.0025, burst=2)})
    verdicts = gate.admit(candidates(3), asked)
    assert admitted(verdicts) == [True, True, False]
    assert verdicts[2].limit == layer
    assert verdicts[2].retry_after_ms == 400_000
    for seconds, fits in ((300, False), (100, True)):
        advance(client, "test", seconds)
        assert gate.admit(candidates(), asked)[0].admitted is fits


def test_refusals_of_one_call_are_told_to_queue(valkey_url: str) -> None:
    """The k-th refused finds room k intervals on: all who come back when told are admitted."""
    gate = open_gate(valkey_url)
    slow = RateLimit(rate=1, burst=1)
    verdicts = gate.admit(candidates(4), limits(user=slow))
    assert [round(v.retry_after_ms / 1_000) for v in verdicts] == [0, 1, 2, 3]


def test_the_layer_that_keeps_waiting_longest_is_named(valkey_url: str) -> None:
    """Who is told to come back must find every layer ready then."""
    gate = open_gate(valkey_url)
    asked = limits(user=RateLimit(rate=1, burst=1), sku=RateLimit(rate=0.1, burst=1))
    refused = gate.admit(candidates(2), asked)[1]
    assert refused.limit == "sku"
    assert 9_000 <= refused.retry_after_ms <= 10_000


def test_of_layers_that_wait_equally_long_the_caller_s_is_named(valkey_url: str) -> None:
    """First what the caller can do something about."""
    gate = open_gate(valkey_url)
    refused = gate.admit(candidates(2), limits(sku=NEVER, campaign=NEVER, user=NEVER))[1]
    assert refused.limit == "user"


def test_a_refused_intent_consumes_nothing(valkey_url: str) -> None:
    """All layers or none: what one layer refuses costs the others nothing."""
    gate = open_gate(valkey_url)
    asked = limits(
        user=RateLimit(rate=0.001, burst=3),
        conversation=RateLimit(rate=0.001, burst=3),
        campaign=RateLimit(rate=0.001, burst=3),
        sku=NEVER,
        gateway=RateLimit(rate=0.001, burst=3),
    )
    wanted = candidates(9, skus=("tea", "straw")) + candidates(2, skus=("cup",))
    verdicts = gate.admit(wanted, asked)
    assert admitted(verdicts) == [True, *[False] * 8, True, False]
    assert {v.limit for v in verdicts if not v.admitted} == {"sku"}
    assert verdicts[-1].user_quota is not None
    assert verdicts[-1].user_quota.remaining == 1
    assert verdicts[-1].gateway_quota is not None
    assert verdicts[-1].gateway_quota.remaining == 1
    assert gate.in_flight() == 2


def test_a_later_candidate_passes_an_earlier_one_that_is_refused(valkey_url: str) -> None:
    """One sold-out SKU or greedy user does not hold up the batch."""
    wanted = candidates(3, user_id="greedy") + candidates(user_id="modest")
    verdicts = open_gate(valkey_url).admit(wanted, limits(user=NEVER))
    assert admitted(verdicts) == [True, False, False, True]


def test_an_intent_counts_a_sku_once(valkey_url: str) -> None:
    """Two lines of one SKU are one intent."""
    gate = open_gate(valkey_url)
    asked = limits(sku=RateLimit(rate=0.001, burst=2))
    assert admitted(gate.admit(candidates(3, skus=("tea", "tea")), asked)) == [
        True,
        True,
        False,
    ]


def test_quotas_say_what_is_left_and_when_all_is_back(valkey_url: str) -> None:
    """The figures of the RateLimit headers, as they stand after the call."""
    gate = open_gate(valkey_url)
    user, gateway = RateLimit(rate=2, burst=5), RateLimit(rate=10, burst=100)
    verdict = gate.admit(candidates(3), limits(user=user, gateway=gateway))[0]
    assert verdict.user_quota is not None
    assert verdict.gateway_quota is not None
    assert (verdict.user_quota.limit, verdict.user_quota.remaining) == (user, 2)
    assert verdict.user_quota.reset_ms == 1_500
    assert (verdict.gateway_quota.remaining, verdict.gateway_quota.reset_ms) == (97, 300)


def test_a_quota_of_which_nothing_is_used_is_whole(valkey_url: str) -> None:
    """Each limit has its own, whoever is refused by something else."""
    gate = open_gate(valkey_url)
    assert gate.publish(Policy(level=Level.CLOSED), epoch=1, lease_ms=60_000)
    user, gateway = RateLimit(rate=2, burst=5), RateLimit(rate=10, burst=100)
    for verdict in gate.admit(candidates(2), limits(user=user, gateway=gateway)):
        assert verdict.user_quota == Quota(user, remaining=5, reset_ms=0)
        assert verdict.gateway_quota == Quota(gateway, remaining=100, reset_ms=0)


def test_limits_leave_no_keys_behind(valkey_url: str) -> None:
    """A limit's key expires when its backlog has passed: idle users cost no memory."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    three = RateLimit(rate=0.003, burst=5)
    asked = limits(user=three, gateway=three, sku=RateLimit(rate=0.002, burst=5))
    gate.admit(candidates(), asked)
    expiries_s = sorted(ttl for key in client.keys("*") if (ttl := client.ttl(key)) != -1)
    assert expiries_s == [pytest.approx(n, abs=60) for n in (333, 333, 500)]


def test_a_limit_that_was_changed_binds_by_its_new_numbers(valkey_url: str) -> None:
    """A backlog of the old policy keeps nobody waiting longer than the new one could."""
    gate = open_gate(valkey_url)
    gate.admit(candidates(), limits(user=NEVER))
    faster = limits(user=RateLimit(rate=0.02, burst=1))
    refused = gate.admit(candidates(), faster)[0]
    assert not refused.admitted
    assert refused.retry_after_ms <= 50_000


def test_a_limit_that_was_idle_has_its_burst_and_no_more(valkey_url: str) -> None:
    """Unused time is not saved up, even if a key outlived its time."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    asked = limits(gateway=RateLimit(rate=0.1, burst=3))
    gate.admit(candidates(), asked)
    client.set("{test}:gateway:g-1", server_time_us(client) - 3_600 * 1_000_000)
    assert sum(admitted(gate.admit(candidates(10), asked))) == 3


def test_a_clock_set_back_keeps_nobody_out_for_longer_than_a_burst(valkey_url: str) -> None:
    """A time from the future is worth a full backlog, not an hour's wait."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    asked = limits(gateway=RateLimit(rate=10, burst=3))
    client.set("{test}:gateway:g-1", server_time_us(client) + 3_600 * 1_000_000)
    assert gate.admit(candidates(), asked)[0].retry_after_ms <= 100


def test_users_of_two_gateways_or_campaigns_never_meet(valkey_url: str) -> None:
    """A gateway's user ids are its own; limits of a campaign are that campaign's."""
    gate = open_gate(valkey_url)
    layers = CampaignLimits(user=NEVER, conversation=NEVER)
    asked = Limits({"c-1": layers, "c-2": layers})
    scopes = itertools.product(("g-1", "g-2"), ("c-1", "c-2"))
    wanted = [candidate for g, c in scopes for candidate in candidates(gateway_id=g, campaign_id=c)]
    assert all(admitted(gate.admit(wanted, asked)))
    assert not any(admitted(gate.admit(wanted, asked)))


_hostile = st.text(alphabet=st.sampled_from(list("ab:{}%/ \x00\n\r*?[]\\\"'-1١é€漢🧋")), max_size=6)


@settings(max_examples=60, deadline=None)
@given(triples=st.sets(st.tuples(_hostile, _hostile, _hostile), min_size=2, max_size=12))
@example(triples={("a", "bc", "d"), ("ab", "c", "d"), ("a", "b", "cd"), ("", "ab", "cd")})
@example(triples={("1:a", "b", "c"), ("1", "a1:b", "c"), ("a1:b", "", "c"), ("a", "b1:c", "")})
def test_no_two_names_share_a_limit(
    valkey_of_module: str, triples: set[tuple[str, str, str]]
) -> None:
    """Whatever characters names hold, each (gateway, campaign, user) has a limit of its own."""
    gate = open_gate(valkey_of_module, f"names-{uuid7()}")
    layers = CampaignLimits(user=NEVER, conversation=NEVER)
    asked = Limits({campaign: layers for _, campaign, _ in triples})
    wanted = [
        Candidate(uuid7(), gateway, user, campaign, user, ()) for gateway, campaign, user in triples
    ]
    # One by one: within a call, two names of one key would still count apart.
    assert all(gate.admit([one], asked)[0].admitted for one in wanted)
    assert not any(admitted(gate.admit(wanted, asked)))


@settings(max_examples=60, deadline=None)
@given(pairs=st.sets(st.tuples(_hostile, _hostile), min_size=2, max_size=12))
@example(pairs={("a", "b:c"), ("a:b", "c"), ("1:a", "b"), ("1", "a:b"), ("", "1:a:b")})
def test_no_two_skus_share_a_limit(valkey_of_module: str, pairs: set[tuple[str, str]]) -> None:
    """Whatever characters names hold, each (campaign, SKU) has a limit of its own."""
    gate = open_gate(valkey_of_module, f"skus-{uuid7()}")
    asked = Limits({campaign: CampaignLimits(sku=NEVER) for campaign, _ in pairs})
    wanted = [Candidate(uuid7(), "g", "u", campaign, None, (sku,)) for campaign, sku in pairs]
    # One by one: within a call, two names of one key would still count apart.
    assert all(gate.admit([one], asked)[0].admitted for one in wanted)
    assert not any(admitted(gate.admit(wanted, asked)))


def test_very_long_names_are_bounded_in_valkey(valkey_url: str) -> None:
    """A user or a conversation costs the same memory, however long its name; no name is shown."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    long = "漢" * 20_000
    gate.admit(
        candidates(user_id=long, conversation_id=long), limits(user=NEVER, conversation=NEVER)
    )
    assert max(len(key) for key in client.keys("*")) < 100


def test_ten_thousand_candidates_are_counted_to_the_last(valkey_url: str) -> None:
    """In batches of any size, exactly what the limits leave is admitted, and all of it in flight."""
    gate = open_gate(valkey_url)
    asked = limits(user=RateLimit(rate=0.001, burst=2), campaign=RateLimit(rate=0.01, burst=7_000))
    wanted = [
        candidates(user_id=f"u-{number % 4_000}", conversation_id=None)[0]
        for number in range(10_000)
    ]
    verdicts: list[Verdict] = []
    for size in itertools.cycle((1, 7, 500, 1_203)):
        if len(verdicts) == len(wanted):
            break
        verdicts += gate.admit(wanted[len(verdicts) : len(verdicts) + size], asked)
    counts = {
        limit: sum(v.limit == limit for v in verdicts) for limit in (None, "user", "campaign")
    }
    assert counts[None] == 7_000
    assert sum(counts.values()) == 10_000
    assert gate.in_flight() == 7_000


def test_the_in_flight_bound_holds(valkey_url: str) -> None:
    """No more than `in_flight_max` wait for their outcome; the rest is refused as in_flight."""
    gate = open_gate(valkey_url, in_flight_max=5)
    verdicts = gate.admit(candidates(8), NO_LIMITS)
    assert admitted(verdicts) == [True] * 5 + [False] * 3
    assert {(v.limit, v.reconciled) for v in verdicts[5:]} == {("in_flight", True)}
    assert all(v.retry_after_ms > 0 for v in verdicts[5:])
    assert {v.in_flight for v in verdicts} == {5}


def test_a_caller_s_own_limit_is_named_before_the_bound(valkey_url: str) -> None:
    """Who is over their own limit hears so, however full we are."""
    gate = open_gate(valkey_url, in_flight_max=1)
    verdicts = gate.admit(candidates(2), limits(user=NEVER))
    assert verdicts[1].limit == "user"


def test_settling_twice_is_settling_once(valkey_url: str) -> None:
    """In-flight is a set: a repeated or a foreign id frees no place twice."""
    gate = open_gate(valkey_url, in_flight_max=5)
    first = candidates(5)
    gate.admit(first, NO_LIMITS)
    ids = [candidate.intent_id for candidate in first]
    for _ in range(2):
        gate.settle([*ids[:2], ids[0], uuid7()], b"")
    assert gate.in_flight() == 3
    assert admitted(gate.admit(candidates(3), NO_LIMITS)) == [True, True, False]


def test_releasing_frees_places(valkey_url: str) -> None:
    """An admission that was not journalled is given back; more ids than one call takes, too."""
    gate = open_gate(valkey_url)
    wanted = candidates(12_000)
    gate.admit(wanted, NO_LIMITS)
    gate.release([candidate.intent_id for candidate in wanted[:11_999]])
    assert gate.in_flight() == 1


def test_settling_announces_once_on_the_outcome_channel(valkey_url: str) -> None:
    """One call takes a batch out of flight and tells it, however large it is."""
    gate = open_gate(valkey_url)
    listener: Any = redis.Redis.from_url(valkey_url)  # redis-py leaves pub/sub untyped
    with listener.pubsub() as channel:
        channel.subscribe(gate_names("test").outcome_channel)
        assert channel.get_message(timeout=10)
        wanted = candidates(6_000)
        gate.admit(wanted, NO_LIMITS)
        gate.settle([candidate.intent_id for candidate in wanted], b"\x00outcomes\xff")
        gate.settle([uuid7()], b"")
        gate.settle([], b"the next")
        heard = [channel.get_message(timeout=10) for _ in range(2)]
        assert [one and one["data"] for one in heard] == [b"\x00outcomes\xff", b"the next"]
    assert gate.in_flight() == 0


_rates = st.builds(
    RateLimit, rate=st.sampled_from([1 / 1_000, 1 / 2_000, 1 / 3_000]), burst=st.integers(1, 6)
)
_candidates = st.tuples(
    st.sampled_from(["u1", "u2"]),
    st.sampled_from([None, "t1", "t2"]),
    st.sampled_from([("s1",), ("s2",), ("s1", "s2"), ()]),
)
_steps = st.lists(
    st.one_of(
        st.lists(_candidates, min_size=1, max_size=12),
        st.integers(1, 12).map(lambda halves: halves * 500),
    ),
    max_size=8,
)


@settings(max_examples=80, deadline=None)
@given(
    layers=st.fixed_dictionaries({}, optional=dict.fromkeys(LAYERS, _rates)),
    steps=_steps,
)
def test_the_limits_are_those_of_the_standard(
    valkey_of_module: str, layers: dict[str, RateLimit], steps: list[Any]
) -> None:
    """Batches and pauses of any kind end as in the textbook's algorithm, layer by layer."""
    prefix = f"gcra-{uuid7()}"
    gate, client = open_gate(valkey_of_module, prefix), redis.Redis.from_url(valkey_of_module)
    asked = limits(**layers)
    reference = Reference()
    for step in steps:
        if isinstance(step, int):
            advance(client, prefix, step)
            reference.now_us += step * 1_000_000
            continue
        batch = [Candidate(uuid7(), "g-1", user, "c-1", talk, skus) for user, talk, skus in step]
        verdicts = gate.admit(batch, asked)
        expected = reference.admit([_wants(candidate, layers) for candidate in batch])
        for verdict, waits_us in zip(verdicts, expected, strict=True):
            _assert_told(verdict, waits_us)


def _assert_told(verdict: Verdict, waits_us: dict[str, float]) -> None:
    """Real time passes as well, but far less than a step of these limits: 500 seconds."""
    assert verdict.admitted is (not waits_us)
    if verdict.limit is not None:
        longest_us = max(waits_us.values())
        assert longest_us - 100e6 <= verdict.retry_after_ms * 1_000 <= longest_us
        assert waits_us[verdict.limit] >= longest_us - 100e6


def _wants(candidate: Candidate, layers: dict[str, RateLimit]) -> list[Want]:
    owners = {
        "user": [candidate.user_id],
        "conversation": [candidate.conversation_id] if candidate.conversation_id else [],
        "gateway": ["g-1"],
        "campaign": ["c-1"],
        "sku": list(candidate.skus),
    }
    return [
        (layer, (layer, owner), layers[layer])
        for layer in LAYERS
        if layer in layers
        for owner in owners[layer]
    ]
