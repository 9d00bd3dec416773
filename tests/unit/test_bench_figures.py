"""What the benchmark makes of what it sees: rates, percentiles, bars. Nothing is measured here."""

from __future__ import annotations

import pytest

from tests.benchmarks import campaign_record
from tests.benchmarks.aims import AIMS
from tests.benchmarks.goals import Bar, Met, Results
from tests.benchmarks.measuring import Look, rates_of
from tests.benchmarks.records import Row
from tests.benchmarks.rows import ROWS
from tests.benchmarks.rows_backlog import drain_rate
from tests.benchmarks.sender import arrivals, percentile
from tests.unit.bench_builders import campaign, row


def test_rates_leave_out_the_warm_up() -> None:
    """A start that connects and plans is no part of a sustained rate."""
    looks = [Look(0.0, 0, 0), Look(0.5, 10, 0), Look(1.0, 100, 100), Look(2.0, 200, 150)]
    looks += [Look(3.0, 300, 200)]

    rates = rates_of(looks)

    assert (rates.accepted_per_s, rates.committed_per_s) == (100.0, 50.0)


def test_a_short_run_is_all_window() -> None:
    """With too few looks after the warm-up every look counts."""
    assert rates_of([Look(0.0, 0, 0), Look(0.5, 50, 40)]).committed_per_s == 80.0


def test_no_looks_are_no_rate() -> None:
    """Nothing seen is nothing claimed."""
    assert rates_of([]).committed_per_s == rates_of([Look(0.0, 0, 0)]).committed_per_s == 0.0


def test_the_slowest_stretch_shows_a_stall() -> None:
    """Five seconds without a commit are told, however fast the rest was."""
    looks = [
        Look(float(at), at * 10, min(at, 10) * 100 + max(0, at - 16) * 100) for at in range(31)
    ]

    rates = rates_of(looks)

    assert rates.slowest_per_s == 0.0
    assert rates.committed_per_s > 0.0


def test_a_percentile_is_a_value_that_was_seen() -> None:
    """The nearest rank, without interpolation."""
    values = [float(n) for n in range(1, 101)]

    assert percentile(values, 0.50) == 50.0
    assert percentile(values, 0.99) == 99.0
    assert percentile(values, 1.0) == 100.0
    assert percentile([7.0], 0.01) == 7.0
    assert percentile([], 0.99) == 0.0


def test_send_times_are_fixed_by_their_seed_and_offer_what_was_asked() -> None:
    """An open loop can be repeated, and offers its rate within chance."""
    times = arrivals(1_000.0, 10.0, seed=1)

    assert times == arrivals(1_000.0, 10.0, seed=1)
    assert list(times) == sorted(times)
    assert len(times) == pytest.approx(10_000, rel=0.05)
    assert times[-1] < 10.0


def test_a_drain_is_counted_from_after_its_start() -> None:
    """The first orders, while a worker connects, are not counted."""
    looks = [Look(0.0, 0, 0), Look(3.0, 0, 100), Look(4.0, 0, 2_000), Look(6.0, 0, 6_000)]

    assert drain_rate(looks, 2_000) == 2_000.0


@pytest.mark.parametrize(
    ("value", "met"),
    [(10_000.0, Met.GOAL), (9_999.7, Met.GOAL), (6_000.0, Met.MUST), (1.0, Met.MISSED)],
)
def test_more_is_better_where_more_is_wanted(value: float, met: Met) -> None:
    """A figure is judged as it is printed."""
    bar = Bar("/s", 6_000, 10_000, lambda _: value)

    assert bar.met(Results({})) is met


@pytest.mark.parametrize(("value", "met"), [(5.04, Met.GOAL), (9.0, Met.MUST), (10.1, Met.MISSED)])
def test_less_is_better_where_less_is_wanted(value: float, met: Met) -> None:
    """Latency is the other way round."""
    bar = Bar("ms", 10, 5, lambda _: value, less=True, digits=1)

    assert bar.met(Results({})) is met


def test_what_was_not_measured_meets_nothing_and_misses_nothing() -> None:
    """No figure is ever made up."""
    empty = Results({})

    assert {bar.met(empty) for aim in AIMS for bar in aim.bars} == {Met.UNKNOWN}
    assert not any(aim.sides(empty) for aim in AIMS)


def test_a_ratio_is_of_two_measured_figures() -> None:
    """Tidegate's rate over plain Celery's, and nothing where one is missing."""
    rows: dict[str, Row] = {"single": row(committed_per_s=10_000.0)}
    assert Results(rows).ratio(("single", "committed_per_s"), ("plain", "committed_per_s")) is None

    rows["plain"] = row(committed_per_s=250.0)

    assert Results(rows).ratio(("single", "committed_per_s"), ("plain", "committed_per_s")) == 40.0


def test_every_aim_is_measured_by_a_row() -> None:
    """An aim whose row nobody can run would stay unmeasured for ever."""
    assert {aim.row for aim in AIMS} <= {row.name for row in ROWS} | {"campaign"}


def test_a_part_of_the_campaign_says_nothing_of_ten_million_orders() -> None:
    """Growth and duration are of the whole run, with a clean audit."""
    assert campaign_record.growth(campaign(9)) is None
    assert campaign_record.growth(campaign(10, beside=None)) is None
    assert campaign_record.minutes(campaign(9)) is None
    assert campaign_record.minutes(campaign(10, clean=False)) is None
    assert campaign_record.growth(campaign(10)) == pytest.approx(0.96)
    assert campaign_record.minutes(campaign(10)) == pytest.approx(980 / 60)


def test_an_unsound_campaign_is_told_as_such() -> None:
    """Speed without its audit would be worth nothing."""
    assert "audit clean" in campaign_record.run_text(campaign(10))
    assert "NOT CLEAN" in campaign_record.run_text(campaign(10, clean=False))
