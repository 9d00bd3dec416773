"""Which broker it is, is one setting; all else follows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from config.settings import Broker, Settings, Valkey
from deploy.chaos import abilities
from deploy.embedded import rabbitmq as embedded
from workers.contract.celery_app import make_app
from workers.contract.names import INTAKE_QUEUE, ORDERS_QUEUE

VALKEY = Settings(valkey=Valkey(url="redis://h/0"))
RABBITMQ = Settings(valkey=Valkey(url="redis://h/0"), broker=Broker(url="amqps://u:p@mq//"))


def test_queues_are_quorum_queues_on_rabbitmq_alone() -> None:
    """Both, and on the anonymous exchange: nothing is bound that could be lost apart from them."""
    for settings, kind in ((VALKEY, None), (RABBITMQ, "quorum")):
        queues = make_app(settings).amqp.queues
        assert set(queues) == {ORDERS_QUEUE, INTAKE_QUEUE}
        for queue in queues.values():
            assert (queue.queue_arguments or {}).get("x-queue-type") == kind
            assert (queue.exchange.name, queue.durable) == ("", True)


def test_publishes_are_confirmed_within_the_publish_timeout_on_rabbitmq() -> None:
    options = make_app(RABBITMQ).conf.broker_transport_options
    assert options["confirm_publish"] is True
    assert options["answer_timeout_s"] == RABBITMQ.broker.publish_timeout_ms / 1_000
    assert "confirm_publish" not in make_app(VALKEY).conf.broker_transport_options


def test_a_machine_without_the_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The scenarios are then said not to have run here."""
    monkeypatch.setattr(embedded, "_SCRIPTS", Path("/nowhere"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    abilities.lack.cache_clear()
    assert "apt-get install rabbitmq-server" in abilities.why_not(("rabbitmq-server",))
    abilities.lack.cache_clear()
