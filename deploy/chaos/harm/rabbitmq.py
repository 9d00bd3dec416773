"""Faults of RabbitMQ: it forgets, refuses, and what it carries is stolen, doubled or rubbish."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from signal import Signals
from typing import Any, Final

from amqp.basic_message import Message
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from deploy.chaos.harm.broker import stealing
from deploy.chaos.harm.victims import NotDoneError, named, signal
from deploy.chaos.plan import Fault
from deploy.chaos.world import World
from deploy.embedded import process
from deploy.embedded.rabbitmq import control
from workers.contract import rabbitmq
from workers.contract.names import INTAKE_QUEUE, ORDERS_QUEUE

_TIMEOUT_S: Final = 2.0
_LOOK_S: Final = 0.02
_KEPT_S: Final = (0.05, 1.5)
_CONTROL_TIMEOUT_S: Final = 20.0  # a command is an Erlang of its own, which takes a second to start
_ALARMED, _CALM = "1", "256MB"
_RUBBISH: Final[tuple[tuple[bytes, dict[str, Any]], ...]] = (
    (b"", {}),
    (b"{", {"content_type": "application/json"}),
    (b"\x80\x04K\x01.", {"content_type": "application/x-python-serialize"}),
    (b"[]", {"content_type": "application/json", "content_encoding": "utf-7"}),
    (b"[]", {"content_type": "application/json", "application_headers": {"task": {"a": 1}}}),
    (b"[[],{},{}]", {"application_headers": {"task": "os.system", "id": "x"}}),
)
_AWAY: Final = (
    OperationalError,
    *rabbitmq.Transport.connection_errors,
    *rabbitmq.Transport.channel_errors,
)


@contextlib.contextmanager
def empty(world: World, fault: Fault) -> Iterator[str]:
    """Come back with an empty folder."""
    victims = [one for one in map(process.identify, world.pids("rabbitmq")) if one is not None]
    if not victims:
        raise NotDoneError("no rabbitmq runs")
    signal(victims, Signals.SIGSTOP)
    shutil.rmtree(world.cluster.rabbitmq.data, ignore_errors=True)
    signal(victims, Signals.SIGKILL)
    yield f"killed {named('rabbitmq', victims)} and emptied its folder"


@contextlib.contextmanager
def delete(world: World, fault: Fault) -> Iterator[str]:
    """Lose the queues, with whoever consumes from them."""
    with _channel(world) as channel:
        lost = [channel.queue_delete(queue) for queue in (ORDERS_QUEUE, INTAKE_QUEUE)]
    yield f"deleted the queues with {sum(lost)} hints"


@contextlib.contextmanager
def purge(world: World, fault: Fault) -> Iterator[str]:
    """Lose every hint that nobody has in hand."""
    with _channel(world) as channel:
        channel.queue_declare(ORDERS_QUEUE, passive=True)
        lost = channel.queue_purge(ORDERS_QUEUE)
    yield f"purged {lost} hints"


@contextlib.contextmanager
def alarm(world: World, fault: Fault) -> Iterator[str]:
    """Let it have no memory left: it takes publishes and answers none."""
    _control(world, "set_vm_memory_high_watermark", "absolute", _ALARMED)
    try:
        yield "RabbitMQ has no memory left"
    finally:
        _control(world, "set_vm_memory_high_watermark", "absolute", _CALM)


@contextlib.contextmanager
def rubbish(world: World, fault: Fault) -> Iterator[str]:
    """Send what is no hint into the queue."""
    body, properties = _RUBBISH[int(fault.pick * len(_RUBBISH))]
    with _channel(world) as channel:
        _send(channel, body, properties)
    yield f"sent {body!r} into the queue, with {properties}"


def hints(world: World, fault: Fault) -> AbstractContextManager[str]:
    """See `broker.stealing`."""
    return stealing(lambda over: _steal(world, fault, over))


def waiting(world: World) -> int | None:
    """Count the hints that wait; None where it cannot be asked."""
    with contextlib.suppress(NotDoneError), _channel(world) as channel:
        return int(channel.queue_declare(ORDERS_QUEUE, passive=True).message_count)
    return None


def _steal(world: World, fault: Fault, over: threading.Event) -> None:
    chance = random.Random(fault.pick)
    kept: list[tuple[float, bytes, dict[str, Any]]] = []
    while not over.wait(_LOOK_S):
        with contextlib.suppress(NotDoneError), _channel(world) as channel:
            while not over.wait(_LOOK_S):
                stolen = channel.basic_get(ORDERS_QUEUE, no_ack=True)
                if stolen is not None and chance.random() >= fault.amount:
                    kept += [
                        (
                            time.monotonic() + chance.uniform(*_KEPT_S),
                            stolen.body,
                            stolen.properties,
                        )
                        for _ in range(chance.randint(1, 3))
                    ]
                for due in [one for one in kept if one[0] <= time.monotonic()]:
                    kept.remove(due)
                    _send(channel, due[1], due[2])


def _send(channel: Any, body: bytes, properties: dict[str, Any]) -> None:
    channel.basic_publish(Message(body, **properties), exchange="", routing_key=ORDERS_QUEUE)


@contextlib.contextmanager
def _channel(world: World) -> Iterator[Any]:
    """Open a channel; what the node cannot be asked for just now is not done."""
    rabbitmq.use()
    url = world.cluster.rabbitmq.url
    options = rabbitmq.options(_TIMEOUT_S) | {"max_retries": 1}
    try:
        with Connection(url, connect_timeout=_TIMEOUT_S, transport_options=options) as connection:
            yield connection.default_channel
    except _AWAY as error:
        raise NotDoneError(f"RabbitMQ cannot be asked ({error})") from error


def _control(world: World, *line: str) -> None:
    node = world.cluster.rabbitmq
    try:
        subprocess.run(
            [control(), *line],
            env={**os.environ, **node.environ()},
            check=True,
            capture_output=True,
            timeout=_CONTROL_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NotDoneError(f"RabbitMQ cannot be told ({error})") from error
