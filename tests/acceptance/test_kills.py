"""Whatever dies, every receipt comes to exactly one outcome, without anybody's help."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from config.failpoints import NAMES
from deploy.embedded.cluster import Cluster
from tests.acceptance.driver import Crowd, Driver, verify, wait_until_drained

CAMPAIGN = Path(__file__).with_name("busy.toml")
SKUS = ["hot", "warm", "rare"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(workers=2, campaign=CAMPAIGN) as running:
        yield running


def kill(cluster: Cluster, *roles: str) -> None:
    """Kill every process of these roles, as a power cut would."""
    for role in roles:
        for pid in cluster.processes().get(role, []):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def flush(cluster: Cluster) -> None:
    with redis.Redis.from_url(cluster.valkey_url) as client:
        client.flushall()


FAULTS = {
    "Valkey is emptied": flush,
    "every worker is killed": lambda c: kill(c, "worker", "worker-child"),
    "every API process is killed": lambda c: kill(c, "api"),
    "Valkey is killed": lambda c: kill(c, "valkey"),
    "the PostgreSQL postmaster is killed": lambda c: kill(c, "postgres"),
    "the redispatcher is killed": lambda c: kill(c, "redispatcher"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_receipt_has_exactly_one_outcome_though(fault: str, cluster: Cluster) -> None:
    """Under load, twice; then recovery without help, and a clean audit."""
    key_space = fault.replace(" ", "-")
    with Driver(cluster.api_url, cluster.api_key, skus=SKUS, key_space=key_space) as driver:
        driver.wait_for_receipts(100)
        for _ in range(2):
            FAULTS[fault](cluster)
            driver.wait_for_receipts(100)
    wait_until_drained(cluster.dsn)
    verify(driver.history, cluster.dsn)


def test_a_process_that_dies_at_each_step_of_an_intent_loses_none(tmp_path: Path) -> None:
    """At each, once, whoever comes by the fifth time, under load; its work is done by another."""
    deaths = {name: tmp_path / name for name in NAMES}
    environ = {
        "TIDEGATE_FAILPOINTS": ";".join(
            f"{name}=kill@5,once:{death}" for name, death in deaths.items()
        ),
        "TIDEGATE_FAILPOINTS_ENABLED": "true",
    }
    with Cluster(workers=2, campaign=CAMPAIGN, extra_env=environ) as cluster:
        with Driver(cluster.api_url, cluster.api_key, skus=SKUS) as driver:
            deadline = time.monotonic() + 60
            while left := [name for name, death in deaths.items() if not death.exists()]:
                assert time.monotonic() < deadline, f"nobody came by {left}"
                time.sleep(0.02)
            driver.wait_for_receipts(100)
        wait_until_drained(cluster.dsn)
        verify(driver.history, cluster.dsn)


def test_ten_thousand_buyers_of_a_hundred_units_buy_exactly_a_hundred() -> None:
    """With every worker and every API process killed in the middle: not 101, and not 99."""
    with Cluster(workers=2, campaign=CAMPAIGN) as cluster:
        crowd = Crowd(cluster.api_url, cluster.api_key, sku="rare", buyers=10_000)
        crowd.start()
        for role in (("worker", "worker-child"), ("api",), ("worker-child",)):
            crowd.wait_for_answers(2_000)
            kill(cluster, *role)
        crowd.join()
        wait_until_drained(cluster.dsn)
        verify(crowd.history, cluster.dsn)
        assert crowd.answered == 10_000
        with psycopg.connect(cluster.dsn) as connection:
            stock = "SELECT available, reserved, sold FROM audit.stock WHERE sku = 'rare'"
            assert connection.execute(stock).fetchone() == (0, 0, 100)
            told = "SELECT status, reason, count(*) FROM audit.intents GROUP BY 1, 2 ORDER BY 1"
            committed, *refused = connection.execute(told).fetchall()
            assert committed == ("committed", None, 100)
            # Whoever asked before the gate knew, or while it had forgotten.
            assert [row[:2] for row in refused] in ([], [("refused", "sold_out")])
