"""What is served where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from producer.http.batch import post_batch
from producer.http.calls import Handler
from producer.http.coupons import get_coupons
from producer.http.events import get_events
from producer.http.health import get_livez, get_metrics, get_readyz
from producer.http.intents import find_intent, get_intent, post_coupon, post_intent
from producer.http.openapi import get_openapi, get_problem
from producer.http.orders import post_cancel, post_payment
from producer.http.status import get_status, get_status_stream

HOT_PATH: Final = "/v1/intents"

ROUTES: Final[Mapping[str, Mapping[str, Handler]]] = {
    HOT_PATH: {"POST": post_intent, "GET": find_intent},
    "/v1/intents/batch": {"POST": post_batch},
    "/v1/intents/{intent_id}": {"GET": get_intent},
    "/v1/intents/{intent_id}/events": {"GET": get_events},
    "/v1/coupons": {"POST": post_coupon},
    "/v1/users/{user_id}/coupons": {"GET": get_coupons},
    "/v1/orders/{order_id}/payment": {"POST": post_payment},
    "/v1/orders/{order_id}/cancel": {"POST": post_cancel},
    "/v1/status": {"GET": get_status},
    "/v1/status/stream": {"GET": get_status_stream},
    "/livez": {"GET": get_livez},
    "/readyz": {"GET": get_readyz},
    "/metrics": {"GET": get_metrics},
    "/openapi.json": {"GET": get_openapi},
    "/problems/{code}": {"GET": get_problem},
}
