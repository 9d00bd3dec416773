"""`tidegate merchant`: pausing a merchant whose kitchen is full, and resuming it."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.cli import levers
from deploy.cli.acting import reason_option
from deploy.cli.output import json_option, show
from deploy.cli.target import data_option

if TYPE_CHECKING:
    from workers.store.levers import Merchant, Pause


@click.group()
def merchant() -> None:
    """Pause and resume merchants; their limits are set by campaign files."""


@merchant.command()
@click.argument("merchant_id", metavar="ID")
@levers.needed_reason_option
@levers.until_option
@levers.for_option
@levers.dry_run_option
@data_option
@json_option
def pause(
    *,
    merchant_id: str,
    reason: str,
    until: datetime | None,
    lasting: timedelta | None,
    dry_run: bool,
    data: Path | None,
    as_json: bool,
) -> None:
    """Sell nothing of merchant ID, everywhere, until a time or until it is resumed.

    New orders with its goods are refused at the gate as merchant_unavailable; those that are in
    flight are refused so when they are decided. Orders that are committed stay, and may be paid or
    cancelled. Pausing again sets a new end and reason.
    """
    from workers.store import levers as store

    with levers.pulling(data) as connection:
        done = store.pause_merchant(
            connection,
            merchant_id,
            levers.until(until, lasting),
            levers.pull(reason, dry_run=dry_run),
        )
    show(done, _text(done), as_json=as_json)


@merchant.command()
@click.argument("merchant_id", metavar="ID")
@reason_option
@levers.dry_run_option
@data_option
@json_option
def resume(
    *, merchant_id: str, reason: str | None, dry_run: bool, data: Path | None, as_json: bool
) -> None:
    """Sell the goods of merchant ID again."""
    from workers.store import levers as store

    with levers.pulling(data) as connection:
        done = store.resume_merchant(connection, merchant_id, levers.pull(reason, dry_run=dry_run))
    show(done, _text(done), as_json=as_json)


@merchant.command("list")
@data_option
@json_option
def list_all(data: Path | None, as_json: bool) -> None:
    """List the merchants, what they take a minute, and who is paused."""
    from workers.store import levers as store

    with levers.pulling(data) as connection:
        found = store.list_merchants(connection)
    show(found, "\n".join(map(_line, found)) or "no merchant yet", as_json=as_json)


def _line(one: Merchant) -> str:
    most = one.orders_per_minute_max
    limit = "no limit" if most is None else f"{most:,} orders a minute"
    line = f"{one.merchant_id:<24} {one.items:>6,} items  {limit}"
    if not one.paused:
        return line
    return f"{line}; paused {levers.told_end(one.until)}: {one.reason or 'no reason given'}"


def _text(done: Pause) -> str:
    lines = [levers.told_pause(done, "merchant")]
    if done.items is not None:
        lines.append(f"  sells {done.items:,} items, {done.units or 0:,} units available")
    return "\n".join(lines)
