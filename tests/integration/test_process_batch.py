"""A worker's batch on the real PostgreSQL: what it does with faults, deaths, lost replies and time."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from kit import World, again, at_once, comes_true, ids_of, in_child, order
from postgres_proxy import PostgresProxy

from config import failpoints
from producer.answers import Posted, Replayed
from workers.contract.ids import uuid7
from workers.domain.decide import decide
from workers.domain.intent import Intent
from workers.domain.outcome import Outcome, Refusal
from workers.domain.snapshot import Snapshot
from workers.service.process_batch import FAILURES_MAX, Processor
from workers.store.pool import Bounds

Decide = Callable[[Sequence[Intent], Snapshot, datetime], list[Outcome]]
FOREVER = float("inf")


def _users(count: int) -> list[Posted]:
    return [order(f"u-{n}") for n in range(count)]


def _accept(world: World, batch: Sequence[Posted]) -> list[UUID]:
    world.intake().submit(batch)
    return ids_of(batch)


def _when(user_id: str, act: Callable[[], object]) -> Decide:
    """Decide as ever, but act first if this user's intent is in the batch."""

    def deciding(intents: Sequence[Intent], snapshot: Snapshot, now: datetime) -> list[Outcome]:
        if any(intent.user_id == user_id for intent in intents):
            act()
        return decide(intents, snapshot, now)

    return deciding


def _fail() -> None:
    raise ValueError("poison")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _told(world: World) -> Counter[tuple[UUID, str]]:
    return Counter((one.intent_id, one.refusal or "committed") for one in world.told)


# Claims and hints --------------------------------------------------------------------------------


def test_a_hint_for_one_brings_the_others_along(world: World) -> None:
    """A lost hint is healed by the next one: the claim takes the oldest others too."""
    ids = _accept(world, _users(10))
    report = world.processor().run(ids[7:8])
    assert report.outcomes == {"committed": 10}
    assert report.sizes == [report.claimed]


def test_a_full_batch_is_followed_by_another(world: World) -> None:
    """One hint works through the backlog while there is time."""
    ids = _accept(world, _users(10))
    report = world.processor(batch_max=3).run(ids[:1], until=FOREVER)
    assert (len(report.sizes), report.claimed, world.open_count()) == (4, 10, 0)


def test_without_time_one_batch_is_all(world: World) -> None:
    """A hint without time to go on is one batch."""
    _accept(world, _users(10))
    assert world.processor(batch_max=3).run([]).claimed == 3


def test_doubled_and_foreign_hints_find_nothing(world: World) -> None:
    """A hint whose intents are gone, or never were, costs a probe and changes nothing."""
    ids = _accept(world, _users(3))
    processor = world.processor()
    processor.run(ids)
    before = list(world.told)
    for hint in (ids, ids[::-1], [uuid7(), uuid7()]):
        assert processor.run(hint).claimed == 0
    assert world.told == before
    world.assert_clean()


def test_the_last_unit_goes_to_whoever_came_first(world: World) -> None:
    """Arrival order decides, not the order of hints."""
    world.admin.execute("UPDATE stock SET available = 1, sold = 999 WHERE sku = 'tea'")
    first, second = order("u-1"), order("u-2")
    _accept(world, [first])
    _accept(world, [second])
    world.processor().run([second.intent_id, first.intent_id])
    assert _told(world) == {
        (first.intent_id, "committed"): 1,
        (second.intent_id, Refusal.SOLD_OUT): 1,
    }


def test_what_another_worker_holds_is_left_to_it(world: World) -> None:
    """Two workers never have the same intent in hand, and neither waits for the other."""
    teas = _accept(world, [order(f"u-{n}") for n in range(3)])
    buns = _accept(world, [order(f"v-{n}", lines=[("bun", 1)]) for n in range(3)])
    inside, go_on = threading.Event(), threading.Event()

    def pause() -> None:
        inside.set()
        assert go_on.wait(10)

    slow = world.processor("slow", batch_max=3, decide=_when("u-0", pause))
    thread = threading.Thread(target=slow.run, args=([],))
    thread.start()
    assert inside.wait(10)
    world.processor("quick").run([*teas, *buns])
    assert _told(world) == {(intent_id, "committed"): 1 for intent_id in buns}
    go_on.set()
    thread.join(10)
    assert _told(world) == {(intent_id, "committed"): 1 for intent_id in teas + buns}
    world.assert_clean()


# Poison ------------------------------------------------------------------------------------------


def test_a_poisonous_intent_among_499_is_told_so_and_harms_nobody(world: World) -> None:
    """Neighbours commit at once; the poison is kept back, counted, quarantined, and told."""
    ids = _accept(world, _users(500))
    poison = ids[250]
    processor = world.processor(decide=_when("u-250", _fail))
    report = processor.run(ids)
    assert report.outcomes == {"committed": 499}
    assert report.failures == 1
    assert processor.run([poison]).claimed == report.claimed - 499  # kept back for now
    for attempts in range(2, FAILURES_MAX + 1):
        world.end_pauses()
        report = processor.run(_accept(world, [order("u-healthy")]))
        assert report.outcomes["committed"] == 1
        assert report.failures == 1
        assert report.quarantined == (attempts == FAILURES_MAX)
    assert _told(world)[poison, Refusal.COULD_NOT_BE_PROCESSED] == 1
    assert max(_told(world).values()) == 1
    assert world.rows("SELECT intent_id, error, attempts FROM quarantine") == [
        (poison, "ValueError: poison", FAILURES_MAX)
    ]
    world.assert_clean()


def test_a_failure_counts_only_if_others_commit_meanwhile(world: World) -> None:
    """Alone in the world, an intent that fails may be our fault: it is tried on, not judged."""
    ids = _accept(world, [order("u-poison")])
    processor = world.processor(decide=_when("u-poison", _fail))
    for _ in range(FAILURES_MAX + 2):
        world.end_pauses()
        assert processor.run(ids).quarantined == 0
    assert world.rows("SELECT attempts FROM open_intents") == [(0,)]
    world.assert_clean(drained=False)


def test_a_bad_deployment_quarantines_nobody(world: World) -> None:
    """An error for every intent is the code's; with the next version all commit."""
    ids = _accept(world, _users(6))

    def broken(intents: Sequence[Intent], snapshot: Snapshot, now: datetime) -> list[Outcome]:
        raise KeyError("a typing error")

    bad = world.processor(decide=broken)
    for _ in range(FAILURES_MAX + 1):
        # Some meanwhile pass their deadline; that their refusal commits proves nothing.
        late = _accept(world, [order("u-late")])
        world.age(late, 60_000)
        report = bad.run(ids)
        assert report.outcomes == {"deadline_expired": 1}
        world.end_pauses()
    assert world.value("SELECT count(*) FROM quarantine") == 0
    assert world.rows("SELECT DISTINCT attempts FROM open_intents") == [(0,)]
    assert world.processor().run(ids).outcomes == {"committed": 6}
    world.assert_clean()


@pytest.mark.parametrize(
    ("table", "rule", "sqlstate"),
    [
        ("orders", "user_id <> 'u-3'", "CheckViolation"),
        ("order_lines", "1 / (quantity - 7) <= 1", "DivisionByZero"),
    ],
)
def test_an_intent_that_the_database_refuses_is_found_by_halving(
    world: World, table: str, rule: str, sqlstate: str
) -> None:
    """Classes 22 and 23 blame the data of one intent; the others commit."""
    world.admin.execute(f"ALTER TABLE {table} ADD CHECK ({rule})")
    batch = [order(f"u-{n}", lines=[("tea", 7 if n == 3 else 1)]) for n in range(8)]
    ids = _accept(world, batch)
    processor = world.processor()
    for attempts in range(1, FAILURES_MAX + 1):
        report = processor.run(ids)
        assert report.failures == 1
        assert report.quarantined == (attempts == FAILURES_MAX)
        _accept(world, [order("u-healthy")])
        world.end_pauses()
    assert world.rows("SELECT intent_id, split_part(error, ':', 1) FROM quarantine") == [
        (ids[3], sqlstate)
    ]
    assert world.reasons() == {"committed": 9, "could_not_be_processed": 1}
    processor.run([])
    world.assert_clean()


def test_a_journalled_body_that_cannot_be_read_blocks_nobody(world: World) -> None:
    """What another version wrote and this one cannot read is poison like any other."""
    ids = _accept(world, batch := _users(5))
    with world.admin.transaction():
        world.admin.execute("SET LOCAL session_replication_role = replica")
        world.admin.execute(
            """UPDATE intents SET body = '{"lines": [], "ttl_ms": "soon"}' WHERE intent_id = %s""",
            (ids[2],),
        )
    processor = world.processor()
    assert processor.run(ids).outcomes == {"committed": 4}
    for _ in range(FAILURES_MAX):
        world.end_pauses()
        processor.run(_accept(world, [order("u-healthy")]))
    assert _told(world)[ids[2], Refusal.COULD_NOT_BE_PROCESSED] == 1
    (answer,) = world.intake().submit([again(batch[2])])
    assert isinstance(answer, Replayed)
    assert answer.resource.refusal is Refusal.COULD_NOT_BE_PROCESSED
    world.assert_clean()


# Faults of the system ----------------------------------------------------------------------------


def _survives(world: World, processor: Processor, ids: list[UUID]) -> None:
    """Nothing was blamed and nothing was lost: the same processor commits all."""
    assert world.value("SELECT count(*) FROM quarantine") == 0
    assert world.rows("SELECT DISTINCT attempts FROM open_intents") == [(0,)]
    assert comes_true(lambda: processor.run(ids).claimed > 0 or world.open_count() == 0)
    assert world.reasons() == {"committed": len(ids)}
    assert _told(world) == {(intent_id, "committed"): 1 for intent_id in ids}
    world.assert_clean()


def _terminate(world: World, state: str) -> None:
    count = world.value(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'tidegate-w' AND state = %s",
        state,
    )
    assert count == 1


@pytest.mark.parametrize("state", ["idle in transaction", "idle"])
def test_a_connection_lost_in_the_middle_blames_nobody(world: World, state: str) -> None:
    """Either of the worker's two connections may go at any time."""
    ids = _accept(world, _users(5))
    once = iter([lambda: _terminate(world, state)])
    processor = world.processor(decide=_when("u-1", lambda: next(once, int)()))  # noqa: PLW0108
    if state == "idle in transaction":
        with pytest.raises(psycopg.OperationalError):
            processor.run(ids)
    else:
        processor.run(ids)
    assert world.value("SELECT count(*) FROM quarantine") == 0
    comes_true(lambda: processor.run(ids).claimed == 0 and world.open_count() == 0)
    assert _told(world) == {(intent_id, "committed"): 1 for intent_id in ids}
    world.assert_clean()


def test_connections_that_died_while_idle_cost_no_batch(world: World) -> None:
    """After a failover the first hint is served, not put off until the redispatcher comes."""
    processor = world.processor()
    processor.run(_accept(world, _users(2)))
    world.value(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'tidegate-w'"
    )
    ids = _accept(world, [order("u-2"), order("u-3")])
    assert processor.run(ids).outcomes == {"committed": 2}
    later = _accept(world, [order("u-4"), order("u-5")])
    assert processor.run(later).suspects == 0


@pytest.mark.parametrize(
    ("bounds", "error"),
    [
        (Bounds(statement_timeout_ms=150), psycopg.errors.QueryCanceled),
        (Bounds(lock_timeout_ms=30), psycopg.errors.LockNotAvailable),
    ],
)
def test_a_wait_that_ends_in_a_timeout_blames_nobody(
    world: World, bounds: Bounds, error: type[Exception]
) -> None:
    """A stuck holder of a lock is nobody's fault in this batch."""
    ids = _accept(world, _users(5))
    processor = world.processor(bounds=bounds)
    with psycopg.connect(world.dsn) as holder:
        holder.execute("SELECT FROM tidegate.stock FOR UPDATE")
        with pytest.raises(error):
            processor.run(ids)
    _survives(world, processor, ids)


def test_a_short_wait_is_waited_out(world: World) -> None:
    """Contention is repeated a few times before it is an outage."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    processor = world.processor(bounds=Bounds(lock_timeout_ms=30))
    processor.run([])  # its connections are open before the lock is held
    ids = _accept(world, _users(5))
    with (
        psycopg.connect(world.dsn) as holder,
        psycopg.connect(world.dsn, autocommit=True) as watcher,
    ):
        holder.execute("SELECT FROM tidegate.stock FOR UPDATE")

        def release() -> None:
            assert comes_true(lambda: watcher.execute(waiting).fetchone() != (0,))
            time.sleep(0.05)  # beyond the time-out of that wait
            holder.rollback()

        report, _ = at_once([lambda: processor.run(ids), release])
    assert report.contentions > 0
    assert report.outcomes == {"committed": 5}


# Death -------------------------------------------------------------------------------------------


def _work_in_child(world: World, decide_: Decide, points: str = "") -> int | None:
    def work() -> None:
        failpoints.configure(points, enabled=bool(points))
        processor = world.processor("child", decide=decide_)
        processor.run([], until=FOREVER)

    return in_child(work)


def _until_it_lives(world: World, decide_: Decide) -> int:
    """Let workers be restarted until one comes through; return how many died."""
    for deaths in range(30):
        comes_true(lambda: _unlocked(world))
        if _work_in_child(world, decide_) == 0:
            return deaths
    raise AssertionError("every worker dies")


def _unlocked(world: World) -> bool:
    """Whether the server has noticed that the last worker is gone."""
    return not world.value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'tidegate-child'"
    )


def test_a_killer_is_found_in_ever_smaller_company_and_quarantined(world: World) -> None:
    """It takes a worker down with 59 others, then with a few, then alone three times, no more."""
    ids = _accept(world, _users(60))
    deaths = _until_it_lives(world, _when("u-40", _die))
    assert deaths == 1 + 1 + FAILURES_MAX
    assert world.reasons() == {"committed": 59, "could_not_be_processed": 1}
    assert world.rows("SELECT intent_id, attempts FROM quarantine") == [(ids[40], FAILURES_MAX)]
    world.assert_clean()


def test_the_neighbours_of_one_random_kill_all_commit(world: World, tmp_path: Path) -> None:
    """Whoever happened to be in a dying worker's hands is suspected, tried, and innocent."""
    _accept(world, _users(80))
    marker = tmp_path / "killed"

    def once() -> None:
        if not marker.exists():
            marker.touch()
            _die()

    assert _until_it_lives(world, _when("u-5", once)) == 1
    assert world.reasons() == {"committed": 80}
    assert world.value("SELECT count(*) FROM quarantine") == 0
    world.assert_clean()


@pytest.mark.parametrize(
    "point",
    [
        "worker.after_claim",
        "worker.before_commit",
        "worker.after_commit",
        "worker.before_announce",
    ],
)
def test_a_worker_killed_at_any_step_loses_and_doubles_nothing(world: World, point: str) -> None:
    """What it had not committed is open and tried again; what it had committed stands once."""
    _accept(world, _users(5))
    assert _work_in_child(world, decide, f"{point}=kill") == -signal.SIGKILL
    assert comes_true(lambda: _unlocked(world))
    committed = point in ("worker.after_commit", "worker.before_announce")
    assert world.open_count() == (0 if committed else 5)
    report = world.processor().run([])
    assert report.suspects == (0 if committed else 5)
    assert world.reasons() == {"committed": 5}
    world.assert_clean()


# A COMMIT whose reply is lost --------------------------------------------------------------------


def test_a_commit_whose_reply_was_lost_is_told_once(world: World) -> None:
    """It is settled by reading: what was committed is announced with the next call, and once."""
    ids = _accept(world, _users(3))
    with PostgresProxy(world.dsn) as proxy:
        processor = world.processor(dsn=proxy.dsn)
        proxy.lose_reply_to = b"COMMIT"
        with pytest.raises(psycopg.OperationalError):
            processor.run(ids)
        assert proxy.lost == 1
        assert world.reasons() == {"committed": 3}
        assert world.told == []
        proxy.refusing = True
        with pytest.raises(psycopg.OperationalError):
            processor.run(ids)
        proxy.refusing = False
        for _ in range(3):
            assert processor.run(ids).claimed == 0
    assert _told(world) == {(intent_id, "committed"): 1 for intent_id in ids}
    world.assert_clean()


def test_a_commit_still_under_way_when_it_is_asked_about_is_told_later(world: World) -> None:
    """The server may finish a COMMIT long after its client was cut off, as behind a standby."""
    world.admin.execute(
        "CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END'"
    )
    world.admin.execute(
        "CREATE CONSTRAINT TRIGGER stall AFTER INSERT ON outcomes DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION stall()"
    )
    ids = _accept(world, _users(3))
    world.admin.execute("SELECT pg_advisory_lock(42)")
    with PostgresProxy(world.dsn) as proxy:
        patient = Bounds(lock_timeout_ms=60_000, statement_timeout_ms=60_000)
        processor = world.processor(dsn=proxy.dsn, bounds=patient)
        proxy.hasty = True
        proxy.lose_reply_to = b"COMMIT"
        with pytest.raises(psycopg.OperationalError):
            processor.run(ids)
        assert processor.run(ids).claimed == 0
        assert world.told == []
        world.admin.execute("SELECT pg_advisory_unlock(42)")
        assert comes_true(lambda: world.open_count() == 0)
        processor.run([])
        processor.run([])
    assert _told(world) == {(intent_id, "committed"): 1 for intent_id in ids}
    world.assert_clean()


# Time --------------------------------------------------------------------------------------------


def test_an_intent_past_its_deadline_is_refused_without_waiting_for_locks(world: World) -> None:
    """Nobody waits for an answer that is of no use any more: no lock is asked for."""
    late = _accept(world, [order("u-1"), order("u-2")])
    world.age(late, 60_000)
    with psycopg.connect(world.dsn) as holder:
        for table in ("stock", "budgets", "user_counters"):
            holder.execute(f"LOCK TABLE tidegate.{table} IN ACCESS EXCLUSIVE MODE".encode())
        begun = time.monotonic()
        report = world.processor().run(late)
        assert time.monotonic() - begun < 1
    assert report.outcomes == {"deadline_expired": 2}
    world.assert_clean()


def test_a_deadline_is_judged_again_after_the_wait_for_a_lock(world: World) -> None:
    """The clock is read after the locks: who waited too long sells nothing to nobody."""
    ids = _accept(world, [order("u-1", ttl_ms=3_000), order("u-2", ttl_ms=60_000)])
    patient = Bounds(lock_timeout_ms=60_000, statement_timeout_ms=60_000)
    processor = world.processor(bounds=patient)
    is_late = (
        "SELECT clock_timestamp() > accepted_at + interval '3 s' FROM intents WHERE intent_id = %s"
    )
    with psycopg.connect(world.dsn) as holder:
        holder.execute("SELECT FROM tidegate.stock FOR UPDATE")

        def release() -> None:
            assert comes_true(
                lambda: world.value("SELECT count(*) FROM pg_locks WHERE NOT granted")
            )
            assert not world.value(is_late, ids[0]), "when it was taken in hand"
            assert comes_true(lambda: world.value(is_late, ids[0]))
            holder.rollback()

        report, _ = at_once([lambda: processor.run(ids), release])
    assert report.outcomes == {"deadline_expired": 1, "committed": 1}
    assert _told(world)[ids[0], Refusal.DEADLINE_EXPIRED] == 1
    assert world.stock_of() == (999, 1, 0)
    world.assert_clean()
