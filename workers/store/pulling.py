"""How an operator's lever is pulled, whichever it is.

Every lever does its work, and its line in the operators' record, in one transaction of its own. With
`dry_run` it does all of it and rolls back, and counts beforehand whom it would touch: that looks at
every coupon and user of a campaign, and is not done when it counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, LiteralString

from msgspec import Struct

from workers.store.campaigns import record_action
from workers.store.pool import Connection


class LeverError(Exception):
    """A lever cannot be pulled so; the message says why, and what to do instead."""


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


def counts(
    connection: Connection, query: LiteralString, where: Mapping[str, str] | None = None
) -> tuple[Any, ...]:
    """Return the one row of a query that always has one."""
    row = connection.execute(query, where).fetchone()
    if row is None:
        raise AssertionError("counts have a row")
    return row


def record(connection: Connection, pull: Pull, action: str, subject: str, **detail: object) -> None:
    """Keep who pulled a lever, and why."""
    record_action(connection, pull.actor, action, subject, pull.reason, **detail)
