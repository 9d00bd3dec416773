"""Examples for the API's description: one campaign, one user, one cup of milk tea."""

from __future__ import annotations

from typing import Any, Final

INTENT_ID: Final = "01a2059d-8b26-7000-bbbf-2a1a191d4a31"
COUPON_CODE: Final = "IAA2EBNDQO2HAAEKGHN3SJRWPLJIUZUKDGAL3QQ7PGXA"

ORDER_INTENT: Final[dict[str, Any]] = {
    "user_id": "u-184467",
    "campaign_id": "qwen-spring-2026",
    "lines": [{"sku": "milk-tea-large", "quantity": 1}],
    "coupon_code": COUPON_CODE,
    "conversation_id": "c-9",
    "locale": "en",
    "ttl_ms": 60_000,
    "expected_total": {"amount": 0, "currency": "CNY"},
}
ISSUANCE_INTENT: Final[dict[str, Any]] = {
    "user_id": "u-184467",
    "campaign_id": "qwen-spring-2026",
    "conversation_id": "c-9",
    "locale": "en",
}
RECEIPT: Final[dict[str, Any]] = {
    "intent_id": INTENT_ID,
    "status": "accepted",
    "estimated_wait_ms": 240,
    "poll_after_ms": 240,
}
COMMITTED: Final[dict[str, Any]] = {
    "intent_id": INTENT_ID,
    "kind": "order",
    "status": "committed",
    "reason": None,
    "order": {
        "order_id": INTENT_ID,
        "status": "confirmed",
        "lines": [{"sku": "milk-tea-large", "quantity": 1, "unit_price": 1800}],
        "total": 1800,
        "discount": 1800,
        "payable": 0,
        "currency": "CNY",
        "payment_deadline": None,
    },
    "coupon": None,
    "accepted_at": "2026-02-06T02:00:00.120000Z",
    "decided_at": "2026-02-06T02:00:00.361000Z",
    "message": "Your order is confirmed. Enjoy!",
}
REFUSED: Final[dict[str, Any]] = {
    **COMMITTED,
    "status": "refused",
    "reason": "sold_out",
    "order": None,
    "message": "Sorry, this is sold out.",
}
ISSUED: Final[dict[str, Any]] = {
    **COMMITTED,
    "kind": "issuance",
    "order": None,
    "coupon": {
        "code": COUPON_CODE,
        "value": 2500,
        "valid_until": "2026-02-28T15:59:59Z",
    },
    "message": "Your coupon is ready to use.",
}
CANCELLED: Final[dict[str, Any]] = {
    **COMMITTED,
    "order": {**COMMITTED["order"], "status": "cancelled"},
    "message": "Your order is cancelled. Anything you paid will be returned to you.",
}
NOT_ACCEPTED: Final[dict[str, Any]] = {
    "status": "not_accepted",
    "reason": "likely_sold_out",
    "final": False,
    "odds": 0.04,
    "try_again_at": "2026-02-06T02:00:30Z",
    "message": "All that is left is in orders being processed right now. If one of them does not"
    " go through, you can still get it: please try again a little later.",
}
APPOINTMENT: Final[dict[str, Any]] = {
    "ticket": "AgEBAZ7k5rXyAAABnuTmxXqvH2vT0c7yqQ9dHk3n",
    "not_before": "2026-02-06T02:12:30Z",
    "not_after": "2026-02-06T02:12:35Z",
}
STATUS: Final[dict[str, Any]] = {
    "level": "throttled",
    "reason": "wait",
    "since": "2026-02-06T02:00:00Z",
    "until": None,
    "governed": True,
    "issuance": "paused",
    "redemption": "open",
    "estimated_wait_ms": 4_200,
    "retry_after_ms": 0,
    "admit_ratio": 1.0,
    "campaigns": {
        "qwen-spring-2026": {
            "issuance": "paused",
            "resume_at": None,
            "starts_at": "2026-02-06T02:00:00Z",
            "ends_at": "2026-02-28T15:59:59Z",
        }
    },
    "messages": {"en": "Ordering is open. …", "zh-CN": "目前可以正常下单。…", "el": "…"},
}
STATUS_EVENTS: Final = (
    'retry: 2417\n\nid: 7-1f4c-12\nevent: status\ndata: {"level": "throttled", …}\n\n'
)
EVENTS: Final = (
    'retry: 2000\n\nid: 1\nevent: accepted\ndata: {"intent_id": …}\n\n'
    ': ping\n\nid: 2\nevent: outcome\ndata: {"intent_id": …}\n\n'
)

KEYED_INTENT: Final[dict[str, Any]] = {
    "idempotency_key": "k-1",
    "appointment": APPOINTMENT["ticket"],
    **ORDER_INTENT,
}
USER_COUPONS: Final[dict[str, Any]] = {
    "user_id": "u-184467",
    "coupons": [
        {
            "code": COUPON_CODE,
            "campaign_id": "qwen-spring-2026",
            "status": "issued",
            "value": 2500,
            "currency": "CNY",
            "issued_at": "2026-02-06T02:00:00Z",
            "valid_from": "2026-02-06T02:00:00Z",
            "valid_until": "2026-02-28T15:59:59Z",
        }
    ],
}
