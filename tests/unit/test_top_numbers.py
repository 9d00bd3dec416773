"""Totals, rates and quantiles, from the text that processes show."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from top_world import api, exporter, flood, governor, seen, text, worker

from deploy.top.figures import Flow
from deploy.top.numbers import Numbers, increase, quantile
from deploy.top.reading import Seen, heard, missed, parse, read
from deploy.top.sources import SourceError

BATCHES = "tidegate_batches_total"
STARTED = "tidegate_process_start_timestamp_seconds"
ACCEPTED = "tidegate_intents_accepted_total"


def numbers(*some: Seen, at_s: float = 101.0) -> Numbers:
    return Numbers(some, at_s, stale_s=5.0)


def batches(count: int, **more: Any) -> bytes:
    return text({BATCHES: count, **more})


def test_a_rate_is_the_difference_of_two_readings_by_the_time_between() -> None:
    """600 more in the second between the readings."""
    assert numbers(seen("w", batches(400), batches(1_000))).flow(BATCHES) == Flow(1_000, 600)


def test_one_reading_has_a_total_and_no_rate() -> None:
    """A rate is not invented: nothing is known of what was before."""
    assert numbers(seen("w", batches(400))).flow(BATCHES) == Flow(400, None)


def test_a_counter_that_fell_with_its_process_has_counted_since_zero() -> None:
    """As Prometheus takes it; the process started anew between the readings."""
    before, after = batches(9_000, **{STARTED: 50}), batches(30, **{STARTED: 99})
    assert numbers(seen("w", before, after)).flow(BATCHES) == Flow(30, 30)
    untold = numbers(seen("w", batches(9_000), batches(30)))  # it does not say when it started
    assert untold.flow(BATCHES) == Flow(30, 30)


def test_a_counter_that_fell_while_its_process_lived_is_not_known() -> None:
    """Rows behind it were removed; a rate out of it would be a wild number."""
    before, after = batches(9_000_000, **{STARTED: 50}), batches(8_000_000, **{STARTED: 50})
    assert numbers(seen("w", before, after)).flow(BATCHES) == Flow(8_000_000, None)


def test_a_restart_within_the_window_loses_nothing_of_what_was_seen() -> None:
    """100 before it, 20 after it, 40 more: 160 in three seconds."""
    readings = (batches(900), batches(1_000), batches(20), batches(60))
    shown = [body + text({STARTED: 1.0 + (at > 1)}) for at, body in enumerate(readings)]
    assert numbers(seen("w", *shown), at_s=103.0).flow(BATCHES).per_s == pytest.approx(160 / 3)


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=6))
def test_no_increase_is_less_than_nothing(values: list[int]) -> None:
    """Whatever a counter does."""
    for then, now in pairwise(values):
        for began_again in (True, False):
            by = increase(then, now, began_again=began_again)
            assert by is None or 0 <= by <= max(now, 0)


def test_a_series_that_appears_in_a_known_family_began_at_zero() -> None:
    """A reason that is given for the first time; a family that appears is not an increase."""
    refused = "tidegate_intents_refused_total"
    at = "campaign=c,kind=order,reason="
    before = text({refused: {f"{at}sold_out": 5}})
    after = text({refused: {f"{at}sold_out": 6, f"{at}coupon_expired": 3}})
    flows = numbers(seen("exporter", before, after)).flows(refused, "reason")
    assert flows == {("sold_out",): Flow(6, 1), ("coupon_expired",): Flow(3, 3)}
    appeared = numbers(seen("exporter", batches(1), after)).flow(refused)
    assert appeared == Flow(9, None)


def test_rates_reach_over_the_window_and_no_further() -> None:
    """What was counted earlier than five seconds ago does not count."""
    bodies = [batches(n) for n in (0, 50_000, 50_100, 50_200, 50_300, 50_400, 50_500)]
    assert numbers(seen("w", *bodies), at_s=106.0).flow(BATCHES).per_s == 100


def test_processes_of_one_kind_add_up() -> None:
    """Two workers, two API processes: a sum, each with its own restarts."""
    both = numbers(seen("worker-1", worker(0), worker(1)), seen("worker-2", worker(5), worker(6)))
    assert both.flow(BATCHES).per_s == 12
    assert both.mean("tidegate_batch_intents") == pytest.approx(67)


def test_two_exporters_tell_of_the_same_tables_and_do_not_add_up() -> None:
    """The later one is believed."""
    both = numbers(seen("a", exporter(0), exporter(1)), seen("b", exporter(0), exporter(2)))
    assert both.flow(ACCEPTED) == Flow(1_001_624, 1_624)
    assert both.gauge("tidegate_open_intents") == 2_031


def test_only_the_governor_that_leads_is_believed() -> None:
    """One that follows shows what it last measured, if anything."""
    follows = governor(tidegate_governor_leads=0, tidegate_in_flight=77)
    two = (seen("governor-2", follows), seen("governor-1", governor()))
    assert numbers(*two).gauge("tidegate_in_flight") == 2_040
    assert numbers(two[0]).gauge("tidegate_in_flight") is None


def test_what_a_silent_source_said_counts_for_a_while_and_then_no_more() -> None:
    """A call that failed once blanks nothing; a source that is gone does."""
    away = missed(seen("w", batches(400), batches(1_000)), "Connection refused")
    assert numbers(away, at_s=105.9).flow(BATCHES) == Flow(1_000, 600)
    assert numbers(away, at_s=106.1).flow(BATCHES) == Flow(None, None)


def test_what_no_source_shows_is_not_known() -> None:
    """A dash, not a zero."""
    none = numbers(seen("w", batches(1), batches(2)))
    assert none.gauge("tidegate_in_flight") is None
    assert none.flow(ACCEPTED) == Flow(None, None)
    assert none.spread("tidegate_sojourn_seconds").p99_s is None
    assert none.means("tidegate_batch_stage_seconds", "stage") == {}


def test_quantiles_are_of_what_was_counted_between_the_readings() -> None:
    """Not of all that was ever counted: 390 of 402 took 1.9 s, 12 took 2.7 s."""
    spread = numbers(seen("w", worker(0), worker(1))).spread("tidegate_sojourn_seconds")
    assert spread.count == 402
    assert spread.mean_s == pytest.approx((390 * 1.9 + 12 * 2.7) / 402)
    assert spread.p50_s == pytest.approx(1.5 + 0.5 * 201 / 390)  # within the bucket to 2 s
    assert spread.p99_s == pytest.approx(2.0 + 1.0 * (0.99 * 402 - 390) / 12)


def test_histograms_of_several_processes_are_added_before_the_quantile() -> None:
    """Quantiles do not add up; buckets do."""
    slow = text({"tidegate_sojourn_seconds": []}), text({"tidegate_sojourn_seconds": [20.0] * 99})
    fast = text({"tidegate_sojourn_seconds": []}), text({"tidegate_sojourn_seconds": [0.001] * 101})
    both = numbers(seen("w1", *slow), seen("w2", *fast)).spread("tidegate_sojourn_seconds")
    assert both.p50_s is not None
    assert both.p50_s < 0.005
    assert both.p99_s is not None
    assert 10 < both.p99_s <= 30


@given(st.lists(st.floats(0.0, 59.0), min_size=1, max_size=50), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    """It cannot be more exact than the buckets, and is not less."""
    bounds = [0.1, 1.0, 5.0, 30.0, 60.0, math.inf]
    told = quantile({bound: sum(v <= bound for v in values) for bound in bounds}, share)
    true = sorted(values)[math.ceil(share * len(values)) - 1]
    upper = next(bound for bound in bounds if true <= bound)
    lower = max([0.0, *(bound for bound in bounds if bound < upper)])
    assert told is not None
    assert lower <= told <= upper or told == pytest.approx(upper)


def test_beyond_the_greatest_bound_that_bound_is_told() -> None:
    """As Prometheus does; and of nothing there is no quantile."""
    assert quantile({1.0: 0, math.inf: 7}, 0.5) == 1.0
    assert quantile({1.0: 0, math.inf: 0}, 0.5) is None
    assert quantile({}, 0.5) is None


def test_only_what_the_catalogue_names_is_kept() -> None:
    """Series of the language's own runtime are not ours; nor is what is no number."""
    body = "python_info 1\ntidegate_batches_total 3\ntidegate_in_flight NaN\nup 1\n"
    assert parse(body) == {BATCHES: {(): 3.0}}


@pytest.mark.parametrize(
    "body",
    [
        b"<html><body class='x'>Not Found</body></html>",
        b"\xff\xfe",
        b"tidegate_sojourn_seconds_bucket 3\n",
        b'tidegate_sojourn_seconds_bucket{le="soon"} 3\n',
        b'tidegate_in_flight{a="1 2\n',
    ],
)
def test_what_is_no_metrics_is_refused_with_a_reason(body: bytes) -> None:
    """The source is shown as away; nothing of it is believed."""
    with pytest.raises(SourceError, match="no metrics"):
        read(seen("api", api(0)).source, body, 1.0)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"level": 3}', b"<html>", b'{"since": "now"}'])
def test_what_is_no_status_is_refused_with_a_reason(body: bytes) -> None:
    """The same of the status."""
    status = flood()[0]
    with pytest.raises(SourceError, match="no status"):
        heard(status, read(status.source, body, 1.0), 5.0)
