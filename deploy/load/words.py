"""Plain words for what Tidegate answers, for people who read a report for the first time."""

from __future__ import annotations

_WORDS = {
    "committed": "sold",
    "deadline_expired": "the answer would have come too late to be of use",
    "campaign_not_active": "the campaign was not open",
    "unknown_sku": "no such item",
    "coupon_unknown": "no such coupon, a forged one, or somebody else's",
    "coupon_expired": "the coupon had expired",
    "coupon_not_yet_valid": "the coupon was not valid yet",
    "coupon_already_redeemed": "the coupon was used already",
    "coupon_not_applicable": "the coupon does not cover these items",
    "minimum_not_met": "the order was too small for the coupon",
    "price_changed": "the price was not what the user had been told",
    "user_limit_reached": "the user had all the campaign gives to one user",
    "budget_exhausted": "the campaign's money was spent",
    "merchant_unavailable": "the merchant's kitchen was full or closed",
    "sold_out": "sold out",
    "likely_sold_out": "all units left were already in other orders under way",
    "could_not_be_processed": "failed again and again; set aside for an operator",
    "issuance_paused": "giving out coupons was paused",
    "limit:user": "too many orders from one user in one second",
    "limit:conversation": "too many orders from one chat in one second",
    "limit:gateway": "the chat gateway sent more than its quota",
    "limit:campaign": "the campaign's rate limit",
    "limit:sku": "one item's rate limit",
    "throttled": "overload: told to come back",
    "shedding": "overload: told to come back",
    "closed": "closed: told to come back",
    "unavailable": "not able to answer: told to come back",
    "dependency_unavailable": "not able to answer: told to come back",
    "reply_lost": "the reply was lost on the way, and the order had not been taken",
    "idempotency_conflict": "the key was used before for another intent",
}


def plain(reason: str) -> str:
    """Say a reason in plain words; one we have no words for is said as it is."""
    return _WORDS.get(reason, reason.replace("_", " "))
