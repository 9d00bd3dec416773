"""What the operators' levers share: their options, how times are written, and how pauses are told."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from zoneinfo import ZoneInfo

import click

from deploy.cli.target import connection_settings

if TYPE_CHECKING:
    from workers.store.levers import Pause, TouchedCoupons, Until
    from workers.store.pool import Connection
    from workers.store.pulling import Pull, Touched

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DURATION = re.compile(r"([0-9]{1,6})([smhd])")


class Duration(click.ParamType[timedelta]):
    """A number and a unit: 90s, 30m, 2h, 1d."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Read it, or fail with how it is written."""
        if isinstance(value, timedelta):
            return value
        match = _DURATION.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is no duration; write 90s, 30m, 2h or 1d", param, ctx)
        lasting = timedelta(**{_UNITS[match[2]]: int(match[1])})
        from workers.store.pulling import LASTING_MAX

        if not timedelta(0) < lasting <= LASTING_MAX:
            self.fail(f"{value} is not between 1s and {LASTING_MAX.days}d", param, ctx)
        return lasting


class Moment(click.ParamType[datetime]):
    """A time as ISO 8601 writes it, with an offset or without."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Read it, or fail with how it is written."""
        if isinstance(value, datetime):
            return value
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            example = "2026-02-07T10:00, 2026-02-07T10:00+08:00 or 2026-02-07T02:00Z"
            self.fail(f"{value!r} is no time; write it like {example}", param, ctx)


dry_run_option: Callable[[F], F] = click.option(
    "--dry-run", is_flag=True, help="Say whom it would touch, and do nothing."
)
needed_reason_option: Callable[[F], F] = click.option(
    "--reason", required=True, help="Why; others will ask. Kept in the operators' record."
)
until_option: Callable[[F], F] = click.option(
    "--until",
    type=Moment(),
    help="When it ends by itself; with neither this nor --for, when it is lifted.",
)
for_option: Callable[[F], F] = click.option(
    "--for", "lasting", type=Duration(), help="How long it lasts: 30m, 2h, 1d."
)


@contextmanager
def pulling(data: Path | None) -> Iterator[Connection]:
    """Connect as the owner; what a lever refuses is told in a line."""
    settings = connection_settings(data)
    from workers.store.pool import OWNER, connect
    from workers.store.pulling import BOUNDS, LeverError

    with connect(settings.postgres.dsn, OWNER, BOUNDS, name="lever") as connection:
        try:
            yield connection
        except LeverError as refused:
            raise click.ClickException(str(refused)) from None


def pull(reason: str | None, *, dry_run: bool) -> Pull:
    """Say who pulls a lever, and why. A reason must say something."""
    from deploy.actor import whoami
    from workers.store.pulling import Pull

    if reason is not None and not reason.strip():
        raise click.BadParameter("is empty; say why", param_hint="--reason")
    return Pull(actor=whoami(), reason=reason, dry_run=dry_run)


def until(at: datetime | None, lasting: timedelta | None, zone: str | None = None) -> Until:
    """Say when something ends by itself. A time without an offset is in `zone`, if there is one."""
    from workers.store.levers import Until

    if at is not None and lasting is not None:
        raise click.UsageError("give --until or --for, not both")
    return Until(at=None if at is None else instant(at, zone, "--until"), after=lasting)


def instant(at: datetime, zone: str | None, option: str) -> datetime:
    """Return the UTC instant of a time that was typed."""
    from workers.domain.campaign_faults import CampaignFileError, Faults
    from workers.domain.campaign_times import read_instant

    if at.tzinfo is None and zone is None:
        msg = f"{at.isoformat()} has no time zone; write {at.isoformat()}Z for UTC, or +08:00"
        raise click.BadParameter(msg, param_hint=option)
    faults = Faults()
    found = read_instant(at, ZoneInfo(zone) if zone else ZoneInfo("UTC"), option, faults)
    try:
        faults.raise_any()
    except CampaignFileError as unclear:
        raise click.BadParameter(str(unclear), param_hint=option) from None
    if found is None:
        raise AssertionError("a time that has no fault has its instant")
    return found


def told_pause(pause: Pause, what: str) -> str:
    """Tell a pause, or its end."""
    would = "would be " if pause.dry_run else ""
    if not pause.changed:
        return f"{pause.subject}: {what} was not paused; nothing to change"
    done = f"paused {told_end(pause.until)}" if pause.paused else "resumed"
    line = f"{pause.subject}: {what} {would}{done}; {effective(pause.dry_run)}"
    return "\n".join([line, *touched_lines(pause.touched)])


def touched_lines(touched: Touched | TouchedCoupons | None) -> list[str]:
    """Tell whom a lever would touch; nothing where it was not counted."""
    from workers.store.pulling import Touched

    if touched is None:
        return []
    lines = [
        f"  touches {touched.users:,} users and {touched.coupons:,} coupons that are not redeemed"
    ]
    if isinstance(touched, Touched):
        lines.append(f"  in flight: {touched.in_flight:,} intents that were accepted already")
    return lines


def told_time(at: datetime) -> str:
    """Tell a time to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def told_end(until: datetime | None) -> str:
    """Tell when a pause ends."""
    return "until it is resumed" if until is None else f"until {told_time(until)}"


def effective(dry_run: bool) -> str:
    """Tell from when on it holds."""
    return "nothing was done" if dry_run else "holds at every gate within a second"
