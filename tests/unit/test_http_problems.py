"""Problems and messages: complete, in every language, and never earlier than they promise."""

from __future__ import annotations

import contextlib
import re
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.answers import NotAcceptedReason
from producer.http.decoding import ISSUANCE, ITEMS, KEYED_ORDER, ORDER, decode
from producer.http.messages import LANGUAGES, Messages
from producer.http.problems import TEXTS, Code, Problem, ProblemBody, render, spread
from workers.domain.outcome import OrderStatus, Refusal
from workers.domain.overload import Level

MESSAGES = Messages()
GOOD = b'{"user_id":"u","campaign_id":"c","lines":[{"sku":"a","quantity":1}]}'


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_state_reason_and_problem_has_a_message_in_every_language(language: str) -> None:
    """Whatever happens, the chat has something to show; nothing in a catalogue is unused."""
    states = {status.value for status in OrderStatus}
    expected = {("status", name) for name in {*states, "accepted", "accepted_issuance", "issued"}}
    expected |= {("refusal", reason) for reason in (*Refusal, *get_args(NotAcceptedReason))}
    expected |= {("problem", word) for word in (*TEXTS, *(code.word for code in Code))}
    expected |= {("level", level.value) for level in Level}
    expected |= {("unit", unit) for unit in ("second", "seconds", "minutes", "hours")}
    assert MESSAGES.keys(language) == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_problem_with_a_wait_tells_it_in_its_message(language: str) -> None:
    """429 and 503 say when to come back, in words too; no other problem has a hole to fill."""
    for code in Code:
        text = MESSAGES.problem(language, code.word, 7)
        waits = code.status in (429, 503)
        assert ("7" in text) is waits, code
        assert "{" not in text


@pytest.mark.parametrize(
    ("locale", "accepted", "expected"),
    [
        ("zh-CN", b"", "zh-CN"),
        ("zh-Hant-TW", b"", "zh-CN"),
        ("el", b"en", "el"),
        ("fr", b"el", "en"),
        (None, b"fr, el;q=0.5, en;q=0.1", "el"),
        (None, b"fr", "en"),
        (None, b"", "en"),
    ],
)
def test_the_intents_locale_wins_over_the_callers_language(
    locale: str | None, accepted: bytes, expected: str
) -> None:
    """The message is for the user of the chat; who speaks of no language we have reads English."""
    assert MESSAGES.language_for(locale, accepted) == expected


@given(st.integers(min_value=0, max_value=10_000_000))
def test_jitter_never_asks_to_come_back_early(wait_ms: int) -> None:
    """Retry-After is whole seconds, one at least; both forms lie at or after the wait itself."""
    jittered_ms, seconds = spread(wait_ms)
    assert wait_ms <= jittered_ms <= max(wait_ms + 250, wait_ms * 1.25)
    assert max(1_000, wait_ms) <= seconds * 1_000 <= max(2_000, wait_ms * 1.25 + 2_000)


def test_jitter_takes_apart_those_who_were_refused_together() -> None:
    """A thousand refusals of one moment do not come back in one moment."""
    told = [spread(1_000) for _ in range(1_000)]
    assert len({wait_ms for wait_ms, _ in told}) > 100
    assert {seconds for _, seconds in told} == {1, 2}


def test_a_problem_carries_all_that_the_contract_names() -> None:
    """Members of RFC 9457 and our own, and the header beside `retry_after_ms`."""
    status, body, headers = render(
        Problem(
            Code.QUOTA_EXCEEDED, "Too fast.", limit="user", retry_after_ms=3_000, accepted="no"
        ),
        messages=MESSAGES,
        language="zh-CN",
        instance="/v1/intents",
        trace_id="0" * 32,
        level=Level.NORMAL,
    )
    told = msgspec.json.decode(body)
    assert status == told["status"] == 429
    assert told["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert told["violated-policies"] == ["user"]
    assert (told["code"], told["limit"], told["level"]) == ("quota_exceeded", "user", "normal")
    assert told["retry_after_ms"] >= 3_000
    retry_after = int(dict(headers)[b"retry-after"])
    assert retry_after >= 3
    assert str(retry_after) in told["message"]
    assert dict(headers)[b"content-type"] == b"application/problem+json"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("code", [code for code in Code if code.status in (429, 503)])
def test_a_problem_filled_into_a_form_reads_like_one_written_anew(
    code: Code, language: str
) -> None:
    """What is said of a wait is the same for all but its numbers; the path may hold anything."""
    instance = '/v1/users/%d%b"@trace@\\é\n'
    for limit in (None, "gateway", "in_flight"):
        problem = Problem(code, "100 % full.", limit=limit, retry_after_ms=2_500, accepted="no")
        for trace_id in ("0" * 32, "f" * 32):
            _, body, headers = render(
                problem,
                messages=MESSAGES,
                language=language,
                instance=instance,
                trace_id=trace_id,
                level=Level.SHEDDING,
            )
            told = msgspec.json.decode(body, type=ProblemBody)
            seconds = int(dict(headers)[b"retry-after"])
            assert told == ProblemBody(
                type=code.type,
                title=code.title,
                status=code.status,
                detail="100 % full.",
                instance=instance,
                code=code.word,
                trace_id=trace_id,
                message=MESSAGES.problem(language, code.word, seconds),
                retry_after_ms=told.retry_after_ms,
                level="shedding",
                limit=msgspec.UNSET if limit is None else limit,
                accepted="no",
                violated_policies=msgspec.UNSET if limit is None else (limit,),
            )
            assert body == msgspec.json.encode(told)


def test_what_does_not_apply_is_left_out_of_a_problem() -> None:
    """A 400 has no wait, no limit and no level."""
    _, body, _ = render(
        Problem(Code.MALFORMED_BODY, "Bad."),
        messages=MESSAGES,
        language="en",
        instance="/v1/intents",
        trace_id="0" * 32,
        level=Level.NORMAL,
    )
    rfc = {"type", "title", "status", "detail", "instance"}
    assert set(msgspec.json.decode(body)) == rfc | {"code", "trace_id", "message"}
    msgspec.json.decode(body, type=ProblemBody)


def spoilt(find: bytes, put: bytes) -> bytes:
    return GOOD.replace(find, put)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (spoilt(b'"quantity":1', b'"quantity":1.0'), "lines[0].quantity"),
        (spoilt(b'"quantity":1', b'"quantity":1e2'), "lines[0].quantity"),
        (spoilt(b'"quantity":1', b'"quantity":true'), "lines[0].quantity"),
        (spoilt(b'"quantity":1', b'"quantity":"1"'), "lines[0].quantity"),
        (spoilt(b'"quantity":1', b'"quantity":0'), "lines[0].quantity"),
        (spoilt(b'"quantity":1', b'"quantity":-1'), "lines[0].quantity"),
        (spoilt(b'"quantity":1', b'"quantity":9223372036854775808'), "lines[0].quantity"),
        (spoilt(b'"quantity":1', b'"quantity":1e400'), "lines[0].quantity"),
        (spoilt(b'"quantity":1', b'"quantity":1,"price":0'), "lines[0].price"),
        (spoilt(b'"user_id":"u"', b'"user_id":7'), "user_id"),
        (spoilt(b'"user_id":"u"', b'"user_id":"%b"' % (b"u" * 129)), "user_id"),
        (spoilt(b'"user_id":"u"', b'"user_id":""'), "user_id"),
        (spoilt(b'"user_id":"u"', b'"user_id":"a\\u0000"'), "user_id"),
        (spoilt(b'"user_id":"u"', b'"user_id":"a\\n{"'), "user_id"),
        (spoilt(b'"user_id":"u",', b""), "user_id"),
        (spoilt(b'"user_id":"u"', b'"user_id":"u","discount":100'), "discount"),
        (spoilt(b'[{"sku":"a","quantity":1}]', b"[]"), "lines"),
        (spoilt(b'{"sku":"a","quantity":1}', b'{"sku":"a","quantity":1},' * 2 + b"{}"), ""),
        (spoilt(b'"quantity":1}', b'"quantity":1},{"sku":"a","quantity":1}'), "lines"),
        (spoilt(b'"campaign_id":"c"', b'"campaign_id":"c:d"'), "campaign_id"),
        (b"[]", ""),
        (b"null", ""),
    ],
)
def test_a_wrong_field_is_named(body: bytes, field: str) -> None:
    """Strict bodies: nothing is coerced, nothing unknown is skipped, and the problem says where."""
    with pytest.raises(Problem) as caught:
        decode(ORDER, body)
    assert caught.value.code is Code.INVALID_FIELD
    named = caught.value.errors[0].field
    assert named == field or (field == "" and named.startswith("lines"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        GOOD + b"}",
        b"\xef\xbb\xbf" + GOOD,
        spoilt(b'"u"', b'"\xff"'),
        spoilt(b'"u"', b'"\xed\xa0\x80"'),
        spoilt(b'"u"', b'"\\ud800"'),
        spoilt(b'"u"', b'"\\ud800 and more text"'),
        spoilt(b'"u"', b'"\\udc00 and more text"'),
        spoilt(b'"u"', b'"\\ud800\\u0041 and more"'),
        spoilt(b'"quantity":1', b'"quantity":NaN'),
        spoilt(b'"quantity":1', b'"quantity":Infinity'),
        spoilt(b'"quantity":1', b'"quantity":01'),
    ],
)
def test_what_is_no_json_in_utf_8_is_malformed(body: bytes) -> None:
    """Lone surrogates, stray bytes and numbers that JSON does not know."""
    with pytest.raises(Problem) as caught:
        decode(ORDER, body)
    assert caught.value.code is Code.MALFORMED_BODY


@pytest.mark.parametrize("decoder", [ORDER, KEYED_ORDER, ISSUANCE, ITEMS])
def test_no_depth_breaks_a_decoder(decoder: msgspec.json.Decoder[object]) -> None:
    """A million brackets are refused like one too many."""
    for body in (b"[" * 1_000_000, b'{"a":' * 200_000, b'{"lines":' + b"[" * 1_000_000):
        with pytest.raises(Problem):
            decode(decoder, body)


@given(st.binary(max_size=200))
def test_no_bytes_break_a_decoder(body: bytes) -> None:
    """Bodies are anybody's: a decoder answers or raises a problem, and never anything else."""
    for decoder in (ORDER, ISSUANCE, ITEMS):
        with contextlib.suppress(Problem):
            decode(decoder, body)  # type: ignore[type-var]


def test_a_problem_does_not_repeat_a_whole_body() -> None:
    """A field's name may be as long as a body; what is told of it is not."""
    with pytest.raises(Problem) as caught:
        decode(ORDER, spoilt(b'"user_id"', b'"%b"' % (b"x" * 8_000)))
    assert len(caught.value.detail) + len(caught.value.errors[0].field) < 1_000


def test_an_intent_of_a_batch_is_the_intent_posted_alone() -> None:
    """Its key apart, nothing tells them from each other: so they share a fingerprint."""
    keyed = decode(KEYED_ORDER, b'{"idempotency_key":"k",' + GOOD[1:])
    assert keyed.plain() == decode(ORDER, GOOD)
    assert type(keyed.plain()) is type(decode(ORDER, GOOD))
    assert set(keyed.__struct_fields__) - {"idempotency_key", "appointment"} == set(
        decode(ORDER, GOOD).__struct_fields__
    )


def test_codes_are_words_that_can_stand_in_a_path() -> None:
    """A problem's type leads to its description."""
    assert all(re.fullmatch("[a-z_]+", code.word) for code in Code)
