"""The shipped dashboards as Grafana reads them: panels, and what each asks Prometheus."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from deploy.monitoring.writing import HERE

NAMES: Final = ("service", "overload", "pipeline", "campaign", "dependencies")
_ANY: Final = ".*"


class Query(Struct, frozen=True):
    """One expression, with Grafana's variables still in it, and the legend of its series."""

    expr: str
    legend: str


class Panel(Struct, frozen=True):
    """One panel. `words` are names of values, each with its colour; `width` is of 24 columns."""

    board: str
    title: str
    kind: str
    unit: str
    width: int
    stacked: bool
    bad_from: float | None
    words: Mapping[float, tuple[str, str]]
    queries: Sequence[Query]


class Board(Struct, frozen=True):
    """One dashboard, and the question that it answers."""

    title: str
    question: str
    panels: Sequence[Panel]


def read(name: str) -> Board:
    """Read one of the shipped dashboards."""
    model = json.loads((HERE / "dashboards" / f"{name}.json").read_text(encoding="utf-8"))
    panels = [_panel(name, one) for one in model["panels"] if one["type"] != "row"]
    return Board(model["title"], model["description"], panels)


def every() -> Iterator[Panel]:
    """Yield every panel of every dashboard."""
    for name in NAMES:
        yield from read(name).panels


def filled(expr: str, *, rate_s: int, range_s: int, campaign: str = _ANY) -> str:
    """Put in what Grafana puts in: all jobs and instances, and the spans it works out.

    `rate_s` is the span of a rate, four scrapes at least; `range_s` is the time shown. Raises
    ValueError for a variable that is not known.
    """
    variables = {
        "$__rate_interval": f"{rate_s}s",
        "$__range": f"{range_s}s",
        "$job": _ANY,
        "$instance": _ANY,
        "$campaign": campaign,
    }
    for variable, value in variables.items():
        expr = expr.replace(variable, value)
    if "$" in expr:
        msg = f"a variable of Grafana's is not known: {expr}"
        raise ValueError(msg)
    return expr


def _panel(board: str, panel: Mapping[str, Any]) -> Panel:
    defaults = panel["fieldConfig"]["defaults"]
    bad = [step["value"] for step in defaults["thresholds"]["steps"] if step["color"] == "red"]
    return Panel(
        board=board,
        title=panel["title"],
        kind=panel["type"],
        unit=defaults["unit"],
        width=panel["gridPos"]["w"],
        stacked=defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal",
        bad_from=bad[0] if bad else None,
        words={
            float(value): (told["text"], told["color"])
            for mapping in defaults.get("mappings", ())
            for value, told in mapping["options"].items()
        },
        queries=[Query(one["expr"], one["legendFormat"]) for one in panel["targets"]],
    )
