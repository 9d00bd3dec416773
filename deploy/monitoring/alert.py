"""An alert: what is wrong, for whom, and where to look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from deploy.monitoring.objectives import Board, Links, Severity

Role = Literal["symptom", "cause"]


class Alert(Struct, frozen=True, kw_only=True):
    """One alert, and the runbook of the same name.

    `role`: a symptom is what users feel; a cause is muted while a symptom pages. `lasting` is how
    long it must hold before it fires, as Prometheus writes it. `summary` is one line without figures,
    so that repeats read the same; `description` may expand `$labels` and `$value`.
    """

    name: str
    expr: str
    severity: Severity
    role: Role
    summary: str
    description: str
    dashboard: Board
    lasting: str = "0m"
    objective: str = ""


def as_rule(alert: Alert, links: Links) -> Mapping[str, object]:
    """Return the alert as Prometheus' rule files have it."""
    labels: dict[str, str] = {"severity": alert.severity, "role": alert.role}
    if alert.objective:
        labels["objective"] = alert.objective
    return {
        "alert": alert.name,
        "expr": alert.expr,
        **({} if alert.lasting == "0m" else {"for": alert.lasting}),
        "labels": labels,
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": f"{links.runbooks}/{alert.name}.md",
            "dashboard_url": f"{links.dashboards}/tidegate-{alert.dashboard}",
        },
    }
