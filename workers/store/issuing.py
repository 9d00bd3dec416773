"""Giving coupons in bulk, ahead of a campaign or during it: one transaction for thousands.

The same promises as one by one: each coupon's greatest value is reserved in the budget, and counts
for its user, both under constraints. Locks in the one global order: budget, user counters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from msgspec import Struct

from workers.contract.ids import uuid7
from workers.domain.intent import Kind
from workers.domain.movements import Movements
from workers.domain.snapshot import CounterKey
from workers.store.applying import write_movements
from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("issuing")

Grant = tuple[UUID, str]  # coupon id, user id


class IssuingError(Exception):
    """Coupons cannot be issued; the message says which bound it is, and its figures."""


class _Terms(Struct, frozen=True):
    value: int
    per_user_max: int
    over: bool
    available: int


def check_issuable(connection: Connection, campaign_id: str, count: int) -> None:
    """Raise IssuingError if so many coupons cannot be issued as things stand now."""
    available = connection.execute(_SQL.budget_read, {"campaign_id": campaign_id}).fetchall()
    _check(_terms(connection, campaign_id, available), campaign_id, count)


def issue_many(connection: Connection, campaign_id: str, grants: Sequence[Grant]) -> int:
    """Issue these coupons within the caller's transaction; return how many were not issued before.

    Grants name each user once. Doing it again with the same grants changes nothing, so whoever
    lost the reply of a commit asks again. Raises IssuingError before anything is written.
    """
    available = connection.execute(_SQL.budget_lock, {"campaign_id": campaign_id}).fetchall()
    terms = _terms(connection, campaign_id, available)
    ids = [coupon_id for coupon_id, _ in grants]
    known = {row[0] for row in connection.execute(_SQL.coupons_known, {"coupon_ids": ids})}
    fresh = [grant for grant in grants if grant[0] not in known]
    if not fresh:
        return 0
    _check(terms, campaign_id, len(fresh))
    users = [user_id for _, user_id in fresh]
    counted = _check_users(connection, campaign_id, users, terms.per_user_max)
    # Point of no return: every bound has been asked. What follows writes.
    connection.execute(
        _SQL.coupons_insert,
        {
            "campaign_id": campaign_id,
            "value": terms.value,
            "coupon_ids": [coupon_id for coupon_id, _ in fresh],
            "user_ids": users,
        },
    )
    connection.execute(_SQL.tally, {"campaign_id": campaign_id, "coupons": len(fresh)})
    moved = Movements()
    moved.move_budget(campaign_id, terms.value * len(fresh), 0)
    for user_id in users:
        moved.count((campaign_id, user_id, Kind.ISSUANCE), 1)
    write_movements(connection, uuid7(), moved, counted=counted)
    return len(fresh)


def _terms(
    connection: Connection, campaign_id: str, available: Sequence[tuple[Any, ...]]
) -> _Terms:
    rows = connection.execute(_SQL.terms_read, {"campaign_id": campaign_id}).fetchall()
    if not rows:
        raise IssuingError(f"there is no campaign {campaign_id!r}")
    value, per_user_max, over = rows[0]
    if value is None or not available:
        raise IssuingError(f"campaign {campaign_id} has no coupons to issue")
    return _Terms(value, per_user_max, over, available[0][0])


def _check(terms: _Terms, campaign_id: str, count: int) -> None:
    if terms.over:
        raise IssuingError(f"the coupons of {campaign_id} are not valid any more")
    affordable = terms.available // terms.value
    if count > affordable:
        msg = (
            f"the budget of {campaign_id} has {terms.available} available, enough for {affordable} "
            f"coupons of {terms.value}, not for {count}"
        )
        raise IssuingError(msg)


def _check_users(
    connection: Connection, campaign_id: str, users: Sequence[str], per_user_max: int
) -> set[CounterKey]:
    """Lock the counters of these users and return which there are; raise where one is full."""
    held = connection.execute(
        _SQL.counters_lock, {"campaign_id": campaign_id, "user_ids": sorted(users)}
    ).fetchall()
    full = sorted(user_id for user_id, used in held if used >= per_user_max)
    if full:
        msg = (
            f"{len(full)} of these users have their {per_user_max} coupons of {campaign_id} "
            f"already, such as {', '.join(full[:3])}"
        )
        raise IssuingError(msg)
    return {(campaign_id, user_id, Kind.ISSUANCE) for user_id, _ in held}
