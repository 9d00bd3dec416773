"""The operator's levers on campaigns and merchants: pauses and extensions, kept in PostgreSQL.

PostgreSQL is the truth of each: a lever survives every restart. Whoever admits reads them twice a
second (`workers.store.limits`). A pause takes nothing from who holds a receipt: it binds at the gate;
a merchant's pause binds the decision too, since goods that nobody hands out cannot be sold.

How a lever is pulled, and recorded, is `workers.store.pulling`. Times are judged by the database's
clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, LiteralString

from msgspec import Struct

from workers.store import campaigns
from workers.store.pool import Connection
from workers.store.pulling import (
    AbsentError,
    LeverError,
    Pull,
    Touched,
    counts,
    record,
    repeated,
)
from workers.store.sql import queries

_SQL = queries("levers")
_CAMPAIGNS = queries("campaigns")


class Until(Struct, frozen=True):
    """When something ends by itself: at a time, or so long after now; neither: when it is lifted."""

    at: datetime | None = None
    after: timedelta | None = None


class Pause(Struct, frozen=True, kw_only=True):
    """A pause as it stands after the command. `until` None: until it is lifted."""

    subject: str
    dry_run: bool
    changed: bool
    paused: bool
    until: datetime | None
    reason: str | None
    touched: Touched | None = None
    # Of a merchant: its items, and the units they have on sale. Counted in a dry run.
    items: int | None = None
    units: int | None = None
    repeated: bool = False  # it was done before, by the same key


class TouchedCoupons(Struct, frozen=True, kw_only=True):
    """Whom an extension touches: users, and the coupons they hold unredeemed."""

    users: int
    coupons: int


class Extension(Struct, frozen=True, kw_only=True):
    """How long a campaign's coupons are good, and the campaign goes on; and before.

    `expired` coupons had lapsed already: their money is back in the budget, and they stay so.
    """

    campaign_id: str
    dry_run: bool
    changed: bool
    valid_until: datetime
    valid_until_before: datetime
    ends_at: datetime
    ends_at_before: datetime
    touched: TouchedCoupons | None = None
    expired: int | None = None


class Merchant(Struct, frozen=True, kw_only=True):
    """A merchant as it stands."""

    merchant_id: str
    orders_per_minute_max: int | None
    paused: bool
    until: datetime | None
    reason: str | None
    items: int


class IssuancePause(Struct, frozen=True, kw_only=True):
    """An operator's pause of a campaign's issuance. `until` None: until it is lifted."""

    since: datetime
    until: datetime | None
    reason: str | None


class _Pausable(Struct, frozen=True, kw_only=True):
    """What can be paused and resumed: its commands and its statements.

    `noun` is its command group, and the subject in the operators' record; `count` counts whom a pause
    touches, as fields of `Pause`.
    """

    noun: str
    pausing: str
    resuming: str
    read: LiteralString
    pause: LiteralString
    resume: LiteralString
    count: Callable[[Connection, Mapping[str, str]], dict[str, Any]]


# Pauses ------------------------------------------------------------------------------------------


def pause_issuance(connection: Connection, campaign_id: str, until: Until, pull: Pull) -> Pause:
    """Stop giving out a campaign's coupons; those that are out stay good, and so do receipts."""
    return _pause(connection, _ISSUANCE, campaign_id, until, pull)


def resume_issuance(connection: Connection, campaign_id: str, pull: Pull) -> Pause:
    """Give out a campaign's coupons again; changes nothing where they are given out."""
    return _resume(connection, _ISSUANCE, campaign_id, pull)


def read_issuance_pause(connection: Connection, campaign_id: str) -> IssuancePause | None:
    """Return the pause of a campaign's issuance that is in force."""
    row = connection.execute(_SQL.issuance_pause_read, {"campaign_id": campaign_id}).fetchone()
    return None if row is None else IssuancePause(since=row[0], until=row[1], reason=row[2])


def pause_merchant(connection: Connection, merchant_id: str, until: Until, pull: Pull) -> Pause:
    """Sell nothing of a merchant; intents in flight with its goods are refused when decided."""
    return _pause(connection, _MERCHANT, merchant_id, until, pull)


def resume_merchant(connection: Connection, merchant_id: str, pull: Pull) -> Pause:
    """Sell a merchant's goods again; changes nothing where they are sold."""
    return _resume(connection, _MERCHANT, merchant_id, pull)


def _pause(
    connection: Connection, what: _Pausable, subject: str, until: Until, pull: Pull
) -> Pause:
    where = {f"{what.noun}_id": subject}
    counted = what.count(connection, where) if pull.dry_run else {}
    action = f"{what.noun} {what.pausing}"
    with connection.transaction(force_rollback=pull.dry_run):
        standing = _read(connection, what.read, where, _absent(what.noun, subject))
        if repeated(connection, pull, action, f"{what.noun}:{subject}"):
            return _standing(subject, *standing)
        ends = _instant(connection, until)
        connection.execute(what.pause, {**where, "until": ends, "reason": pull.reason})
        record(connection, pull, action, f"{what.noun}:{subject}", until=ends)
    return Pause(
        subject=subject,
        dry_run=pull.dry_run,
        changed=True,
        paused=True,
        until=ends,
        reason=pull.reason,
        **counted,
    )


def _resume(connection: Connection, what: _Pausable, subject: str, pull: Pull) -> Pause:
    where = {f"{what.noun}_id": subject}
    counted = what.count(connection, where) if pull.dry_run else {}
    action = f"{what.noun} {what.resuming}"
    with connection.transaction(force_rollback=pull.dry_run):
        standing = _read(connection, what.read, where, _absent(what.noun, subject))
        if repeated(connection, pull, action, f"{what.noun}:{subject}"):
            return _standing(subject, *standing)
        paused, *_ = standing
        if paused:
            connection.execute(what.resume, where)
            record(connection, pull, action, f"{what.noun}:{subject}")
    return Pause(
        subject=subject,
        dry_run=pull.dry_run,
        changed=paused,
        paused=False,
        until=None,
        reason=None,
        **counted,
    )


def _standing(subject: str, paused: bool, until: datetime | None, reason: str | None) -> Pause:
    """Tell how it stands, to who sends again what was done already."""
    return Pause(
        subject=subject,
        dry_run=False,
        changed=False,
        paused=paused,
        until=until if paused else None,
        reason=reason if paused else None,
        repeated=True,
    )


def _count_issuance(connection: Connection, where: Mapping[str, str]) -> dict[str, Any]:
    users, coupons = campaigns.count_touched(connection, where["campaign_id"])
    (in_flight,) = counts(connection, _SQL.issuance_touched, where)
    return {"touched": Touched(users=users, coupons=coupons, in_flight=in_flight)}


def _count_merchant(connection: Connection, where: Mapping[str, str]) -> dict[str, Any]:
    users, in_flight, coupons, items, units = counts(connection, _SQL.merchant_touched, where)
    touched = Touched(users=users, coupons=coupons, in_flight=in_flight)
    return {"touched": touched, "items": items, "units": units}


_ISSUANCE = _Pausable(
    noun="campaign",
    pausing="pause-issuance",
    resuming="resume-issuance",
    read=_SQL.issuance_read,
    pause=_SQL.issuance_pause,
    resume=_SQL.issuance_resume,
    count=_count_issuance,
)
_MERCHANT = _Pausable(
    noun="merchant",
    pausing="pause",
    resuming="resume",
    read=_SQL.merchant_read,
    pause=_SQL.merchant_pause,
    resume=_SQL.merchant_resume,
    count=_count_merchant,
)


# Validity ----------------------------------------------------------------------------------------


def extend(
    connection: Connection, campaign_id: str, valid_until: datetime, pull: Pull
) -> Extension:
    """Let a campaign's coupons be redeemed for longer, and the campaign go on as long.

    Coupons are never good for shorter. Takes the lock of campaign files, so that none that is being
    applied writes the old window back, and the budget's, under which coupons expire.
    """
    where = {"campaign_id": campaign_id}
    touched, expired = None, None
    if pull.dry_run:
        users, coupons = campaigns.count_touched(connection, campaign_id)
        touched = TouchedCoupons(users=users, coupons=coupons)
        (expired,) = counts(connection, _SQL.expired_count, where)
    with connection.transaction(force_rollback=pull.dry_run):
        connection.execute(_CAMPAIGNS.campaign_lock, where)
        connection.execute(_CAMPAIGNS.budget_lock, where)
        ends_before, valid_before = _read(
            connection, _SQL.window_read, where, _absent("campaign", campaign_id)
        )
        _check_extension(campaign_id, valid_before, valid_until)
        row = connection.execute(
            _SQL.window_extend, {**where, "valid_until": valid_until}
        ).fetchone()
        ends_at = row[0] if row else ends_before
        changed = (valid_before, ends_before) != (valid_until, ends_at)
        if changed:
            record(
                connection,
                pull,
                "campaign extend",
                f"campaign:{campaign_id}",
                valid_until=valid_until,
                valid_until_before=valid_before,
                ends_at=ends_at,
                ends_at_before=ends_before,
            )
    return Extension(
        campaign_id=campaign_id,
        dry_run=pull.dry_run,
        changed=changed,
        valid_until=valid_until,
        valid_until_before=valid_before,
        ends_at=ends_at,
        ends_at_before=ends_before,
        touched=touched,
        expired=expired,
    )


def _check_extension(campaign_id: str, before: datetime | None, wished: datetime) -> None:
    if before is None:
        raise LeverError(f"campaign {campaign_id} has no coupons whose validity could be extended")
    if wished < before:
        msg = (
            f"the coupons of {campaign_id} are good until {before:%Y-%m-%d %H:%M:%S} UTC; "
            "coupons are out and keep what they were promised: write that time or a later one"
        )
        raise LeverError(msg)


# Merchants ---------------------------------------------------------------------------------------


def list_merchants(connection: Connection) -> list[Merchant]:
    """Return all merchants by their id."""
    return [
        Merchant(
            merchant_id=merchant_id,
            orders_per_minute_max=orders_max,
            paused=paused,
            until=until if paused else None,
            reason=reason if paused else None,
            items=items,
        )
        for merchant_id, orders_max, paused, until, reason, items in connection.execute(
            _SQL.merchants_list
        )
    ]


# What they share ---------------------------------------------------------------------------------


def _read(
    connection: Connection, query: LiteralString, where: Mapping[str, str], otherwise: str
) -> tuple[Any, ...]:
    row = connection.execute(query, where).fetchone()
    if row is None:
        raise AbsentError(otherwise)
    return row


def _absent(noun: str, subject: str) -> str:
    return f"there is no {noun} {subject}; `tidegate {noun} list` names them"


def _instant(connection: Connection, until: Until) -> datetime | None:
    """Return when something ends, which must lie ahead by the database's clock."""
    now: datetime
    (now,) = counts(connection, _SQL.clock_read)
    if until.after is not None:
        return now + until.after
    if until.at is not None and until.at <= now:
        msg = (
            f"{until.at:%Y-%m-%d %H:%M:%S} UTC is past: the database's clock shows "
            f"{now:%Y-%m-%d %H:%M:%S} UTC; write a later time, or leave it out"
        )
        raise LeverError(msg)
    return until.at
