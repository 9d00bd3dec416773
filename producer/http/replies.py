"""From the intake's answers to HTTP: which status, which body, which problem."""

from __future__ import annotations

from functools import cache
from typing import assert_never

from producer.answers import (
    INTAKE_LIMIT,
    Accepted,
    Answer,
    Conflict,
    Limited,
    Replayed,
    Unanswered,
)
from producer.http import render
from producer.http.api import Api
from producer.http.calls import JSON_HEADER, Call, Reply
from producer.http.messages import Language
from producer.http.problems import Code, Possibly, Problem
from workers.contract.resource import IntentResource

CALLERS_LIMITS = ("user", "conversation", "gateway")  # 429: the caller can do something about it

_PATH = b"/v1/intents/"
REPLAYED = (b"idempotent-replayed", b"true")
_UNANSWERED_RETRY_MS = 1_000  # a fail-over takes seconds: asking more often would not find more
_CONFLICT = Problem(
    Code.IDEMPOTENCY_CONFLICT,
    "This key belongs to another intent of this user. One key, one intent.",
)


def reply_to(answer: Answer, call: Call) -> Reply:
    """Tell an answer. A problem is told, not raised: in an hour of overload most answers are one."""
    match answer:
        case Accepted(intent_id=intent_id):
            sojourn = call.api.waiters.sojourn
            sojourn.accepted()
            wait_ms = sojourn.wait_ms()
            text = str(intent_id).encode()
            body = render.receipt(text, wait_ms, sojourn.poll_ms(wait_ms))
            return Reply(202, body, [JSON_HEADER, (b"location", _PATH + text)])
        case Replayed(resource=resource):
            return replay(resource, call.api, call.language)
        case Conflict():
            return call.render(_CONFLICT)
        case Limited(limit=limit, retry_after_ms=retry_after_ms):
            return call.render(_limited(limit, retry_after_ms))
        case Unanswered(accepted=accepted):
            return call.render(_unanswered(accepted == "unknown"))
        case _:
            assert_never(answer)


def replay(resource: IntentResource, api: Api, language: Language) -> Reply:
    """Tell a known intent again: 200 with its outcome, or 202 as long as there is none."""
    decided = outcome(resource, api, language)
    if resource.decided_at is not None:
        return decided._replace(headers=[*decided.headers, REPLAYED])
    sojourn = api.waiters.sojourn
    wait_ms = sojourn.wait_ms()
    body = b'%b,"estimated_wait_ms":%d,"poll_after_ms":%d}' % (
        decided.body[:-1],
        wait_ms,
        sojourn.poll_ms(wait_ms),
    )
    location = (b"location", _PATH + str(resource.intent_id).encode())
    return Reply(202, body, [JSON_HEADER, location, REPLAYED])


def outcome(resource: IntentResource, api: Api, language: Language) -> Reply:
    """Tell an intent as it stands."""
    return Reply(200, render.intent(resource, language, api.messages, api.codes), [JSON_HEADER])


def _limited(limit: str, retry_after_ms: int) -> Problem:
    code, detail, accepted = _reached(limit)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if code is Code.QUOTA_EXCEEDED:
        headers = ((b"ratelimit", b'"%b";r=0;t=%d' % (limit.encode(), _whole_s(retry_after_ms))),)
    return Problem(
        code,
        detail,
        limit=limit,
        retry_after_ms=retry_after_ms,
        accepted=accepted,
        headers=headers,
    )


@cache
def _reached(limit: str) -> tuple[Code, str, Possibly]:
    """Say what it means that a layer's limit is reached: there are a handful of layers."""
    if limit == INTAKE_LIMIT:  # refused before the journal was asked whether it knows the key
        detail = "Too many wait to be taken. Ask again with this key, never a new one."
        return Code.INTAKE_FULL, detail, "unknown"
    code = Code.QUOTA_EXCEEDED if limit in CALLERS_LIMITS else Code.REDUCED_CAPACITY
    return code, f"The limit of this {limit} is reached. Nothing was accepted.", "no"


def _whole_s(milliseconds: int) -> int:
    return -(-milliseconds // 1_000)


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
