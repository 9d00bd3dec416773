"""Hints through Celery: sending them, and asking how many wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from celery import Celery

from workers.contract.names import ORDERS_QUEUE, PROCESS_BATCH_TASK


class SendHint(Protocol):
    """Sends one hint; `traceparent` is the place of its sending in a trace that is followed."""

    def __call__(self, intent_ids: Sequence[UUID], traceparent: str | None = None, /) -> None: ...


def hint_sender(app: Celery, timeout_s: float) -> SendHint:
    """Return a function that sends one hint, through Celery's own producer pool, once.

    It raises within about `timeout_s` when the broker cannot be reached, has no such queue, or does
    not confirm; nobody retries, since a hint sent late is worth as much as one not sent.
    """

    def send(intent_ids: Sequence[UUID], traceparent: str | None = None, /) -> None:
        with app.producer_pool.acquire(block=True, timeout=timeout_s) as producer:
            app.send_task(
                PROCESS_BATCH_TASK,
                args=([intent_id.hex for intent_id in intent_ids],),
                argsrepr=f"{len(intent_ids)} ids",  # Celery's own would be a quarter of the sending
                kwargsrepr="{}",
                exchange="",
                routing_key=ORDERS_QUEUE,
                headers=None if traceparent is None else {"traceparent": traceparent},
                producer=producer,
                mandatory=True,  # RabbitMQ confirms what it has no queue for, and drops it
                retry=False,
                ignore_result=True,
            )

    return send


def waiting_hints(app: Celery, queue: str = ORDERS_QUEUE) -> int:
    """Ask the broker how many messages wait in a queue; raises what its transport raises.

    A queue that is not there is declared: Valkey has none that is empty, and a RabbitMQ that lost its
    queues has them again before the next hint.
    """
    with app.connection_or_acquire() as connection:
        declared = app.amqp.queues[queue](connection.default_channel).queue_declare()
        return int(declared.message_count)
