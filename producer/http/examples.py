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
EVENTS: Final = (
    'retry: 2000\n\nid: 1\nevent: accepted\ndata: {"intent_id": …}\n\n'
    ': ping\n\nid: 2\nevent: outcome\ndata: {"intent_id": …}\n\n'
)

KEYED_INTENT: Final[dict[str, Any]] = {"idempotency_key": "k-1", **ORDER_INTENT}
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
