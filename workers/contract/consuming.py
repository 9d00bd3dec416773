"""What Celery's consumer does here, and does not do.

Hints have no date. Celery keeps a message with an ETA in hand until its time; on a quorum queue, whose
prefetch cannot grow, one such message would keep a worker from its queue for as long as its sender
pleased. So the date is ignored.

And for messages with a date Celery would declare 28 queues more on a RabbitMQ with quorum queues.
"""

from __future__ import annotations

from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.request import Request as CeleryRequest

_DATES = "celery.worker.consumer.delayed_delivery:DelayedDelivery"


class Request(CeleryRequest):  # type: ignore[misc]
    """A message that is due now."""

    eta = None


class Consumer(CeleryConsumer):  # type: ignore[misc]
    """Celery's, without what serves messages with a date."""

    class Blueprint(CeleryConsumer.Blueprint):  # type: ignore[misc]
        """The steps of starting it."""

        default_steps = tuple(
            step for step in CeleryConsumer.Blueprint.default_steps if step != _DATES
        )
