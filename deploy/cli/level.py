"""`tidegate level`: the overload level of the whole system, and the operator's word on it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from deploy.cli import faults, levers
from deploy.cli.acting import reason_option
from deploy.cli.output import json_option, show
from deploy.cli.target import connection_settings, data_option
from deploy.top.words import LEVELS
from workers.domain.overload import Level

if TYPE_CHECKING:
    from config.settings import Settings
    from workers.contract.gate import Published
    from workers.store.levels import LevelChange, LevelOrder


@click.group()
def level() -> None:
    """Show the overload level; order another for the whole system, or lift the order.

    normal: everything is open. throttled: no coupons are given out. shedding: orders are let in at a
    bounded rate, by class. closed: nothing is let in. Payments and cancels are taken at every level,
    and whoever holds a receipt gets the outcome.

    The governor moves the level by itself. What you order outranks it until you lift it or its time
    is over, and survives every restart.
    """


@level.command("show")
@data_option
@json_option
def show_level(data: Path | None, as_json: bool) -> int:
    """Show what is ordered, what the governor says, and which of them holds."""
    from workers.store import levels as store

    with levers.pulling(data) as connection:
        ordered = store.read_level(connection)
    published = _published(connection_settings(data))
    lines = [_holds(ordered, published), _ordered_line(ordered), _governor_line(published)]
    result = {
        "holds": _held(ordered, published),
        "ordered": ordered,
        "published": None if published is None else msgspec.to_builtins(published),
    }
    show(result, "\n".join(lines), as_json=as_json)
    return 0 if published is not None else faults.UNREACHABLE


@level.command()
@levers.needed_reason_option
@levers.for_option
@levers.dry_run_option
@data_option
@json_option
def close(
    *, reason: str, lasting: timedelta | None, dry_run: bool, data: Path | None, as_json: bool
) -> None:
    """Let nothing in: `force closed` by a shorter name."""
    _order(Level.CLOSED, reason, lasting, dry_run=dry_run, data=data, as_json=as_json)


@level.command()
@reason_option
@levers.dry_run_option
@data_option
@json_option
def open(  # noqa: A001 - the command's name
    *, reason: str | None, dry_run: bool, data: Path | None, as_json: bool
) -> None:
    """Lift the order that stands: the governor decides again.

    That opens as far as the load allows. To open against the governor, `force normal`.
    """
    from workers.store import levels as store

    with levers.pulling(data) as connection:
        done = store.lift_level(connection, levers.pull(reason, dry_run=dry_run))
    show(done, _change_text(done), as_json=as_json)


@level.command()
@click.argument("name", metavar="LEVEL", type=click.Choice([level.value for level in Level]))
@levers.needed_reason_option
@levers.for_option
@levers.dry_run_option
@data_option
@json_option
def force(
    *,
    name: str,
    reason: str,
    lasting: timedelta | None,
    dry_run: bool,
    data: Path | None,
    as_json: bool,
) -> None:
    """Order LEVEL (normal, throttled, shedding, closed) against whatever the governor says.

    It holds for the time given with --for, or until `level open`. An order replaces the one before.
    """
    _order(Level(name), reason, lasting, dry_run=dry_run, data=data, as_json=as_json)


def _order(
    ordered: Level,
    reason: str,
    lasting: timedelta | None,
    *,
    dry_run: bool,
    data: Path | None,
    as_json: bool,
) -> None:
    from workers.store import levels as store

    with levers.pulling(data) as connection:
        done = store.order_level(connection, ordered, lasting, levers.pull(reason, dry_run=dry_run))
    show(done, _change_text(done), as_json=as_json)


def _change_text(done: LevelChange) -> str:
    if not done.changed:
        return "no order stands, the governor decides; nothing to change"
    effective = levers.effective(done.dry_run)
    if done.order is None:
        verb = "would be lifted" if done.dry_run else "lifted"
        lines = [f"order {verb}, the governor decides; {effective}"]
    else:
        verb = "would be ordered" if done.dry_run else "ordered"
        lines = [f"{done.order.level} {verb} {_end(done.order)}; {effective}"]
    if done.before is not None:
        lines.append(f"  in place of: {done.before.level} {_end(done.before)}")
    if done.campaigns is not None:
        lines.append(f"  open campaigns: {done.campaigns:,}")
    return "\n".join([*lines, *levers.touched_lines(done.touched)])


def _published(settings: Settings) -> Published | None:
    """Ask the gate what the governor says; None, and a line, where it cannot be asked."""
    from workers.contract.gate import GateUnreachable, open_gate

    try:
        return open_gate(settings).policy()
    except GateUnreachable as error:
        click.echo(
            f"tidegate: cannot ask the gate at {_where(settings)} ({error}); "
            "start it, or correct TIDEGATE_VALKEY__URL",
            err=True,
        )
        return None


def _where(settings: Settings) -> str:
    from config.settings import redact_url

    return redact_url(settings.valkey.url)


def _held(ordered: LevelOrder | None, published: Published | None) -> Level:
    """Return the level in force, as the gate and every API process decide it."""
    if ordered is not None and (published is not None or ordered.level is Level.CLOSED):
        return ordered.level
    if published is None:
        return Level.CLOSED
    if published.policy is None or published.lease_left_ms <= 0:
        return Level.NORMAL
    return published.policy.level


def _holds(ordered: LevelOrder | None, published: Published | None) -> str:
    held = _held(ordered, published)
    return f"{held}: {LEVELS[held]}"


def _ordered_line(ordered: LevelOrder | None) -> str:
    if ordered is None:
        return "  ordered      nothing; the governor decides"
    since = levers.told_time(ordered.ordered_at)
    return f"  ordered      {ordered.level} {_end(ordered)}, since {since}: {ordered.reason}"


def _governor_line(published: Published | None) -> str:
    if published is None:
        return "  governor     not heard: without Valkey every process answers closed by itself"
    policy = published.policy
    if policy is None or published.lease_left_ms <= 0:
        return "  governor     none alive: only the fixed limits hold; start `tidegate governor`"
    why = f" ({policy.reason})" if policy.reason else ""
    rate = "not measured" if policy.service_per_s is None else f"{policy.service_per_s:,.0f}/s"
    bound = "" if policy.admitted_per_s is None else f", lets in {policy.admitted_per_s:,.0f}/s"
    return (
        f"  governor     {policy.level}{why}, wait {policy.predicted_wait_ms:,} ms, "
        f"serves {rate}{bound}; {published.in_flight:,} in flight"
    )


def _end(ordered: LevelOrder) -> str:
    if ordered.until is None:
        return "until it is lifted"
    return f"until {levers.told_time(ordered.until)}"
