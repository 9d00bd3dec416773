"""When a sender comes back."""

from __future__ import annotations

from random import Random

import pytest

from deploy.load.profile import Retry
from deploy.load.retry import pause_s
from deploy.load.wire import Answer, Reply, answer, answers, read, receipt, target

_SHED = Answer(status_code=503, accepted="no", retry_after_ms=2_000)
_LIMITED = Answer(status_code=429, limit="user", retry_after_ms=500)
_UNKNOWN = Answer(status_code=503, accepted="unknown", retry_after_ms=1_000)
_POLITE, _STORM = Retry(), Retry(refused="at_once", attempts_max=3)


def test_a_polite_sender_waits_as_told_and_a_little_more() -> None:
    """Retry-After is the least; the spread keeps a crowd from coming back as one."""
    pauses = [pause_s(_POLITE, _SHED, 1, Random(n)) for n in range(50)]
    assert all(pause is not None and 2.0 <= pause <= 2.2 for pause in pauses)
    assert len(set(pauses)) > 40


def test_a_sender_told_to_wait_too_long_goes_away() -> None:
    """The bound is the profile's."""
    assert pause_s(Retry(retry_after_max_s=1), _SHED, 1, Random(1)) is None
    assert pause_s(Retry(refused="never"), _LIMITED, 1, Random(1)) is None


def test_a_storm_comes_back_at_once_until_its_attempts_are_spent() -> None:
    """It hears no Retry-After; only a final no sends it away."""
    assert pause_s(_STORM, _SHED, 1, Random(1)) == 0
    assert pause_s(_STORM, _LIMITED, 2, Random(1)) == 0
    assert pause_s(_STORM, _LIMITED, 3, Random(1)) is None
    no = Answer(status_code=200, status="not_accepted", reason="sold_out", final=True)
    assert pause_s(_STORM, no, 1, Random(1)) is None
    no.final = False
    assert pause_s(_STORM, no, 1, Random(1)) == 0


def test_an_unclear_reply_is_asked_for_again_with_growing_pauses() -> None:
    """Whatever the profile thinks of refusals: not to know is no answer."""
    lost = Answer(status_code=502)
    pauses = [pause_s(Retry(refused="never"), lost, n, Random(1)) or 0 for n in range(1, 6)]
    assert pauses == sorted(pauses)
    assert 0.02 <= pauses[0] <= 0.05
    assert pause_s(_POLITE, _UNKNOWN, 1, Random(1)) == pytest.approx(1.0)
    assert pause_s(_POLITE, lost, 6, Random(1)) is None


def test_a_receipt_and_a_malformed_intent_are_not_sent_again() -> None:
    """The first is done; the second will never be taken."""
    assert pause_s(_STORM, Answer(status_code=202, intent_id="x"), 1, Random(1)) is None
    assert (
        pause_s(_STORM, Answer(status_code=422, code="idempotency_conflict"), 1, Random(1)) is None
    )


def test_an_answer_is_read_when_it_is_whole() -> None:
    """Answers come in pieces; nothing is taken from a part of one."""
    whole = b"HTTP/1.1 503 X\r\nRetry-After: 7\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    for end in range(len(whole)):
        assert read(whole[:end]) is None
    assert read(whole) == Reply(503, b"{}", 7.0, True)
    assert read(b"HTTP/1.1 100 Continue\r\n\r\n" + whole) == Reply(503, b"{}", 7.0, True)


_RECEIPT = b'{"intent_id":"0190163d-8694-739b-aea5-0123456789ab","status":"accepted"}'


@pytest.mark.parametrize("length", [b"content-length:", b"Content-Length:", b"content-length: "])
@pytest.mark.parametrize(("last", "close"), [(b"", False), (b"Connection: close\r\n", True)])
def test_a_receipt_is_read_alike_however_it_comes(length: bytes, last: bytes, close: bool) -> None:
    """In one piece or in many, its headers spelt as the server likes."""
    head = b"HTTP/1.1 202 Accepted\r\n%b %d\r\n%b\r\n" % (length, len(_RECEIPT), last)
    whole = head + _RECEIPT
    for end in range(len(whole)):
        assert read(whole[:end]) is None
    reply = read(whole)
    assert reply == Reply(202, _RECEIPT, 0.0, close)
    assert receipt(reply) == "0190163d-8694-739b-aea5-0123456789ab"


def test_only_a_receipt_that_names_its_intent_is_one() -> None:
    """An intent told as decided, and an answer without an intent, are read with more care."""
    for status, body in ((200, b'{"intent_id":"a"}'), (202, b"<html>"), (202, b'{"x":1}')):
        assert receipt(Reply(status, body, 0.0, False)) is None


def test_a_receipt_that_cannot_be_read_is_none() -> None:
    """A sender who cannot read the answer does not know; it asks again."""
    assert answer(Reply(202, b"<html>", 0, False)).status_code == 502
    assert answer(Reply(503, b"<html>", 0, False)).status_code == 503


def test_a_batch_is_answered_item_by_item_as_an_array_or_as_lines() -> None:
    """A batch with a missing result tells nothing about any of its intents."""
    array = b'[{"status_code":202,"intent_id":"a"},{"status_code":503,"accepted":"no"}]'
    lined = b'{"status_code":202,"intent_id":"a"}\n{"status_code":503,"accepted":"no"}\n'
    for body in (array, lined):
        first, second = answers(Reply(200, body, 0, False), 2)
        assert (first.intent_id, second.why) == ("a", "unavailable")
    assert [said.status_code for said in answers(Reply(200, array, 0, False), 3)] == [502] * 3


def test_a_base_url_is_taken_apart() -> None:
    """A path or a missing host is a mistake that would otherwise show as a hundred thousand 404s."""
    assert target("https://api.example", "k").port == 443
    assert target("http://[::1]:8080/", "k").host == "::1"
    for wrong in ("localhost:8080", "http://x/v1", "ftp://x"):
        with pytest.raises(ValueError, match="base URL"):
            target(wrong, "k")
