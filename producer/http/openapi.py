"""The API's description (OpenAPI 3.1), for machines and for people.

It is made from the shapes that decode and encode, and from the operations' table; its examples of
problems are rendered by what renders the real ones.
"""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any, Final, Literal

import msgspec

from producer.http import examples
from producer.http.calls import JSON_HEADER, Call, Reply
from producer.http.messages import Messages
from producer.http.operation import Answer, Operation
from producer.http.operations import OPERATIONS
from producer.http.problems import Code, FieldError, Problem, ProblemBody
from producer.http.problems import render as render_problem
from workers.domain.overload import Level

_NAMES: Final = {  # as a reader of the description would call them
    "IntentView": "Intent",
    "OrderView": "Order",
    "CouponView": "Coupon",
    "NotAcceptedView": "NotAccepted",
    "StatusView": "Status",
    "CampaignStatusView": "CampaignStatus",
    "UserCouponView": "UserCoupon",
    "UserCouponsView": "UserCoupons",
    "ProblemBody": "Problem",
}
_HEADERS: Final = {
    "Location": "Where the intent is read.",
    "Idempotent-Replayed": "`true`: the key was known, and this is its intent.",
    "Preference-Applied": "The `Prefer` that was honoured.",
    "Cache-Control": "For how long it is good.",
}
_RETRY_AFTER: Final = {
    "description": "When to come back, in seconds.",
    "schema": {"type": "integer", "minimum": 1},
}
_RATE_LIMIT: Final = {
    "description": "The limit that bound: what remains of it, and in how many seconds more will.",
    "schema": {"type": "string"},
    "example": '"user";r=0;t=1',
}
_RATE_LIMIT_POLICY: Final = {
    "description": "The limit itself, where it is a stated one: so many in so many seconds.",
    "schema": {"type": "string"},
    "example": '"user";q=5;w=5',
}
_WAYS_OUT: Final[dict[Code, str]] = {
    Code.MALFORMED_BODY: "Send valid JSON in UTF-8.",
    Code.INVALID_FIELD: "Mend the fields named in `errors`.",
    Code.INVALID_PARAMETER: "Mend the parameter named in `detail`.",
    Code.IDEMPOTENCY_KEY_MISSING: "Send Idempotency-Key: one key for one intent.",
    Code.IDEMPOTENCY_KEY_INVALID: "Send 1 to 255 characters, bare or quoted.",
    Code.UNAUTHENTICATED: "Send `Authorization: Bearer tg_…` with a key that was not revoked.",
    Code.SCOPE_MISSING: "Ask the operator for a key with the scope named in `detail`.",
    Code.NOT_FOUND: "Check the id, the user and the key. A key is bound by acceptance only.",
    Code.METHOD_NOT_ALLOWED: "Use a method named in `Allow`.",
    Code.NOT_CANCELLABLE: "Nothing: the order was not paid in time, and all of it was released.",
    Code.PAYMENT_TOO_LATE: "Refund the user; the payment is recorded for it.",
    Code.RECORDED_FOR_REFUND: "Refund the user; the payment is recorded for it.",
    Code.BODY_TOO_LARGE: "Send less: 8 KiB for one intent, 1 MiB and 500 intents for a batch.",
    Code.UNSUPPORTED_MEDIA_TYPE: "Send JSON in UTF-8, named so in Content-Type, not compressed.",
    Code.AMOUNT_WRONG: "Send the order's `payable`, in minor units.",
    Code.IDEMPOTENCY_CONFLICT: "Use a new key for a new intent, and the old one only to ask again.",
    Code.QUOTA_EXCEEDED: "Come back after `retry_after_ms`, with the same key; slow down.",
    Code.INTERNAL_ERROR: "Ask again with the same key; tell the operator the `trace_id`.",
    Code.REDUCED_CAPACITY: "Come back after `retry_after_ms`, with the same key; with an"
    " `appointment`, in its window and with its ticket in Tidegate-Appointment.",
    Code.INTAKE_FULL: "Ask again with the same key after `retry_after_ms`, never with a new one.",
    Code.ISSUANCE_PAUSED: "Come back after `retry_after_ms`, or when /v1/status says it is open.",
    Code.DEPENDENCY_UNAVAILABLE: "Come back after `retry_after_ms`, with the same key.",
    Code.OUTCOME_UNKNOWN: "Ask again with the same key, never with a new one: it may be accepted.",
    Code.READING_UNAVAILABLE: "Come back after `retry_after_ms`.",
    Code.CHANGE_UNCONFIRMED: "Repeat the same call: it takes effect once.",
}
_LIMITS: Final = {
    Code.QUOTA_EXCEEDED: "user",
    Code.REDUCED_CAPACITY: "level",
    Code.INTAKE_FULL: "intake",
}
_ACCEPTED: Final[dict[Code, Literal["no", "unknown"]]] = {
    Code.QUOTA_EXCEEDED: "no",
    Code.REDUCED_CAPACITY: "no",
    Code.ISSUANCE_PAUSED: "no",
    Code.DEPENDENCY_UNAVAILABLE: "no",
    Code.INTERNAL_ERROR: "unknown",
    Code.INTAKE_FULL: "unknown",
    Code.OUTCOME_UNKNOWN: "unknown",
    Code.CHANGE_UNCONFIRMED: "unknown",
}
_LEVELS: Final = {Code.REDUCED_CAPACITY: Level.SHEDDING, Code.ISSUANCE_PAUSED: Level.THROTTLED}
_EXAMPLE_WAIT_S: Final = 2
_EVERYWHERE: Final = (Code.INTERNAL_ERROR,)


async def get_openapi(call: Call) -> Reply:
    """`GET /openapi.json`."""
    del call
    return Reply(200, _written(), [JSON_HEADER])


async def get_problem(call: Call) -> Reply:
    """`GET /problems/{code}`: where a problem's `type` leads."""
    found = {code.word: code for code in Code}.get(call.parameter("code"))
    if found is None:
        raise Problem(Code.NOT_FOUND, "No problem has this code.")
    messages = call.api.messages
    told = {
        "code": found.word,
        "status": found.status,
        "title": found.title,
        "what_to_do": _WAYS_OUT[found],
        "messages": {each: messages.problem(each, found.word, 1) for each in messages.languages},
    }
    return Reply(200, msgspec.json.encode(told), [JSON_HEADER])


@functools.cache
def _written() -> bytes:
    return msgspec.json.encode(describe())


def describe() -> dict[str, Any]:
    """Make the description."""
    shapes = {shape for operation in OPERATIONS for shape in _shapes(operation)} | {ProblemBody}
    ordered = sorted(shapes, key=lambda shape: shape.__name__)
    _, components = msgspec.json.schema_components(
        ordered, ref_template="#/components/schemas/{name}"
    )
    messages = Messages()
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, messages)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Tidegate",
            "version": "1",
            "description": "Takes purchase intents from shopping chatbots, and turns each into"
            " exactly one told outcome.",
        },
        "paths": paths,
        "components": {
            "schemas": _readable(components),
            "securitySchemes": {
                "gateway": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The gateway's key, `tg_…`; the scopes are the key's.",
                }
            },
        },
    }


def _shapes(operation: Operation) -> list[type]:
    shapes = [answer.schema for answer in operation.answers]
    shapes += [shape for answer in operation.answers for shape, _ in answer.others]
    shapes += [shape for shape, _ in (operation.body or {}).values()]
    return [shape for shape in shapes if isinstance(shape, type)]


def _readable(components: dict[str, Any]) -> dict[str, Any]:
    """Give the schemas their public names, and patterns in the dialect of JSON Schema."""
    for schema in components.values():
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
    text = msgspec.json.encode(components).decode()
    for ours, theirs in _NAMES.items():
        text = re.sub(rf'"(#/components/schemas/)?{ours}"', rf'"\g<1>{theirs}"', text)
    # Python's \Z is ECMAScript's $; JSON writes the backslash twice.
    read: dict[str, Any] = msgspec.json.decode(text.replace("\\\\Z", "$"))
    return read


def _reference(shape: type | dict[str, Any]) -> dict[str, Any]:
    if isinstance(shape, dict):
        return shape
    return {"$ref": f"#/components/schemas/{_NAMES.get(shape.__name__, shape.__name__)}"}


def _operation(operation: Operation, messages: Messages) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [
            {
                "name": field.name,
                "in": field.place,
                "description": field.description,
                "required": field.required,
                "schema": field.schema,
            }
            for field in operation.fields
        ],
        "responses": _answers(operation, messages),
        "security": _security(operation.scope),
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.body_required,
            "content": {
                media_type: {"schema": _reference(shape), "example": example}
                for media_type, (shape, example) in operation.body.items()
            },
        }
    return described


def _security(scope: str | None) -> list[dict[str, list[str]]]:
    if scope is None:
        return []
    return [{"gateway": [scope] if scope else []}]


def _answers(operation: Operation, messages: Messages) -> dict[str, Any]:
    answers = {str(answer.status): _good(answer) for answer in operation.answers}
    by_status: dict[int, list[Code]] = {}
    for code in (*operation.problems, *_EVERYWHERE):
        by_status.setdefault(code.status, []).append(code)
    for status, codes in sorted(by_status.items()):
        answers.setdefault(str(status), {"description": "", "content": {}})
        answer = answers[str(status)]
        answer["description"] = answer["description"] or "; ".join(
            f"{code.title} (`{code.word}`)" for code in codes
        )
        answer["content"]["application/problem+json"] = {
            "schema": _reference(ProblemBody),
            "examples": {
                code.word: {"value": _problem(code, operation.path, messages)} for code in codes
            },
        }
        if status in (429, 503):
            answer["headers"] = {"Retry-After": _RETRY_AFTER}
        if status == 429:
            answer["headers"]["RateLimit"] = _RATE_LIMIT
            answer["headers"]["RateLimit-Policy"] = _RATE_LIMIT_POLICY
    return answers


def _good(answer: Answer) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description, "content": {}}
    if answer.media_type:
        described["content"][answer.media_type] = _content(answer)
    if answer.headers:
        described["headers"] = {
            name: {"description": _HEADERS[name], "schema": {"type": "string"}}
            for name in answer.headers
        }
    return described


def _content(answer: Answer) -> dict[str, Any]:
    if not answer.others:
        return {"schema": _reference(answer.schema), "example": answer.example}
    shapes = [answer.schema, *(shape for shape, _ in answer.others)]
    told = [answer.example, *(example for _, example in answer.others)]
    return {
        "schema": {"anyOf": [_reference(shape) for shape in shapes]},
        "examples": {example["status"]: {"value": example} for example in told},
    }


def _problem(code: Code, path: str, messages: Messages) -> Any:
    """Make an example of a problem: as the real one, but for its figures."""
    status = code.status
    limit, accepted = _LIMITS.get(code), _ACCEPTED.get(code)
    errors = [FieldError("lines[0].quantity", "Expected `int` <= 99")]
    rendered = render_problem(
        Problem(
            code,
            _WAYS_OUT[code],
            errors=errors if code is Code.INVALID_FIELD else (),
            limit=limit,
            accepted=accepted,
        ),
        messages=messages,
        language="en",
        instance=path.replace("{intent_id}", examples.INTENT_ID),
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        level=_LEVELS.get(code, Level.NORMAL),
    )
    example = msgspec.json.decode(rendered.body)
    if status in (429, 503):  # the real one has jitter; a description has not
        example |= {
            "retry_after_ms": 1_250,
            "message": messages.problem("en", code.word, _EXAMPLE_WAIT_S),
        }
    if code is Code.REDUCED_CAPACITY and path == "/v1/intents":
        example |= {"appointment": examples.APPOINTMENT}
    if code is Code.ISSUANCE_PAUSED:
        example |= {"resume_at": None}
    return example
