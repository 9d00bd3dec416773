"""`tidegate prune`."""

from __future__ import annotations

import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from deploy.cli import faults
from deploy.cli.output import json_option, show
from deploy.cli.target import connection_settings, data_option

if TYPE_CHECKING:
    from workers.store.prune import Plan, Pruned

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def _age(ctx: click.Context, param: click.Parameter, value: str) -> timedelta:
    """Read an age of a day or more: a number and a unit."""
    match = re.fullmatch(r"([0-9]{1,6})([hdw])", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is no age; write 30d, 36h or 4w")
    age = timedelta(**{_UNITS[match[2]]: int(match[1])})
    if age < timedelta(days=1):
        raise click.BadParameter(f"{value} is less than a day, which is kept in any case")
    return age


@click.command()
@click.option(
    "--older-than",
    metavar="AGE",
    callback=_age,
    required=True,
    help="What to remove: 30d, 36h, 4w.",
)
@click.option("--yes", is_flag=True, help="Remove it; otherwise only say what would be removed.")
@data_option
@json_option
def prune(older_than: timedelta, yes: bool, data: Path | None, as_json: bool) -> int:
    """Remove the days of journal, outcomes and keys that are older, and that nobody needs.

    A day stays as long as one of its intents is open, one of its orders awaits payment, or one of
    its campaigns' coupons expired less than seven days ago; so do all days after it. Orders,
    coupons, payments and the ledger are never removed. May be interrupted, and run again.
    """
    settings = connection_settings(data)
    from deploy.actor import whoami
    from workers.store import prune as store

    found = store.plan(settings.postgres.dsn, older_than)
    if not yes:
        result = {"removed": None, "plan": msgspec.to_builtins(found)}
        show(result, _plan_text(found, "would be removed; add --yes"), as_json=as_json)
        return 0
    if not as_json:
        click.echo(_plan_text(found, "to be removed"))
    try:
        done = store.prune(settings.postgres.dsn, older_than, whoami(), progress=_say)
    except store.PruneBusyError as busy:
        click.echo(f"tidegate: {busy}", err=True)
        return faults.NOT_FINE
    result = {"removed": msgspec.to_builtins(done), "plan": msgspec.to_builtins(found)}
    show(result, _done_text(done), as_json=as_json)
    return 0


def _say(step: str) -> None:
    if sys.stderr.isatty():
        click.echo(step, err=True)


def _plan_text(plan: Plan, what: str) -> str:
    lines = [
        f"{day.day}  {day.intents:>12,} intents {day.outcomes:>12,} outcomes "
        f"{day.intents:>12,} keys {_mib(day.bytes):>12}  {', '.join(day.partitions)}"
        for day in plan.days
    ]
    if plan.default_rows:
        lines.append(f"{plan.default_rows:,} old rows in the default partitions")
    if plan.kept is not None:
        lines.append(f"{plan.before:%Y-%m-%d} and later stays: {plan.kept}")
    partitions = sum(len(day.partitions) for day in plan.days)
    total = f"{partitions} partitions, {plan.rows:,} rows, {_mib(plan.bytes)}"
    nothing = not plan.days and not plan.default_rows
    return "\n".join([*lines, "nothing to remove" if nothing else f"{total} {what}"])


def _done_text(done: Pruned) -> str:
    return (
        f"removed {done.partitions} partitions, {done.keys:,} keys, "
        f"{done.default_rows:,} rows of the default partitions"
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
