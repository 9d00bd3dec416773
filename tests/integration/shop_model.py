"""A model of the store that fits on a few pages: dictionaries and the published rules.

It knows no SQL, no locks and no code of ours but the names of things.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from tests.factories import COUPON, PRICE

STOCK = {"tea": 7, "bun": 3}
BUDGET = 3 * COUPON + PRICE  # three coupons, and a fourth when one was spent on a single tea
ORDERS_MAX = 4
COUPONS_MAX = 3
BATCH_MAX = 4
DEATHS_ALONE_MAX = 3
_FIRST = UUID(int=0)


class Worker:
    """What one worker remembers between its batches."""

    def __init__(self) -> None:
        self.since = _FIRST  # where its last claim began: older ones are looked for now and then
        self.unsure: set[UUID] = set()  # in batches whose commit was not answered
        self.connected = False  # as far as it knows
        self.cut_off = False  # while it was idle, and does not know


class Model:
    """What there should be. An order is a dictionary, a coupon too."""

    def __init__(self) -> None:
        self.stock = {sku: Counter(available=count) for sku, count in STOCK.items()}
        self.reserved = self.spent = 0
        self.pending: dict[UUID, dict[str, Any]] = {}  # in order of arrival
        self.reasons: dict[UUID, str | None] = {}
        self.told: Counter[tuple[UUID, str | None]] = Counter()
        self.coupons: dict[UUID, dict[str, Any]] = {}
        self.orders: dict[UUID, dict[str, Any]] = {}
        self.counts: Counter[tuple[str, str]] = Counter()
        self.ended = False  # the coupons' window
        self.workers = [Worker(), Worker()]
        self.dead: list[list[UUID]] = []  # batches that died with their workers

    # Claims, deaths, and what is told ------------------------------------------------------------

    def run(self, who: int, hint: list[UUID], *, looks_back: bool, fate: str) -> int:
        """Let a worker claim and decide a batch; return how many. `fate` meets its first commit."""
        worker = self.workers[who]
        if worker.unsure and worker.cut_off:
            worker.connected = worker.cut_off = False
            return 0  # it asks what became of them first, and finds that out
        worker.connected, worker.cut_off = True, False
        known = {one for one in worker.unsure if one in self.reasons}
        worker.unsure -= known
        self._tell(known)
        if looks_back:
            worker.since = _FIRST
        hinted = [one for one in self.pending if one in hint]
        others = [one for one in self.pending if one not in hint and one >= worker.since]
        claimed = sorted(hinted + others[: max(0, BATCH_MAX - len(hinted))])
        if not claimed:
            return 0
        worker.since = claimed[0]
        groups, hopeless = self._groups(claimed)
        for group in [*groups, *([one] for one in hopeless)]:
            if not fate.endswith("before"):
                self._decide(group, quarantines=group[0] in hopeless)
            if fate:
                self._fall(who, group, fate)
                return 0
            self._tell(group)
            worker.unsure -= set(group)
        return len(claimed)

    def _groups(self, claimed: list[UUID]) -> tuple[list[list[UUID]], list[UUID]]:
        """Whoever was in hands that died is tried in smaller company; some not once more."""
        deaths = {one: [len(dead) for dead in self.dead if one in dead] for one in claimed}
        innocent = [one for one in claimed if not deaths[one]]
        once = [one for one in claimed if len(deaths[one]) == 1 and deaths[one] != [1]]
        often = [one for one in claimed if one not in innocent and one not in once]
        hopeless = [one for one in often if deaths[one].count(1) >= DEATHS_ALONE_MAX]
        alone = [[one] for one in often if one not in hopeless]
        return [group for group in (innocent, once, *alone) if group], hopeless

    def cut_off(self, who: int) -> None:
        """Let an idle worker's connections end."""
        self.workers[who].cut_off = self.workers[who].connected

    def _fall(self, who: int, group: list[UUID], fate: str) -> None:
        if fate.startswith("cut"):
            self.workers[who].unsure |= set(group)
            self.workers[who].connected = False
            return
        self.workers[who] = Worker()
        if fate == "killed before":
            self.dead.append(group)

    def _tell(self, intent_ids: Iterable[UUID]) -> None:
        self.told.update((one, self.reasons[one]) for one in intent_ids)

    # Decisions -----------------------------------------------------------------------------------

    def _decide(self, intent_ids: list[UUID], *, quarantines: bool) -> None:
        issued_before = set(self.coupons)
        for intent_id in intent_ids:
            wish = self.pending.pop(intent_id)
            decide = self._order if wish["kind"] == "order" else self._issue
            self.reasons[intent_id] = (
                "could_not_be_processed" if quarantines else decide(intent_id, wish, issued_before)
            )

    def _issue(self, intent_id: UUID, wish: dict[str, Any], _: set[UUID]) -> str | None:
        user = wish["user"]
        if wish["after_end"]:
            return "coupon_expired"
        if self.counts[user, "issuance"] >= COUPONS_MAX:
            return "user_limit_reached"
        if BUDGET - self.reserved - self.spent < COUPON:
            return "budget_exhausted"
        self.counts[user, "issuance"] += 1
        self.reserved += COUPON
        self.coupons[intent_id] = {"user": user, "value": COUPON, "status": "issued"}
        return None

    def _order(self, intent_id: UUID, wish: dict[str, Any], issued: set[UUID]) -> str | None:
        user, lines, coupon_id = wish["user"], wish["lines"], wish["coupon"]
        total, discount = sum(n for _, n in lines) * PRICE, 0
        if coupon_id is not None:
            coupon = self.coupons.get(coupon_id) if coupon_id in issued else None
            if coupon is None or coupon["user"] != user:
                return "coupon_unknown"
            if coupon["status"] == "expired" or wish["after_end"]:
                return "coupon_expired"
            if coupon["status"] == "redeemed":
                return "coupon_already_redeemed"
            discount = min(coupon["value"], total)
            if discount == 0:
                return "coupon_not_applicable"
        if self.counts[user, "order"] >= ORDERS_MAX:
            return "user_limit_reached"
        if any(self.stock[sku]["available"] < n for sku, n in lines):
            return "sold_out"
        self.counts[user, "order"] += 1
        made = {"user": user, "lines": lines, "discount": discount, "payable": total - discount}
        self.orders[intent_id] = made | {"coupon": coupon_id, "status": "awaiting_payment"}
        self.orders[intent_id] |= {"payments": {}, "due": False}
        self._move(lines, "available", "reserved")
        if coupon_id is not None:
            self.coupons[coupon_id]["status"] = "redeemed"
        if total == discount:
            self._confirm(self.orders[intent_id])
        return None

    def _move(self, lines: list[tuple[str, int]], source: str, target: str) -> None:
        for sku, count in lines:
            self.stock[sku][source] -= count
            self.stock[sku][target] += count

    def _confirm(self, made: dict[str, Any]) -> None:
        made["status"] = "confirmed"
        self._move(made["lines"], "reserved", "sold")
        if made["coupon"] is not None:
            self.reserved -= self.coupons[made["coupon"]]["value"]
            self.spent += made["discount"]

    def pay(self, order_id: UUID, reference: str, amount: int) -> None:
        made = self.orders[order_id]
        if amount != made["payable"] or amount == 0 or reference in made["payments"]:
            return
        if made["status"] == "awaiting_payment" and made["due"]:
            self.end(order_id, "expired")
        if made["status"] == "awaiting_payment":
            self._confirm(made)
            made["payments"][reference] = "accepted"
        else:
            made["payments"][reference] = "refund_due"

    def end(self, order_id: UUID, status: str) -> None:
        """Cancel or expire."""
        made = self.orders[order_id]
        if made["status"] not in ("awaiting_payment", "confirmed"):
            return
        coupon = None if made["coupon"] is None else self.coupons[made["coupon"]]
        if made["status"] == "confirmed":
            self._move(made["lines"], "sold", "available")
            if coupon is not None:
                free = BUDGET - self.reserved - self.spent
                coupon["value"] = min(coupon["value"], made["discount"] + free)
                self.reserved += coupon["value"]
                self.spent -= made["discount"]
        else:
            self._move(made["lines"], "reserved", "available")
        if coupon is not None:
            coupon["status"] = "issued"
        self.counts[made["user"], "order"] -= 1
        made["status"] = status
        made["payments"] = dict.fromkeys(made["payments"], "refund_due")

    def expire_coupons(self) -> None:
        if self.ended and all(wish["after_end"] for wish in self.pending.values()):
            for coupon in self.coupons.values():
                if coupon["status"] == "issued":
                    coupon["status"] = "expired"
                    self.reserved -= coupon["value"]
