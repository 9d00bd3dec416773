"""Uniqueness: one key, one intent, one order; one coupon, one order; one payment, one order."""

from __future__ import annotations

from collections import Counter, defaultdict

from deploy.chaos.checks.finding import Finding, Gathered, findings

_LIVING = ("confirmed", "awaiting_payment")


def one_key_one_intent(gathered: Gathered) -> list[Finding]:
    """A key is answered with one intent only, an intent has one order, and no key takes two wishes."""
    promised: defaultdict[str, set[str]] = defaultdict(set)
    shared: defaultdict[str, set[str]] = defaultdict(set)
    for entry in gathered.history:
        if entry.op in ("post", "find") and entry.phase == "ok":
            promised[entry.key].add(entry.intent_id)
            shared[entry.intent_id].add(entry.key)
    rewished = [
        f"{entry.key} took another wish as {entry.intent_id}"
        for entry in gathered.history
        if entry.op == "rebody" and entry.phase == "ok"
    ]
    conflicts = [
        entry.key
        for entry in gathered.history
        if entry.op == "post" and entry.reason == "idempotency_conflict"
    ]
    orders = Counter(order.intent_id for order in gathered.tables.orders)
    check = "one key, one intent"
    return [
        *findings(
            check,
            "I2",
            "keys that were promised several intents",
            (f"{key}: {sorted(ids)}" for key, ids in promised.items() if len(ids) > 1),
        ),
        *findings(
            check,
            "I2",
            "intents that were promised to several keys",
            (f"{one}: {sorted(keys)}" for one, keys in shared.items() if len(keys) > 1),
        ),
        *findings(check, "I2", "keys that took a second, other wish", rewished),
        *findings(check, "I8", "keys whose own wish was called another's", conflicts),
        *findings(
            check,
            "I2",
            "intents with several orders",
            (f"{one}: {count} orders" for one, count in orders.items() if count > 1),
        ),
    ]


def coupons_at_most_once(gathered: Gathered) -> list[Finding]:
    """A coupon stands in at most one living order, and in one of its owner's."""
    owner = {coupon.coupon_id: coupon.user for coupon in gathered.tables.coupons}
    living = [
        order for order in gathered.tables.orders if order.coupon_id and order.status in _LIVING
    ]
    uses = Counter(order.coupon_id for order in living)
    stolen = [
        f"{order.coupon_id} of {owner.get(order.coupon_id or '')} by {order.user}"
        for order in living
        if owner.get(order.coupon_id or "") != order.user
    ]
    free = [
        order.order_id
        for order in gathered.tables.orders
        if order.discount > 0 and order.coupon_id is None
    ]
    check = "coupons at most once"
    return [
        *findings(
            check,
            "I6",
            "coupons redeemed more than once",
            (f"{coupon}: {count} orders" for coupon, count in uses.items() if count > 1),
        ),
        *findings(check, "I6", "coupons redeemed by another than their owner", stolen),
        *findings(check, "I6", "discounts without a coupon", free),
    ]


def payments_at_most_once(gathered: Gathered) -> list[Finding]:
    """An order keeps one payment at most; one told paid is confirmed, one told cancelled is not."""
    kept = Counter(one.order_id for one in gathered.tables.payments if one.status == "accepted")
    status = {order.intent_id: order.status for order in gathered.tables.orders}
    untrue = []
    for entry in gathered.history:
        if entry.op in ("pay", "cancel") and entry.phase == "ok":
            due = "confirmed" if entry.op == "pay" else "cancelled"
            if status.get(entry.intent_id) != due:
                now = status.get(entry.intent_id)
                untrue.append(f"{entry.intent_id}: told {due}, and is {now}")
    check = "payments at most once"
    return [
        *findings(
            check,
            "I2",
            "orders that keep several payments",
            (f"{order}: {count}" for order, count in kept.items() if count > 1),
        ),
        *findings(check, "I8", "payments and cancels that were told, and did not last", untrue),
    ]
