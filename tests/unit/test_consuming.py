"""What a worker's consumer does otherwise than Celery's own."""

from __future__ import annotations

from typing import Any

import kombu.utils.functional
import pytest
from celery.worker.consumer import Consumer as CeleryConsumer

from config.settings import Broker, Settings
from deploy.embedded.ports import free_port
from workers.contract.celery_app import make_app
from workers.contract.consuming import RECONNECT_S, Consumer, Request


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_a_broker_that_is_away_is_looked_for_at_even_intervals(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that waits longer each time sleeps on beside a broker that came back."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 12:
            raise SystemExit

    monkeypatch.setattr(kombu.utils.functional, "sleep", sleep)
    consumer: Any = object.__new__(Consumer)
    consumer.app = make_app(Settings(broker=Broker(url=f"{scheme}://127.0.0.1:{free_port()}")))
    consumer.first_connection_attempt = True
    consumer.broker_connection_retry_attempt = 0
    with pytest.raises(SystemExit):
        consumer.connection_for_read()
    assert waits == [RECONNECT_S] * 12


def test_nothing_is_declared_for_messages_with_a_date() -> None:
    """All other steps are Celery's."""
    left_out = {*CeleryConsumer.Blueprint.default_steps} - {*Consumer.Blueprint.default_steps}
    assert left_out == {"celery.worker.consumer.delayed_delivery:DelayedDelivery"}


def test_no_message_is_dated() -> None:
    """Whatever its headers say."""
    assert Request.eta is None
