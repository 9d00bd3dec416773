"""The catalogue of metrics follows Prometheus' conventions, and agrees with the words of the code."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from config.catalogue import Metric, absent, metrics
from producer.answers import INTAKE_LIMIT
from producer.http.routes import ROUTES
from workers.contract.admission import LAYERS
from workers.domain.delivery import Fate
from workers.domain.overload import IntentClass

OURS = [metric for metric in metrics().values() if metric.name.startswith("tidegate_")]
EVERY = list(metrics().values())


@pytest.mark.parametrize("metric", EVERY, ids=lambda metric: metric.name)
def test_a_metric_says_what_it_means_and_to_whom(metric: Metric) -> None:
    """A name alone is no documentation."""
    assert metric.meaning.endswith(".")
    assert metric.reader
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))


@pytest.mark.parametrize("metric", OURS, ids=lambda metric: metric.name)
def test_a_name_has_a_prefix_a_base_unit_and_its_suffix(metric: Metric) -> None:
    """As Prometheus names things."""
    assert re.fullmatch(r"tidegate(_[a-z0-9]+)+", metric.name)
    assert not re.search(r"_(ms|milliseconds|minutes|percent|bytes_per_second)(_|$)", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")


@pytest.mark.parametrize("metric", EVERY, ids=lambda metric: metric.name)
def test_no_label_can_hold_what_a_user_wrote(metric: Metric) -> None:
    """What the operator names is a campaign, an item, a queue, a process; all else is listed."""
    ours_to_name = {"campaign", "sku", "currency", "reason", "queue_name", "hostname", "name"}
    for label, values in metric.labels.items():
        assert values or label in ours_to_name | {"version", "process"}, label
        assert label not in ("user", "user_id", "order_id", "intent_id", "gateway", "code")


def test_listed_values_are_the_words_of_the_code() -> None:
    """A route, a layer or a fate that is added must be added to the catalogue as well."""
    known = metrics()
    assert set(known["tidegate_http_requests_total"].labels["route"]) == {*ROUTES, "other"}
    verdicts = known["tidegate_verdicts_total"].labels
    assert set(verdicts["verdict"]) == {"admitted", *LAYERS, INTAKE_LIMIT}
    assert set(verdicts["class"]) == {one.name.lower() for one in IntentClass}
    fates = known["tidegate_webhook_attempts_total"].labels["fate"]
    assert set(fates) == {fate.value for fate in Fate}


def test_what_is_absent_is_not_shown() -> None:
    """A series that is not true here is left out, with its reason."""
    assert not set(absent()) & set(metrics())
    assert all(absent().values())


def test_threads_that_read_it_first_at_once_all_read_it() -> None:
    """msgspec crashes the process where two threads meet a type first, together."""
    program = (
        "import sys, threading, tomllib\n"
        "from config import catalogue\n"
        "sys.setswitchinterval(1e-6)\n"
        "together = threading.Barrier(8)\n"
        "loads = tomllib.loads\n"
        "def meet(text):\n    read = loads(text)\n    together.wait()\n    return read\n"
        "tomllib.loads = meet\n"
        "threads = [threading.Thread(target=catalogue.metrics) for _ in range(8)]\n"
        "[one.start() for one in threads]\n"
        "[one.join() for one in threads]\n"
        "print(len(catalogue.metrics()))\n"
    )
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) > 50
