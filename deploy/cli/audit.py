"""`tidegate audit`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from deploy.cli import faults
from deploy.cli.output import json_option, show
from deploy.cli.target import connection_settings, data_option, load_settings

if TYPE_CHECKING:
    from workers.store.audit import AuditReport, Check


@click.command()
@click.option("--dsn", help="The database to audit; a replica will do. [that of the settings]")
@data_option
@click.option("--drained", is_flag=True, help="Demand, too, that nothing is open any more.")
@json_option
def audit(dsn: str | None, data: Path | None, drained: bool, as_json: bool) -> int:
    """Prove the promises from the tables alone, in one snapshot, while the system runs.

    Exits 1 on any violation, 3 when the database cannot be reached.
    """
    if dsn is not None and data is not None:
        raise click.UsageError("give --dsn or --data, not both")
    settings = load_settings({"postgres.dsn": dsn}) if dsn else connection_settings(data)
    from workers.store import audit as store
    from workers.store.pool import AUDITOR

    with _progress(len(store.rules()) - (not drained)) as progress:
        report = store.run(settings.postgres.dsn, AUDITOR, drained=drained, progress=progress)
    if sys.stdout.isatty() and not as_json:
        _draw(report)
    else:
        result = {"clean": report.clean, **msgspec.to_builtins(report)}
        show(result, _text(report), as_json=as_json)
    return 0 if report.clean else faults.NOT_FINE


@contextmanager
def _progress(count: int) -> Iterator[Callable[[str], None]]:
    """Show on a terminal which check runs; say nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    begun = 0
    with Console(stderr=True).status("asking the database") as status:

        def begin(check: str) -> None:
            nonlocal begun
            begun += 1
            status.update(f"check {begun} of {count}: {check}")

        yield begin


def _text(report: AuditReport) -> str:
    lines = [_line(check) for check in report.checks]
    return "\n".join([*lines, _verdict(report)])


def _line(check: Check) -> str:
    sign = "BAD" if check.violations else "ok "
    figures = f"{check.examined:>12} examined {check.violations:>10} violations"
    line = f"{sign}  {check.name:<32}{figures} {check.took_ms:>9.0f} ms"
    if not check.violations:
        return line
    example = f" (for example {check.example})" if check.example else ""
    return f"{line}\n     broken: {check.rule}{example}"


def _verdict(report: AuditReport) -> str:
    took = f"in {report.took_ms / 1000:.1f} s; in flight: {report.in_flight:,}"
    if report.clean:
        return f"clean: {len(report.checks)} checks, no violation, {took}"
    return f"NOT CLEAN: {len(report.violated)} of {len(report.checks)} checks are violated, {took}"


def _draw(report: AuditReport) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    table.add_column("rule")
    for name in ("examined", "violations", "ms"):
        table.add_column(name, justify="right")
    for check in report.checks:
        bad = check.violations > 0
        rule = f"{check.rule}\n{check.name}, for example {check.example}" if bad else check.rule
        table.add_row(
            Text("✗" if bad else "✓", "red" if bad else "green"),
            Text(rule, "red" if bad else ""),
            f"{check.examined:,}",
            Text(f"{check.violations:,}", "red" if bad else ""),
            f"{check.took_ms:,.0f}",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(_verdict(report), style="bold green" if report.clean else "bold red")
