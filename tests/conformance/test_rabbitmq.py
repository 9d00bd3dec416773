"""What holds on RabbitMQ alone: quorum queues, confirmed publishes, a limit of deliveries."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from functools import partial
from uuid import UUID

import pytest
from amqp.exceptions import NotFound, PreconditionFailed
from celery import Celery
from kombu import Consumer
from kombu.exceptions import OperationalError

from config.settings import Broker, Settings
from deploy.cli import examine_broker
from deploy.cli.finding import Status
from deploy.embedded.ports import free_port
from tests.rabbitmq import OwnRabbit
from workers.contract.celery_app import make_app
from workers.contract.hints import hint_sender, waiting_hints
from workers.contract.names import INTAKE_QUEUE, ORDERS_QUEUE
from workers.contract.rabbitmq import DELIVERIES_MAX

TIMEOUT_S = 0.5
SOON_S = 10.0
AWAY = (OperationalError, OSError)
IDS, OTHERS = [UUID(int=1)], [UUID(int=2)]


def settings_of(url: str) -> Settings:
    return Settings(broker=Broker(url=url, publish_timeout_ms=int(TIMEOUT_S * 1_000)))


@pytest.fixture(scope="module")
def node() -> Iterator[OwnRabbit]:
    made = OwnRabbit()
    yield made
    made.close()


@pytest.fixture
def app(node: OwnRabbit) -> Iterator[Celery]:
    """An app of a node without queues."""
    made = make_app(settings_of(node.url))
    forget(made)
    yield made
    made.close()


def forget(app: Celery) -> None:
    with app.connection_for_write() as connection:
        for queue in (ORDERS_QUEUE, INTAKE_QUEUE):
            connection.default_channel.queue_delete(queue)


def test_queues_are_quorum_queues_with_a_limit_of_deliveries(app: Celery) -> None:
    """RabbitMQ compares what is declared again with what is there, and names what differs."""
    waiting_hints(app)
    for arguments, differs in (({}, "x-queue-type"), ({"x-queue-type": "quorum"}, "x-delivery")):
        with app.connection_for_write() as connection, pytest.raises(PreconditionFailed) as refused:
            connection.default_channel.queue_declare(
                ORDERS_QUEUE, durable=True, auto_delete=False, arguments=arguments
            )
        assert differs in str(refused.value)


def waiting_ids(app: Celery) -> list[str]:
    """Take all hints out of the queue; return what they name, in order."""
    found: list[str] = []
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        while message := channel.basic_get(ORDERS_QUEUE, no_ack=True):
            (args, _, _) = channel.message_to_python(message).decode()
            found += args[0]
    return found


def test_a_hint_that_no_queue_takes_is_not_sent(app: Celery) -> None:
    """RabbitMQ confirms it all the same: there was nothing to be done with it.

    The next one goes over a new connection, on which Celery declares the queue first.
    """
    send = hint_sender(app, TIMEOUT_S)
    send(IDS)
    forget(app)
    with pytest.raises(Exception, match="NO_ROUTE"):
        send(IDS)
    send(OTHERS)
    assert waiting_ids(app) == [OTHERS[0].hex]


def test_a_late_confirmation_confirms_no_other_hint(app: Celery, node: OwnRabbit) -> None:
    """The first hint timed out, and is confirmed when the node goes on; then its queue is deleted.

    Were it taken for the second one's, that one would count as sent, and be nowhere.
    """
    waiting_hints(app)
    send = hint_sender(app, TIMEOUT_S)
    send(IDS)
    node.freeze()
    try:
        with pytest.raises(Exception, match="timed out"):
            send(IDS)
    finally:
        node.thaw()
    forget(app)
    send(OTHERS)
    assert OTHERS[0].hex in waiting_ids(app)


def test_a_hint_that_always_comes_back_is_dropped_in_the_end(app: Celery) -> None:
    """Each time its consumer dies with it in hand. The journal keeps its intents."""
    waiting_hints(app)
    hint_sender(app, TIMEOUT_S)(IDS)
    deliveries = 0
    while deliveries <= DELIVERIES_MAX + 1:
        connection, got = app.connection_for_read(), list[object]()
        queue = app.amqp.queues[ORDERS_QUEUE]
        Consumer(connection.default_channel, queue, on_message=got.append).consume()
        try:
            connection.drain_events(timeout=2)
        except TimeoutError:
            break
        finally:
            connection.collect()
        deliveries += len(got)
    assert deliveries == DELIVERIES_MAX + 1
    assert waiting_hints(app) == 0


@pytest.fixture(params=["refusing", "silent"])
def broken_app(request: pytest.FixtureRequest) -> Iterator[Celery]:
    """An app whose node is gone, or takes connections and says nothing."""
    if request.param == "refusing":
        yield make_app(settings_of(f"amqp://127.0.0.1:{free_port()}//"))
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            yield make_app(settings_of(f"amqp://127.0.0.1:{listener.getsockname()[1]}//"))


def test_a_node_that_is_away_raises_within_its_timeout(broken_app: Celery) -> None:
    for ask in (
        partial(hint_sender(broken_app, TIMEOUT_S), []),
        partial(waiting_hints, broken_app),
    ):
        begun = time.monotonic()
        with pytest.raises(AWAY):
            ask()
        assert time.monotonic() - begun < 6 * TIMEOUT_S


def test_the_doctor_knows_our_queues_from_others(app: Celery, node: OwnRabbit) -> None:
    """A classic queue of the same name, as an earlier Celery left it, would keep every process out."""
    examine = partial(examine_broker.broker, settings_of(node.url))
    checks = [
        "broker",
        "RabbitMQ version",
        *(f"RabbitMQ queue {q}" for q in (ORDERS_QUEUE, INTAKE_QUEUE)),
    ]
    assert [(one.check, one.status) for one in examine()] == [(one, Status.FINE) for one in checks]
    with app.connection_for_read() as connection, pytest.raises(NotFound):
        connection.default_channel.queue_declare(ORDERS_QUEUE, passive=True)
    waiting_hints(app)
    assert examine()[2].found == "a quorum queue"
    with app.connection_for_write() as connection:
        connection.default_channel.queue_declare(INTAKE_QUEUE, durable=True, auto_delete=False)
    bad = [one for one in examine() if one.status is Status.BAD]
    assert [one.check for one in bad] == [f"RabbitMQ queue {INTAKE_QUEUE}"]
    assert "rabbitmqctl delete_queue" in bad[0].mend
