"""What Tidegate needs of its broker: the same of Valkey and of RabbitMQ, on real servers."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from gate_world import OwnValkey
from kombu import Consumer
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from config.settings import Broker, Settings, to_environ
from deploy.embedded import process
from tests.rabbitmq import OwnRabbit
from workers.contract.celery_app import make_app
from workers.contract.hints import hint_sender, waiting_hints
from workers.contract.names import ORDERS_QUEUE

TIMEOUT_S = 0.5
SOON_S = 10.0
AWAY = (OperationalError, OSError)
IDS = [UUID(int=number) for number in range(1, 10)]
# Takes one message and never acknowledges it.
HOLDER = """
import sys
from config.settings import load
from kombu import Consumer
from workers.contract.celery_app import make_app
from workers.contract.names import ORDERS_QUEUE
app = make_app(load())
with app.connection_for_read() as connection:
    channel = connection.default_channel
    channel.basic_qos(0, 1, False)
    got = []
    with Consumer(channel, app.amqp.queues[ORDERS_QUEUE], on_message=got.append):
        while not got:
            connection.drain_events(timeout=10)
        print("in hand", flush=True)
        sys.stdin.read()
"""


class FrozenValkey(OwnValkey):
    """A Valkey with the same handles as `OwnRabbit`."""

    kill = OwnValkey.restart

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module", params=["valkey", "rabbitmq"])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = (
        OwnRabbit()
        if request.param == "rabbitmq"
        else FrozenValkey("--appendonly", "yes", "--appendfsync", "always")
    )
    yield made
    made.close()


def settings_of(server: Any, visibility_timeout_s: int = 60) -> Settings:
    timeout_ms = int(TIMEOUT_S * 1_000)
    return Settings(
        broker=Broker(
            url=server.url,
            publish_timeout_ms=timeout_ms,
            visibility_timeout_s=visibility_timeout_s,
        )
    )


@pytest.fixture
def app(server: Any) -> Iterator[Celery]:
    """An app whose queue is empty."""
    made = make_app(settings_of(server))
    waiting_hints(made)
    received(made)
    yield made
    made.close()


@contextmanager
def consuming(app: Celery, prefetch: int = 1) -> Iterator[tuple[Connection, list[Any]]]:
    """Consume as a worker does; yields what was delivered."""
    got: list[Any] = []
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        channel.basic_qos(0, prefetch, False)
        with Consumer(channel, app.amqp.queues[ORDERS_QUEUE], on_message=got.append):
            yield connection, got


def delivered(connection: Connection, got: list[Any], count: int, within_s: float = SOON_S) -> bool:
    """Whether so many come within the time."""
    until = time.monotonic() + within_s
    while len(got) < count and time.monotonic() < until:
        with suppress(TimeoutError):
            connection.drain_events(timeout=0.1)
    return len(got) >= count


def named(message: Any) -> list[str]:
    """The ids that a hint names."""
    (args, _, _) = message.decode()
    found: list[str] = args[0]
    return found


def received(app: Celery) -> list[list[str]]:
    """Take all hints out of the queue."""
    hints = []
    with app.connection_for_read() as connection:
        while message := connection.default_channel.basic_get(ORDERS_QUEUE, no_ack=True):
            hints.append(named(connection.default_channel.message_to_python(message)))
    return hints


def succeeds(ask: Callable[[], object]) -> bool:
    """Whether it raises nothing."""
    try:
        ask()
    except Exception:
        return False
    return True


def test_hints_are_counted_and_arrive_in_order(app: Celery) -> None:
    send = hint_sender(app, TIMEOUT_S)
    assert waiting_hints(app) == 0
    for intent_id in IDS:
        send([intent_id])
    send([])
    assert process.until(lambda: waiting_hints(app) == len(IDS) + 1, SOON_S)
    assert received(app) == [*([one.hex] for one in IDS), []]
    assert waiting_hints(app) == 0


def test_who_has_a_hint_in_hand_gets_no_other(app: Celery) -> None:
    """A hint in a busy worker's pocket is late; it goes to whoever is idle."""
    send = hint_sender(app, TIMEOUT_S)
    with consuming(app) as (busy, hers), consuming(app) as (idle, his):
        send(IDS[:1])
        send(IDS[1:2])
        send(IDS[2:3])
        assert delivered(busy, hers, 1)
        assert delivered(idle, his, 1)
        assert not delivered(busy, hers, 2, 0.5)
        assert waiting_hints(app) == 1
        hers[0].ack()
        assert delivered(busy, hers, 2)
        for message in (hers[1], his[0]):
            message.ack()
        assert sorted(named(one) for one in [*hers, *his]) == [[one.hex] for one in IDS[:3]]


def test_what_a_killed_worker_had_in_hand_comes_again(app: Celery, server: Any) -> None:
    """From Valkey once its patience is over, from RabbitMQ at once."""
    hint_sender(app, TIMEOUT_S)(IDS[:1])
    impatient = make_app(settings_of(server, 1))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        env={"PYTHONPATH": ":".join(sys.path), **to_environ(settings_of(server))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"in hand\n"
        holder.kill()
    with consuming(impatient) as (connection, got):
        assert delivered(connection, got, 1, 20)
        assert named(got[0]) == [IDS[0].hex]
        got[0].ack()


def test_hints_arrive_again_once_a_killed_broker_is_back(app: Celery, server: Any) -> None:
    """By the same process, with nobody's help; what waited has been written down."""
    send = hint_sender(app, TIMEOUT_S)
    send(IDS[:1])
    server.kill()
    assert process.until(lambda: succeeds(partial(send, IDS[1:2])), SOON_S)
    assert process.until(lambda: succeeds(partial(waiting_hints, app)), SOON_S)
    assert process.until(lambda: waiting_hints(app) == 2, SOON_S)
    assert received(app) == [[one.hex] for one in IDS[:2]]


def test_a_broker_that_falls_silent_raises_within_its_timeout(app: Celery, server: Any) -> None:
    """Neither sending nor counting hangs, on open connections and on new ones."""
    send = hint_sender(app, TIMEOUT_S)
    send([])
    server.freeze()
    try:
        for ask in (partial(send, IDS[:1]), partial(send, IDS[1:2]), partial(waiting_hints, app)):
            begun = time.monotonic()
            with pytest.raises(AWAY):
                ask()
            assert time.monotonic() - begun < 6 * TIMEOUT_S
    finally:
        server.thaw()
    assert process.until(lambda: succeeds(partial(send, IDS[2:3])), SOON_S)
    assert process.until(lambda: succeeds(partial(waiting_hints, app)), SOON_S)
    assert [IDS[2].hex] in received(app)


def test_a_queue_that_was_deleted_is_there_again_once_it_was_looked_at(app: Celery) -> None:
    """The redispatcher looks twice a second, whether workers live or not."""
    send = hint_sender(app, TIMEOUT_S)
    send(IDS[:1])
    with app.connection_for_write() as connection:
        connection.default_channel.queue_purge(ORDERS_QUEUE)  # on Valkey a list is its messages
        connection.default_channel.queue_delete(ORDERS_QUEUE)
    assert waiting_hints(app) == 0
    send(IDS[1:2])
    assert process.until(lambda: waiting_hints(app) == 1, SOON_S)
    assert received(app) == [[IDS[1].hex]]
