"""`tidegate campaign`: what is on sale, and the coupons given ahead."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec.structs import asdict

from config.settings import require_secrets
from deploy.cli import levers
from deploy.cli.acting import reason_option
from deploy.cli.output import json_option, show
from deploy.cli.target import connection_settings, data_option

if TYPE_CHECKING:
    from deploy.campaigns import ApplyReport
    from deploy.campaigns.looking import CampaignView
    from workers.store.campaigns import CampaignSummary, OfferedItem
    from workers.store.levers import Extension
    from workers.store.pool import Connection

_ACTIONS_SHOWN = 10


@click.group()
def campaign() -> None:
    """Apply campaign files, look at campaigns; issue, pause and extend their coupons."""


@campaign.command()
@click.argument("file")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@reason_option
@click.option(
    "--from-now",
    is_flag=True,
    help="Move all windows so that the campaign starts now; one that is there keeps its start.",
)
@click.option(
    "--scale",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    help="Multiply opening stock and budget.",
)
@data_option
@json_option
def apply(
    *,
    file: str,
    dry_run: bool,
    reason: str | None,
    from_now: bool,
    scale: float,
    data: Path | None,
    as_json: bool,
) -> None:
    """Apply FILE, a path or the name of a campaign that we ship.

    Applying a file twice changes nothing the second time. A running campaign is changed safely:
    `stock` stays what it was at the opening, and is changed by `stock_delta`; each delta is applied
    once, known by its `stock_delta_id` or, without one, by its number. Every fault of the file is
    named at once; then nothing is changed.
    """
    from deploy import campaigns
    from deploy.load.goods import path_of

    path = path_of(file)
    if not path.is_file():
        raise click.BadParameter(f"there is no file {path}", param_hint="FILE")
    report = campaigns.apply(
        connection_settings(data).postgres.dsn,
        path,
        dry_run=dry_run,
        shift_to_now=from_now,
        scale=scale,
        reason=reason,
    )
    show(report, _applied(report), as_json=as_json)


def _applied(report: ApplyReport) -> str:
    lines = [f"  {change}" for change in report.changes]
    done = "would change" if report.dry_run else "changed"
    head = f"{report.campaign_id}: {len(lines)} {'thing' if len(lines) == 1 else 'things'} {done}"
    if not lines:
        head = f"{report.campaign_id}: nothing to change"
    lines = [head, *lines, *(f"  note: {note}" for note in report.notes)]
    if report.dry_run and report.users is not None:
        lines.append(f"  met so far: {report.users} users, who hold {report.coupons} coupons")
    return "\n".join(lines)


@campaign.command("list")
@data_option
@json_option
def list_all(data: Path | None, as_json: bool) -> None:
    """List the campaigns, by their start."""
    from deploy.campaigns.looking import look_all

    found = look_all(connection_settings(data).postgres.dsn)
    show(found, "\n".join(map(_line, found)) or "no campaign was applied yet", as_json=as_json)


def _line(summary: CampaignSummary) -> str:
    return (
        f"{summary.campaign_id:<24} {summary.state:<9} "
        f"{summary.starts_at:%Y-%m-%d %H:%M} to {summary.ends_at:%Y-%m-%d %H:%M} UTC  "
        f"{summary.sold:,} sold, {summary.available:,} available"
    )


@campaign.command("show")
@click.argument("campaign_id", metavar="ID")
@data_option
@json_option
def show_one(campaign_id: str, data: Path | None, as_json: bool) -> None:
    """Show campaign ID: its terms, budget, items, and what operators did to it."""
    from deploy.campaigns.looking import look
    from workers.store import levers as store

    view = look(connection_settings(data).postgres.dsn, campaign_id, _ACTIONS_SHOWN)
    if view is None:
        raise click.ClickException(f"there is no campaign {campaign_id}; see `campaign list`")
    with levers.pulling(data) as connection:
        pause = store.read_issuance_pause(connection, campaign_id)
    lines = [_line(view.summary), *_terms(view)]
    if pause is not None:
        since, why = levers.told_time(pause.since), pause.reason or "no reason given"
        lines.append(f"  issuance paused since {since}, {levers.told_end(pause.until)}: {why}")
    lines += [_item(item) for item in view.items]
    lines += [
        f"  {act.acted_at:%Y-%m-%d %H:%M:%S} {act.actor}: {act.action} {act.reason or ''}".rstrip()
        for act in view.actions
    ]
    show({**asdict(view), "issuance_pause": pause}, "\n".join(lines), as_json=as_json)


def _terms(view: CampaignView) -> Iterator[str]:
    summary, terms = view.summary, view.terms
    unit = f"{summary.currency} minor units"
    held = f"{summary.reserved:,} reserved, {summary.spent:,} spent"
    yield f"  budget {summary.budget:,} {unit}: {held}"
    most = f"{terms.orders_per_user_max} orders, {terms.coupons_per_user_max} coupons"
    yield f"  per user {most}; to pay within {terms.payment_window_ms // 60_000} minutes"
    coupon = terms.coupon
    if coupon is not None:
        percent = f"{coupon.percent} %, up to " if coupon.kind == "percent_off" else ""
        offer = f"{percent}{coupon.amount:,} off from {coupon.minimum_total:,}"
        yield f"  coupon {offer}, valid until {coupon.valid_until:%Y-%m-%d %H:%M} UTC"


def _item(item: OfferedItem) -> str:
    paused = " (merchant paused)" if item.merchant_paused else ""
    return (
        f"  {item.sku:<24} {item.price:>8,} each, {item.available:>12,} available, "
        f"{item.reserved:,} reserved, {item.sold:,} sold of {item.initial:,}; "
        f"{item.merchant_id}{paused}"
    )


@campaign.command("pause-issuance")
@click.argument("campaign_id", metavar="ID")
@levers.needed_reason_option
@levers.until_option
@levers.for_option
@levers.dry_run_option
@data_option
@json_option
def pause_issuance(
    *,
    campaign_id: str,
    reason: str,
    until: datetime | None,
    lasting: timedelta | None,
    dry_run: bool,
    data: Path | None,
    as_json: bool,
) -> None:
    """Give out no more coupons of campaign ID, until a time or until they are resumed.

    Coupons that are out stay good, and wishes that were accepted are still served. A time without an
    offset is in the campaign's time zone. Pausing again sets a new end and reason.
    """
    from workers.store import levers as store

    with levers.pulling(data) as connection:
        end = levers.until(until, lasting, _zone(connection, campaign_id))
        done = store.pause_issuance(
            connection, campaign_id, end, levers.pull(reason, dry_run=dry_run)
        )
    show(done, levers.told_pause(done, "issuance"), as_json=as_json)


@campaign.command("resume-issuance")
@click.argument("campaign_id", metavar="ID")
@reason_option
@levers.dry_run_option
@data_option
@json_option
def resume_issuance(
    *, campaign_id: str, reason: str | None, dry_run: bool, data: Path | None, as_json: bool
) -> None:
    """Give out coupons of campaign ID again; load may still pause them everywhere."""
    from workers.store import levers as store

    with levers.pulling(data) as connection:
        done = store.resume_issuance(connection, campaign_id, levers.pull(reason, dry_run=dry_run))
    show(done, levers.told_pause(done, "issuance"), as_json=as_json)


@campaign.command()
@click.argument("campaign_id", metavar="ID")
@click.option(
    "--valid-until", type=levers.Moment(), required=True, help="Until when its coupons are good."
)
@reason_option
@levers.dry_run_option
@data_option
@json_option
def extend(
    *,
    campaign_id: str,
    valid_until: datetime,
    reason: str | None,
    dry_run: bool,
    data: Path | None,
    as_json: bool,
) -> None:
    """Let the coupons of campaign ID be redeemed for longer, and the campaign go on as long.

    A time without an offset is in the campaign's time zone. Coupons are never good for shorter, and
    those that have expired stay expired. Write the new time into the campaign file as well: the next
    `campaign apply` puts in force what stands there.
    """
    from workers.store import levers as store

    with levers.pulling(data) as connection:
        at = levers.instant(valid_until, _zone(connection, campaign_id), "--valid-until")
        done = store.extend(connection, campaign_id, at, levers.pull(reason, dry_run=dry_run))
    show(done, _extended(done), as_json=as_json)


def _zone(connection: Connection, campaign_id: str) -> str:
    """Return the time zone of a campaign."""
    from workers.store import campaigns

    found = campaigns.read_terms(connection, campaign_id)
    if found is None:
        raise click.ClickException(f"there is no campaign {campaign_id}; see `campaign list`")
    return found[1]


def _extended(done: Extension) -> str:
    if not done.changed:
        good = levers.told_time(done.valid_until)
        return f"{done.campaign_id}: coupons are good until {good}; nothing to change"
    would = "would be good" if done.dry_run else "are good"
    effective = levers.effective(done.dry_run)
    lines = [
        f"{done.campaign_id}: coupons {would} until {levers.told_time(done.valid_until)}; {effective}",
        f"  before: until {levers.told_time(done.valid_until_before)}",
    ]
    if done.ends_at != done.ends_at_before:
        lines.append(
            f"  the campaign ends {levers.told_time(done.ends_at)} with them, instead of "
            f"{levers.told_time(done.ends_at_before)}: coupons are given out until then, too"
        )
    if done.expired:
        lines.append(f"  {done.expired:,} coupons have expired already, and stay so")
    return "\n".join([*lines, *levers.touched_lines(done.touched)])


@campaign.command()
@click.argument("campaign_id", metavar="ID")
@click.option("--count", type=click.IntRange(min=1), required=True, help="Coupons, one a user.")
@click.option("--first-user", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--user-format", default="u-{n}", show_default=True, help="A user's id; {n} is the number."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help='File of lines {"user_id", "coupon_code"}, readable by its owner only.',
)
@click.option("--resume", is_flag=True, help="Complete the file of a run that was interrupted.")
@data_option
@json_option
def issue(
    *,
    campaign_id: str,
    count: int,
    first_user: int,
    user_format: str,
    out: Path,
    resume: bool,
    data: Path | None,
    as_json: bool,
) -> None:
    """Issue COUNT coupons of campaign ID, one to each user from --first-user on.

    The file is written ahead of each commit: after a run that failed it holds all that was issued,
    and the same command with --resume completes it. No coupon is lost or given twice.
    """
    from deploy.campaigns.couponfile import issue_to_file
    from workers.contract.couponcode import CouponCodes

    users = _users(user_format, first_user, count)
    settings = connection_settings(data)
    require_secrets(settings)
    codes = CouponCodes(settings.secrets.master, settings.secrets.old_masters)
    with _progress(f"issuing {campaign_id}", count) as progress:
        issued = issue_to_file(
            settings.postgres.dsn,
            campaign_id,
            users,
            out,
            codes=codes,
            resume=resume,
            progress=progress,
        )
    result = {"campaign_id": campaign_id, "issued": issued, "in_file": count, "file": str(out)}
    text = f"{issued:,} coupons issued; {out} holds {count:,}"
    show(result, text, as_json=as_json)


def _users(user_format: str, first_user: int, count: int) -> list[str]:
    try:
        users = [user_format.format(n=n) for n in range(first_user, first_user + count)]
    except (KeyError, IndexError, ValueError, AttributeError):
        users = []
    if len(set(users)) < count or len(users[-1]) > 128 or not users[-1].isprintable():
        msg = "expected a text of up to 128 characters with {n} in it"
        raise click.BadParameter(msg, param_hint="--user-format")
    return users


@contextlib.contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal; elsewhere nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, advance=done)
