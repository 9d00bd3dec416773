"""Coupons: whether one may be redeemed on a cart.

Windows are judged at the intent's acceptance: a wait of our making takes no coupon from its holder.
They are half open, from `valid_from` until before `valid_until`, and belong to the coupon's own
campaign: a coupon of another campaign is not applicable here, whatever the day.
"""

from __future__ import annotations

from datetime import datetime

from workers.domain.outcome import Refusal
from workers.domain.pricing import Quote
from workers.domain.snapshot import Campaign, Coupon


def redemption_refusal(
    coupon: Coupon | None,
    campaign: Campaign,
    *,
    user_id: str,
    accepted_at: datetime,
    redeemed: bool,
    bill: Quote,
) -> Refusal | None:
    """Tell the first reason why `coupon` cannot be redeemed on this cart, or None.

    `coupon` is None where there is no such coupon or its code is forged; another user's is told
    in the same words. `redeemed` says that an earlier intent of this batch used it.
    `bill` is the cart priced with the coupon.
    """
    if coupon is None or coupon.user_id != user_id:
        return Refusal.COUPON_UNKNOWN
    terms = campaign.coupon if coupon.campaign_id == campaign.campaign_id else None
    if coupon.expired or (terms is not None and accepted_at >= terms.valid_until):
        return Refusal.COUPON_EXPIRED
    if terms is not None and accepted_at < terms.valid_from:
        return Refusal.COUPON_NOT_YET_VALID
    if redeemed or coupon.redeemed:
        return Refusal.COUPON_ALREADY_REDEEMED
    # A coupon that would take nothing off has no eligible line: it is kept, not used up.
    if terms is None or bill.discount == 0:
        return Refusal.COUPON_NOT_APPLICABLE
    if bill.total < terms.minimum_total:
        return Refusal.MINIMUM_NOT_MET
    return None
