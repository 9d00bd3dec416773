"""The operations of the API, as they are documented: one entry for each route and method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from producer.console import described
from producer.http import decoding, examples, render
from producer.http.operation import (
    BODIED,
    CHANGED,
    JSON,
    NDJSON,
    POLLED,
    POSTED,
    READ,
    TEXT,
    UNREAD,
    WHO,
    Answer,
    Operation,
)
from producer.http.parameters import INTENT_ID, LAST_EVENT_ID, ORDER_ID, POSTING, READING, Field
from producer.http.problems import Code
from workers.domain.intent import IssuanceIntent, OrderIntent

_ACCEPTED: Final = Answer(
    202,
    "Accepted: journalled, and sure of one outcome. Or a replay that has none yet"
    " (`Idempotent-Replayed: true`): then the intent as well.",
    JSON,
    render.Receipt,
    examples.RECEIPT,
    ("Location", "Idempotent-Replayed", "Preference-Applied"),
)


def _decided(example: dict[str, Any]) -> Answer:
    return Answer(
        200,
        "The outcome: waited for, or of a known key. Or a business no before anything was journalled"
        " (`not_accepted`), which binds no key.",
        JSON,
        render.IntentView,
        example,
        ("Idempotent-Replayed", "Preference-Applied"),
        ((render.NotAcceptedView, examples.NOT_ACCEPTED),),
    )


_RESULT: Final[dict[str, Any]] = {
    "type": "object",
    "description": "What the call alone would have answered, with its `status_code`.",
    "properties": {
        "status_code": {"type": "integer"},
        "idempotent_replayed": {"const": True},
    },
    "required": ["status_code"],
}

OPERATIONS: Final[Sequence[Operation]] = (
    Operation(
        "postIntent",
        "post",
        "/v1/intents",
        "Post a purchase intent",
        "intents:write",
        (
            _ACCEPTED,
            _decided(examples.COMMITTED),
        ),
        POSTED,
        POSTING,
        {JSON: (OrderIntent, examples.ORDER_INTENT)},
    ),
    Operation(
        "findIntent",
        "get",
        "/v1/intents",
        "Ask what a key is bound to",
        "intents:read",
        (Answer(200, "The intent.", JSON, render.IntentView, examples.COMMITTED),),
        POLLED,
        (
            Field("user_id", "query", "The intent's user.", {"type": "string"}, required=True),
            Field("idempotency_key", "query", "Its key, bare.", {"type": "string"}, required=True),
            Field("kind", "query", "What it wishes for.", {"enum": ["order", "issuance"]}),
            *READING,
        ),
    ),
    Operation(
        "postIntents",
        "post",
        "/v1/intents/batch",
        "Post up to 500 purchase intents, each with its own key and its own answer",
        "intents:write",
        (
            Answer(
                200,
                "One result each, in order; as an array or as NDJSON, like the batch itself.",
                JSON,
                {"type": "array", "items": _RESULT},
                [{"status_code": 202, **examples.RECEIPT}],
            ),
        ),
        (*UNREAD, *BODIED, *WHO, Code.READING_UNAVAILABLE),
        READING,
        {
            JSON: ({"type": "array", "maxItems": 500, "minItems": 1}, [examples.KEYED_INTENT]),
            NDJSON: (decoding.KeyedOrderIntent, examples.KEYED_INTENT),
        },
    ),
    Operation(
        "getIntent",
        "get",
        "/v1/intents/{intent_id}",
        "Ask what became of an intent",
        "intents:read",
        (Answer(200, "The intent.", JSON, render.IntentView, examples.REFUSED),),
        POLLED,
        (INTENT_ID, *READING),
    ),
    Operation(
        "getIntentEvents",
        "get",
        "/v1/intents/{intent_id}/events",
        "Be told the outcome of an intent as it happens",
        "intents:read",
        (
            Answer(
                200,
                "Server-sent events: `accepted` (id 1) and `outcome` (id 2), each with the intent;"
                " the stream ends after the outcome.",
                "text/event-stream",
                {"type": "string"},
                examples.EVENTS,
            ),
            Answer(204, "`Last-Event-ID` is the outcome's: there is no more, and no need to ask."),
        ),
        (*READ, Code.NOT_FOUND, Code.REDUCED_CAPACITY),
        (
            INTENT_ID,
            LAST_EVENT_ID,
            *READING,
        ),
    ),
    Operation(
        "postCoupon",
        "post",
        "/v1/coupons",
        "Post a wish for a coupon",
        "coupons:write",
        (
            _ACCEPTED,
            _decided(examples.ISSUED),
        ),
        (*POSTED, Code.ISSUANCE_PAUSED),
        POSTING,
        {JSON: (IssuanceIntent, examples.ISSUANCE_INTENT)},
    ),
    Operation(
        "getCoupons",
        "get",
        "/v1/users/{user_id}/coupons",
        "List a user's coupons: those this gateway had issued, and those issued in bulk",
        "coupons:read",
        (
            Answer(
                200,
                "The coupons, the newest first.",
                JSON,
                render.UserCouponsView,
                examples.USER_COUPONS,
            ),
        ),
        (*READ, Code.NOT_FOUND),
        (
            Field("user_id", "path", "The user.", {"type": "string"}, required=True),
            *READING,
        ),
    ),
    Operation(
        "postPayment",
        "post",
        "/v1/orders/{order_id}/payment",
        "Report that an order was paid. Repeating a reference repeats its answer",
        "orders:write",
        (
            Answer(
                200, "Paid: the intent with its order.", JSON, render.IntentView, examples.COMMITTED
            ),
        ),
        (
            *CHANGED,
            Code.UNSUPPORTED_MEDIA_TYPE,
            Code.AMOUNT_WRONG,
            Code.PAYMENT_TOO_LATE,
            Code.RECORDED_FOR_REFUND,
        ),
        (ORDER_ID, *READING),
        {JSON: (decoding.Payment, {"payment_reference": "pay-77", "amount": 1800})},
    ),
    Operation(
        "postCancel",
        "post",
        "/v1/orders/{order_id}/cancel",
        "Cancel an order: stock, coupon and budget are returned, once",
        "orders:write",
        (Answer(200, "Cancelled: the intent.", JSON, render.IntentView, examples.CANCELLED),),
        (*CHANGED, Code.NOT_CANCELLABLE),
        (ORDER_ID, *READING),
        {JSON: (decoding.Cancel, {})},
        body_required=False,
    ),
    Operation(
        "getStatus",
        "get",
        "/v1/status",
        "Ask how it goes, for every chat at once. Any gateway's key will do",
        "",
        (
            Answer(
                200,
                "How it goes; good for a second.",
                JSON,
                render.StatusView,
                examples.STATUS,
                ("Cache-Control",),
            ),
        ),
        (Code.UNAUTHENTICATED, Code.READING_UNAVAILABLE),
        READING,
    ),
    Operation(
        "getStatusStream",
        "get",
        "/v1/status/stream",
        "Be told how it goes: on every change, and every 15 s",
        "",
        (
            Answer(
                200,
                "Server-sent events named `status`, each with the whole status. Who names the last"
                " one heard hears the next; who names another hears how things stand. Who does not"
                " read is cut off.",
                "text/event-stream",
                {"type": "string"},
                examples.STATUS_EVENTS,
            ),
        ),
        (Code.UNAUTHENTICATED, Code.READING_UNAVAILABLE, Code.REDUCED_CAPACITY),
        (
            LAST_EVENT_ID,
            *READING,
        ),
    ),
    *described.OPERATIONS,
    Operation(
        "getLivez",
        "get",
        "/livez",
        "Ask whether the process runs",
        None,
        (Answer(200, "It does.", TEXT, {"type": "string"}, "ok\n"),),
    ),
    Operation(
        "getReadyz",
        "get",
        "/readyz",
        "Ask whether the process takes calls; it does when overloaded, too",
        None,
        (
            Answer(200, "It does.", TEXT, {"type": "string"}, "ok\n"),
            Answer(503, "It drains.", TEXT, {"type": "string"}, "draining\n"),
        ),
        (Code.INVALID_PARAMETER,),
        (Field("verbose", "query", "List the dependencies.", {"type": "string"}),),
    ),
    Operation(
        "getMetrics",
        "get",
        "/metrics",
        "Read this process's series, for Prometheus",
        None,
        (
            Answer(
                200,
                "The series.",
                TEXT,
                {"type": "string"},
                'tidegate_intents_answered_total{answer="accepted"} 1024.0\n',
            ),
        ),
    ),
    Operation(
        "getOpenapi",
        "get",
        "/openapi.json",
        "Read this description",
        None,
        (Answer(200, "OpenAPI 3.1.", JSON, {"type": "object"}, {"openapi": "3.1.1"}),),
    ),
    Operation(
        "getProblem",
        "get",
        "/problems/{code}",
        "Read what a problem's `type` means, and what mends it",
        None,
        (
            Answer(
                200,
                "What it means.",
                JSON,
                {"type": "object"},
                {"code": "idempotency_conflict", "status": 422, "what_to_do": "Use a new key …"},
            ),
        ),
        (Code.NOT_FOUND,),
        (Field("code", "path", "The problem's code.", {"type": "string"}, required=True),),
    ),
)
