"""The operator's levers: pauses, extensions and the ordered level, kept in PostgreSQL.

PostgreSQL is the truth of each: a lever survives every restart, and what the governor says yields to
it. Whoever admits reads them twice a second (`workers.store.limits`). A pause takes nothing from
who holds a receipt: it binds at the gate; a merchant's pause binds the decision too, since goods that
nobody hands out cannot be sold.

Every function does its work, and its line in the operators' record, in one transaction of its own.
With `dry_run` it does all of it and rolls back, and counts beforehand whom it would touch: that looks
at every coupon and user of a campaign, and is not done when it counts. Times are judged by the
database's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct

from workers.domain.overload import Level
from workers.store import campaigns
from workers.store.campaigns import record_action
from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("levers")
_CAMPAIGNS = queries("campaigns")


class LeverError(Exception):
    """A lever cannot be pulled so; the message says why, and what to do instead."""


class Until(Struct, frozen=True):
    """When something ends by itself: at a time, or so long after now; neither: when it is lifted."""

    at: datetime | None = None
    after: timedelta | None = None


UNTIL_LIFTED = Until()


class Pull(Struct, frozen=True, kw_only=True):
    """Who pulls a lever and why, for the operators' record; and whether only to say what it does."""

    actor: str
    reason: str | None = None
    dry_run: bool = False


class Touched(Struct, frozen=True, kw_only=True):
    """Whom a lever touches: users, the coupons they hold unredeemed, and intents in flight."""

    users: int
    coupons: int
    in_flight: int


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
    touched: Touched | None = None
    expired: int | None = None


class LevelOrder(Struct, frozen=True, kw_only=True):
    """The level that an operator ordered, and that outranks the governor's."""

    level: Level
    reason: str
    ordered_at: datetime
    until: datetime | None


class LevelChange(Struct, frozen=True, kw_only=True):
    """What an order changed. `order` None: the governor decides."""

    dry_run: bool
    changed: bool
    order: LevelOrder | None
    before: LevelOrder | None
    touched: Touched | None = None
    campaigns: int | None = None  # open now; counted in a dry run


class Merchant(Struct, frozen=True, kw_only=True):
    """A merchant as it stands."""

    merchant_id: str
    orders_per_minute_max: int | None
    paused: bool
    until: datetime | None
    reason: str | None
    items: int


# Issuance ----------------------------------------------------------------------------------------


def pause_issuance(connection: Connection, campaign_id: str, until: Until, pull: Pull) -> Pause:
    """Stop giving out a campaign's coupons; those that are out stay good, and so do receipts."""
    where = {"campaign_id": campaign_id}
    touched = _issuance_touched(connection, campaign_id) if pull.dry_run else None
    with connection.transaction(force_rollback=pull.dry_run):
        _read(connection, "issuance_read", where, f"there is no campaign {campaign_id}")
        ends = _instant(connection, until)
        connection.execute(_SQL.issuance_pause, {**where, "until": ends, "reason": pull.reason})
        _record(connection, pull, "campaign pause-issuance", f"campaign:{campaign_id}", until=ends)
    return Pause(
        subject=campaign_id,
        dry_run=pull.dry_run,
        changed=True,
        paused=True,
        until=ends,
        reason=pull.reason,
        touched=touched,
    )


def resume_issuance(connection: Connection, campaign_id: str, pull: Pull) -> Pause:
    """Give out a campaign's coupons again; changes nothing where they are given out."""
    where = {"campaign_id": campaign_id}
    touched = _issuance_touched(connection, campaign_id) if pull.dry_run else None
    with connection.transaction(force_rollback=pull.dry_run):
        paused, *_ = _read(
            connection, "issuance_read", where, f"there is no campaign {campaign_id}"
        )
        if paused:
            connection.execute(_SQL.issuance_resume, where)
            _record(connection, pull, "campaign resume-issuance", f"campaign:{campaign_id}")
    return _resumed(campaign_id, pull, paused, touched)


def _issuance_touched(connection: Connection, campaign_id: str) -> Touched:
    users, coupons = campaigns.count_touched(connection, campaign_id)
    row = connection.execute(_SQL.issuance_touched, {"campaign_id": campaign_id}).fetchone()
    return Touched(users=users, coupons=coupons, in_flight=row[0] if row else 0)


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
        touched = Touched(users=users, coupons=coupons, in_flight=0)
        row = connection.execute(_SQL.expired_count, where).fetchone()
        expired = row[0] if row else 0
    with connection.transaction(force_rollback=pull.dry_run):
        connection.execute(_CAMPAIGNS.campaign_lock, where)
        connection.execute(_CAMPAIGNS.budget_lock, where)
        ends_before, valid_before = _read(
            connection, "window_read", where, f"there is no campaign {campaign_id}"
        )
        _check_extension(campaign_id, valid_before, valid_until)
        row = connection.execute(
            _SQL.window_extend, {**where, "valid_until": valid_until}
        ).fetchone()
        ends_at = row[0] if row else ends_before
        changed = (valid_before, ends_before) != (valid_until, ends_at)
        if changed:
            _record(
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


def pause_merchant(connection: Connection, merchant_id: str, until: Until, pull: Pull) -> Pause:
    """Sell nothing of a merchant; intents in flight with its goods are refused when decided."""
    where = {"merchant_id": merchant_id}
    touched = _merchant_touched(connection, merchant_id) if pull.dry_run else {}
    with connection.transaction(force_rollback=pull.dry_run):
        _read(connection, "merchant_read", where, _no_merchant(merchant_id))
        ends = _instant(connection, until)
        connection.execute(_SQL.merchant_pause, {**where, "until": ends, "reason": pull.reason})
        _record(connection, pull, "merchant pause", f"merchant:{merchant_id}", until=ends)
    return Pause(
        subject=merchant_id,
        dry_run=pull.dry_run,
        changed=True,
        paused=True,
        until=ends,
        reason=pull.reason,
        **touched,
    )


def resume_merchant(connection: Connection, merchant_id: str, pull: Pull) -> Pause:
    """Sell a merchant's goods again; changes nothing where they are sold."""
    where = {"merchant_id": merchant_id}
    touched = _merchant_touched(connection, merchant_id) if pull.dry_run else {}
    with connection.transaction(force_rollback=pull.dry_run):
        paused, *_ = _read(connection, "merchant_read", where, _no_merchant(merchant_id))
        if paused:
            connection.execute(_SQL.merchant_resume, where)
            _record(connection, pull, "merchant resume", f"merchant:{merchant_id}")
    return _resumed(merchant_id, pull, paused, **touched)


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


def _merchant_touched(connection: Connection, merchant_id: str) -> dict[str, Any]:
    row = connection.execute(_SQL.merchant_touched, {"merchant_id": merchant_id}).fetchone()
    if row is None:
        raise AssertionError("counts have a row")
    users, in_flight, coupons, items, units = row
    touched = Touched(users=users, coupons=coupons, in_flight=in_flight)
    return {"touched": touched, "items": items, "units": units}


def _no_merchant(merchant_id: str) -> str:
    return f"there is no merchant {merchant_id}; `tidegate merchant list` names them"


# The level ---------------------------------------------------------------------------------------


def read_level(connection: Connection) -> LevelOrder | None:
    """Return the order that is in force."""
    row = connection.execute(_SQL.level_read).fetchone()
    return None if row is None else _level_order(row)


def order_level(
    connection: Connection, level: Level, lasting: timedelta | None, pull: Pull
) -> LevelChange:
    """Order a level for the whole system, in place of any order before; it outranks the governor."""
    if not pull.reason:
        raise LeverError("an order needs its reason: others will ask why; give --reason")
    counted = _level_touched(connection) if pull.dry_run else {}
    with connection.transaction(force_rollback=pull.dry_run):
        connection.execute(_SQL.level_lock)
        before = read_level(connection)
        lasting_ms = None if lasting is None else lasting // timedelta(milliseconds=1)
        row = connection.execute(
            _SQL.level_put, {"level": level.value, "reason": pull.reason, "for_ms": lasting_ms}
        ).fetchone()
        if row is None:
            raise AssertionError("an order that was put is returned")
        put = _level_order(row)
        _record(connection, pull, f"level {level}", "level", until=put.until, before=before)
    return LevelChange(dry_run=pull.dry_run, changed=True, order=put, before=before, **counted)


def lift_level(connection: Connection, pull: Pull) -> LevelChange:
    """Lift the order that stands: the governor decides again."""
    counted = _level_touched(connection) if pull.dry_run else {}
    with connection.transaction(force_rollback=pull.dry_run):
        connection.execute(_SQL.level_lock)
        before = read_level(connection)
        if before is not None:
            connection.execute(_SQL.level_lift)
            _record(connection, pull, "level open", "level", before=before)
    return LevelChange(
        dry_run=pull.dry_run, changed=before is not None, order=None, before=before, **counted
    )


def _level_order(row: tuple[Any, ...]) -> LevelOrder:
    level, reason, ordered_at, until = row
    return LevelOrder(level=Level(level), reason=reason, ordered_at=ordered_at, until=until)


def _level_touched(connection: Connection) -> dict[str, Any]:
    row = connection.execute(_SQL.level_touched).fetchone()
    if row is None:
        raise AssertionError("counts have a row")
    users, coupons, in_flight, live = row
    touched = Touched(users=users, coupons=coupons, in_flight=in_flight)
    return {"touched": touched, "campaigns": live}


# What they share ---------------------------------------------------------------------------------


def _read(
    connection: Connection, query: str, where: Mapping[str, str], otherwise: str
) -> tuple[Any, ...]:
    row = connection.execute(_SQL[query], where).fetchone()
    if row is None:
        raise LeverError(otherwise)
    return row


def _instant(connection: Connection, until: Until) -> datetime | None:
    """Return when something ends, which must lie ahead by the database's clock."""
    row = connection.execute(_SQL.clock_read).fetchone()
    if row is None:
        raise AssertionError("the clock always answers")
    now: datetime = row[0]
    if until.after is not None:
        return now + until.after
    if until.at is not None and until.at <= now:
        msg = (
            f"{until.at:%Y-%m-%d %H:%M:%S} UTC is past: the database's clock shows "
            f"{now:%Y-%m-%d %H:%M:%S} UTC; write a later time, or leave it out"
        )
        raise LeverError(msg)
    return until.at


def _resumed(
    subject: str,
    pull: Pull,
    paused: bool,
    touched: Touched | None = None,
    items: int | None = None,
    units: int | None = None,
) -> Pause:
    return Pause(
        subject=subject,
        dry_run=pull.dry_run,
        changed=paused,
        paused=False,
        until=None,
        reason=None,
        touched=touched,
        items=items,
        units=units,
    )


def _record(
    connection: Connection, pull: Pull, action: str, subject: str, **detail: object
) -> None:
    record_action(connection, pull.actor, action, subject, pull.reason, **detail)
