"""`tidegate doctor`: looks at every dependency and setting, and says what mends a fault."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from deploy.cli import faults
from deploy.cli.finding import Finding, Status
from deploy.cli.output import json_option, show
from deploy.cli.target import connection_settings, data_option

_SIGNS = {Status.FINE: "ok  ", Status.BAD: "BAD ", Status.UNREACHABLE: "GONE"}


@click.command()
@data_option
@json_option
def doctor(data: Path | None, as_json: bool) -> int:
    """Check PostgreSQL, Valkey, the broker, this host and the settings; change nothing.

    Exits 1 when something is not fine, 3 when something cannot be reached.
    """
    settings = connection_settings(data)
    from deploy.cli import examine, examine_broker

    findings = [
        *examine.postgres(settings),
        *examine.valkey(settings),
        *examine_broker.broker(settings),
        *examine.host(settings),
    ]
    show(findings, _text(findings), as_json=as_json)
    return _exit_code(findings)


def _exit_code(findings: Sequence[Finding]) -> int:
    met = {finding.status for finding in findings}
    if Status.UNREACHABLE in met:
        return faults.UNREACHABLE
    return faults.NOT_FINE if Status.BAD in met else 0


def _text(findings: Sequence[Finding]) -> str:
    lines = []
    for finding in findings:
        lines.append(f"{_SIGNS[finding.status]}  {finding.check:<32} {finding.found}")
        if finding.mend:
            lines.append(f"      mend: {finding.mend}")
    bad = sum(finding.status is not Status.FINE for finding in findings)
    lines.append(
        f"{len(findings)} checks, {bad} not fine" if bad else f"{len(findings)} checks, all fine"
    )
    return "\n".join(lines)
