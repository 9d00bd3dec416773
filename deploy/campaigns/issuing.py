"""Issuing coupons in bulk ahead of a campaign, thousands in a transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from deploy.actor import whoami
from deploy.campaigns.applying import BOUNDS
from workers.contract.couponcode import CouponCodes
from workers.contract.ids import uuid7_many
from workers.store.campaigns import record_action
from workers.store.issuing import Grant, check_issuable, issue_many
from workers.store.pool import OWNER, Connection, connect

Coupon = tuple[str, str]  # user id, coupon code

# In one transaction: it holds the campaign's budget for a tenth of a second.
BATCH = 5_000


def issue(
    dsn: str,
    campaign_id: str,
    count: int,
    first_user: int = 0,
    *,
    codes: CouponCodes,
    user_format: str = "u-{n}",
    actor: str | None = None,
) -> Iterator[Coupon]:
    """Issue a coupon to each of `count` users from number `first_user` on; yield them as committed.

    Only what was yielded is certain: a batch that failed was rolled back, and a code can always be
    made again from its coupon's id. Raises IssuingError where budget, limits or terms forbid it;
    if they forbid the whole, before the first coupon.
    """
    with connect(dsn, OWNER, BOUNDS, name="issue") as connection:
        check_issuable(connection, campaign_id, count)
        for start in range(first_user, first_user + count, BATCH):
            numbers = range(start, min(start + BATCH, first_user + count))
            grants = make_grants([user_format.format(n=n) for n in numbers])
            issue_batch(connection, campaign_id, grants, actor or whoami())
            yield from coupons_of(grants, codes)


def make_grants(users: Sequence[str]) -> list[Grant]:
    """Make a new coupon id for each user."""
    return list(zip(uuid7_many(len(users)), users, strict=True))


def coupons_of(grants: Sequence[Grant], codes: CouponCodes) -> list[Coupon]:
    """Return whose codes these are."""
    return [(user_id, codes.code_of(coupon_id)) for coupon_id, user_id in grants]


def issue_batch(
    connection: Connection,
    campaign_id: str,
    grants: Sequence[Grant],
    actor: str,
    *,
    before_commit: Callable[[], None] = lambda: None,
) -> int:
    """Issue these coupons and commit; return how many were not issued before.

    `before_commit` is called when nothing but the commit itself can fail any more.
    """
    with connection.transaction():
        issued = issue_many(connection, campaign_id, grants)
        if issued:
            record_action(
                connection, actor, "campaign issue", f"campaign:{campaign_id}", coupons=issued
            )
        before_commit()
    return issued
