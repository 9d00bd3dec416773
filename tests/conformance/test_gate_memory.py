"""The gate's memory of what is in flight: lost by the server, rebuilt from the open intents."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
import redis
from gate_world import (
    NO_LIMITS,
    OwnValkey,
    admitted,
    advance,
    aged_candidates,
    await_server_ms,
    candidates,
    open_gate,
    server_time_us,
)

from workers.contract.gate import LIBRARY_VERSION, Gate, open_client
from workers.contract.ids import uuid7, uuid7_many
from workers.contract.names import gate_names

NAMES = gate_names("test")
OLD = UUID("01900000-0000-7000-8000-000000000000")  # Made in June 2024.


def _in_flight(client: redis.Redis) -> set[UUID]:
    members: Any = client.smembers(NAMES.in_flight)
    return {UUID(bytes=member) for member in members}


def _is_slow(gate: Gate) -> bool:
    """Whether a large batch meets the unreconciled rate (20 a second: 2 at once)."""
    verdicts = gate.admit(candidates(50), NO_LIMITS)
    slow = sum(admitted(verdicts)) <= 2
    assert slow or all(admitted(verdicts))
    assert {v.reconciled for v in verdicts} == {not slow}
    assert gate.reconciled() is not slow
    if slow:
        assert verdicts[-1].limit == "in_flight"
        assert 0 < verdicts[-1].retry_after_ms <= 1_000
    return slow


def test_a_gate_that_knows_nothing_admits_its_small_rate_only(valkey_url: str) -> None:
    """At the start nobody knows how much is in flight: a trickle passes until somebody says."""
    gate, client = open_gate(valkey_url, reconciled=False), redis.Redis.from_url(valkey_url)
    assert _is_slow(gate)
    advance(client, "test", 0.1)
    assert sum(admitted(gate.admit(candidates(50), NO_LIMITS))) == 2
    assert gate.reconcile(list).finished
    assert not _is_slow(gate)


def test_a_flush_slows_the_gate_until_it_is_reconciled(valkey_url: str) -> None:
    """FLUSHALL forgets what is in flight; the open intents bring it back, and full speed."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    open_ids = uuid7_many(3_000)
    client.flushall()
    assert _is_slow(gate)
    report = gate.reconcile(lambda: open_ids)
    assert (report.finished, report.added) == (True, 3_000)
    assert _in_flight(client) >= set(open_ids)
    assert not _is_slow(gate)


def test_a_lost_library_is_loaded_again_and_counts_as_lost_memory(valkey_url: str) -> None:
    """FUNCTION FLUSH costs speed for a moment, never an answer."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    client.function_flush()
    assert _is_slow(gate)
    assert gate.reconcile(list).finished
    assert not _is_slow(gate)


def test_a_restart_counts_as_lost_memory_though_the_keys_are_back(own_valkey: OwnValkey) -> None:
    """What a restarted server remembers may be old: only a reconciliation makes it good."""
    gate, client = open_gate(own_valkey.url), redis.Redis.from_url(own_valkey.url)
    assert not _is_slow(gate)
    own_valkey.restart()
    assert client.exists(NAMES.epoch)
    assert _is_slow(gate)
    assert gate.reconcile(list).finished
    assert not _is_slow(gate)


def test_who_loads_a_library_that_came_meanwhile_takes_no_memory_from_it(valkey_url: str) -> None:
    """Two processes that start at once both find none; the second load is no reason to forget."""
    gate = open_gate(valkey_url)
    open_gate(valkey_url, reconciled=False)._library._load()
    assert not _is_slow(gate)


def test_an_older_library_is_replaced_and_a_newer_one_kept(valkey_url: str) -> None:
    """Processes of two releases share a server: the newest library stays, whoever calls."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    source = client.function_list(withcode=True)[0][-1].decode()
    line = f"local VERSION = {LIBRARY_VERSION}"
    for version, kept in ((0, LIBRARY_VERSION), (LIBRARY_VERSION + 1, LIBRARY_VERSION + 1)):
        client.function_load(source.replace(line, f"local VERSION = {version}"), replace=True)
        assert admitted(gate.admit(candidates(), NO_LIMITS)) == [True]
        assert client.fcall("tidegate_version", 0) == kept


def test_an_older_library_that_lacks_a_function_is_replaced(valkey_url: str) -> None:
    """A function of a later release is not found in the library of an earlier one."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    client.function_load(
        "#!lua name=tidegate\nredis.register_function('tidegate_version', function() return 0 end)",
        replace=True,
    )
    assert admitted(gate.admit(candidates(), NO_LIMITS)) == [True]
    assert client.fcall("tidegate_version", 0) == LIBRARY_VERSION


def test_a_newer_library_that_lacks_a_function_is_not_undone(valkey_url: str) -> None:
    """A process of an old release may be of no more use; it must not break the new ones."""
    gate, client = open_gate(valkey_url, reconciled=False), redis.Redis.from_url(valkey_url)
    client.function_load(
        "#!lua name=tidegate\nredis.register_function('tidegate_version', function() return 99 end)"
    )
    with pytest.raises(redis.ResponseError, match="not found"):
        gate.admit(candidates(), NO_LIMITS)
    assert client.fcall("tidegate_version", 0) == 99


def test_reconciling_makes_the_set_equal_to_the_open_intents(valkey_url: str) -> None:
    """Missing ids are added, stale ones removed; what was just admitted is left alone."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    known, missing, stale = uuid7_many(200), uuid7_many(150), [OLD, *_old_ids(2_500)]
    just_admitted = aged_candidates(3)
    client.sadd(NAMES.in_flight, *[i.bytes for i in (*known, *stale)], b"not an id")
    gate.admit(just_admitted, NO_LIMITS)
    report = gate.reconcile(lambda: [*known, *missing])
    assert (report.finished, report.added, report.removed) == (True, 150, 2_502)
    young = {candidate.intent_id for candidate in just_admitted}
    assert _in_flight(client) == {*known, *missing, *young}
    assert gate.reconcile(lambda: [*known, *missing], grace_ms=0).removed == 3


def _old_ids(count: int) -> list[UUID]:
    return [UUID(int=OLD.int + number) for number in range(1, count + 1)]


def test_an_id_from_the_future_is_stale_like_an_old_one(valkey_url: str) -> None:
    """A host whose clock ran ahead leaves nothing in flight for ever."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    client.sadd(NAMES.in_flight, UUID(int=OLD.int + (10**12 << 80)).bytes)
    assert gate.reconcile(list).removed == 1


def test_an_intent_settled_while_the_journal_was_read_is_not_added(valkey_url: str) -> None:
    """What was open when read and settled since must not stay in flight."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    settled, lost = uuid7(), uuid7()
    reads: Iterator[list[UUID]] = iter([[settled, lost], [lost]])
    assert gate.reconcile(lambda: next(reads)).added == 1
    assert _in_flight(client) == {lost}


def test_an_intent_that_the_journal_was_late_with_is_not_removed(valkey_url: str) -> None:
    """A journal that was held up for longer than the grace commits just after it was read."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    client.sadd(NAMES.in_flight, OLD.bytes)
    reads: Iterator[list[UUID]] = iter([[], [OLD]])
    report = gate.reconcile(lambda: next(reads))
    assert (report.added, report.removed) == (0, 0)
    assert _in_flight(client) == {OLD}


def test_what_a_dead_process_admitted_is_in_flight_for_seconds_only(valkey_url: str) -> None:
    """It fills the bound of those who come: of the wait, where the service is slow."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    now_ms = server_time_us(client) // 1_000
    young, lost = (UUID(int=OLD.int % 2**80 + (now_ms - age << 80)) for age in (4_000, 6_000))
    client.sadd(NAMES.in_flight, young.bytes, lost.bytes)
    gate.reconcile(list, open_count=lambda: 0)
    assert _in_flight(client) == {young}


def test_counts_that_agree_are_left_alone(valkey_url: str) -> None:
    """The common case costs one call; a gate that lost its memory is never in it."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    open_ids = uuid7_many(100)
    client.sadd(NAMES.in_flight, *[i.bytes for i in open_ids])

    def _unread() -> list[UUID]:
        raise AssertionError("the open intents were read without need")

    assert gate.reconcile(_unread, open_count=lambda: 99).compared_only
    assert not gate.reconcile(lambda: open_ids, open_count=lambda: 50).compared_only
    client.delete(NAMES.epoch)
    assert not gate.reconcile(lambda: open_ids, open_count=lambda: 100).compared_only


def test_a_few_left_over_are_swept_when_all_is_quiet(valkey_url: str) -> None:
    """What may be under way under load is drift when nothing is."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    client.sadd(NAMES.in_flight, OLD.bytes)
    assert gate.reconcile(list, open_count=lambda: 0).removed == 1


@pytest.mark.parametrize("loss", ["flush", "functions"])
def test_memory_lost_during_a_reconciliation_leaves_it_unfinished(
    valkey_url: str, loss: str
) -> None:
    """A set that was emptied half way must not be called reconciled."""
    gate, client = open_gate(valkey_url, reconciled=False), redis.Redis.from_url(valkey_url)

    def _open_ids() -> list[UUID]:
        client.flushall() if loss == "flush" else client.function_flush()
        return uuid7_many(5)

    assert not gate.reconcile(_open_ids).finished
    assert _is_slow(gate)
    assert gate.reconcile(list).finished


def test_a_restart_during_a_reconciliation_leaves_it_unfinished(own_valkey: OwnValkey) -> None:
    """The key that marks it as begun survives a restart; the incarnation does not."""
    gate = open_gate(own_valkey.url, reconciled=False)

    def _open_ids() -> list[UUID]:
        own_valkey.restart()
        return []

    assert not gate.reconcile(_open_ids).finished
    assert _is_slow(gate)


def test_a_reconciler_that_slept_removes_nothing_that_came_since(valkey_url: str) -> None:
    """What is younger than its beginning is not its to judge, however late it wakes."""
    gate, other = open_gate(valkey_url), open_gate(valkey_url)
    client = redis.Redis.from_url(valkey_url)

    def _slow_read() -> list[UUID]:
        other.admit(candidates(5), NO_LIMITS)
        await_server_ms(client, server_time_us(client) // 1_000 + 20)
        return []

    report = gate.reconcile(_slow_read, grace_ms=10)
    assert (report.finished, report.removed) == (True, 0)
    assert gate.in_flight() == 5


def test_reconcilers_at_work_beside_a_busy_gate_agree_with_the_journal(valkey_url: str) -> None:
    """Two at once, while intents come and go and memory is lost: the set ends as the journal's."""
    journal: set[UUID] = set()
    guard, done = threading.Lock(), threading.Event()

    def _open_ids() -> set[UUID]:
        with guard:
            return set(journal)

    rounds = [0, 0]

    def _reconcile_on(number: int) -> None:
        gate = open_gate(valkey_url, reconciled=False)
        while not done.is_set():
            gate.reconcile(_open_ids, grace_ms=1_000)
            rounds[number] += 1

    reconcilers = [threading.Thread(target=_reconcile_on, args=(n,)) for n in range(2)]
    for reconciler in reconcilers:
        reconciler.start()
    gate, client = open_gate(valkey_url, reconciled=False), redis.Redis.from_url(valkey_url)
    turn = 0
    while turn < 200 or min(rounds) < 20:
        turn += 1
        wanted = candidates(40)
        verdicts = gate.admit(wanted, NO_LIMITS)
        taken = [c.intent_id for c, v in zip(wanted, verdicts, strict=True) if v.admitted]
        with guard:
            journal.update(taken)
            gone = sorted(journal)[: len(journal) // 3]
            journal.difference_update(gone)
        gate.settle(gone, b"")
        if turn % 50 == 0:
            client.flushall()
    done.set()
    for reconciler in reconcilers:
        reconciler.join()
    await_server_ms(client, server_time_us(client) // 1_000)
    assert gate.reconcile(_open_ids, grace_ms=0).finished
    assert _in_flight(client) == journal


def test_reconciling_holds_the_server_in_small_steps(valkey_url: str) -> None:
    """No step looks at, adds or removes more than about a thousand ids."""
    gate, client = open_gate(valkey_url), redis.Redis.from_url(valkey_url)
    client.config_resetstat()
    open_ids = uuid7_many(20_000)
    gate.reconcile(lambda: open_ids)
    gate.reconcile(list, grace_ms=0)
    calls = client.info("commandstats")
    for command in ("sadd", "sscan", "srem"):
        assert calls[f"cmdstat_{command}"]["calls"] >= 18
    assert gate.in_flight() == 0


def test_two_deployments_on_one_server_know_nothing_of_each_other(valkey_url: str) -> None:
    """Each prefix has its own limits, its own set and its own epoch."""
    one, two = open_gate(valkey_url, "one"), open_gate(valkey_url, "two", reconciled=False)
    assert admitted(one.admit(candidates(30), NO_LIMITS)) == [True] * 30
    assert sum(admitted(two.admit(candidates(30), NO_LIMITS))) == 2
    assert (one.in_flight(), two.in_flight()) == (30, 2)


def test_a_prefix_that_could_break_out_of_its_braces_is_refused(valkey_url: str) -> None:
    """Keys of one deployment must stay in one slot and under one access rule."""
    with pytest.raises(ValueError, match="key prefix"):
        Gate(
            open_client(valkey_url, timeout_ms=100),
            key_prefix="a}b",
            in_flight_max=1,
            unreconciled_rate=1,
        )
