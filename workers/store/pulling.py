"""How an operator's lever is pulled, whichever it is.

Every lever does its work, and its line in the operators' record, in one transaction of its own. With
`dry_run` it does all of it and rolls back, and counts beforehand whom it would touch: that looks at
every coupon and user of a campaign, and is not done when it counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, LiteralString

from msgspec import Struct

from workers.store.campaigns import record_action
from workers.store.pool import Bounds, Connection
from workers.store.sql import queries

_SQL = queries("levers")

# A dry run looks at every coupon of a campaign, and a lever may wait behind a campaign file.
BOUNDS = Bounds(statement_timeout_ms=60_000, lock_timeout_ms=20_000, idle_in_transaction_ms=60_000)
LASTING_MAX = timedelta(days=366)  # longer is a typing error, or no lever's business


class LeverError(Exception):
    """A lever cannot be pulled so; the message says why, and what to do instead."""


class AbsentError(LeverError):
    """There is nothing of that name to pull a lever on."""


class KeyBoundError(LeverError):
    """The idempotency key was used for another lever."""


class Pull(Struct, frozen=True, kw_only=True):
    """Who pulls a lever and why, for the operators' record; and whether only to say what it does.

    `key` makes it safe to send again: of one actor, each key is for one pull of one lever.
    """

    actor: str
    reason: str | None = None
    dry_run: bool = False
    key: str | None = None


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


def repeated(connection: Connection, pull: Pull, action: str, subject: str) -> bool:
    """Say whether this very pull was done before; ask under the lever's lock.

    Raises KeyBoundError where its key was used for something else.
    """
    if pull.key is None:
        return False
    asked = {"actor": pull.actor, "key": pull.key}
    row = connection.execute(_SQL.pull_read, asked).fetchone()
    if row is not None and row != (action, subject):
        raise KeyBoundError(f"the key was used for `{row[0]}` on {row[1]}; use a new one")
    return row is not None


def record(connection: Connection, pull: Pull, action: str, subject: str, **detail: object) -> None:
    """Keep who pulled a lever, and why."""
    if pull.key is not None:
        detail["idempotency_key"] = pull.key
    record_action(connection, pull.actor, action, subject, pull.reason, **detail)
