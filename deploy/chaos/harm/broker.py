"""Faults of what the broker carries: stolen and doubled hints, rubbish; and poison in the journal."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final
from uuid import UUID

import psycopg
import redis

from deploy.chaos.harm.victims import NotDoneError
from deploy.chaos.plan import Fault
from deploy.chaos.world import World
from deploy.embedded.seeding import GATEWAY
from workers.contract.celery_app import make_app
from workers.contract.ids import uuid7
from workers.contract.names import ORDERS_QUEUE, PROCESS_BATCH_TASK
from workers.domain.intent import Kind
from workers.store.journal import key_digest
from workers.store.sql import queries

_SQL: Final = queries("chaos")
_STEAL_TIMEOUT_S: Final = 0.2
_POSTPONED_S: Final = 3_600
_KEPT_S: Final = (0.05, 1.5)
_THREAD_END_S: Final = 6.0  # longer than any broker is waited for
_UNREADABLE: Final = '{"lines": [{"sku": 7}]}'
_READABLE: Final = '{"lines": [{"sku": "hot", "quantity": 1}]}'
_RUBBISH: Final = (
    b"",
    b"{",
    b"[]",
    b'{"body": 7}',
    b"\x80\x04K\x01.",
    b'{"headers": {}, "body": "e30="}',
)


def hints(world: World, fault: Fault) -> AbstractContextManager[str]:
    """See `stealing`."""
    return stealing(lambda over: _steal(world, fault, over))


@contextlib.contextmanager
def stealing(steal: Callable[[threading.Event], None]) -> Iterator[str]:
    """Steal hints before the workers have them; hand them back late, doubled, out of order.

    `steal` does so, until it is over. A fault's `amount` is the share that is lost for good.
    """
    over = threading.Event()
    thief = threading.Thread(target=steal, args=(over,), name="thief", daemon=True)
    thief.start()
    try:
        yield "stealing hints"
    finally:
        over.set()
        thief.join(_THREAD_END_S)


def _steal(world: World, fault: Fault, over: threading.Event) -> None:
    chance = random.Random(fault.pick)
    kept: list[tuple[float, bytes]] = []
    while not over.is_set():
        with contextlib.suppress(redis.RedisError), world.valkey() as client:
            while not over.is_set():
                stolen = client.brpop([ORDERS_QUEUE], timeout=_STEAL_TIMEOUT_S)
                if stolen is not None and chance.random() >= fault.amount:
                    kept += [
                        (time.monotonic() + chance.uniform(*_KEPT_S), stolen[1])
                        for _ in range(chance.randint(1, 3))
                    ]
                for due in [one for one in kept if one[0] <= time.monotonic()]:
                    kept.remove(due)
                    client.lpush(ORDERS_QUEUE, due[1])
        over.wait(_STEAL_TIMEOUT_S)


@contextlib.contextmanager
def rubbish(world: World, fault: Fault) -> Iterator[str]:
    """Push what is no message into the queue."""
    thing = _RUBBISH[int(fault.pick * len(_RUBBISH))]
    try:
        with world.valkey() as client:
            client.lpush(ORDERS_QUEUE, thing)
    except redis.RedisError as error:
        raise NotDoneError(f"Valkey cannot be asked ({error})") from error
    yield f"pushed {thing!r} into the queue"


@contextlib.contextmanager
def postponed(world: World, fault: Fault) -> Iterator[str]:
    """Push hints that are to be taken, and kept until much later."""
    count = int(fault.amount)
    app = make_app(world.cluster.settings)
    try:
        with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
            for _ in range(count):
                app.send_task(
                    PROCESS_BATCH_TASK,
                    args=([],),
                    countdown=_POSTPONED_S,
                    exchange="",
                    routing_key=ORDERS_QUEUE,
                    producer=producer,
                    retry=False,
                )
    except app.connection_for_write().recoverable_connection_errors as error:
        raise NotDoneError(f"Valkey cannot be asked ({error})") from error
    finally:
        app.close()
    yield f"pushed {count} hints for later"


@contextlib.contextmanager
def poison(world: World, fault: Fault) -> Iterator[str]:
    """Journal an intent that no worker can read. Its one outcome is quarantine."""
    intent_id = _journal(world, fault, "u-poison", _UNREADABLE)
    yield f"journalled unreadable intent {intent_id}"


@contextlib.contextmanager
def deadly(world: World, fault: Fault) -> Iterator[str]:
    """Journal an intent that kills the worker child that decides it. Its one outcome, too."""
    intent_id = _journal(world, fault, fault.target, _READABLE)
    yield f"journalled intent {intent_id} of {fault.target}"


def _journal(world: World, fault: Fault, user: str, body: str) -> UUID:
    """Journal a poisonous intent as the intake would; return its id. Raises NotDoneError."""
    intent_id = uuid7()
    key = f"{world.campaign_id}-poison-{fault.pick}"
    parameters = {
        "digest": UUID(bytes=key_digest(GATEWAY, Kind.ORDER, user, key)),
        "intent_id": intent_id,
        "gateway_id": GATEWAY,
        "key": key,
        "user_id": user,
        "campaign_id": world.campaign_id,
        "body": body,
    }
    try:
        with contextlib.closing(world.postgres()) as connection:
            connection.execute(_SQL.poison_journal, parameters)
    except psycopg.Error as error:
        raise NotDoneError(f"PostgreSQL cannot be asked ({error})") from error
    return intent_id
