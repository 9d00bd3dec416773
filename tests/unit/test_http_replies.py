"""From answers to replies: which status and words each no has, and that a no stays cheap."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from producer.answers import (
    INTAKE_LIMIT,
    Answer,
    IssuancePaused,
    Limited,
    NotAccepted,
    NotAcceptedReason,
    Unanswered,
)
from producer.http.api import Api
from producer.http.calls import Call, Message, Reply
from producer.http.headers import HeaderError, ticket
from producer.http.messages import LANGUAGES, Messages
from producer.http.problems import ProblemBody, _form
from producer.http.quotas import rate_limit_headers
from producer.http.render import NotAcceptedView
from producer.http.replies import reply_to
from producer.levels import LevelBook, Standing
from workers.contract.admission import LAYERS, RateLimit
from workers.domain.appointment import Appointment
from workers.domain.overload import Level

FROM = datetime(2026, 2, 6, 2, 12, 30, tzinfo=UTC)
KEPT = Appointment('a-ticket."%d"', FROM, FROM + timedelta(seconds=5))
MESSAGES = Messages()


async def _nothing() -> Message:
    raise AssertionError


def a_call(locale: str | None = "en", *, level: Level = Level.NORMAL, **headers: str) -> Call:
    """A call of an API at this level."""
    levels = LevelBook()
    levels.standing = Standing(level=level)
    api = cast(Api, SimpleNamespace(messages=MESSAGES, levels=levels))
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    call = Call(api, "/v1/intents", {"headers": fields, "path": "/v1/intents"}, _nothing)
    call.locale = locale
    return call


def told(answer: Answer, call: Call | None = None) -> tuple[Reply, dict[str, Any]]:
    reply = reply_to(answer, call or a_call())
    return reply, json.loads(reply.body)


@pytest.mark.parametrize("limit", [*LAYERS, INTAKE_LIMIT])
def test_429_is_the_callers_limit_and_503_ours(limit: str) -> None:
    """The layer that bound is named, and what becomes of the intent."""
    reply, body = told(Limited(limit, 2_000, Level.SHEDDING))
    callers = limit in ("user", "conversation", "gateway")
    assert reply.status == body["status"] == (429 if callers else 503)
    assert (body["limit"], body["level"]) == (limit, "shedding")
    assert body["accepted"] == ("unknown" if limit == INTAKE_LIMIT else "no")
    assert body["retry_after_ms"] >= 2_000
    assert int(dict(reply.headers)[b"retry-after"]) >= 2
    assert (b"ratelimit" in dict(reply.headers)) is callers
    msgspec.json.decode(reply.body, type=ProblemBody)


def test_the_more_closed_of_two_levels_is_told() -> None:
    """What the gate said with its verdict, and what this process heard last, differ for a moment."""
    for said, heard in ((Level.SHEDDING, Level.NORMAL), (Level.NORMAL, Level.SHEDDING)):
        _, body = told(Limited("campaign", 1_000, said), a_call(level=heard))
        assert body["level"] == "shedding"
    _, body = told(Unanswered("no", "valkey"), a_call(level=Level.CLOSED))
    assert (body["code"], body["level"]) == ("dependency_unavailable", "closed")


def test_an_appointment_is_told_with_its_ticket_and_window() -> None:
    """Once as data, once as words; the wait never leads past the window."""
    for _ in range(200):
        reply, body = told(Limited("level", 754_000, Level.SHEDDING, KEPT))
        assert body["appointment"] == {
            "ticket": KEPT.ticket,
            "not_before": "2026-02-06T02:12:30Z",
            "not_after": "2026-02-06T02:12:35Z",
        }
        assert 754_000 <= body["retry_after_ms"] <= 756_500
        assert 754 <= int(dict(reply.headers)[b"retry-after"]) <= 756
        assert "13 minutes" in body["message"]
        assert "appointment" in body["message"] or "kept a place" in body["message"]


def test_an_appointment_in_a_peoples_time_zone_is_told_by_the_clock() -> None:
    """A chat is read again later: 10:12:30 stays right, "in 13 minutes" does not."""
    beijing = timezone(timedelta(hours=8), "CST")
    there = Appointment("t", FROM.astimezone(beijing), KEPT.not_after.astimezone(beijing))
    for locale in LANGUAGES:
        _, body = told(Limited("level", 754_000, Level.SHEDDING, there), a_call(locale))
        assert "10:12:30" in body["message"]
        assert "@" not in body["message"]
    assert body["appointment"]["not_before"] == "2026-02-06T10:12:30+08:00"


def test_a_filled_form_is_what_would_be_written_anew() -> None:
    """The cached forms of an appointment hold no stand-in, and are JSON of the documented shape."""
    reply, _ = told(Limited("level", 90_000, Level.SHEDDING, KEPT), a_call("zh-CN"))
    read = msgspec.json.decode(reply.body, type=ProblemBody)
    assert msgspec.json.encode(read) == reply.body
    assert read.appointment == KEPT


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (Limited("level", 1_000, Level.SHEDDING), "reduced_capacity"),
        (Limited("level", 1_000, Level.CLOSED), "closed"),
        (Limited("merchant", 1_000), "merchant"),
        (Limited("level", 1_000, Level.SHEDDING, KEPT), "appointment"),
        (Limited("user", 1_000), "quota_exceeded"),
        (IssuancePaused(None, Level.THROTTLED, "load"), "issuance_paused"),
    ],
)
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_same_state_is_told_in_the_same_words(answer: Answer, word: str, language: str) -> None:
    """A user met several different refusals on the seed's day; here each state has one."""
    shapes = set()
    for _ in range(50):
        reply, body = told(answer, a_call(language))
        seconds = int(dict(reply.headers)[b"retry-after"])
        assert body["message"] == MESSAGES.problem(language, word, seconds)
        shapes.add("".join(c for c in body["message"] if not c.isdigit()))
    assert len(shapes) <= 2  # "1 second" and "2 seconds"


def test_the_intents_locale_chooses_the_words_and_then_the_callers_header() -> None:
    """The user reads the message; the gateway's header is only its guess."""
    answer = Limited("level", 3_000, Level.SHEDDING)
    header = "fr, el;q=0.8, en;q=0.9;x, zh;q=0"
    assert "请" in told(answer, a_call("zh-CN", accept_language="el"))[1]["message"]
    assert "Δοκιμάστε" in told(answer, a_call(None, accept_language=header))[1]["message"]
    assert "Please" in told(answer, a_call(None, accept_language="fr"))[1]["message"]


@pytest.mark.parametrize(
    "reason", ["sold_out", "likely_sold_out", "budget_exhausted", "merchant_unavailable"]
)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_business_no_is_200_and_binds_nothing(reason: NotAcceptedReason, language: str) -> None:
    """Sold out is not an error, and least of all the caller's."""
    final = reason == "sold_out"
    answer = NotAccepted(reason, final, 0.04123, FROM)
    reply, body = told(answer, a_call(language))
    assert reply.status == 200
    assert body == {
        "status": "not_accepted",
        "reason": reason,
        "final": final,
        "odds": 0.04,
        "try_again_at": "2026-02-06T02:12:30Z",
        "message": MESSAGES.refusal(language, reason),
    }
    msgspec.json.decode(reply.body, type=NotAcceptedView)
    _, bare = told(NotAccepted(reason, final))
    assert (bare["odds"], bare["try_again_at"]) == (None, None)


def test_paused_issuance_says_when_it_resumes() -> None:
    """503 of its own code; with a time where there is one, and never earlier than that."""
    soon = datetime.now(UTC) + timedelta(hours=3)
    reply, body = told(IssuancePaused(soon, Level.NORMAL, "operator"))
    assert (reply.status, body["code"], body["accepted"]) == (503, "issuance_paused", "no")
    assert datetime.fromisoformat(body["resume_at"]) == soon
    assert 3 * 3_600_000 - 5_000 <= body["retry_after_ms"] <= 3 * 3_600_000 + 300_000
    assert "hours" in body["message"]
    _, body = told(IssuancePaused(None, Level.THROTTLED, "load"))
    assert body["resume_at"] is None
    assert (body["level"], body["retry_after_ms"] >= 10_000) == ("throttled", True)


@pytest.mark.parametrize(
    ("quota", "policy"),
    [
        (RateLimit(1, 5), '"user";q=5;w=5'),
        (RateLimit(20_000, 20_000), '"user";q=20000;w=1'),
        (RateLimit(10, 3), '"user";q=10;w=1'),
        (RateLimit(0.1, 1), '"user";q=1;w=10'),
        (RateLimit(3, 10), '"user";q=12;w=4'),
    ],
)
def test_a_stated_limit_is_told_as_the_draft_has_it(quota: RateLimit, policy: str) -> None:
    """An item per policy: what fits (`q`) in so many whole seconds (`w`); nothing remains (`r`)."""
    fields = dict(rate_limit_headers("user", quota, 1_200))
    assert fields == {b"ratelimit-policy": policy.encode(), b"ratelimit": b'"user";r=0;t=2'}
    reply, _ = told(Limited("user", 1_200, quota=quota))
    sent = dict(reply.headers)
    assert fields.items() <= sent.items()
    assert int(sent[b"retry-after"]) >= 2  # never before `t`


def test_a_ticket_is_read_as_it_is_or_not_at_all() -> None:
    """Bounded, and of characters that a header can hold; whose it is, is not judged here."""
    assert ticket(b"x" * 512) == "x" * 512
    for raw in (b"", b"x" * 513, b"a b", b"\xc3\xa9", b"a\x00"):
        with pytest.raises(HeaderError):
            ticket(raw)


def test_a_refusal_is_written_in_a_few_microseconds() -> None:
    """Most of an hour of overload is refusals: they may cost 40 µs beyond an echo, all in all.

    A wide bound, for a machine that others use; a form made anew each time would not pass.
    """
    call = a_call("zh-CN", level=Level.SHEDDING)
    answers = [
        Limited("user", 1_000, quota=RateLimit(1, 5)),
        Limited("level", 1_000, Level.SHEDDING),
        Limited("level", 754_000, Level.SHEDDING, KEPT),
        NotAccepted("sold_out", True),
    ]
    best = []
    for answer in answers:
        rounds = []
        for _ in range(5):
            began = time.thread_time()
            for _ in range(1_000):
                reply_to(answer, call)
            rounds.append((time.thread_time() - began) * 1_000)
        best.append(min(rounds))
    print("µs:", [round(us, 1) for us in best])
    assert max(best) < 25


def test_forms_are_few() -> None:
    """They are made once for each kind of no, not for each no."""
    _form.cache_clear()
    for n in range(300):
        for locale in LANGUAGES:
            told(Limited("level", 1_000 * n, Level.SHEDDING), a_call(locale))
    assert _form.cache_info().misses <= 4 * len(LANGUAGES)
