"""The parameters that operations of the API have in common, as they are documented."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from producer.http.headers import TICKET_LENGTH_MAX
from producer.http.messages import LANGUAGES


class Field(NamedTuple):
    """A parameter: of the path, the query or the header."""

    name: str
    place: str
    description: str
    schema: dict[str, Any]
    required: bool = False


_ID_SCHEMA: Final = {"type": "string", "format": "uuid"}
_KEY: Final = Field(
    "Idempotency-Key",
    "header",
    "One key for one intent, the same when asking again. Bare, or quoted as a structured-field"
    " string. Scoped to gateway, user and kind; bound by acceptance only.",
    {"type": "string", "minLength": 1},
    required=True,
)
_PREFER: Final = Field(
    "Prefer",
    "header",
    "`wait=N`: answer with the outcome if it comes within N seconds (at most 30).",
    {"type": "string", "examples": ["wait=10"]},
)
_APPOINTMENT: Final = Field(
    "Tidegate-Appointment",
    "header",
    "The ticket of an appointment, on coming back for it. No part of the intent: the key stays good.",
    {"type": "string", "minLength": 1, "maxLength": TICKET_LENGTH_MAX},
)
_TRACEPARENT: Final = Field(
    "traceparent", "header", "W3C trace context; its id is told in problems.", {"type": "string"}
)
_TRACESTATE: Final = Field(
    "tracestate", "header", "W3C trace state; passed on to the trace's spans.", {"type": "string"}
)
_LANGUAGE: Final = Field(
    "Accept-Language",
    "header",
    f"The language of `message` where the intent names no locale: {', '.join(LANGUAGES)}.",
    {"type": "string"},
)
INTENT_ID: Final = Field("intent_id", "path", "The intent's id.", _ID_SCHEMA, required=True)
ORDER_ID: Final = Field(
    "order_id", "path", "The order's id, which is its intent's.", _ID_SCHEMA, required=True
)
POSTING: Final = (_KEY, _PREFER, _APPOINTMENT, _TRACEPARENT, _TRACESTATE, _LANGUAGE)
READING: Final = (_TRACEPARENT, _TRACESTATE, _LANGUAGE)
LAST_EVENT_ID: Final = Field("Last-Event-ID", "header", "The last event heard.", {"type": "string"})
