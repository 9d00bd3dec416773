"""Dashboards as Grafana reads them: rows of panels, laid out from left to right.

Each board is a table of panels in `boards/`; what all have in common (variables, links, the form of a
query) is written here once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from msgspec import Struct, field

from config.catalogue import metric

_WIDTH: Final = 24
_HEIGHT: Final = 8
_STAT_HEIGHT: Final = 4
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_CHOSEN: Final = 'job=~"$job", instance=~"$instance"'
_ANY: Final = ".*"  # a choice of all includes series that lack the label

Kind = Literal["timeseries", "stat", "state-timeline"]

LEVELS: Final = {
    0: ("normal", "green"),
    1: ("throttled", "yellow"),
    2: ("shedding", "orange"),
    3: ("closed", "red"),
}


class Target(Struct, frozen=True):
    """One query, and the legend of its series as Grafana expands it."""

    expr: str
    legend: str = ""


class Panel(Struct, frozen=True, kw_only=True):
    """One panel. `unit` is Grafana's id of it; `bad_from` is where a stat or a line turns red.

    `words` names values, each with its colour.
    """

    title: str
    description: str
    unit: str
    targets: Sequence[Target]
    kind: Kind = "timeseries"
    width: int = 8
    stacked: bool = False
    bad_from: float | None = None
    words: Mapping[int, tuple[str, str]] = field(default_factory=dict)


class Row(Struct, frozen=True):
    """A heading and the panels under it."""

    title: str
    panels: Sequence[Panel]


class Board(Struct, frozen=True, kw_only=True):
    """One dashboard. `question` is what it answers; `by_campaign` lets its reader choose some."""

    name: str
    title: str
    question: str
    rows: Sequence[Row]
    by_campaign: bool = False


def pick(name: str, where: str = "") -> str:
    """Return a metric's series of the chosen jobs and instances. Raises KeyError: not catalogued."""
    base = name
    for suffix in ("_bucket", "_count", "_sum"):
        if name.endswith(suffix) and metric(name.removesuffix(suffix)).kind == "histogram":
            base = name.removesuffix(suffix)
    metric(base)
    return f"{name}{{{', '.join(filter(None, [_CHOSEN, where]))}}}"


def rate(name: str, by: str = "", where: str = "") -> str:
    """Return what a counter gains a second, over all processes."""
    return f"sum{_by(by)}(rate({pick(name, where)}[$__rate_interval]))"


def gain(name: str, by: str = "", where: str = "") -> str:
    """Return what a counter gained over the time that is shown."""
    return f"sum{_by(by)}(increase({pick(name, where)}[$__range]))"


def total(name: str, by: str = "", where: str = "") -> str:
    """Return the sum of a gauge over all processes."""
    return f"sum{_by(by)}({pick(name, where)})"


def largest(name: str, by: str = "", where: str = "") -> str:
    """Return a gauge of which each process shows the same: the largest."""
    return f"max{_by(by)}({pick(name, where)})"


def quantiles(name: str, by: str = "") -> list[Target]:
    """Return median, 95th and 99th percentile of a histogram."""
    labels = ", ".join(filter(None, ["le", by]))
    legend = f"{{{{{by}}}}} " if by else ""
    return [
        Target(f"histogram_quantile({share}, {rate(f'{name}_bucket', labels)})", f"{legend}{words}")
        for share, words in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    ]


def meaning(name: str) -> str:
    """Return what the catalogue says of a metric: the description of a panel that shows only it."""
    return metric(name).meaning


def text(board: Board, boards: Sequence[Board]) -> str:
    """Return a dashboard's JSON; `boards` are those it links to."""
    return json.dumps(_model(board, boards), indent=2, ensure_ascii=False) + "\n"


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""


def _model(board: Board, boards: Sequence[Board]) -> dict[str, Any]:
    return {
        "uid": f"tidegate-{board.name}",
        "title": board.title,
        "description": board.question,
        "tags": ["tidegate"],
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [_link(other) for other in boards if other is not board],
        "templating": {"list": list(_variables(board))},
        "annotations": {"list": [_pages()]},
        "panels": list(_laid_out(board)),
    }


def _link(board: Board) -> dict[str, Any]:
    return {
        "title": board.title,
        "tooltip": board.question,
        "type": "link",
        "url": f"/d/tidegate-{board.name}",
        "keepTime": True,
        "includeVars": True,
    }


def _variables(board: Board) -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
    }
    yield _choice("job", "Job", 'label_values(up{job=~"tidegate-.+"}, job)')
    yield _choice("instance", "Instance", 'label_values(up{job=~"$job"}, instance)')
    if board.by_campaign:
        yield _choice("campaign", "Campaign", "label_values(tidegate_stock_units, campaign)")


def _choice(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": _ANY,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
    }


def _pages() -> dict[str, Any]:
    """Mark in every panel when somebody was paged."""
    return {
        "name": "Pages",
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertname=~"Tidegate.+", alertstate="firing", severity="page"}',
        "titleFormat": "{{alertname}}",
        "step": "60s",
    }


def _laid_out(board: Board) -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for row in board.rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": {"h": 1, "w": _WIDTH, "x": 0, "y": y},
            "panels": [],
        }
        y, x, height = y + 1, 0, 0
        for panel in row.panels:
            if x + panel.width > _WIDTH:
                y, x, height = y + height, 0, 0
            number += 1
            tall = _STAT_HEIGHT if panel.kind == "stat" else _HEIGHT
            place = {"h": tall, "w": panel.width, "x": x, "y": y}
            yield {"id": number, "gridPos": place, **_panel(panel)}
            x, height = x + panel.width, max(height, tall)
        y += height


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": target.expr,
                "legendFormat": target.legend or "__auto",
                "instant": panel.kind == "stat",
                "range": panel.kind != "stat",
            }
            for index, target in enumerate(panel.targets)
        ],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _OPTIONS[panel.kind],
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.bad_from is not None:
        steps.append({"color": "red", "value": panel.bad_from})
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.words:
        defaults["mappings"] = [_mapping(panel.words)]
    if panel.kind == "timeseries":
        defaults["min"] = 0
        defaults["custom"] = _lines(panel)
    return defaults


def _lines(panel: Panel) -> dict[str, Any]:
    return {
        "fillOpacity": 20 if panel.stacked else 0,
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "showPoints": "never",
        "thresholdsStyle": {"mode": "off" if panel.bad_from is None else "line"},
    }


def _mapping(words: Mapping[int, tuple[str, str]]) -> dict[str, Any]:
    return {
        "type": "value",
        "options": {
            str(value): {"index": index, "text": word, "color": color}
            for index, (value, (word, color)) in enumerate(words.items())
        },
    }


_OPTIONS: Final[Mapping[Kind, dict[str, Any]]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
        "textMode": "auto",
    },
    "state-timeline": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "mergeValues": True,
        "showValue": "auto",
    },
}
