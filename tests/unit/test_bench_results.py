"""RESULTS.md and the charts are functions of the records."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from tests.benchmarks import records, results
from tests.benchmarks.aims import AIMS
from tests.benchmarks.charts import CHARTS
from tests.benchmarks.goals import Results
from tests.benchmarks.records import Bench
from tests.unit import bench_builders as made


def test_the_same_records_make_the_same_document() -> None:
    """No clock, no machine, no luck is read while writing."""
    first = results.document(made.bench(), made.results())

    assert first == results.document(made.bench(), made.results())
    assert "2026-11-23" in first
    assert "A Processor, 2 cores" in first


def test_both_sides_of_a_ratio_stand_beside_it() -> None:
    """A multiple without its two figures says nothing."""
    document = results.document(made.bench(), made.results())

    assert "33.3 × plain Celery" in document
    assert "committed 10,000/s" in document
    assert "plain Celery 300/s" in document
    assert "PostgreSQL alone in batches of 500 50,000/s" in document


def test_what_was_not_measured_is_said_so() -> None:
    """An empty cell could be read as a success."""
    empty = Bench(made.MACHINE, {})

    document = results.document(empty, Results({}))

    assert document.count("| not measured |") == len(AIMS)


def test_rows_of_several_runs_are_told_as_such() -> None:
    """Figures that were not measured together must not look as if they were."""
    rows = made.bench().rows
    mixed = Bench(made.MACHINE, rows | {"plain": replace(rows["plain"], run="2")})

    assert "in 2 runs" in results.document(mixed, Results(mixed.rows))
    assert "in one run" in results.document(made.bench(), made.results())


def test_every_table_is_rectangular() -> None:
    """Each line of a table has as many cells as its head."""
    bench = made.bench()
    rows = bench.rows | {
        "connections": replace(bench.rows["single"], measured={"8 connections": made.measured()})
    }

    document = results.document(Bench(bench.machine, rows), Results(rows))

    for table in re.findall(r"(?:^\|.*\|\n?)+", document, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_a_chart_is_the_same_bytes_each_time_and_says_its_units(chart: object) -> None:
    """Drawn from the records alone: a run without new figures changes no file."""
    assert isinstance(chart, type(CHARTS[0]))

    drawn = chart.svg(made.results())

    assert drawn == chart.svg(made.results())
    texts = {text.text for text in ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")}
    assert chart.title in texts
    assert any("second" in (text or "") or "ms" in (text or "") for text in texts)


def test_nothing_is_drawn_of_nothing() -> None:
    """A chart without figures is left out."""
    assert not any(chart.drawable(Results({})) for chart in CHARTS)


def test_records_are_read_as_they_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row replaces its last figure; the others stay."""
    monkeypatch.setattr(records, "RECORDS", tmp_path)
    monkeypatch.setattr(records, "BENCH", tmp_path / "bench.json")
    assert records.read() is None

    records.add(made.MACHINE, "single", made.row(committed_per_s=1.0))
    records.add(made.MACHINE, "plain", made.row(committed_per_s=2.0))
    records.add(made.MACHINE, "single", made.row(committed_per_s=3.000_04))

    read = records.read()
    assert read is not None
    assert {name: row.figures["committed_per_s"] for name, row in read.rows.items()} == {
        "single": 3.0,
        "plain": 2.0,
    }


def test_a_row_from_elsewhere_says_so_and_is_in_no_ratio_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until most rows were measured there: then it is the others that are from elsewhere."""
    monkeypatch.setattr(records, "RECORDS", tmp_path)
    monkeypatch.setattr(records, "BENCH", tmp_path / "bench.json")
    other = replace(made.MACHINE, processor="a faster one")
    for name in ("single", "plain"):
        records.add(made.MACHINE, name, made.row(committed_per_s=10.0))

    bench = records.add(other, "single", made.row(committed_per_s=90.0))
    found = Results(bench.rows)
    assert bench.machine == made.MACHINE
    assert bench.rows["single"].elsewhere == other
    assert "on another machine: a faster one" in results.document(bench, found)
    assert found.ratio(("single", "committed_per_s"), ("plain", "committed_per_s")) is None

    records.add(other, "idle", made.row(p50_ms=5.0))
    bench = records.add(other, "batch", made.row(committed_per_s=9.0))
    assert bench.machine == other
    assert {name for name, row in bench.rows.items() if row.elsewhere} == {"plain"}
    assert bench.rows["plain"].elsewhere == made.MACHINE


def test_a_measurement_survives_its_record() -> None:
    """Everything a measurement says can be read back."""
    one = made.measured()

    assert msgspec.json.decode(msgspec.json.encode(one), type=type(one)) == one
