"""The intake on the real servers: receipts, keys, and what it says when something is away."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from uuid import UUID

import psycopg
import pytest
import redis
from kit import CODES, World, again, at_once, comes_true, ids_of, issuance, order
from postgres_proxy import PostgresProxy

from deploy.embedded.ports import free_port
from producer.answers import Accepted, Conflict, Limited, Posted, Replayed, Unanswered
from tests.factories import open_gate
from workers.contract.gate import Gate, GateUnreachable, open_client
from workers.store.journal import key_digest
from workers.store.pool import PRODUCER, Bounds, Connection, connect

UNKNOWN = Unanswered("unknown", "postgres")


@pytest.fixture
def proxy(world: World) -> Iterator[PostgresProxy]:
    with PostgresProxy(world.dsn) as opened:
        yield opened


def _dead_gate() -> Gate:
    return Gate(
        open_client(f"redis://127.0.0.1:{free_port()}/0", timeout_ms=200),
        key_prefix="tidegate:",
        in_flight_max=10,
        unreconciled_rate=10,
    )


# Receipts ----------------------------------------------------------------------------------------


def test_an_accepted_intent_is_journalled_open_and_hinted_at(world: World) -> None:
    """A receipt is a promise: it is said after the commit of all that keeps it."""
    posted = order()
    (answer,) = world.intake().submit([posted])
    assert isinstance(answer, Accepted)
    assert answer.intent_id == posted.intent_id
    assert world.published == [posted.intent_id]
    rows = world.rows(
        "SELECT i.user_id, i.accepted_at, o.accepted_at, k.intent_id FROM intents i"
        " JOIN open_intents o USING (intent_id) JOIN idempotency_keys k USING (intent_id)"
    )
    assert rows == [("u-1", answer.accepted_at, answer.accepted_at, posted.intent_id)]


def test_a_batch_is_answered_in_its_order(world: World) -> None:
    """One answer each, in order, whatever each of them is."""
    known = order()
    world.intake().submit([known])
    batch = [order("u-2"), again(known), issuance("u-3"), order("u-1", key=known.idempotency_key)]
    batch[3] = Posted(
        intent_id=batch[3].intent_id,
        gateway_id=batch[3].gateway_id,
        idempotency_key=known.idempotency_key,
        intent=order("u-1", lines=[("bun", 2)]).intent,
    )
    kinds = [type(answer) for answer in world.intake().submit(batch)]
    assert kinds == [Accepted, Replayed, Accepted, Conflict]


def test_a_coupon_code_is_never_written_down(world: World) -> None:
    """Codes are secrets: the journal keeps the coupon's id, or that the code was forged."""
    (code,) = world.issue(["u-1"])
    forged = code[:-1] + ("A" if code[-1] != "A" else "Q")
    world.intake().submit([order(coupon_code=code), order(coupon_code=forged)])
    bodies = [str(row[0]) for row in world.rows("SELECT body::text FROM intents")]
    assert not any(secret in body for secret in (code, forged) for body in bodies)
    assert sum("coupon_forged" in body for body in bodies) == 1
    assert sum(str(CODES.coupon_id_of(code)) in body for body in bodies) == 1


# Keys --------------------------------------------------------------------------------------------


def test_a_key_asked_again_gets_its_intent_at_every_stage(world: World) -> None:
    """Undecided first, then the outcome; the id is the first one's."""
    first = order()
    intake = world.intake()
    intake.submit([first])
    (undecided,) = intake.submit([again(first)])
    world.processor().run([first.intent_id])
    (decided,) = intake.submit([again(first)])
    assert isinstance(undecided, Replayed)
    assert isinstance(decided, Replayed)
    assert undecided.resource.intent_id == decided.resource.intent_id == first.intent_id
    assert (undecided.resource.status, decided.resource.status) == ("accepted", "committed")
    assert decided.resource == world.told[0]


def test_a_key_with_another_intent_is_a_conflict(world: World) -> None:
    """Never a second order under one key; compared as decoded."""
    world.intake().submit([first := order(key="k")])
    (answer,) = world.intake().submit([order(key="k", lines=[("tea", 2)])])
    assert answer == Conflict(first.intent_id)
    assert world.value("SELECT count(*) FROM intents") == 1


def test_a_key_is_scoped_to_gateway_user_and_kind(world: World) -> None:
    """Four who chose the same key are four intents."""
    batch = [
        order("u-1", key="k"),
        order("u-2", key="k"),
        order("u-1", key="k", gateway="other"),
        issuance("u-1", key="k"),
    ]
    assert [type(answer) for answer in world.intake().submit(batch)] == [Accepted] * 4


def test_a_key_twice_in_one_batch_is_one_intent(world: World) -> None:
    """The first of a batch is accepted, the second is told of it, a third that differs conflicts."""
    first = order(key="k")
    answers = world.intake().submit([first, order(key="k"), order(key="k", lines=[("bun", 1)])])
    assert isinstance(answers[0], Accepted)
    assert isinstance(answers[1], Replayed)
    assert answers[1].resource.intent_id == first.intent_id
    assert answers[2] == Conflict(first.intent_id)
    assert world.gate is not None
    assert world.gate.in_flight() == 1


def test_a_key_twice_in_one_refused_batch_is_refused_twice(world: World) -> None:
    """The second of a key is told what the first is told: a no is no riddle."""
    full = open_gate(world.valkey_url, in_flight_max=1)
    intake = world.intake(gate=full)
    intake.submit([order("u-0")])
    answers = intake.submit([order(key="k"), order(key="k")])
    assert [type(answer) for answer in answers] == [Limited, Limited]
    assert answers[0] == answers[1]


@pytest.mark.slow
def test_intakes_that_replay_the_same_keys_in_any_order_never_deadlock(world: World) -> None:
    """Keys are inserted in one order, so replays wait for each other instead of deadlocking."""
    intakes = [world.intake(), world.intake()]
    seed = random.Random(7)
    for number in range(40):
        batches = []
        for _ in intakes:
            batch = [order(f"u-{n}", key=f"{number}-{n}", ttl_ms=600_000) for n in range(500)]
            seed.shuffle(batch)
            batches.append(batch)
        answers = at_once(
            [lambda i=i, b=b: i.submit(b) for i, b in zip(intakes, batches, strict=True)]
        )
        accepted = [isinstance(answer, Accepted) for batch in answers for answer in batch]
        assert sum(accepted) == 500
    assert world.value("SELECT count(*) FROM intents") == 40 * 500
    assert world.deadlocks() == 0


# The gate says no, or nothing --------------------------------------------------------------------


def _full(world: World) -> Gate:
    return open_gate(world.valkey_url, in_flight_max=1)


def _forgetful(world: World) -> Gate:
    with redis.Redis.from_url(world.valkey_url) as client:
        client.flushall()
    return Gate(
        open_client(world.valkey_url, timeout_ms=1_000),
        key_prefix="tidegate:",
        in_flight_max=10,
        unreconciled_rate=1,
    )


@pytest.mark.parametrize("refusing", [_full, _forgetful])
def test_a_known_key_gets_its_order_while_the_gate_refuses_everybody(
    world: World, refusing: Callable[[World], Gate]
) -> None:
    """Who lost his 202 asks again with his key and hears what became of it, at every level."""
    first = order()
    world.intake().submit([first])
    intake = world.intake(gate=refusing(world))
    intake.submit([order("u-taker")])  # the one there may be room for
    answers = intake.submit([again(first), order("u-new")])
    assert isinstance(answers[0], Replayed)
    assert answers[0].resource.intent_id == first.intent_id
    assert isinstance(answers[1], Limited)
    assert answers[1].limit == "in_flight"


def test_a_refused_intent_binds_nothing(world: World) -> None:
    """A key is bound by journalling only: the refused one may be posted again, even changed."""
    intake = world.intake(gate=_full(world))
    blocker = order("u-0")
    intake.submit([blocker])
    assert isinstance(intake.submit([order(key="k")])[0], Limited)
    world.processor().run([])
    assert world.gate is not None
    world.gate.release([blocker.intent_id])
    (answer,) = intake.submit([order(key="k", lines=[("bun", 1)])])
    assert isinstance(answer, Accepted)


def test_without_valkey_known_keys_are_answered_and_new_ones_are_told_no(world: World) -> None:
    """Nothing is admitted without the gate, and that is certain: "no", not "unknown"."""
    first = order()
    world.intake().submit([first])
    answers = world.intake(gate=_dead_gate()).submit(
        [again(first), order("u-2", key="k"), order("u-2", key="k")]
    )
    assert isinstance(answers[0], Replayed)
    assert answers[1:] == [Unanswered("no", "valkey")] * 2


def test_an_admission_whose_reply_was_lost_is_given_back_when_the_gate_answers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage leaves no room taken, though the gate be full of it and refuse whoever asks next."""
    gate = open_gate(world.valkey_url, in_flight_max=2)
    intake = world.intake(gate=gate)
    with monkeypatch.context() as outage:
        outage.setattr(gate, "admit", _unheard(gate.admit))
        assert intake.submit([order(), order()]) == [Unanswered("no", "valkey")] * 2
        assert gate.in_flight() == 2
    assert isinstance(intake.submit([order()])[0], Limited)
    assert gate.in_flight() == 0
    assert isinstance(intake.submit([order()])[0], Accepted)
    assert gate.in_flight() == 1


def test_an_admission_that_could_not_be_given_back_is_given_back_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate may go between admission and release."""
    gate, posted = open_gate(world.valkey_url), order()
    intake = world.intake(gate=gate)
    intake.submit([posted])
    with monkeypatch.context() as outage:
        outage.setattr(gate, "release", _unheard(lambda ids: None))
        intake.submit([again(posted)])
        assert gate.in_flight() == 2
    intake.submit([again(posted)])
    assert gate.in_flight() == 1


def _unheard(call: Callable[..., object]) -> Callable[..., None]:
    """The server does as it is told, and its reply is lost."""

    def lose(*args: object) -> None:
        call(*args)
        raise GateUnreachable

    return lose


def test_replays_give_their_admission_back(world: World) -> None:
    """What is not journalled under its own id is not in flight."""
    batch = [order(f"u-{n}") for n in range(5)]
    intake = world.intake()
    intake.submit(batch)
    intake.submit([again(posted) for posted in batch])
    assert world.gate is not None
    assert world.gate.in_flight() == 5


# The journal is away -----------------------------------------------------------------------------


def test_without_postgresql_the_answer_is_unknown_and_comes_in_time(world: World) -> None:
    """A key that cannot be looked up may be bound: never a no."""
    with PostgresProxy(world.dsn) as proxy:
        proxy.refusing = True
        intake = world.intake(dsn=proxy.dsn, accept_timeout_ms=300)
        begun = time.monotonic()
        assert intake.submit([order(), order()]) == [UNKNOWN, UNKNOWN]
        assert time.monotonic() - begun < 1.5


def test_without_postgresql_nobody_is_left_in_flight(world: World, proxy: PostgresProxy) -> None:
    """What never left for the journal takes nobody's room, whatever is known of its key."""
    proxy.refusing = True
    intake = world.intake(dsn=proxy.dsn, accept_timeout_ms=200)
    assert intake.submit([order(), order()]) == [UNKNOWN, UNKNOWN]
    assert world.gate is not None
    assert world.gate.in_flight() == 0


def test_an_intake_goes_on_when_postgresql_is_back(world: World, proxy: PostgresProxy) -> None:
    """No restart, no lost batch: the first batch after the outage is accepted."""
    intake = world.intake(dsn=proxy.dsn, accept_timeout_ms=200)
    intake.submit([order()])
    proxy.refusing = True
    proxy.cut()
    assert intake.submit([order()]) == [UNKNOWN]
    proxy.refusing = False
    assert isinstance(intake.submit([order()])[0], Accepted)


def test_a_connection_that_died_while_idle_costs_nobody_an_answer(
    world: World, proxy: PostgresProxy
) -> None:
    """A failover closes idle connections; the next batch, refused or not, is answered."""
    first = order()
    intake = world.intake(dsn=proxy.dsn, gate=_full(world))
    intake.submit([first])
    proxy.cut()
    assert isinstance(intake.submit([again(first)])[0], Replayed)
    fresh = world.intake(dsn=proxy.dsn)
    fresh.submit([order()])
    proxy.cut()
    assert isinstance(fresh.submit([order()])[0], Accepted)


def test_a_lost_reply_is_settled_by_askingagain(world: World, proxy: PostgresProxy) -> None:
    """The commit happened unheard: the same id is accepted, once, and hinted at."""
    intake = world.intake(dsn=proxy.dsn)
    proxy.lose_reply_to = b"INSERT INTO idempotency_keys"
    batch = [order("u-1"), order("u-2")]
    answers = intake.submit(batch)
    assert proxy.lost == 1
    assert all(isinstance(answer, Accepted) for answer in answers)
    assert [answer.intent_id for answer in answers] == ids_of(batch)  # type: ignore[union-attr]
    assert sorted(world.published) == ids_of(batch)
    assert world.value("SELECT count(*) FROM intents") == 2
    assert world.gate is not None
    assert world.gate.in_flight() == 2


def test_a_lost_reply_with_postgresql_gone_is_unknown_then_found(
    world: World, proxy: PostgresProxy
) -> None:
    """Never a false no: unknown, until the same key finds what was committed."""
    intake = world.intake(dsn=proxy.dsn, accept_timeout_ms=300)
    opened = intake._open

    def open_once() -> Connection:
        proxy.refusing = True
        return opened()

    first = opened()
    intake._open = open_once
    intake._connection = first
    proxy.lose_reply_to = b"INSERT INTO idempotency_keys"
    posted = order()
    assert intake.submit([posted]) == [UNKNOWN]
    assert world.gate is not None
    assert world.gate.in_flight() == 1
    assert world.value("SELECT count(*) FROM intents") == 1
    (answer,) = world.intake().submit([again(posted)])
    assert isinstance(answer, Replayed)
    assert answer.resource.intent_id == posted.intent_id


def test_an_append_still_under_way_when_its_repeat_fails_is_unknown(
    world: World, proxy: PostgresProxy
) -> None:
    """A first append may commit after the last repeat gave up, as behind a slow standby."""
    world.admin.execute(
        "CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NEW; END'"
    )
    world.admin.execute(
        "CREATE TRIGGER stall BEFORE INSERT ON open_intents FOR EACH ROW EXECUTE FUNCTION stall()"
    )
    world.admin.execute("SELECT pg_advisory_lock(42)")
    patience = itertools.chain([0], itertools.repeat(50))
    intake = world.intake(
        accept_timeout_ms=400,
        open_connection=lambda: connect(
            proxy.dsn, PRODUCER, Bounds(lock_timeout_ms=next(patience)), name="api"
        ),
    )
    proxy.hasty = True
    proxy.lose_reply_to = b"INSERT INTO idempotency_keys"
    posted = order()
    assert intake.submit([posted]) == [UNKNOWN]
    world.admin.execute("SELECT pg_advisory_unlock(42)")
    assert comes_true(lambda: world.value("SELECT count(*) FROM intents") == 1)
    (answer,) = world.intake().submit([again(posted)])
    assert isinstance(answer, Replayed)


def test_a_journal_that_refuses_to_write_is_a_certain_no(world: World) -> None:
    """The server answered, nothing was written, the key is free: "no", and out of flight."""
    world.admin.execute("REVOKE INSERT ON intents FROM tidegate_producer")
    (answer,) = world.intake().submit([order()])
    assert answer == Unanswered("no", "postgres")
    assert world.gate is not None
    assert world.gate.in_flight() == 0


def test_one_intent_that_cannot_be_written_never_fails_its_neighbours(world: World) -> None:
    """An error of the data is found by writing each alone."""
    world.admin.execute("ALTER TABLE intents ADD CHECK (user_id <> 'u-3')")
    answers = world.intake().submit([order(f"u-{n}") for n in range(6)])
    assert [isinstance(answer, Accepted) for answer in answers] == [n != 3 for n in range(6)]
    assert answers[3] == Unanswered("no", "postgres")


def test_waiting_behind_a_replay_is_no_fault(world: World) -> None:
    """An append that meets a lock is repeated within its time."""
    posted = order(key="k")
    with psycopg.connect(world.dsn) as other:
        other.execute("SET search_path = tidegate")
        intake = world.intake(bounds=Bounds(lock_timeout_ms=50))
        digest = key_digest(
            posted.gateway_id, posted.kind, posted.intent.user_id, posted.idempotency_key
        )
        other.execute("INSERT INTO idempotency_keys VALUES (%s, %s, %s)", (UUID(bytes=digest),) * 3)
        rollback = lambda: (time.sleep(0.3), other.rollback())  # noqa: E731
        (answer,), _ = at_once([lambda: intake.submit([posted]), rollback])
    assert isinstance(answer, Accepted)
