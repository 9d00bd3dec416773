"""Scraping, comparing and silencing: what the rows about metrics and logs rest on."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from msgspec import structs

from deploy.load.books import Books
from tests.benchmarks import rows_exact, rows_observed
from tests.benchmarks.measuring import Measured, Rates
from tests.benchmarks.rows_exact import (
    ACCEPTED,
    EVERY_S,
    REFUSED,
    ROLES,
    Endured,
    differences,
    every_s,
)
from tests.benchmarks.rows_observed import SILENT, Pair
from tests.benchmarks.scraping import Rising, Samples, labels_of, samples, total
from tests.unit.bench_builders import measured

ROOT = Path(__file__).parents[2]


def refusals(**by_reason: float) -> Samples:
    return {
        (REFUSED, labels_of({"campaign": "bench", "kind": "order", "reason": reason})): count
        for reason, count in by_reason.items()
    }


# Scraping -----------------------------------------------------------------------------------------


def test_a_sample_is_found_by_its_labels_in_whatever_order() -> None:
    """Two processes may write them differently."""
    text = 'a_total{b="1",c="2"} 3\na_total{c="3",b="1"} 4\n'

    found = samples(text)

    assert found["a_total", labels_of({"c": "2", "b": "1"})] == 3
    assert total(found, "a_total") == 7


def test_a_counter_that_falls_is_counted() -> None:
    """Also when it fell by one, of millions."""
    rising = Rising("exporter")

    for value in (5, 6, 6, 5, 7):
        rising.hear("exporter", f"{ACCEPTED} {value}\n")

    assert rising.falls == 1


def test_what_is_not_shown_has_not_fallen_but_is_remembered() -> None:
    """A process that has just started knows nothing yet; what it says then must not be less."""
    rising = Rising("exporter")

    rising.hear("exporter", f"{ACCEPTED} 5\n")
    rising.hear("exporter", "")
    assert rising.falls == 0
    rising.hear("exporter", f"{ACCEPTED} 4\n")
    assert rising.falls == 1


def test_only_our_counters_of_one_process_must_rise() -> None:
    """A gauge may fall, and so may what the interpreter counts when it starts again."""
    rising = Rising("exporter")

    for value in (5, 4):
        rising.hear("exporter", f"tidegate_open_intents {value}\n")
        rising.hear("exporter", f"process_cpu_seconds_total {value}\n")
        rising.hear("api", f"{ACCEPTED} {value}\n")

    assert rising.falls == 0


# Comparing ----------------------------------------------------------------------------------------


def test_series_alike_to_the_unit_do_not_differ() -> None:
    """A series at nought is no difference to rows that are not there."""
    shown = refusals(coupon_unknown=7, could_not_be_processed=0)

    assert differences(shown, refusals(coupon_unknown=7)) == {}


@pytest.mark.parametrize(
    ("shown", "counted", "units"),
    [
        (refusals(coupon_unknown=8), refusals(coupon_unknown=7), [1]),
        (refusals(coupon_unknown=7), refusals(coupon_unknown=8), [-1]),
        ({}, refusals(coupon_unknown=3), [-3]),
        (refusals(sold_out=1, expired=1), refusals(sold_out=2), [-1, 1]),
    ],
)
def test_one_unit_in_one_series_is_a_difference(
    shown: Samples, counted: Samples, units: list[int]
) -> None:
    """Nothing is made up for by another series: one reason too few and one too many are two."""
    assert sorted(differences(shown, counted).values()) == sorted(units)


def endured(shown: Samples, counted: Samples, receipts: int = 0) -> Endured:
    books = Books(receipts + 1)
    for n in range(receipts):
        books.accepted(n, f"intent-{n}", 0.0)
    kills = {"api": 2, "worker": 3}
    return Endured([books], shown, counted, 10.0, kills, restarts=6, falls=0, scrapes=9)


def test_figures_tell_sums_and_how_many_reasons_there_were() -> None:
    """A reason that nobody was refused for is none."""
    shown = {(ACCEPTED, ()): 12.0, **refusals(coupon_unknown=2, sold_out=1, expired=0)}

    figures = rows_exact.figures_of(endured(shown, shown))

    assert (figures["accepted"], figures["refused"], figures["reasons"]) == (12, 3, 2)
    assert (figures["differences"], figures["kills"], figures["restarts"]) == (0, 5, 6)


def test_differences_of_either_sign_add_up() -> None:
    """One too many here and one too few there are two."""
    figures = rows_exact.figures_of(endured(refusals(a=2, b=3), refusals(a=3, b=2)))

    assert figures["differences"] == 2


def test_what_the_tables_hold_and_no_sender_knows_of_is_told() -> None:
    """Of 15 intents 10 were there before; for 4 there is a receipt."""
    rows: Samples = {(ACCEPTED, ()): 15.0}

    assert rows_exact.figures_of(endured(rows, rows, receipts=4))["unheard"] == 1


def test_a_short_run_leaves_time_to_kill_each_role() -> None:
    """And none kills more often than the row says."""
    for seconds in (6.0, 30.0, 600.0):
        assert every_s(seconds) * len(ROLES) < seconds
        assert every_s(seconds) <= EVERY_S


# What it costs ------------------------------------------------------------------------------------


def side(per_s: float, us: float) -> Measured:
    rates = Rates(per_s, per_s, per_s)
    shares = {"api": us * 0.75, "exporter": us * 0.25, "sender": 50.0, "others": 9.0}
    return structs.replace(measured(500), rates=rates, us_per_order=shares)


def pair(on_per_s: float, off_per_s: float, on_us: float = 120.0, off_us: float = 120.0) -> Pair:
    return Pair(on=side(on_per_s, on_us), off=side(off_per_s, off_us))


def test_a_pair_that_something_fell_into_does_not_count() -> None:
    """Each ratio is of one pair; of all of them the median is taken."""
    pairs = [pair(9_900, 10_000), pair(4_950, 5_000), pair(2_000, 8_000)]

    figures = rows_observed.figures_of(pairs, [pair(100, 101)])

    assert figures["kept"] == pytest.approx(0.99)
    assert figures["kept_least"] == pytest.approx(0.25)
    assert figures["on_per_s"] == 4_950
    assert figures["kept_of_alike"] == pytest.approx(100 / 101)


def test_cpu_is_of_all_that_is_ours() -> None:
    """Neither of the sender, nor of who else is on the machine."""
    figures = rows_observed.figures_of([pair(1, 1, on_us=125.0, off_us=120.0)] * 3, [pair(1, 1)])

    assert figures["same_cpu"] == pytest.approx(120 / 125)
    assert figures["same_cpu_of_alike"] == 1
    assert (figures["api_on_us"], figures["exporter_off_us"]) == (93.75, 30.0)


def run(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": ":".join(map(str, (ROOT, *path)))}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )


COUNT_AND_LOG = """
    import logging as library
    import structlog
    from config import logging, meters
    from config.exposition import Exposition

    logging.configure("api", "debug", "json")
    meters.introduce("api")
    meters.counter("tidegate_batches_total").inc()
    meters.histogram("tidegate_sojourn_seconds").observe(1.0)
    meters.histogram("tidegate_sojourn_seconds").observe_many([1.0])
    structlog.get_logger().error("something")
    library.getLogger("celery").error("something")
    shown = Exposition("worker").text().decode()
    values = [
        float(line.rpartition(" ")[2]) for line in shown.splitlines() if line.startswith("tidegate")
    ]
    assert values, "nothing is shown at all"
    raise SystemExit(0 if any(values) else 7)
"""


def test_a_silenced_process_counts_nothing_and_says_nothing() -> None:
    """Its series are there, at nought; the same process as shipped has them moved, and talks."""
    shipped, silent = run(COUNT_AND_LOG), run(COUNT_AND_LOG, SILENT)

    assert (shipped.returncode, shipped.stdout.count("something")) == (0, 2)
    assert (silent.returncode, silent.stdout, silent.stderr) == (7, "", "")


def test_everything_that_is_silenced_is_there_to_be_silenced() -> None:
    """A function that was renamed would go on counting in what is measured as silence."""
    done = run(
        """
        import importlib, sitecustomize
        for name, functions in sitecustomize.REPLACED.items():
            module = importlib.import_module(name)
            for place, function in functions.items():
                found = module
                for part in place.split("."):
                    found = getattr(found, part)
                assert found is function, place
        import producer.http.app, workers.runtime.worker
        assert producer.http.app.count_call is sitecustomize._nothing
        assert workers.runtime.worker.tell_batch is sitecustomize._nothing
        """,
        SILENT,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_everybody_who_counts_for_an_answer_is_silenced() -> None:
    """A function that is new in the module and not in the list would count on."""
    found = run(
        """
        import sitecustomize
        from producer import metering

        named = {name for name in vars(metering) if name.startswith("count_")}
        print(len(named), named - set(sitecustomize.REPLACED["producer.metering"]))
        """,
        SILENT,
    )
    assert found.returncode == 0, found.stderr
    count, left = found.stdout.split(" ", 1)
    assert int(count) >= 5
    assert left.strip() == "set()"
