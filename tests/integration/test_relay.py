"""The outbox and its relays, on a real database and against real receivers."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from urllib.request import urlopen
from uuid import UUID

import pytest
from kit import World, comes_true, issuance, order
from standardwebhooks import Webhook
from webhook_kit import (
    CODES,
    QUICK,
    SECRETS,
    Hit,
    Reply,
    open_store,
    receiving,
    register,
    relaying,
)

from deploy.cli import main
from deploy.embedded.ports import free_port
from tests.factories import MASTER, owner
from workers.contract.webhook import spell
from workers.domain.delivery import GIVE_UP_AFTER_S, Answer, EventType, Fate, judge
from workers.domain.overload import Level
from workers.service.relay import Bounds, Lane
from workers.store import gateways, levels, lifecycle, outbox, webhooks
from workers.store.outbox import Result, Wanted
from workers.store.pool import AUDITOR, WORKER
from workers.store.pulling import Pull

ME = Pull(actor="sre@host", reason="a drill")


def decide(world: World, count: int = 1, gateway: str = "chat", **given: object) -> list[UUID]:
    """Accept and decide orders of a gateway; return their ids."""
    batch = [order(f"u-{gateway}-{n}", gateway=gateway, **given) for n in range(count)]  # type: ignore[arg-type]
    world.intake().submit(batch)
    world.processor().run([posted.intent_id for posted in batch])
    return [posted.intent_id for posted in batch]


def event_id(intent_id: UUID, word: str = "committed") -> str:
    """The id by which a receiver knows an event."""
    return f"evt_{intent_id.hex}_{word}"


def waiting(world: World) -> int:
    """How many events are still to be delivered."""
    return int(world.value("SELECT count(*) FROM outbox WHERE settled_at IS NULL"))


def rush(world: World) -> bool:
    """Let what waits for its next attempt, and every probe, be due. False: to be said while waiting."""
    world.admin.execute(
        "UPDATE outbox SET due_at = now() "
        "WHERE settled_at IS NULL AND attempts > 0 AND lease_id IS NULL"
    )
    world.admin.execute("UPDATE webhook_endpoints SET not_before = NULL")
    return False


def all_settled(world: World) -> Callable[[], bool]:
    """Whether nothing waits any more."""
    return lambda: waiting(world) == 0


# What is noted -----------------------------------------------------------------------------------


def test_nothing_is_noted_for_a_gateway_without_an_endpoint(world: World) -> None:
    """Nor for one whose endpoint is disabled, or wants something else."""
    decide(world, gateway="other")
    made = register(world.dsn, "https://hooks.example/", "other", ["tidegate.intent.refused"])
    register(world.dsn, "https://hooks.example/")
    decide(world, gateway="other")
    assert waiting(world) == 0
    with owner(world.dsn) as connection:
        webhooks.disable(connection, made.endpoint_id, actor="test")
        decide(world, gateway="other", lines=[("nothing", 1)])
        assert waiting(world) == 0
        webhooks.enable(connection, made.endpoint_id, actor="test")
    decide(world, gateway="other", lines=[("nothing", 1)])
    assert world.rows("SELECT event, endpoint_id FROM outbox") == [
        ("tidegate.intent.refused", made.endpoint_id)
    ]


def test_an_outcome_and_its_event_are_committed_together(world: World) -> None:
    """A batch that rolls back has told nothing; the one after it tells once."""
    register(world.dsn, "https://hooks.example/")
    batch = [order()]
    world.intake().submit(batch)
    world.admin.execute("ALTER TABLE outcomes ADD CONSTRAINT broken CHECK (false) NOT VALID")
    world.processor().run([])
    assert (waiting(world), world.open_count()) == (0, 1)
    world.admin.execute("ALTER TABLE outcomes DROP CONSTRAINT broken")
    world.end_pauses()
    world.processor().run([])
    assert (waiting(world), world.open_count()) == (1, 0)


def test_an_orders_life_is_told_in_its_order(world: World) -> None:
    """Awaiting payment when it was committed; confirmed; cancelled."""
    made = register(world.dsn, "")
    with receiving() as receiver:
        world.admin.execute("UPDATE webhook_endpoints SET url = %s", (receiver.url,))
        (order_id,) = decide(world)
        connection = world.connection(WORKER)
        lifecycle.pay(connection, order_id, "chat", "pay-1", 1_800)
        lifecycle.cancel(connection, order_id, "chat")
        with relaying(world.dsn):
            assert comes_true(all_settled(world))
        words = ["committed", "confirmed", "cancelled"]
        assert receiver.ids() == [event_id(order_id, word) for word in words]
        statuses = [hit.event["data"]["order"]["status"] for hit in receiver.hits]
        assert statuses == ["awaiting_payment", "confirmed", "cancelled"]
        for hit in receiver.hits:
            Webhook(spell(made.secret)).verify(hit.body, hit.headers)


def test_an_event_reads_the_same_at_every_endpoint(world: World) -> None:
    """Its id says that it is one event; who keeps it by its id must not care which copy it has."""
    with receiving() as one, receiving() as other:
        register(world.dsn, one.url)
        register(world.dsn, other.url)
        (order_id,) = decide(world)
        lifecycle.pay(world.connection(WORKER), order_id, "chat", "pay-1", 1_800)
        with relaying(world.dsn):
            assert comes_true(all_settled(world))
        assert (
            one.ids()
            == other.ids()
            == [event_id(order_id, "committed"), event_id(order_id, "confirmed")]
        )
        assert [hit.body for hit in one.hits] == [hit.body for hit in other.hits]


def test_an_order_that_expires_is_told_and_a_late_payment_is_not(world: World) -> None:
    """The payment is recorded for a refund; the order's status stays."""
    register(world.dsn, "https://hooks.example/")
    (order_id,) = decide(world)
    world.admin.execute("UPDATE orders SET payment_deadline = now() - interval '1 s'")
    connection = world.connection(WORKER)
    assert lifecycle.expire_due(connection, 10) == 1
    lifecycle.pay(connection, order_id, "chat", "late", 1_800)
    lifecycle.pay(connection, order_id, "chat", "later", 1_800)
    assert [event for (event,) in world.rows("SELECT event FROM outbox ORDER BY entry_id")] == [
        "tidegate.intent.committed",
        "tidegate.order.expired",
    ]


def test_an_issued_coupon_reaches_the_gateway_with_its_code(world: World) -> None:
    """And with the key by which the gateway knows its wish."""
    with receiving() as receiver, relaying(world.dsn):
        register(world.dsn, receiver.url)
        posted = issuance("u-1", key="wish-1")
        world.intake().submit([posted])
        world.processor().run([])
        assert comes_true(lambda: len(receiver.hits) == 1)
    data = receiver.hits[0].event["data"]
    assert CODES.coupon_id_of(data["coupon"]["code"]) == posted.intent_id
    assert (data["user_id"], data["idempotency_key"]) == ("u-1", "wish-1")


def test_a_change_of_level_is_told_once_to_whoever_wants_it(world: World) -> None:
    """Whoever notes it, and however often; an older word than the last is none."""
    with receiving() as receiver:
        register(world.dsn, receiver.url, "a", ["tidegate.level.changed"])
        register(world.dsn, receiver.url, "b")
        register(world.dsn, receiver.url, "c", ["tidegate.intent.committed"])
        connection = world.connection(WORKER)
        noted = [
            outbox.note_level(connection, level, "wait", since_ms)
            for level, since_ms in (
                *(("normal", 500), ("throttled", 1_000), ("throttled", 1_000)),
                *(("normal", 900), ("shedding", 2_000)),
            )
        ]
        assert noted == [0, 2, 0, 0, 2]
        with relaying(world.dsn):
            assert comes_true(all_settled(world))
    ids = ["evt_level_1000_throttled", "evt_level_2000_shedding"]
    assert sorted(receiver.ids()) == sorted(ids * 2)
    last = receiver.hits[-1].event["data"]
    assert (last["level"], last["before"], last["reason"]) == ("shedding", "throttled", "wait")


def test_an_order_of_an_operator_and_its_end_are_told_whatever_the_governor_said(
    world: World,
) -> None:
    """While it stands nothing else is; when it ends, the governor's old word is news."""
    register(world.dsn, "https://hooks.example/", "a", ["tidegate.level.changed"])
    connection = world.connection(WORKER)
    note = outbox.note_level
    assert note(connection, "throttled", "wait", 1_000) == 1
    with owner(world.dsn) as operator:
        for _ in range(2):
            order = levels.order_level(operator, Level.CLOSED, None, ME).order
            assert order is not None
            since_ms = round(order.ordered_at.timestamp() * 1_000)
            assert note(connection, "closed", "operator", since_ms) == 1
            assert note(connection, "normal", "", since_ms + 5_000) == 0, "the order stands"
            levels.lift_level(operator, ME)
            assert note(connection, "closed", "operator", since_ms + 1) == 0, "a late word"
            assert note(connection, "throttled", "wait", 1_000) == 1
            assert note(connection, "throttled", "wait", 1_000) == 0
    told = world.rows("SELECT data->>'level', data->>'before', occurred_at FROM outbox")
    changes = ["throttled", "closed", "throttled", "closed", "throttled"]
    assert [level for level, _, _ in told] == changes
    assert [before for _, before, _ in told] == ["normal", *changes[:-1]]
    times = [at for _, _, at in told]
    assert times == sorted(set(times)), "each has a time, and so an id, of its own"


# Delivering --------------------------------------------------------------------------------------


def test_two_relays_deliver_each_event_once(world: World) -> None:
    """In calm; a lease is one relay's."""
    with receiving() as receiver:
        register(world.dsn, receiver.url)
        ids = decide(world, 200)
        with relaying(world.dsn) as first, relaying(world.dsn) as second:
            assert comes_true(all_settled(world), 30)
        assert first + second == []
    assert Counter(receiver.ids()) == Counter(map(event_id, ids))


def test_a_relay_killed_in_mid_delivery_is_followed_by_another_with_the_same_id(
    world: World,
) -> None:
    """At least once: the receiver knows by the id that it has it."""
    held = threading.Event()
    with receiving() as receiver:
        register(world.dsn, receiver.url)
        (order_id,) = decide(world)
        receiver.answer = lambda _: (held.wait(20) and 204) or 204
        quick = Bounds(timeout_ms=3_000, lease_ms=4_000, interval_ms=20)
        child = multiprocessing.get_context("fork").Process(
            target=_relay_for_ever, args=(world.dsn, quick), daemon=True
        )
        child.start()
        try:
            assert comes_true(lambda: len(receiver.hits) == 1)
        finally:
            child.kill()
            child.join()
        held.set()
        assert waiting(world) == 1
        with relaying(world.dsn, quick):
            assert comes_true(all_settled(world), 15)
        assert receiver.ids() == [event_id(order_id)] * 2
        assert receiver.hits[0].body == receiver.hits[1].body


def _relay_for_ever(dsn: str, bounds: Bounds) -> None:
    with relaying(dsn, bounds):
        threading.Event().wait()


def test_a_slow_receiver_does_not_stall_another(world: World) -> None:
    """While each of its posts hangs; they have time until long after."""
    release = threading.Event()
    patient = Bounds(timeout_ms=40_000, lease_ms=120_000, interval_ms=20)
    with receiving(lambda _: (release.wait(60) and 204) or 204) as slow, receiving() as fast:
        register(world.dsn, slow.url, "slow")
        register(world.dsn, fast.url, "fast")
        decide(world, 40, gateway="slow")
        ids = decide(world, 40, gateway="fast")
        with relaying(world.dsn, patient, once_stopping=release.set):
            assert comes_true(lambda: len(fast.hits) == 40)
            assert comes_true(lambda: len(slow.hits) == patient.endpoint_posts_max)
        assert sorted(fast.ids()) == sorted(map(event_id, ids))
        assert len(slow.hits) == patient.endpoint_posts_max
        assert waiting(world) == 40 - len(slow.hits), "what had not begun was put back"


def test_later_events_of_an_intent_wait_for_the_earlier_and_others_do_not(world: World) -> None:
    """The first event of one intent fails; another intent's events go past it."""
    refused: set[str] = set()
    with receiving(lambda hit: 500 if hit.webhook_id in refused else 204) as receiver:
        register(world.dsn, receiver.url)
        stuck, free = decide(world, 2)
        refused.add(event_id(stuck))
        connection = world.connection(WORKER)
        for order_id in (stuck, free):
            lifecycle.cancel(connection, order_id, "chat")
        with relaying(world.dsn):
            assert comes_true(lambda: event_id(free, "cancelled") in receiver.ids())
            tried = "SELECT max(attempts) FROM outbox WHERE settled_at IS NULL AND lease_id IS NULL"
            assert comes_true(lambda: world.value(tried) == 1)
            rush(world)
            assert comes_true(lambda: world.value(tried) == 2)
            assert event_id(stuck, "cancelled") not in receiver.ids()
            refused.clear()
            rush(world)
            assert comes_true(all_settled(world))
    assert [found for found in receiver.ids() if stuck.hex in found] == [
        *[event_id(stuck)] * 3,
        event_id(stuck, "cancelled"),
    ]


def test_an_event_given_up_lets_the_next_of_its_intent_go(world: World) -> None:
    """It is kept, and listed."""
    with receiving(lambda hit: 500 if "committed" in hit.webhook_id else 204) as receiver:
        made = register(world.dsn, receiver.url)
        (order_id,) = decide(world)
        lifecycle.cancel(world.connection(WORKER), order_id, "chat")
        world.admin.execute("UPDATE outbox SET attempts = 9 WHERE event LIKE '%committed'")
        with relaying(world.dsn):
            assert comes_true(all_settled(world))
        assert receiver.ids() == [event_id(order_id), event_id(order_id, "cancelled")]
        with owner(world.dsn) as connection:
            (listed,) = webhooks.list_endpoints(connection, made.endpoint_id)
        assert (listed.dead, listed.last_error) == (1, "answered 500")


def test_an_endpoints_last_trouble_is_the_latest_of_what_waits_and_was_given_up(
    world: World,
) -> None:
    """Not the one whose words sort last."""
    made = register(world.dsn, "https://hooks.example/")
    decide(world, 4)
    entries = [entry for (entry,) in world.rows("SELECT entry_id FROM outbox ORDER BY entry_id")]

    def trouble() -> str | None:
        with owner(world.dsn) as connection:
            return webhooks.list_endpoints(connection, made.endpoint_id)[0].last_error

    def went(entry: int, error: str, attempts: int, due: str, settled: str | None) -> None:
        world.admin.execute(
            "UPDATE outbox SET last_error = %s, attempts = %s, due_at = now() + %s::interval, "
            "settled_at = now() + %s::interval, dead = %s WHERE entry_id = %s",
            (error, attempts, due, settled, settled is not None, entry),
        )

    assert trouble() is None
    went(entries[0], "zebra", 10, "0 s", "-3 days")
    assert trouble() == "zebra"
    went(entries[1], "aardvark", 10, "0 s", "-2 days")
    assert trouble() == "aardvark"
    went(entries[2], "yak", 4, "1 hour", None)
    assert trouble() == "yak", "an hour ago, for the fourth time: the next is after two"
    went(entries[3], "bear", 1, "3 s", None)
    assert trouble() == "bear", "seconds ago, for the first time"


def test_a_probe_that_finds_nothing_to_send_is_made_again_soon(world: World) -> None:
    """What is due waits for something earlier of its subject; another's event is the probe."""
    register(world.dsn, "https://hooks.example/")
    stuck, free = decide(world, 2)
    lifecycle.cancel(world.connection(WORKER), stuck, "chat")
    world.admin.execute(
        "UPDATE outbox SET due_at = CASE WHEN subject_id = %s THEN now() - interval '1 s' "
        "WHEN event LIKE '%%committed' THEN now() + interval '1 hour' "
        "ELSE now() - interval '2 s' END",
        (free,),
    )
    world.admin.execute("UPDATE webhook_endpoints SET failures = 9")
    store = open_store(world.dsn)
    assert store.claim_probes([1], 60_000) == []
    rests = (
        "SELECT not_before > now() AND not_before < now() + interval '5 s' FROM webhook_endpoints"
    )
    assert world.value(rests)
    found: list[outbox.Entry] = []
    assert comes_true(lambda: found.extend(store.claim_probes([1], 60_000)) or found)
    assert [entry.subject_id for entry in found] == [free]
    assert store.claim_probes([1], 60_000) == [], "until this one is told of"


def test_an_endpoint_that_is_gone_is_disabled_and_hears_no_more(world: World) -> None:
    """410, as Standard Webhooks has it."""
    with receiving(lambda _: 410) as receiver, receiving() as other:
        register(world.dsn, receiver.url)
        register(world.dsn, other.url, "other")
        decide(world)
        with relaying(world.dsn):
            disabled = "SELECT disabled_reason FROM webhook_endpoints WHERE gateway_id = 'chat'"
            assert comes_true(lambda: world.value(disabled) == "gone")
            rush(world)
            decide(world, 3)
            for n in (1, 2):  # the relay goes round, to others
                decide(world, gateway="other")
                assert comes_true(lambda n=n: len(other.hits) == n)  # type: ignore[misc]
        assert len(receiver.hits) == 1
        assert waiting(world) == 1, "nothing is noted for it any more"


def test_a_failing_endpoint_is_probed_singly_and_recovers(world: World) -> None:
    """What waits is not spent on it: no event loses its attempts to an outage."""
    down = threading.Event()
    down.set()
    with receiving(lambda _: 500 if down.is_set() else 204) as receiver:
        register(world.dsn, receiver.url)
        decide(world, 100)
        with relaying(world.dsn):

            def recorded() -> int:
                return int(world.value("SELECT failures FROM webhook_endpoints"))

            in_hand = "SELECT count(*) FROM outbox WHERE lease_id IS NOT NULL"
            assert comes_true(lambda: recorded() >= 5 and world.value(in_hand) == 0)
            tried = len(receiver.hits)
            assert 5 <= tried <= 5 + 2 * QUICK.endpoint_posts_max
            # After one second and two: what was under way when it began to fail is no row of failures.
            assert comes_true(lambda: len(receiver.hits) == tried + 2)
            down.clear()
            # Rushed again and again: the relay may be about to record the pause of before.
            assert comes_true(lambda: rush(world) or len(set(receiver.ids())) == 100, 15)
            assert comes_true(lambda: rush(world) or waiting(world) == 0, 15)
    assert world.rows("SELECT failures, failing_since, not_before FROM webhook_endpoints") == [
        (0, None, None)
    ]


def test_retry_after_pauses_the_endpoint_and_costs_no_attempt(world: World) -> None:
    """Nothing else is sent to it meanwhile."""
    told = threading.Event()

    def busy_once(_: Hit) -> Reply | int:
        if told.is_set():
            return 204
        told.set()
        return Reply(429, {"retry-after": "2"})

    with receiving(busy_once) as receiver:
        register(world.dsn, receiver.url)
        decide(world)
        with relaying(world.dsn):
            assert comes_true(told.is_set)
            began = time.monotonic()
            assert comes_true(lambda: world.value("SELECT not_before FROM webhook_endpoints"))
            decide(world)
            assert comes_true(lambda: len(receiver.hits) == 3)
            assert time.monotonic() - began > 1.5
            assert comes_true(all_settled(world))
    assert world.value("SELECT max(attempts) FROM outbox") == 1


def test_no_other_answer_lifts_the_pause_that_an_endpoint_asked_for() -> None:
    """Neither a delivery that was under way nor a failure; a probe's pause ends with a delivery."""
    url = "https://hooks.example/"
    endpoint = webhooks.Endpoint(
        endpoint_id=1,
        gateway_id="chat",
        url=url,
        secret_refs=(),
        failures=0,
        pause_s=0,
        failing_s=0,
    )
    lane = Lane(endpoint, asyncio.Semaphore(1))
    for answer in (Answer(status=429, retry_after_s=30), Answer(status=500), Answer(status=204)):
        lane.heard(answer, judge(answer, 0, 0, 0), 100.0)
        assert lane.resting_until == 130
    failed = Answer(status=500)
    for _ in range(9):
        lane.heard(failed, judge(failed, 0, 0, 0), 200.0)
    assert (lane.failures, lane.resting_until) == (5, 201), "what was under way counts no more"
    lane.heard(failed, judge(failed, 0, 0, 0), 200.0, probe=True)
    assert (lane.failures, lane.resting_until) == (6, 202)
    lane.heard(Answer(status=204), judge(Answer(status=204), 0, 0, 0), 200.0)
    assert (lane.failures, lane.resting_until) == (0, 200)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(world: World, status: int) -> None:
    """They are failures."""
    with receiving() as other, receiving() as receiver:
        receiver.answer = lambda _: Reply(status, {"location": other.url})
        register(world.dsn, receiver.url)
        decide(world)
        with relaying(world.dsn):
            failed = "SELECT last_error FROM outbox"
            assert comes_true(lambda: world.value(failed) == f"answered {status}")
        assert other.hits == []


def test_connections_are_used_again(world: World) -> None:
    """A handshake for each event would cost more than the event."""
    with receiving(lambda _: Reply(200, {}, b"ok")) as receiver:
        register(world.dsn, receiver.url)
        decide(world, 60)
        with relaying(world.dsn):
            assert comes_true(all_settled(world))
        assert receiver.connections <= QUICK.endpoint_posts_max


def test_a_rotated_secret_signs_beside_the_old_one_and_then_alone(world: World) -> None:
    """The receiver changes its own in between, and misses nothing."""
    with receiving() as receiver:
        old = register(world.dsn, receiver.url)
        with owner(world.dsn) as connection:
            new = webhooks.rotate(connection, SECRETS, old.endpoint_id, overlap_s=600, actor="test")
        decide(world)
        with relaying(world.dsn):
            assert comes_true(all_settled(world))
            world.admin.execute("UPDATE webhook_endpoints SET old_secret_until = now()")

            def signed_alone() -> bool:
                decide(world)
                assert comes_true(all_settled(world))
                return " " not in receiver.hits[-1].headers["webhook-signature"]

            assert comes_true(signed_alone)
        both, *_, alone = receiver.hits
        for made in (old, new):
            Webhook(spell(made.secret)).verify(both.body, both.headers)
        Webhook(spell(new.secret)).verify(alone.body, alone.headers)


# Growth ------------------------------------------------------------------------------------------


def test_what_was_delivered_is_removed_after_its_days_and_the_dead_later(world: World) -> None:
    """What waits is never removed."""
    register(world.dsn, "https://hooks.example/")
    decide(world, 6)
    world.admin.execute(
        """UPDATE outbox o SET settled_at = now() - n * interval '1 day', dead = n > 5
           FROM (SELECT entry_id, row_number() OVER () * 2 AS n FROM outbox) AS t
           WHERE o.entry_id = t.entry_id AND n <= 8"""
    )
    connection = world.connection(WORKER)
    assert outbox.prune(connection, keep_s=3 * 86_400, keep_dead_s=7 * 86_400) == 2
    assert world.value("SELECT count(*) FROM outbox WHERE settled_at IS NULL") == 2
    assert world.value("SELECT count(*) FROM outbox WHERE dead") == 1


def test_what_is_too_old_is_given_up_also_of_a_disabled_endpoint(world: World) -> None:
    """The outbox does not grow with what nobody will fetch."""
    register(world.dsn, "https://hooks.example/")
    decide(world, 3)
    world.admin.execute(
        "UPDATE outbox SET queued_at = queued_at - %s * interval '1 s' "
        "WHERE entry_id IN (SELECT entry_id FROM outbox ORDER BY entry_id LIMIT 2)",
        (GIVE_UP_AFTER_S + 1,),
    )
    assert outbox.give_up_old(world.connection(WORKER)) == 2
    found = outbox.figures(world.admin)
    assert (found.waiting, found.dead) == (1, 2)


def test_the_age_of_what_waits_longest_is_known(world: World) -> None:
    """An alert hangs on it; nothing waits: zero."""
    assert outbox.figures(world.admin).oldest_s == 0
    register(world.dsn, "https://hooks.example/")
    decide(world, 2)
    world.admin.execute("UPDATE outbox SET queued_at = queued_at - interval '1 hour'")
    assert 3_600 <= outbox.figures(world.admin).oldest_s < 3_700


def test_what_was_noted_for_a_disabled_endpoint_does_not_wait(world: World) -> None:
    """Nobody sends it. What waits for others still counts."""
    first = register(world.dsn, "https://hooks.example/")
    decide(world, 2)
    world.admin.execute("UPDATE outbox SET queued_at = queued_at - interval '1 hour'")
    second = register(world.dsn, "https://other.example/")
    decide(world, 3)
    assert outbox.figures(world.admin).waiting == 2 + 2 * 3
    with owner(world.dsn) as connection:
        webhooks.disable(connection, first.endpoint_id, actor="test")
        found = outbox.figures(world.admin)
        assert found.waiting == 3
        assert 0 < found.oldest_s < 3_600
        webhooks.disable(connection, second.endpoint_id, actor="test")
    found = outbox.figures(world.admin)
    assert (found.waiting, found.oldest_s) == (0, 0)


@pytest.mark.parametrize("failing", ["5 days 1 s", None])
def test_an_endpoint_that_fails_for_days_is_disabled(world: World, failing: str | None) -> None:
    """One that fails for an hour is not."""
    register(world.dsn, "https://hooks.example/")
    world.admin.execute(
        "UPDATE webhook_endpoints SET failures = 9, failing_since = now() - %s::interval",
        (failing or "1 hour",),
    )
    expected = [(1, "failing")] if failing else []
    assert webhooks.disable_hopeless(world.connection(WORKER)) == expected


def test_a_revoked_gateway_hears_no_more(world: World) -> None:
    """Whoever revokes it, and however."""
    register(world.dsn, "https://hooks.example/")
    with owner(world.dsn) as connection:
        gateways.revoke(connection, "chat", actor="test")
    assert world.value("SELECT disabled_reason FROM webhook_endpoints") == "gateway_revoked"


# Looking ---------------------------------------------------------------------------------------------


def test_what_an_intents_endpoints_were_told_can_be_looked_up(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delivered, given up, to be tried again, kept back: each with what is known of it."""
    monkeypatch.setenv("TIDEGATE_POSTGRES__DSN", world.dsn)

    def explained(intent_id: UUID) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(["intent", "explain", str(intent_id)])
        return capsys.readouterr().out

    (untold,) = decide(world, gateway="other")
    assert "webhooks: none" in explained(untold)
    made = register(world.dsn, "https://hooks.example/")
    (order_id,) = decide(world)
    lifecycle.cancel(world.connection(WORKER), order_id, "chat")

    def looked_up() -> list[tuple[str, bool, bool]]:
        with world.connection(AUDITOR) as connection:
            found = outbox.read_deliveries(connection, order_id)
        assert [delivery.event for delivery in found] == [
            EventType.COMMITTED,
            EventType.CANCELLED,
        ]
        assert {delivery.url for delivery in found} == {"https://hooks.example/"}
        return [
            (one.state, one.settled_at is not None, one.next_attempt_at is not None)
            for one in found
        ]

    assert looked_up() == [("waiting", False, True)] * 2
    assert "not attempted yet" in explained(order_id)
    world.admin.execute(
        "UPDATE outbox SET attempts = 2, last_error = 'answered 500' WHERE event LIKE '%committed'"
    )
    said = explained(order_id)
    assert "tidegate.intent.committed to endpoint 1, https://hooks.example/:" in said
    assert "2 failed attempts, the last: answered 500" in said
    with owner(world.dsn) as connection:
        webhooks.disable(connection, made.endpoint_id, actor="test")
    assert looked_up() == [("waiting", False, False)] * 2
    assert "its endpoint is disabled (operator)" in explained(order_id)
    world.admin.execute("UPDATE outbox SET settled_at = now(), dead = event LIKE '%committed'")
    assert looked_up() == [("given_up", True, False), ("delivered", True, False)]
    assert "given up" in explained(order_id)


# Replaying, and the lease ------------------------------------------------------------------------


def test_a_replay_delivers_again_with_the_same_ids_and_bodies(world: World) -> None:
    """Delivered or given up; in the old order."""
    with receiving() as receiver:
        made = register(world.dsn, receiver.url)
        (order_id,) = decide(world)
        lifecycle.cancel(world.connection(WORKER), order_id, "chat")
        with relaying(world.dsn):
            assert comes_true(all_settled(world))
            with owner(world.dsn) as connection:
                every = Wanted(subject_id=order_id)
                dry = webhooks.replay(
                    connection, made.endpoint_id, every, actor="test", dry_run=True
                )
                assert (
                    webhooks.replay(connection, made.endpoint_id, every, actor="test") == dry == 2
                )
            assert comes_true(lambda: len(receiver.hits) == 4)
        assert receiver.ids()[2:] == receiver.ids()[:2]
        assert [hit.body for hit in receiver.hits[2:]] == [hit.body for hit in receiver.hits[:2]]


def test_a_failure_told_after_its_lease_changes_nothing_and_a_delivery_does(world: World) -> None:
    """Another relay has it by then; but delivered is delivered."""
    register(world.dsn, "https://hooks.example/")
    decide(world)
    store = open_store(world.dsn)
    (late,) = store.claim({1: 5}, 1)
    due = "SELECT count(*) FROM outbox WHERE due_at <= clock_timestamp()"
    assert comes_true(lambda: world.value(due) == 1)
    (current,) = store.claim({1: 5}, 60_000)
    assert late.entry_id == current.entry_id

    def tell(fate: Fate) -> Sequence[object]:
        store.record(
            [
                Result(
                    entry_id=late.entry_id,
                    lease_id=late.lease_id,
                    fate=fate,
                    counted=True,
                    delay_ms=0,
                    status=500,
                    error="late",
                )
            ]
        )
        return world.rows("SELECT attempts, settled_at IS NOT NULL, dead FROM outbox")

    assert tell(Fate.AGAIN) == [(0, False, False)]
    assert tell(Fate.DEAD) == [(0, False, False)]
    assert tell(Fate.DELIVERED) == [(1, True, False)]


def test_a_claim_looks_at_no_more_than_it_was_asked_for(world: World) -> None:
    """However much waits behind what is blocked: it is put off, and due when that is settled."""
    register(world.dsn, "https://hooks.example/")
    ids = decide(world, 30)
    connection = world.connection(WORKER)
    for order_id in ids:
        lifecycle.cancel(connection, order_id, "chat")
    store = open_store(world.dsn)
    first = store.claim({1: 30}, 60_000)
    assert {entry.subject_id for entry in first} == set(ids)
    assert store.claim({1: 100}, 60_000) == []
    assert store.claim({1: 100}, 60_000) == [], "and was put off"
    assert world.value("SELECT count(*) FROM outbox WHERE due_at <= now()") == 0
    done = Result(
        entry_id=first[0].entry_id,
        lease_id=first[0].lease_id,
        fate=Fate.DELIVERED,
        counted=True,
        delay_ms=0,
        status=204,
        error=None,
    )
    store.record([done])
    (freed,) = store.claim({1: 100}, 60_000)
    assert (freed.subject_id, freed.event) == (first[0].subject_id, "tidegate.order.cancelled")


def test_the_process_delivers_tells_its_figures_and_ends_when_told(world: World) -> None:
    """As production runs it."""
    port = free_port()
    given = {
        "TIDEGATE_POSTGRES__DSN": world.dsn,
        "TIDEGATE_SECRETS__MASTER": MASTER,
        "TIDEGATE_WEBHOOKS__ALLOW_PRIVATE": "true",
        "TIDEGATE_RELAY__METRICS_PORT": str(port),
    }
    with receiving() as receiver:
        register(world.dsn, receiver.url)
        (order_id,) = decide(world)
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", "relay"],
            env=os.environ | given,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert comes_true(all_settled(world), 20)
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                told = answer.read().decode()
            assert 'tidegate_webhook_attempts_total{fate="delivered"} 1.0' in told
            assert "tidegate_outbox_oldest_age_seconds" in told
            process.terminate()
            assert process.wait(15) == 0
        finally:
            process.kill()
            process.wait()
        assert receiver.ids() == [event_id(order_id)]


def test_a_relay_survives_a_database_that_went_away(world: World) -> None:
    """It opens another connection."""
    with receiving() as receiver, relaying(world.dsn) as errors:
        register(world.dsn, receiver.url)
        decide(world)
        assert comes_true(lambda: len(receiver.hits) == 1)
        world.admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'tidegate-relay' AND datname = current_database()"
        )
        decide(world)
        assert comes_true(lambda: len(receiver.hits) == 2)
    assert errors
