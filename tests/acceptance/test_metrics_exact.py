"""What metrics say is what the tables say, through kills; and a scrape costs little."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from config.catalogue import metrics
from deploy.embedded.cluster import Cluster
from tests.acceptance.driver import Driver, verify, wait_until_drained
from tests.acceptance.test_kills import CAMPAIGN, SKUS, kill

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    data: Path = tmp_path_factory.mktemp("metrics") / "data"
    with Cluster(data, workers=2, campaign=CAMPAIGN, heartbeat=True) as running:
        yield running


def scrape(url: str) -> str:
    """What one process shows."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    connection.request("GET", parts.path)
    return connection.getresponse().read().decode()


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(found: Samples, name: str, **labels: str) -> float:
    """The sum of a metric's series that have these labels."""
    return sum(
        value
        for (series, pairs), value in found.items()
        if series == name and labels.items() <= dict(pairs).items()
    )


def comes_true(holds: Callable[[], bool], within_s: float = 30) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.1)
    return False


def told_by_the_audit(cluster: Cluster) -> Counter[str]:
    with psycopg.connect(cluster.dsn) as connection:
        rows = connection.execute(
            "SELECT status, count(*) FROM audit.intents GROUP BY 1"
        ).fetchall()
    return Counter(dict(rows))


def test_after_kills_the_metrics_are_what_the_audit_counts(cluster: Cluster) -> None:
    """Accepted, committed and refused, to the unit; whichever process dies, the exporter included."""
    with Driver(cluster.api_url, cluster.api_key, skus=SKUS, key_space="exact") as driver:
        for role in ("worker", "worker-child", "api", "exporter", "worker-child", "governor"):
            driver.wait_for_receipts(100)
            kill(cluster, role)
        driver.wait_for_receipts(100)
    wait_until_drained(cluster.dsn)
    verify(driver.history, cluster.dsn)

    def agree() -> bool:
        try:
            found = samples(scrape(cluster.endpoints().metrics["exporter"]))
        except OSError:
            return False
        told = told_by_the_audit(cluster)
        return (
            total(found, "tidegate_intents_accepted_total") == told.total()
            and total(found, "tidegate_intents_committed_total") == told["committed"]
            and total(found, "tidegate_intents_refused_total") == told["refused"]
        )

    assert comes_true(agree)


def _is_back(url: str) -> bool:
    """Whether who was killed shows its metrics again."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return "tidegate_build_info" in scrape(url)
    return False


def test_every_process_shows_what_the_catalogue_names_and_nothing_else(cluster: Cluster) -> None:
    """Each name, and each value of a label, is in the catalogue."""
    known = metrics()
    for name, url in cluster.endpoints().metrics.items():
        assert comes_true(lambda url=url: _is_back(url)), name
        for family in text_string_to_metric_families(scrape(url)):
            if family.name.startswith("process_"):
                continue
            metric = known.get(family.name) or known.get(f"{family.name}_total")
            assert metric is not None, f"{name} shows {family.name}"
            for sample in family.samples:
                for label, value in sample.labels.items():
                    listed = metric.labels.get(label, ()) if label != "le" else ()
                    assert not listed or value in listed, sample


def test_workers_show_their_childrens_batches(cluster: Cluster) -> None:
    """What children count is shown by the parent, also after they were killed."""
    with Driver(cluster.api_url, cluster.api_key, skus=SKUS, key_space="batches") as driver:
        driver.wait_for_receipts(50)
        kill(cluster, "worker-child")
        driver.wait_for_receipts(50)
    wait_until_drained(cluster.dsn)
    urls = [url for name, url in cluster.endpoints().metrics.items() if name.startswith("worker")]

    def decided() -> float:
        return sum(total(samples(scrape(url)), "tidegate_sojourn_seconds_count") for url in urls)

    # Counted from the end of a batch: what a killed child had in hand is decided, and not counted.
    assert 100 <= decided() <= told_by_the_audit(cluster).total()
    for url in urls:
        found = samples(scrape(url))
        assert total(found, "celery_worker_up") == 1
        assert total(found, "celery_task_succeeded_total") > 0


def test_the_heartbeat_comes_through(cluster: Cluster) -> None:
    """An order of the exporter's own, posted over HTTP and told."""

    def beats() -> bool:
        found = samples(scrape(cluster.endpoints().metrics["exporter"]))
        return total(found, "tidegate_heartbeat_duration_seconds") > 0

    assert comes_true(beats)
