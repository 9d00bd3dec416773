"""From the intake's answers to HTTP: which status, which body, which problem."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Final, assert_never

from msgspec.structs import replace

from producer.answers import (
    CALLERS_LIMITS,
    INTAKE_LIMIT,
    Accepted,
    Answer,
    Conflict,
    IssuancePaused,
    Limited,
    NotAccepted,
    Replayed,
    Unanswered,
)
from producer.http import problems, render
from producer.http.api import Api
from producer.http.calls import JSON_HEADER, Call, Reply
from producer.http.messages import Language
from producer.http.problems import TYPE_HEADER, Code, Problem, Refusal
from producer.http.quotas import rate_limit_headers
from producer.sojourn import poll_ms
from workers.contract.resource import IntentResource
from workers.domain.overload import Level

_PATH = b"/v1/intents/"
REPLAYED = (b"idempotent-replayed", b"true")
_UNANSWERED_RETRY_MS = 1_000  # a fail-over takes seconds: asking more often would not find more
_PAUSED_RETRY_MS: Final = {"load": 10_000, "operator": 60_000}  # where nobody knows until when
_TWO_MS: Final = timedelta(milliseconds=2)
_PAUSED_JITTER_MS_MAX: Final = 5 * 60_000  # those who wait for hours need not be hours apart
_CONFLICT = Problem(
    Code.IDEMPOTENCY_CONFLICT,
    "This key belongs to another intent of this user. One key, one intent.",
)


def reply_to(answer: Answer, call: Call) -> Reply:
    """Tell an answer. A problem is told, not raised: in an hour of overload most answers are one."""
    match answer:
        case Limited():
            return _limited(answer, call)
        case Accepted(intent_id=intent_id):
            sojourn = call.api.waiters.sojourn
            sojourn.accepted()
            wait_ms = sojourn.wait_ms()
            text = str(intent_id).encode()
            body = render.receipt(text, wait_ms, poll_ms(wait_ms, call.api.levels.standing.level))
            return Reply(202, body, [JSON_HEADER, (b"location", _PATH + text)])
        case Replayed(resource=resource):
            return replay(resource, call.api, call.language)
        case Conflict():
            return call.render(_CONFLICT)
        case NotAccepted():
            return _not_accepted(answer, call)
        case IssuancePaused():
            return call.render(_paused(answer))
        case Unanswered(accepted=accepted):
            return call.render(_unanswered(accepted == "unknown"))
        case _:
            assert_never(answer)


def replay(resource: IntentResource, api: Api, language: Language) -> Reply:
    """Tell a known intent again: 200 with its outcome, or 202 as long as there is none."""
    decided = outcome(resource, api, language)
    if resource.decided_at is not None:
        return replace(decided, headers=[*decided.headers, REPLAYED])
    wait_ms = api.waiters.sojourn.wait_ms()
    body = b'%b,"estimated_wait_ms":%d,"poll_after_ms":%d}' % (
        decided.body[:-1],
        wait_ms,
        poll_ms(wait_ms, api.levels.standing.level),
    )
    location = (b"location", _PATH + str(resource.intent_id).encode())
    return Reply(202, body, [JSON_HEADER, location, REPLAYED])


def outcome(resource: IntentResource, api: Api, language: Language) -> Reply:
    """Tell an intent as it stands."""
    return Reply(200, render.intent(resource, language, api.messages, api.codes), [JSON_HEADER])


def _limited(answer: Limited, call: Call) -> Reply:
    """Tell that a limit is reached: when most answers are a no, nearly all of them are this one."""
    refusal = _reached(answer.limit, answer.level)
    wait_ms, appointment = answer.retry_after_ms, answer.appointment
    headers = [TYPE_HEADER]
    if refusal.code is Code.QUOTA_EXCEEDED:
        headers += rate_limit_headers(answer.limit, answer.quota, wait_ms)
    jitter_ms_max = None
    if appointment is not None:  # in the first half of the window: the way here takes time as well
        jitter_ms_max = (appointment.not_after - appointment.not_before) // _TWO_MS
    return call.refuse(refusal, wait_ms, answer.level, headers, appointment, jitter_ms_max)


@cache
def _reached(limit: str, level: Level) -> Refusal:
    """Say what it means that a layer's limit is reached, and with which text, if it has its own.

    There are a handful of layers.
    """
    if limit == INTAKE_LIMIT:  # refused before the journal was asked whether it knows the key
        detail = "Too many wait to be taken. Ask again with this key, never a new one."
        return Refusal(Code.INTAKE_FULL, detail, limit, "unknown")
    if limit in CALLERS_LIMITS:
        detail = f"The limit of this {limit} is reached. Nothing was accepted."
        return Refusal(Code.QUOTA_EXCEEDED, detail, limit, "no")
    if limit == "level" and level is Level.CLOSED:
        detail = "Nothing is taken at present. Nothing was accepted."
        return Refusal(Code.REDUCED_CAPACITY, detail, limit, "no", problems.CLOSED)
    detail = _OURS.get(limit, f"The limit of this {limit} is reached.") + " Nothing was accepted."
    text = problems.MERCHANT if limit == "merchant" else None
    return Refusal(Code.REDUCED_CAPACITY, detail, limit, "no", text)


_OURS: Final = {  # layers that are not a thing with a limit of its own
    "in_flight": "As many intents are in flight as can be.",
    "level": "More intents of this class come in than can be served.",
    "deadline": "The outcome would come after the intent's deadline.",
}


def _not_accepted(answer: NotAccepted, call: Call) -> Reply:
    odds = None if answer.odds is None else round(answer.odds, 2)
    body = render.not_accepted(
        answer.reason, answer.final, odds, answer.try_again_at, call.language, call.api.messages
    )
    return Reply(200, body, [JSON_HEADER])


def _paused(answer: IssuancePaused) -> Problem:
    resume_at = answer.resume_at
    retry_after_ms = _PAUSED_RETRY_MS[answer.by]
    if resume_at is not None:
        left = resume_at - datetime.now(UTC)
        retry_after_ms = max(0, left // timedelta(milliseconds=1))
    return Problem(
        Code.ISSUANCE_PAUSED,
        _PAUSED_BY[answer.by],
        retry_after_ms=retry_after_ms,
        accepted="no",
        level=answer.level,
        resume_at=resume_at,
        jitter_ms_max=_PAUSED_JITTER_MS_MAX,
    )


_PAUSED_BY: Final = {
    "load": "Load has paused the issuance of coupons. Nothing was accepted.",
    "operator": "The issuance of this campaign's coupons is paused. Nothing was accepted.",
}


def _unanswered(unknown: bool) -> Problem:
    if unknown:
        return Problem(
            Code.OUTCOME_UNKNOWN,
            "It is not known whether this was accepted. Ask again with this key, never a new one.",
            retry_after_ms=_UNANSWERED_RETRY_MS,
            accepted="unknown",
        )
    return Problem(
        Code.DEPENDENCY_UNAVAILABLE,
        "Intents cannot be taken at present. Nothing was accepted.",
        retry_after_ms=_UNANSWERED_RETRY_MS,
        accepted="no",
    )
