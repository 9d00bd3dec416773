"""A second opinion on `decide`: one intent at a time, mutable dicts, the simplest code.

Written from the published contract, not from the code it checks. It gathers every reason that
applies and tells the first in the published order; whatever an intent takes is written into the
world before the next is looked at.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from workers.domain.intent import Intent
from workers.domain.snapshot import Campaign, Snapshot

Wanted = tuple[tuple[str, str], int]  # (campaign, sku), quantity

PRECEDENCE = [
    "deadline_expired",
    "campaign_not_active",
    "unknown_sku",
    "coupon_unknown",
    "coupon_expired",
    "coupon_not_yet_valid",
    "coupon_already_redeemed",
    "coupon_not_applicable",
    "minimum_not_met",
    "price_changed",
    "user_limit_reached",
    "budget_exhausted",
    "merchant_unavailable",
    "sold_out",
]


class World:
    """Everything as it stands; `tell` decides one intent and changes it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.campaigns = snapshot.campaigns
        self.price = {key: item.price for key, item in snapshot.items.items()}
        self.paused = {key for key, item in snapshot.items.items() if item.merchant_paused}
        self.stock = {
            key: {"available": item.available, "reserved": 0, "sold": 0}
            for key, item in snapshot.items.items()
        }
        self.coupons = dict(snapshot.coupons)
        self.used = {cid for cid, coupon in snapshot.coupons.items() if coupon.redeemed}
        self.counters = {(c, u, str(k)): n for (c, u, k), n in snapshot.counters.items()}
        self.budgets = {
            cid: {"total": b.budget, "reserved": b.reserved, "spent": b.spent}
            for cid, b in snapshot.budgets.items()
        }

    def tell(self, intent: Intent, now: datetime) -> str | dict[str, Any]:
        """Return the reason of the refusal, or what was committed."""
        if intent.kind == "issuance":
            return self._issue(intent, now)
        return self._sell(intent, now)

    def _common(self, intent: Intent, now: datetime) -> set[str]:
        reasons = set()
        if now - intent.accepted_at >= timedelta(milliseconds=intent.body.ttl_ms):
            reasons.add("deadline_expired")
        campaign = self.campaigns.get(intent.campaign_id)
        if (
            campaign is None
            or intent.accepted_at < campaign.starts_at
            or intent.accepted_at >= campaign.ends_at
        ):
            reasons.add("campaign_not_active")
        return reasons

    def _issue(self, intent: Intent, now: datetime) -> str | dict[str, Any]:
        reasons = self._common(intent, now)
        campaign = self.campaigns.get(intent.campaign_id)
        terms = campaign.coupon if campaign else None
        key = (intent.campaign_id, intent.user_id, "issuance")
        if campaign and self.counters.get(key, 0) >= campaign.coupons_per_user_max:
            reasons.add("user_limit_reached")
        if terms is None:
            reasons.add("coupon_not_applicable")
        else:
            if intent.accepted_at >= terms.valid_until:
                reasons.add("coupon_expired")
            budget = self.budgets[intent.campaign_id]
            if budget["total"] - budget["reserved"] - budget["spent"] < terms.amount:
                reasons.add("budget_exhausted")
        if reasons:
            return min(reasons, key=PRECEDENCE.index)
        self.counters[key] = self.counters.get(key, 0) + 1
        self.budgets[intent.campaign_id]["reserved"] += terms.amount
        return {"value": terms.amount, "valid_until": terms.valid_until}

    def _sell(self, intent: Intent, now: datetime) -> str | dict[str, Any]:
        reasons = self._common(intent, now)
        wanted = [((intent.campaign_id, line.sku), line.quantity) for line in intent.body.lines]
        campaign = self.campaigns.get(intent.campaign_id)
        known = all(key in self.price for key, _ in wanted)
        if not known:
            reasons.add("unknown_sku")
        if campaign is None or not known:
            return min(reasons, key=PRECEDENCE.index)

        total = sum(self.price[key] * n for key, n in wanted)
        discount = 0
        with_coupon = intent.body.coupon_id is not None or intent.body.coupon_forged
        if with_coupon:
            problem, discount = self._redeem(intent, campaign, wanted, total)
            reasons |= problem
        told = intent.body.expected_total
        if told and (told.amount, told.currency) != (total - discount, campaign.currency):
            reasons.add("price_changed")
        key = (intent.campaign_id, intent.user_id, "order")
        if self.counters.get(key, 0) >= campaign.orders_per_user_max:
            reasons.add("user_limit_reached")
        if any(item in self.paused for item, _ in wanted):
            reasons.add("merchant_unavailable")
        if any(self.stock[item]["available"] < n for item, n in wanted):
            reasons.add("sold_out")
        if reasons:
            return min(reasons, key=PRECEDENCE.index)
        self.counters[key] = self.counters.get(key, 0) + 1
        return self._take(intent, campaign, wanted, total, discount, now)

    def _take(
        self,
        intent: Intent,
        campaign: Campaign,
        wanted: list[Wanted],
        total: int,
        discount: int,
        now: datetime,
    ) -> dict[str, Any]:
        confirmed = total == discount
        for item, n in wanted:
            self.stock[item]["available"] -= n
            self.stock[item]["sold" if confirmed else "reserved"] += n
        if intent.body.coupon_id is not None:
            self.used.add(intent.body.coupon_id)
            if confirmed:
                value = self.coupons[intent.body.coupon_id].value
                self.budgets[intent.campaign_id]["reserved"] -= value
                self.budgets[intent.campaign_id]["spent"] += discount
        wait = timedelta(milliseconds=campaign.payment_window_ms)
        return {
            "status": "confirmed" if confirmed else "awaiting_payment",
            "total": total,
            "discount": discount,
            "payable": total - discount,
            "payment_deadline": None if confirmed else now + wait,
        }

    def _redeem(
        self, intent: Intent, campaign: Campaign, wanted: list[Wanted], total: int
    ) -> tuple[set[str], int]:
        coupon = self.coupons.get(intent.body.coupon_id)
        if intent.body.coupon_forged or coupon is None or coupon.user_id != intent.user_id:
            return {"coupon_unknown"}, 0
        reasons = set()
        if coupon.expired:
            reasons.add("coupon_expired")
        if intent.body.coupon_id in self.used:
            reasons.add("coupon_already_redeemed")
        terms = campaign.coupon
        if terms is None or coupon.campaign_id != intent.campaign_id:
            return reasons | {"coupon_not_applicable"}, 0
        if intent.accepted_at >= terms.valid_until:
            reasons.add("coupon_expired")
        if intent.accepted_at < terms.valid_from:
            reasons.add("coupon_not_yet_valid")
        eligible = sum(
            self.price[key] * n for key, n in wanted if not terms.skus or key[1] in terms.skus
        )
        if terms.kind == "amount_off":
            discount = terms.amount
        else:
            discount = min(eligible * terms.percent // 100, terms.amount)
        discount = min(discount, coupon.value, eligible)
        if discount == 0:
            reasons.add("coupon_not_applicable")
        if total < terms.minimum_total:
            reasons.add("minimum_not_met")
        return reasons, discount
