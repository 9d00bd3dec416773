"""Problems (RFC 9457): every no that is not a business answer, in one shape.

A problem is raised where it is found and rendered in one place. Its texts are ours alone: no
exception, no SQL, nothing of another gateway's ever gets into one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from producer.http.messages import Language, Messages, span
from workers.domain.appointment import Appointment
from workers.domain.overload import Level

_IANA = "https://iana.org/assignments/http-problem-types#"
TYPE_QUOTA = _IANA + "quota-exceeded"
TYPE_CAPACITY = _IANA + "temporary-reduced-capacity"

MEDIA_TYPE = b"application/problem+json"
TYPE_HEADER: Final = (b"content-type", MEDIA_TYPE)

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
    ISSUANCE_PAUSED = (503, "No coupons are given out at present", TYPE_CAPACITY)
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


# Texts of the catalogues for what a code alone does not say; in place of the code's own.
CLOSED: Final = "closed"
MERCHANT: Final = "merchant"
POLLS: Final = "polls"
APPOINTMENT: Final = "appointment"
APPOINTMENT_AT: Final = "appointment_at"
TEXTS: Final = (CLOSED, MERCHANT, POLLS, APPOINTMENT, APPOINTMENT_AT)


class FieldError(Struct, frozen=True):
    """Which field of the body is wrong, as a path from its root, and what would be right."""

    field: str
    detail: str


class Problem(Exception):
    """A call ends with a problem.

    `retry_after_ms` is when to come back, before jitter, and `jitter_ms_max` bounds that. `headers`
    are added to the reply's. `text` names what the chat is told (one of `TEXTS`) where the code alone
    does not say it. `level` is what held when it was refused. `resume_at` is told of a pause, null
    where nobody knows.
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
        level: Level = Level.NORMAL,
        text: str | None = None,
        appointment: Appointment | None = None,
        resume_at: datetime | UnsetType | None = UNSET,
        jitter_ms_max: int | None = None,
    ) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.errors = errors
        self.retry_after_ms = retry_after_ms
        self.limit = limit
        self.accepted = accepted
        self.headers = headers
        self.level = level
        self.text = text
        self.appointment = appointment
        self.resume_at = resume_at
        self.jitter_ms_max = jitter_ms_max

    def __str__(self) -> str:
        """For logs: the detail may name what the caller named."""
        return self.code.word


class ProblemBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem as it is told (RFC 9457), with our own members.

    `code` is the machine's word for it. `message` is fit to be shown in the chat, in the intent's
    locale. `retry_after_ms` never asks for less than is needed. `limit` names the layer that bound,
    `level` the overload level. `appointment` is a place in time: who comes back in its window with
    its ticket goes first, as long as there are goods. `resume_at` is when coupons are given out again,
    null where nobody knows. `accepted` says whether the intent may have been accepted all the
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
    resume_at: datetime | UnsetType | None = UNSET
    appointment: Appointment | UnsetType = UNSET
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
_TIME: Final = "@time@"
_TICKET: Final = "@ticket@"
_NUMBER: Final = 987_654_321_001
_WAIT_MS: Final = 987_654_321_002
_NOT_BEFORE: Final = datetime(4000, 1, 1, tzinfo=UTC)
_NOT_AFTER: Final = datetime(4000, 1, 2, tzinfo=UTC)
_FORMS_MAX: Final = 512  # codes that say when to come back, by limit, level, language and unit
_REFUSALS_MAX: Final = 128  # of problems that are raised: codes that say it, by detail and limit


class Refusal:
    """What all who are told to come back later by one reason are told alike.

    `text` names what the chat is told (the code's own, or one of `TEXTS`). Forms of bodies are kept by
    this object, not by what it holds: whoever tells it often keeps it.
    """

    __slots__ = ("accepted", "code", "detail", "limit", "status", "text", "word")

    def __init__(
        self,
        code: Code,
        detail: str,
        limit: str | None = None,
        accepted: Possibly | None = None,
        text: str | None = None,
    ) -> None:
        self.code = code
        self.detail = detail
        self.limit = limit
        self.accepted = accepted
        self.status = code.status
        self.word = code.word
        self.text = text or code.word


def render(
    problem: Problem,
    *,
    messages: Messages,
    language: Language,
    instance: str,
    trace_id: str,
    level: Level,
) -> Rendered:
    """Tell a problem; `level` is the overload level that holds now."""
    code, headers = problem.code, [TYPE_HEADER, *problem.headers]
    level = more_closed(problem.level, level)
    if problem.retry_after_ms is None:
        refusal = Refusal(code, problem.detail, problem.limit, problem.accepted)
        message = messages.problem(language, code.word, 0)
        errors = tuple(problem.errors) or UNSET
        body = _encode(_body(refusal, level, message, instance, trace_id, errors=errors))
        return Rendered(code.status, body, headers)
    assert not problem.errors, "who has to mend a body is not told to wait"
    body, seconds = told_to_wait(
        _refusal(code, problem.detail, problem.limit, problem.accepted, problem.text),
        problem.retry_after_ms,
        messages=messages,
        language=language,
        instance=instance,
        trace=int(trace_id, 16),
        level=level,
        appointment=problem.appointment,
        resume_at=problem.resume_at,
        jitter_ms_max=problem.jitter_ms_max,
    )
    headers.append((b"retry-after", b"%d" % seconds))
    return Rendered(code.status, body, headers)


def told_to_wait(
    refusal: Refusal,
    wait_ms: int,
    *,
    messages: Messages,
    language: Language,
    instance: str,
    trace: int,
    level: Level,
    appointment: Appointment | None = None,
    resume_at: datetime | UnsetType | None = UNSET,
    jitter_ms_max: int | None = None,
) -> tuple[bytes, int]:
    """Return the body of a refusal, and after how many whole seconds to come back.

    All who are told to come back later are told the same but for a few numbers, so their bodies are
    filled into a form: a no must be cheapest when there is most of it to say. The holes of a form
    come in the order of `ProblemBody`'s fields.
    """
    wait_ms, seconds = spread(wait_ms, jitter_ms_max)
    unit, number = span(seconds)
    path = _encode(instance)
    if appointment is None:
        form = _form(refusal, messages, language, level, refusal.text, unit, resume_at)
        return form % (path, trace, number, wait_ms), seconds
    holes = (
        _encode(appointment.ticket),
        _encode(appointment.not_before),
        _encode(appointment.not_after),
    )
    if _has_clock(appointment.not_before):
        form = _form(refusal, messages, language, level, APPOINTMENT_AT, unit, UNSET)
        told = f"{appointment.not_before:%H:%M:%S}".encode()
        return form % (path, trace, told, wait_ms, *holes), seconds
    form = _form(refusal, messages, language, level, APPOINTMENT, unit, UNSET)
    return form % (path, trace, number, wait_ms, *holes), seconds


def more_closed(one: Level, other: Level) -> Level:
    """Return the more closed of two levels."""
    return one if one is other or one.rank > other.rank else other


def _has_clock(moment: datetime) -> bool:
    """Say whether a time is given by a clock that people live by: UTC is nobody's."""
    return moment.tzinfo is not UTC and moment.tzname() != "UTC"


_refusal = lru_cache(_REFUSALS_MAX)(Refusal)


@lru_cache(_FORMS_MAX)
def _form(
    refusal: Refusal,
    messages: Messages,
    language: Language,
    level: Level,
    text: str,
    unit: str,
    resume_at: datetime | UnsetType | None,
) -> bytes:
    """Make the form of a body, with holes for what differs."""
    kept = text in (APPOINTMENT, APPOINTMENT_AT)
    message = messages.waiting(language, text, unit, _NUMBER).replace("{time}", _TIME)
    appointment = Appointment(_TICKET, _NOT_BEFORE, _NOT_AFTER) if kept else UNSET
    body = _body(
        refusal,
        level,
        message,
        _INSTANCE,
        _TRACE,
        retry_after_ms=_WAIT_MS,
        resume_at=resume_at,
        appointment=appointment,
    )
    form = _encode(body).replace(b"%", b"%%")
    when = (_TIME.encode(), b"%b") if text == APPOINTMENT_AT else (_encode(_NUMBER), b"%d")
    holes = [(_encode(_INSTANCE), b"%b"), (_encode(_TRACE), b'"%032x"'), when]
    holes.append((_encode(_WAIT_MS), b"%d"))
    if kept:
        holes += [(_encode(stand), b"%b") for stand in (_TICKET, _NOT_BEFORE, _NOT_AFTER)]
    for stand_in, hole in holes:
        assert form.count(stand_in) == 1, f"{refusal.word}, {text} in {language}"
        form = form.replace(stand_in, hole)
    return form


def _body(
    refusal: Refusal,
    level: Level,
    message: str,
    instance: str,
    trace_id: str,
    *,
    retry_after_ms: int | UnsetType = UNSET,
    resume_at: datetime | UnsetType | None = UNSET,
    appointment: Appointment | UnsetType = UNSET,
    errors: tuple[FieldError, ...] | UnsetType = UNSET,
) -> ProblemBody:
    code = refusal.code
    limit: str | UnsetType = refusal.limit or UNSET
    return ProblemBody(
        type=code.type,
        title=code.title,
        status=code.status,
        detail=refusal.detail,
        instance=instance,
        code=code.word,
        trace_id=trace_id,
        message=message,
        retry_after_ms=retry_after_ms,
        level=level.value if code.status in (429, 503) else UNSET,
        limit=limit,
        resume_at=resume_at,
        appointment=appointment,
        accepted=refusal.accepted or UNSET,
        errors=errors,
        violated_policies=(limit,) if limit is not UNSET else UNSET,
    )


def spread(wait_ms: int, jitter_ms_max: int | None = None) -> tuple[int, int]:
    """Add jitter, upwards only, to a wait: return it in milliseconds, and in whole seconds >= 1.

    Everybody who was told "one second" would come back in the same one; up to a quarter more takes
    them apart. Neither form is before the wait itself, nor, but for the rounding up to a second,
    more than `jitter_ms_max` behind it.
    """
    least_s = -(-wait_ms // 1_000) if wait_ms > 0 else 1
    more_s, more_ms = least_s // 4 or 1, wait_ms // 4 if wait_ms > 1_000 else 250
    if jitter_ms_max is not None:
        more_s = max(0, min(more_s, (wait_ms + jitter_ms_max) // 1_000 - least_s))
        more_ms = min(more_ms, jitter_ms_max)
    return wait_ms + int(_random() * (1 + more_ms)), least_s + int(_random() * (1 + more_s))
