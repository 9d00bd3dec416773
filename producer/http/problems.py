"""Problems (RFC 9457): every no that is not a business answer, in one shape.

A problem is raised where it is found and rendered in one place. Its texts are ours alone: no
exception, no SQL, nothing of another gateway's ever gets into one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from producer.http.messages import Language, Messages

_IANA = "https://iana.org/assignments/http-problem-types#"
TYPE_QUOTA = _IANA + "quota-exceeded"
TYPE_CAPACITY = _IANA + "temporary-reduced-capacity"

MEDIA_TYPE = b"application/problem+json"
_TYPE_HEADER: Final = (b"content-type", MEDIA_TYPE)

Possibly = Literal["no", "unknown"]  # whether something was accepted all the same


class Code(Enum):
    """What may be wrong. The names are part of the contract, as `code` and in `type`."""

    MALFORMED_BODY = (400, "The body cannot be read")
    INVALID_FIELD = (400, "A field is not as it must be")
    INVALID_PARAMETER = (400, "A parameter is not as it must be")
    IDEMPOTENCY_KEY_MISSING = (400, "The idempotency key is missing")
    IDEMPOTENCY_KEY_INVALID = (400, "The idempotency key cannot be read")
    UNAUTHENTICATED = (401, "The gateway's key is missing or not known")
    SCOPE_MISSING = (403, "The gateway's key does not allow this")
    NOT_FOUND = (404, "There is no such thing")
    METHOD_NOT_ALLOWED = (405, "This cannot be done here")
    NOT_CANCELLABLE = (409, "The order was released before")
    PAYMENT_TOO_LATE = (409, "The payment came after the deadline")
    RECORDED_FOR_REFUND = (409, "The order needs no payment")
    BODY_TOO_LARGE = (413, "The body is too large")
    UNSUPPORTED_MEDIA_TYPE = (415, "The body is not of a type that is read here")
    AMOUNT_WRONG = (422, "The amount is not the one payable")
    IDEMPOTENCY_CONFLICT = (422, "The idempotency key belongs to another intent")
    QUOTA_EXCEEDED = (429, "A limit of the caller's is reached", TYPE_QUOTA)
    INTERNAL_ERROR = (500, "Something went wrong on our side")
    REDUCED_CAPACITY = (503, "A limit of ours is reached", TYPE_CAPACITY)
    INTAKE_FULL = (503, "Too many wait to be taken", TYPE_CAPACITY)
    DEPENDENCY_UNAVAILABLE = (503, "Nothing was accepted", TYPE_CAPACITY)
    OUTCOME_UNKNOWN = (503, "It is not known whether it was accepted", TYPE_CAPACITY)
    READING_UNAVAILABLE = (503, "This cannot be read at present", TYPE_CAPACITY)
    CHANGE_UNCONFIRMED = (503, "It is not known whether it was done", TYPE_CAPACITY)

    def __init__(self, status: int, title: str, registered_type: str | None = None) -> None:
        """Keep what every problem of this code says; another type than IANA's is a path of ours."""
        self.status = status
        self.title = title
        self.word = self._name_.lower()
        self.type = registered_type or f"/problems/{self.word}"


class FieldError(Struct, frozen=True):
    """Which field of the body is wrong, as a path from its root, and what would be right."""

    field: str
    detail: str


class Problem(Exception):
    """A call ends with a problem.

    `retry_after_ms` is when to come back, before jitter. `headers` are added to the reply's.
    """

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        retry_after_ms: int | None = None,
        limit: str | None = None,
        accepted: Possibly | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.errors = errors
        self.retry_after_ms = retry_after_ms
        self.limit = limit
        self.accepted = accepted
        self.headers = headers


class ProblemBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem as it is told (RFC 9457), with our own members.

    `code` is the machine's word for it. `message` is fit to be shown in the chat, in the intent's
    locale. `retry_after_ms` never asks for less than is needed. `limit` names the layer that bound,
    `level` the overload level. `accepted` says whether the intent may have been accepted all the
    same: with `unknown`, ask again with the same key, never with a new one.
    """

    type: str
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    instance: str
    code: str
    trace_id: str
    message: str
    retry_after_ms: int | UnsetType = UNSET
    level: str | UnsetType = UNSET
    limit: str | UnsetType = UNSET
    accepted: Possibly | UnsetType = UNSET
    errors: tuple[FieldError, ...] | UnsetType = UNSET
    violated_policies: tuple[str, ...] | UnsetType = msgspec.field(
        name="violated-policies", default=UNSET
    )


class Rendered(NamedTuple):
    """A problem ready to be sent, alone or as an item of a batch."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]]


_encode = msgspec.json.Encoder().encode
_random = random.random

# Stand for what differs between two refusals by the same limit; no text of ours holds them.
_INSTANCE: Final = "@instance@"
_TRACE: Final = "@trace@"
_SECONDS: Final = 987_654_321_001
_WAIT_MS: Final = 987_654_321_002
_FORMS_MAX: Final = 256  # codes that say when to come back, times limits and languages: about 50


def render(
    problem: Problem,
    *,
    messages: Messages,
    language: Language,
    instance: str,
    trace_id: str,
    level: str,
) -> Rendered:
    """Tell a problem.

    All who are told to come back later are told the same but for a few numbers, so their bodies are
    filled into a form: a no must be cheapest when there is most of it to say.
    """
    code, headers = problem.code, [_TYPE_HEADER, *problem.headers]
    if problem.retry_after_ms is None:
        body = _body(problem, messages, language, instance, trace_id, level, 0, UNSET)
        return Rendered(code.status, body, headers)
    assert not problem.errors, "who has to mend a body is not told to wait"
    wait_ms, seconds = spread(problem.retry_after_ms)
    headers.append((b"retry-after", b"%d" % seconds))
    form = _form(code, problem.detail, problem.limit, problem.accepted, messages, language, level)
    body = form % (_encode(instance), _encode(trace_id), seconds, wait_ms)
    return Rendered(code.status, body, headers)


@lru_cache(_FORMS_MAX)
def _form(
    code: Code,
    detail: str,
    limit: str | None,
    accepted: Possibly | None,
    messages: Messages,
    language: Language,
    level: str,
) -> bytes:
    """Make the form of a body, with holes for the instance, the trace and the two waits."""
    problem = Problem(code, detail, limit=limit, accepted=accepted)
    body = _body(problem, messages, language, _INSTANCE, _TRACE, level, _SECONDS, _WAIT_MS)
    form = body.replace(b"%", b"%%")
    for said, hole in (
        (_encode(_INSTANCE), b"%b"),
        (_encode(_TRACE), b"%b"),
        (_encode(_SECONDS), b"%d"),
        (_encode(_WAIT_MS), b"%d"),
    ):
        assert form.count(said) == 1, f"{code.word} in {language}"
        form = form.replace(said, hole)
    return form


def _body(
    problem: Problem,
    messages: Messages,
    language: Language,
    instance: str,
    trace_id: str,
    level: str,
    seconds: int,
    wait_ms: int | UnsetType,
) -> bytes:
    code = problem.code
    limit: str | UnsetType = problem.limit or UNSET
    body = ProblemBody(
        type=code.type,
        title=code.title,
        status=code.status,
        detail=problem.detail,
        instance=instance,
        code=code.word,
        trace_id=trace_id,
        message=messages.problem(language, code.word, seconds),
        retry_after_ms=wait_ms,
        level=level if code.status in (429, 503) else UNSET,
        limit=limit,
        accepted=problem.accepted or UNSET,
        errors=tuple(problem.errors) or UNSET,
        violated_policies=(limit,) if limit is not UNSET else UNSET,
    )
    return _encode(body)


def spread(wait_ms: int) -> tuple[int, int]:
    """Add jitter, upwards only, to a wait: return it in milliseconds, and in whole seconds >= 1.

    Everybody who was told "one second" would come back in the same one; up to a quarter more takes
    them apart. Neither form is before the wait itself.
    """
    least_s = max(1, -(-wait_ms // 1_000))
    seconds = least_s + int(_random() * (1 + max(1, least_s // 4)))
    return wait_ms + int(_random() * (1 + max(250, wait_ms // 4))), seconds
