"""How an operation of the API is documented: its answers, its problems, its fields and bodies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from producer.http.parameters import Field
from producer.http.problems import Code

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
TEXT: Final = "text/plain"


class Answer(NamedTuple):
    """A good answer. `example` is its body, as JSON or as text.

    `others` are the shapes it may have instead, each with an example. Without a media type there is
    no body.
    """

    status: int
    description: str
    media_type: str = ""
    schema: type | dict[str, Any] = {}  # noqa: RUF012 - nobody writes into it
    example: Any = None
    headers: tuple[str, ...] = ()
    others: tuple[tuple[type, Any], ...] = ()


class Operation(NamedTuple):
    """One method of one path. `body` gives the shape and an example for each media type.

    `scope` is the one that the gateway's key needs; "" is any key, None is anybody.
    """

    name: str
    method: str
    path: str
    summary: str
    scope: str | None
    answers: Sequence[Answer]
    problems: Sequence[Code] = ()
    fields: Sequence[Field] = ()
    body: dict[str, tuple[type | dict[str, Any], Any]] | None = None
    body_required: bool = True


UNREAD: Final = (Code.MALFORMED_BODY, Code.INVALID_FIELD, Code.INVALID_PARAMETER)
KEYED: Final = (*UNREAD, Code.IDEMPOTENCY_KEY_MISSING, Code.IDEMPOTENCY_KEY_INVALID)
BODIED: Final = (Code.BODY_TOO_LARGE, Code.UNSUPPORTED_MEDIA_TYPE)
WHO: Final = (Code.UNAUTHENTICATED, Code.SCOPE_MISSING)
READ: Final = (*WHO, Code.INVALID_PARAMETER, Code.READING_UNAVAILABLE)
POLLED: Final = (*READ, Code.NOT_FOUND, Code.QUOTA_EXCEEDED, Code.REDUCED_CAPACITY)
POSTED: Final = (
    *KEYED,
    *BODIED,
    *WHO,
    Code.IDEMPOTENCY_CONFLICT,
    Code.QUOTA_EXCEEDED,
    Code.REDUCED_CAPACITY,
    Code.INTAKE_FULL,
    Code.DEPENDENCY_UNAVAILABLE,
    Code.OUTCOME_UNKNOWN,
    Code.READING_UNAVAILABLE,
)
CHANGED: Final = (
    *UNREAD,
    *WHO,
    Code.NOT_FOUND,
    Code.BODY_TOO_LARGE,
    Code.READING_UNAVAILABLE,
    Code.CHANGE_UNCONFIRMED,
)
