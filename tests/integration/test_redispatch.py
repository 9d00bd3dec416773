"""Lost hints come back, bounded and backing off; what nobody paid for is released."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import pytest
import redis
from celery import Celery
from kit import World, at_once, ids_of, order
from kombu.exceptions import OperationalError

from config.settings import Broker, Postgres, Redispatcher, Secrets, Settings, Valkey
from deploy.embedded.ports import free_port
from tests.factories import MASTER
from workers.contract.celery_app import make_app
from workers.contract.hints import hint_sender, waiting_hints
from workers.contract.ids import uuid7_floor
from workers.contract.names import ORDERS_QUEUE, PROCESS_BATCH_TASK, gate_names
from workers.runtime.redispatcher import WHOLE_INTERVAL_S, RedispatchStore, build_schedule
from workers.service.redispatch import Bounds, Redispatch, Schedule, TickReport
from workers.store import redispatch
from workers.store.pool import WORKER

BATCH = 10
HINTS_MAX = 4
DISPATCH_AFTER_MS = 5_000


class _Queue:
    """What was sent, and how many hints wait."""

    def __init__(self) -> None:
        self.sent: list[list[UUID]] = []
        self.waiting = 0
        self.broken = False

    def send(self, intent_ids: Sequence[UUID]) -> None:
        if self.broken:
            raise ConnectionError("no broker")
        self.sent.append(list(intent_ids))


def _duties(world: World, queue: _Queue) -> Redispatch:
    return Redispatch(
        RedispatchStore(lambda: world.connection(WORKER)),
        queue.send,
        lambda: queue.waiting,
        Bounds(
            hints_per_tick_max=HINTS_MAX,
            dispatch_after_ms=DISPATCH_AFTER_MS,
            expire_batch_max=3,
            batch_max=BATCH,
        ),
    )


def _tick(duties: Redispatch) -> TickReport:
    report = TickReport()
    duties.hint(report)
    return report


def _open(world: World, count: int, *, age_ms: int = 0, overdue: bool = False) -> list[UUID]:
    batch = [order(f"u-{n}") for n in range(count)]
    world.intake().submit(batch)
    ids = ids_of(batch)
    world.age(ids, age_ms)
    if overdue:
        world.admin.execute("UPDATE open_intents SET dispatch_after = now()")
    return ids


@pytest.fixture
def queue() -> _Queue:
    return _Queue()


@pytest.fixture
def duties(world: World, queue: _Queue) -> Redispatch:
    return _duties(world, queue)


# Hints -------------------------------------------------------------------------------------------


def test_an_empty_system_sends_nothing(duties: Redispatch, queue: _Queue) -> None:
    """Where nothing is open there is nothing to hint at, however often it ticks."""
    for _ in range(3):
        assert _tick(duties) == TickReport()
    assert queue.sent == []


def test_young_intents_are_left_to_their_first_hint(
    world: World, duties: Redispatch, queue: _Queue
) -> None:
    """Their hint is under way: recovery does not double the traffic of a healthy system."""
    _open(world, 5)
    assert _tick(duties) == TickReport()


def test_overdue_intents_are_hinted_at_again_the_oldest_first(
    world: World, duties: Redispatch, queue: _Queue
) -> None:
    """In batches; each then waits for its next turn."""
    ids = _open(world, 25, overdue=True)
    assert _tick(duties) == TickReport(hints=3, redispatched=25)
    assert queue.sent == [ids[:10], ids[10:20], ids[20:]]
    queue.waiting = 1
    assert _tick(duties) == TickReport()


def test_a_tick_sends_a_bounded_number_of_hints(
    world: World, duties: Redispatch, queue: _Queue
) -> None:
    """Recovery is no storm: fewer, the more wait already, and none into a full queue."""
    _open(world, 100, overdue=True)
    for waiting, sent in ((HINTS_MAX + 3, 0), (HINTS_MAX, 0), (3, 1), (0, HINTS_MAX)):
        queue.waiting = waiting
        assert _tick(duties).hints == sent


def test_hints_for_one_intent_come_ever_more_rarely(
    world: World, duties: Redispatch, queue: _Queue
) -> None:
    """The pause grows with the age of the intent, from `dispatch_after_ms` on."""
    pauses = []
    for age_ms in (0, 60_000, 600_000):
        ids = _open(world, 1, age_ms=age_ms, overdue=True)
        queue.waiting = 1
        _tick(duties)
        pauses.append(
            world.value(
                "SELECT extract(epoch FROM dispatch_after - now()) FROM open_intents"
                " WHERE intent_id = %s",
                ids[0],
            )
        )
    assert [round(pause) for pause in pauses] == [5, 30, 300]


def test_an_emptied_queue_is_noticed_at_the_next_tick(
    world: World, duties: Redispatch, queue: _Queue
) -> None:
    """Open intents and no hint for them: as many as there are batches, within the bound."""
    _open(world, 25, age_ms=1_000)
    assert _tick(duties).hints == 3
    assert queue.sent == [[], [], []]
    queue.waiting = 3
    assert _tick(duties).hints == 0
    queue.waiting = 0
    _open(world, 100)
    assert _tick(duties).hints == HINTS_MAX


def test_what_a_worker_has_in_hand_needs_no_hint(
    world: World, duties: Redispatch, queue: _Queue
) -> None:
    """Locked rows are passed by: a slow batch is not hinted at."""
    _open(world, 3, age_ms=1_000, overdue=True)
    session = world.session()
    with session.transaction():
        assert len(session.claim([], BATCH).intents) == 3
        assert _tick(duties) == TickReport()
    assert _tick(duties).redispatched == 3


def test_what_is_kept_back_after_a_failure_needs_no_hint(
    world: World, duties: Redispatch, queue: _Queue
) -> None:
    """Nobody could claim it before its pause is over."""
    _open(world, 2, age_ms=1_000, overdue=True)
    world.admin.execute("UPDATE open_intents SET retry_after = now() + interval '1 minute'")
    assert _tick(duties) == TickReport()
    world.end_pauses()
    assert _tick(duties).redispatched == 2


def test_hints_that_could_not_be_sent_are_made_up_for_when_the_broker_is_back(
    world: World, duties: Redispatch, queue: _Queue
) -> None:
    """Their intents were put off, but a queue without hints is filled at once."""
    _open(world, 5, age_ms=1_000, overdue=True)
    queue.broken = True
    with pytest.raises(ConnectionError):
        _tick(duties)
    queue.broken = False
    assert _tick(duties).hints == 1
    assert world.processor().run(queue.sent[0]).outcomes == {"committed": 5}


def test_two_redispatchers_at_once_are_harmless(world: World) -> None:
    """Each due intent is hinted at by one of them, and decided once whoever hints."""
    ids = _open(world, 60, overdue=True)
    queues = [_Queue(), _Queue()]
    both = [_duties(world, queue) for queue in queues]
    at_once([lambda d=d: _tick(d) for d in both])
    hinted = [intent_id for queue in queues for hint in queue.sent for intent_id in hint]
    assert sorted(hinted) == ids
    processor = world.processor()
    for queue in queues:
        for hint in queue.sent * 2:
            processor.run(hint)
    assert world.reasons() == {"committed": 60}
    world.assert_clean()


# Expiry and upkeep -------------------------------------------------------------------------------


def test_expiry_goes_on_until_nothing_is_due(world: World, duties: Redispatch) -> None:
    """A tick works through more than one batch of them."""
    _open(world, 8)
    world.processor().run([])
    world.admin.execute("UPDATE orders SET payment_deadline = now()")
    report = TickReport()
    duties.expire_orders(report)
    assert report.orders_expired == 8
    assert world.stock_of() == (1000, 0, 0)
    world.assert_clean()


def test_coupons_past_their_window_give_their_budget_back(world: World, duties: Redispatch) -> None:
    """Stretch by stretch, through to the end, and again from the start next time."""
    world.issue([f"u-{n}" for n in range(8)])
    world.admin.execute("UPDATE campaigns SET coupons_valid_until = now()")
    reports = [TickReport(), TickReport()]
    for report in reports:
        duties.expire_coupons(report)
    assert [report.coupons_expired for report in reports] == [8, 0]
    assert world.value("SELECT reserved FROM budgets") == 0
    world.assert_clean()


def test_records_of_dead_batches_go_when_their_intents_are_decided(world: World) -> None:
    """And not before: they are the evidence against an intent that kills."""
    ids = _open(world, 2)
    session = world.session()
    with session.transaction():
        session.claim(ids, 0)
        session.record_claim(UUID(int=1), ids)
    connection = world.connection(WORKER)
    assert redispatch.sweep_claims(connection, older_ms=0) == 0
    world.processor().run(ids)
    assert redispatch.sweep_claims(connection, older_ms=60_000) == 0
    assert redispatch.sweep_claims(connection, older_ms=0) == 1


def test_a_duty_that_fails_stops_no_other() -> None:
    """One dead dependency stops only its own duties; they are tried again in their time."""
    ran: list[str] = []
    failed: list[str] = []
    schedule = Schedule(lambda name, error: failed.append(f"{name}: {error}"))

    def fail() -> None:
        raise OSError("away")

    schedule.add("failing", 5, fail)
    schedule.add("often", 0, lambda: ran.append("often"))
    schedule.add("rarely", 10, lambda: ran.append("rarely"))
    for now in (0.0, 1.0, 6.0, 10.0):
        schedule.run_due(now)
    assert failed == ["failing: away"] * 2
    assert ran == ["often", "rarely", "often", "often", "often", "rarely"]


# On a real broker --------------------------------------------------------------------------------


def _settings(world: World, broker: str = "") -> Settings:
    return Settings(
        postgres=Postgres(dsn=world.dsn),
        valkey=Valkey(url=world.valkey_url, key_prefix="tidegate:"),  # as of `factories.open_gate`
        broker=Broker(url=broker, publish_timeout_ms=500),
        redispatcher=Redispatcher(dispatch_after_ms=60_000),
        secrets=Secrets(master=MASTER),
    )


@pytest.fixture
def app(world: World) -> Celery:
    return make_app(_settings(world))


@pytest.fixture
def valkey(world: World) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(world.valkey_url) as client:
        yield client


def _received(app: Celery) -> list[list[str]]:
    """Take all hints out of the queue, as a worker would read them."""
    hints = []
    with app.connection_for_read() as connection:
        while message := connection.default_channel.basic_get(ORDERS_QUEUE, no_ack=True):
            assert message.headers["task"] == PROCESS_BATCH_TASK
            (args, _, _) = message.decode()
            hints.append(args[0])
    return hints


def test_hints_are_counted_and_arrive(app: Celery) -> None:
    """What was sent waits, is counted, and names its intents."""
    send = hint_sender(app, 1)
    assert waiting_hints(app) == 0
    send([UUID(int=1), UUID(int=2)])
    send([])
    assert waiting_hints(app) == 2
    assert _received(app) == [[UUID(int=1).hex, UUID(int=2).hex], []]
    assert waiting_hints(app) == 0


def test_hints_arrive_though_every_binding_was_lost(app: Celery, valkey: redis.Redis) -> None:
    """A flushed or evicted binding loses whole queues elsewhere; here nothing rests on one."""
    send = hint_sender(app, 1)
    send([UUID(int=1)])
    bindings = list(valkey.scan_iter("_kombu.binding.*"))
    if bindings:
        valkey.delete(*bindings)
    send([UUID(int=2)])
    assert waiting_hints(app) == 2
    assert _received(app) == [[UUID(int=1).hex], [UUID(int=2).hex]]


@pytest.fixture(params=["refusing", "silent"])
def broken_app(world: World, request: pytest.FixtureRequest) -> Iterator[Celery]:
    """An app whose broker is gone, or takes connections and says nothing."""
    if request.param == "refusing":
        yield make_app(_settings(world, f"redis://127.0.0.1:{free_port()}/0"))
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            yield make_app(_settings(world, f"redis://127.0.0.1:{port}/0"))


def test_a_broker_that_is_away_raises_within_its_timeout(broken_app: Celery) -> None:
    """Neither sending nor counting hangs; expiry and the rest of the tick go on."""
    for ask in (partial(hint_sender(broken_app, 0.5), []), partial(waiting_hints, broken_app)):
        begun = time.monotonic()
        with pytest.raises(OperationalError):
            ask()
        assert time.monotonic() - begun < 1.5


def test_a_flushed_valkey_is_made_good_within_a_tick(
    world: World, app: Celery, valkey: redis.Redis
) -> None:
    """Hints and the gate's memory come back from the journal, by the redispatcher as it is wired."""
    ids = _open(world, 3, age_ms=1_000)
    hint_sender(app, 1)(ids)
    valkey.flushall()
    schedule = build_schedule(_settings(world))
    schedule.run_due()
    assert _received(app) == [[]]
    assert world.gate is not None
    assert world.gate.reconciled()
    assert world.gate.in_flight() == 3
    assert world.processor().run([]).outcomes == {"committed": 3}


def test_a_leak_too_small_to_be_seen_in_the_count_is_mended_within_a_minute(
    world: World, valkey: redis.Redis
) -> None:
    """Else its units are missed for as long as the load lasts."""
    _open(world, 100)
    schedule = build_schedule(_settings(world))
    schedule.run_due(0.0)
    valkey.sadd(
        gate_names("tidegate:").in_flight, uuid7_floor(datetime(2026, 1, 1, tzinfo=UTC)).bytes
    )
    assert world.gate is not None
    schedule.run_due(WHOLE_INTERVAL_S - 1)
    assert world.gate.in_flight() == 101
    schedule.run_due(WHOLE_INTERVAL_S)
    assert world.gate.in_flight() == 100
