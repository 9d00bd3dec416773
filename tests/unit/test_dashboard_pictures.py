"""Pictures of the dashboards, and Prometheus in a hurry, are made from what is shipped."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from deploy.monitoring.writing import HERE
from tests.dashboards import boards, units
from tests.dashboards.__main__ import CHOSEN
from tests.dashboards.drawing import (
    Line,
    Shown,
    Times,
    laid_out,
    lines_of,
    picture,
    spans,
    stacked,
    told_apart,
)
from tests.dashboards.pace import hurried, shortened
from tests.dashboards.prometheus import Series

RULE = """
      - alert: A
        expr: |-
          increase(x_total[1h]) > 3600 and on () rate(x_total[5m]) > y:ratio_rate5m offset 2h
        for: "30m"
"""


def test_only_spans_are_shortened() -> None:
    """Names, thresholds and seconds that are compared with stay."""
    assert shortened(RULE, 1) == RULE
    hurrying = shortened(RULE, 60)
    assert "increase(x_total[60000ms]) > 3600" in hurrying
    assert "rate(x_total[5000ms]) > y:ratio_rate5m offset 120000ms" in hurrying
    assert 'for: "30000ms"' in hurrying


def test_every_span_of_the_shipped_rules_is_shortened(tmp_path: Path) -> None:
    """And nothing else: with the spans put out, both are the same text."""
    hurried(60, tmp_path, tmp_path / "targets.json")
    span = re.compile(r'(?<=\[)\w+(?=\])|(?<=offset )\w+|(?<=for: ")\w+')
    for file in (*HERE.glob("rules/*.yaml"), *HERE.glob("alerts/*.yaml")):
        copy = (tmp_path / file.relative_to(HERE)).read_text()
        assert span.sub("", copy) == span.sub("", file.read_text())
        assert all(found.endswith("ms") for found in span.findall(copy))
        assert copy.count("for:") == len(re.findall(r'for: "\d+ms"', copy))


def test_prometheus_in_a_hurry_reads_the_targets_of_the_test(tmp_path: Path) -> None:
    """Once a second, and never those of a checkout's own cluster."""
    text = hurried(60, tmp_path, tmp_path / "targets.json").read_text()
    assert str(tmp_path / "targets.json") in text
    assert "../" not in text
    assert re.findall(r"(\w+_interval): (\w+)", text) == [
        ("scrape_interval", "1s"),
        ("evaluation_interval", "1s"),
        ("refresh_interval", "1s"),
    ]


def test_every_variable_of_grafanas_is_put_in_or_refused() -> None:
    """An expression with a dollar in it would be no PromQL."""
    for panel in boards.every():
        for query in panel.queries:
            assert "$" not in boards.filled(query.expr, rate_s=4, range_s=60)
    with pytest.raises(ValueError, match="variable"):
        boards.filled("rate(x[$__interval])", rate_s=4, range_s=60)


@pytest.mark.parametrize("name", boards.NAMES)
def test_a_picture_shows_panels_that_there_are(name: str) -> None:
    """Each of them once, by its title."""
    titles = [panel.title for panel in boards.read(name).panels]
    assert len(set(titles)) == len(titles)
    chosen = [title for row in CHOSEN[name] for title in row]
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(titles)


def test_panels_fill_each_row_from_side_to_side() -> None:
    """What a row leaves over widens its panels; the highest makes its height."""
    places = list(laid_out([[(8, 8), (8, 4)], [(12, 4)], [(24, 8)]]))
    assert [(place.x, place.y, place.width) for place in places] == [
        (0, 0, 12),
        (12, 0, 12),
        (0, 8, 24),
        (0, 12, 24),
    ]


def test_a_legend_names_a_series_by_its_labels() -> None:
    """As Grafana expands it; a label that is not there says nothing."""
    found = [Series({"job": "api", "x": "1"}, [(0, 1)])]
    assert [one.legend for one in lines_of("{{job}} {{ x }}{{none}}", found)] == ["api 1"]


def test_a_line_at_zero_is_left_out_where_another_is_not() -> None:
    """But zero alone is an answer."""
    flat, busy = Line("flat", [(0, 0), (1, 0)]), Line("busy", [(0, 0), (1, 2)])
    assert told_apart([flat, busy]) == [busy]
    assert told_apart([flat]) == [flat]


def test_states_and_areas_are_what_was_answered() -> None:
    """A state lasts until the next; an area adds nothing where it has no value."""
    assert list(spans([(0, 1), (1, 1), (2, 3), (5, 3)])) == [(1, 0, 2), (3, 2, 5)]
    lines = [Line("a", [(0, 1), (1, 2)]), Line("b", [(1, 5)])]
    assert stacked(lines) == ([0, 1], [[1, 2], [0, 5]])


@pytest.mark.parametrize(
    ("value", "unit", "told"),
    [
        (0.0123, "s", "12.3 ms"),
        (1.5, "s", "1.5 s"),
        (0, "s", "0 s"),
        (600, "s", "10 min"),
        (0.25, "percentunit", "25 %"),
        (1234.5, "suffix: /s", "1,234/s"),
        (3 * 1024**2, "bytes", "3 MiB"),
        (12_000, "short", "12,000"),
    ],
)
def test_values_are_told_in_their_unit(value: float, unit: str, told: str) -> None:
    assert units.told(value, unit) == told


def test_the_figures_of_an_axis_are_told_alike() -> None:
    """And are round in what is written, not in bytes or seconds."""
    assert units.told(20 * 1024**2, "bytes", 3 * 1024**3) == "0.0195 GiB"
    assert units.told(100_000_000, "short", 120_000_000) == "100 M"
    assert units.told(500, "short", 120_000_000) == "0.0005 M"
    assert (units.size("s", 0.5), units.size("s", 600), units.size("bytes", 2**21)) == (
        0.001,
        60,
        2**20,
    )


def test_a_panel_without_an_answer_says_so() -> None:
    """An empty frame could be taken for a flat line."""
    shown = [Shown(panel, []) for panel in boards.read("overload").panels]
    drawn = picture("Title", "What?", "A story.", [shown], Times(0, 60, (20, 40)))
    assert drawn.count(">no data<") == len(shown)


@pytest.mark.parametrize("name", boards.NAMES)
def test_every_panel_can_be_drawn(name: str) -> None:
    """Of any kind; the text stays text, and the same answers give the same bytes."""
    times = Times(1_000, 1_060, (1_020, 1_040))
    panels = boards.read(name).panels
    lines = [Line(f"line {n}", [(1_000 + s, (s + n) % 4) for s in range(60)]) for n in range(3)]
    rows = [[Shown(panel, lines)] for panel in panels]
    drawn = picture("Title", "What?", "A story.", rows, times)
    texts = {node.text for node in ET.fromstring(drawn).iter() if node.text}
    assert {"Title", "What?", "A story.", *(panel.title for panel in panels)} <= texts
    assert drawn == picture("Title", "What?", "A story.", rows, times)
