"""What is served where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from producer.console.page import get_console, get_console_file
from producer.console.pulling import post_issuance, post_level, post_merchant
from producer.console.watching import get_summary, get_summary_stream
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
    "/v1/operator/summary": {"GET": get_summary},
    "/v1/operator/summary/stream": {"GET": get_summary_stream},
    "/v1/operator/level": {"POST": post_level},
    "/v1/operator/campaigns/{campaign_id}/issuance": {"POST": post_issuance},
    "/v1/operator/merchants/{merchant_id}": {"POST": post_merchant},
    "/console": {"GET": get_console},
    "/console/{file}": {"GET": get_console_file},
    "/livez": {"GET": get_livez},
    "/readyz": {"GET": get_readyz},
    "/metrics": {"GET": get_metrics},
    "/openapi.json": {"GET": get_openapi},
    "/problems/{code}": {"GET": get_problem},
}
