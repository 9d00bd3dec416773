"""The whole system with RabbitMQ in Valkey's place, which one setting brings about."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from amqp.exceptions import NotFound
from celery import Celery

from deploy.embedded import process
from deploy.embedded.cluster import Cluster
from tests import programs
from tests.acceptance.driver import Driver, verify, wait_until_drained
from workers.contract.celery_app import make_app
from workers.contract.hints import waiting_hints
from workers.contract.names import ORDERS_QUEUE, PROCESS_BATCH_TASK

CAMPAIGN = Path(__file__).with_name("busy.toml")
SKUS = ["hot", "warm", "rare"]
SOON_S = 120.0  # a node starts in seconds where it is alone


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    programs.find("rabbitmq-server", "rabbitmq-server")
    with Cluster(workers=2, campaign=CAMPAIGN, with_rabbitmq=True) as running:
        yield running


@pytest.fixture
def app(cluster: Cluster) -> Iterator[Celery]:
    made = make_app(cluster.settings)
    yield made
    made.close()


def kill(cluster: Cluster, *roles: str) -> None:
    """Kill every process of these roles, as a power cut would."""
    for role in roles:
        for pid in cluster.processes().get(role, []):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_hints_go_through_rabbitmq_and_nothing_of_the_queue_is_in_valkey(
    cluster: Cluster, app: Celery
) -> None:
    """Nor are Celery's queues for messages with a date in RabbitMQ."""
    with Driver(cluster.api_url, cluster.api_key, skus=SKUS, key_space="plain") as driver:
        driver.wait_for_receipts(300)
    wait_until_drained(cluster.dsn)
    verify(driver.history, cluster.dsn)
    with redis.Redis.from_url(cluster.valkey_url) as client:
        assert [*client.scan_iter("*kombu*"), *client.scan_iter("unacked*")] == []
    with app.connection_for_read() as connection:
        declared = connection.default_channel.queue_declare(ORDERS_QUEUE, passive=True)
        assert declared.consumer_count == 2
        with pytest.raises(NotFound):
            connection.default_channel.queue_declare("celery_delayed_0", passive=True)


def test_a_message_with_a_date_keeps_no_worker_from_its_queue(
    cluster: Cluster, app: Celery
) -> None:
    """The prefetch of a quorum queue does not grow: one such message each would stop them all."""
    later = datetime.now(UTC) + timedelta(days=1)
    for _ in range(4):
        app.send_task(
            PROCESS_BATCH_TASK,
            args=([],),
            exchange="",
            routing_key=ORDERS_QUEUE,
            headers={"eta": later.isoformat()},
        )
    assert process.until(lambda: waiting_hints(app) == 0, SOON_S)
    pids = cluster.processes()["worker"]
    with Driver(cluster.api_url, cluster.api_key, skus=SKUS, key_space="dated") as driver:
        driver.wait_for_receipts(100)
    wait_until_drained(cluster.dsn)
    assert cluster.processes()["worker"] == pids


def test_every_receipt_has_exactly_one_outcome_though_node_and_workers_die(
    cluster: Cluster,
) -> None:
    """Under load: the node, the workers, both at once, and the node with all it remembers."""
    with Driver(cluster.api_url, cluster.api_key, skus=SKUS, key_space="kills") as driver:
        driver.wait_for_receipts(100)
        kill(cluster, "rabbitmq")
        driver.wait_for_receipts(100)
        kill(cluster, "worker", "worker-child")
        assert process.until(cluster.rabbitmq.answers, SOON_S)
        driver.wait_for_receipts(100)
        kill(cluster, "worker", "rabbitmq")
        shutil.rmtree(cluster.rabbitmq.data, ignore_errors=True)
        assert process.until(cluster.rabbitmq.answers, SOON_S)
        driver.wait_for_receipts(100)
    wait_until_drained(cluster.dsn)
    verify(driver.history, cluster.dsn)
