"""What Celery's consumer does here, and does not do.

Hints have no date. Celery keeps a message with an ETA in hand until its time; on a quorum queue, whose
prefetch cannot grow, one such message would keep a worker from its queue for as long as its sender
pleased. So the date is ignored.

And for messages with a date Celery would declare 28 queues more on a RabbitMQ with quorum queues.

A broker that is away is looked for twice a second. Celery waits 2 s longer each time, up to 30 s: a
worker then sleeps on beside a broker that came back, until the watchdog ends it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.request import Request as CeleryRequest

RECONNECT_S = 0.5
_DATES = "celery.worker.consumer.delayed_delivery:DelayedDelivery"


class Request(CeleryRequest):  # type: ignore[misc]
    """A message that is due now."""

    eta = None


class Consumer(CeleryConsumer):  # type: ignore[misc]
    """Celery's, without what serves messages with a date, and impatient for its broker."""

    class Blueprint(CeleryConsumer.Blueprint):  # type: ignore[misc]
        """The steps of starting it."""

        default_steps = tuple(
            step for step in CeleryConsumer.Blueprint.default_steps if step != _DATES
        )

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long the broker is away; raises SystemExit when told to stop meanwhile."""
        conn.ensure_connection = partial(
            conn.ensure_connection,
            interval_start=RECONNECT_S,
            interval_step=0,
            interval_max=RECONNECT_S,
        )
        return super().ensure_connected(conn)
