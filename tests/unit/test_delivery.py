"""When an event is attempted again, when it is given up, and what disables an endpoint."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workers.domain.delivery import (
    DISABLE_AFTER_S,
    GIVE_UP_AFTER_S,
    JITTER,
    RETRY_DELAYS_S,
    Answer,
    Fate,
    disabling_reason,
    is_failing,
    judge,
    probe_pause_s,
    retry_after_s,
)

NOW = datetime(2026, 2, 6, 12, 0, tzinfo=UTC)
ERROR = Answer(status=500)


def test_any_answer_of_the_two_hundreds_is_a_delivery() -> None:
    """Whatever its body says."""
    assert {judge(Answer(status=status), 0, 0, 0).fate for status in (200, 202, 204, 299)} == {
        Fate.DELIVERED
    }


@pytest.mark.parametrize(
    "answer",
    [
        *(Answer(status=status) for status in (100, 301, 302, 307, 400, 401, 404, 410, 500, 502)),
        Answer(error="connection: refused"),
        Answer(status=429),
        Answer(status=503),
    ],
)
def test_any_other_answer_is_attempted_again_after_five_seconds(answer: Answer) -> None:
    """Redirects too: whoever moved tells us the new URL, not the sender of every event."""
    judgement = judge(answer, 0, 0, 0)
    assert (judgement.fate, judgement.delay_s, judgement.counted) == (Fate.AGAIN, 5, True)


def test_attempts_follow_the_example_of_standard_webhooks() -> None:
    """Ten of them, the last 75 hours, 35 minutes and 5 seconds after the first."""
    delays = [judge(ERROR, attempts, 0, 0).delay_s for attempts in range(len(RETRY_DELAYS_S))]
    assert delays == [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]
    assert sum(delays) == 75 * 3600 + 35 * 60 + 5
    assert judge(ERROR, len(RETRY_DELAYS_S), 0, 0).fate is Fate.DEAD


def test_jitter_makes_a_pause_longer_and_never_shorter() -> None:
    """By a fifth at most; failures that came together go apart."""
    longest = judge(ERROR, 3, 0, 1).delay_s
    assert longest == pytest.approx(RETRY_DELAYS_S[3] * (1 + JITTER))
    assert judge(ERROR, 3, 0, 0.5).delay_s == pytest.approx((RETRY_DELAYS_S[3] + longest) / 2)


def test_the_whole_schedule_fits_into_the_age_at_which_events_are_given_up() -> None:
    """Even with all its jitter: age ends what attempts do not."""
    assert sum(RETRY_DELAYS_S) * (1 + JITTER) < GIVE_UP_AFTER_S < DISABLE_AFTER_S


def test_an_event_that_is_too_old_is_given_up_whatever_it_was_answered() -> None:
    """Retry-After counts no attempt; without this it would go on for ever."""
    busy = Answer(status=429, retry_after_s=10)
    assert judge(busy, 0, GIVE_UP_AFTER_S, 0).fate is Fate.DEAD
    assert judge(Answer(status=200), 0, GIVE_UP_AFTER_S, 0).fate is Fate.DELIVERED


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("asked", "given"), [(7, 7), (0, 1), (-5, 1), (10**9, 3600)])
def test_retry_after_is_honoured_within_bounds(status: int, asked: float, given: float) -> None:
    """For the whole endpoint, and as no attempt of the schedule's."""
    judgement = judge(Answer(status=status, retry_after_s=asked), 2, 0, 0)
    assert (judgement.delay_s, judgement.pauses_s, judgement.counted) == (given, given, False)


def test_retry_after_of_another_status_changes_nothing() -> None:
    """Only overload may ask for a pause."""
    assert judge(Answer(status=500, retry_after_s=3000), 0, 0, 0).delay_s == 5


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("120", 120),
        (" 7 ", 7),
        ("Fri, 06 Feb 2026 12:00:30 GMT", 30),
        ("Fri, 06 Feb 2026 11:59:00 GMT", -60),
        ("soon", None),
        ("-3", None),
        ("1.5", None),
        ("٣", None),
        ("9" * 400, 999_999_999),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    """What is neither is ignored."""
    assert retry_after_s(header, NOW) == seconds


HUGE = st.integers(-(10**30), 10**30)
DATES = st.builds("Sat, {} Jan {} {}:00:00 {:+}".format, HUGE, HUGE, HUGE, HUGE)


@given(st.text() | DATES)
@example("Sat, 01 Jan 99999999999 00:00:00 GMT")
def test_whatever_a_receiver_says_of_when_to_come_back_is_read_or_is_nothing(header: str) -> None:
    """What raised would leave an attempt without an answer."""
    read = retry_after_s(header, NOW)
    assert read is None or isinstance(read, float)


def test_gone_disables_and_nothing_else_does() -> None:
    """Standard Webhooks: the receiver wants no more."""
    disabling = {s for s in range(100, 600) if judge(Answer(status=s), 0, 0, 0).disables}
    assert disabling == {410}
    assert judge(Answer(status=410), len(RETRY_DELAYS_S), 0, 0).disables


def test_an_endpoint_fails_after_five_failures_in_a_row_and_is_probed_ever_less_often() -> None:
    """From one second to a minute."""
    assert [is_failing(failures) for failures in (0, 4, 5, 6)] == [False, False, True, True]
    assert [probe_pause_s(failures) for failures in (4, 5, 6, 7, 10, 11, 10_000)] == [
        *(0, 1, 2, 4, 32),
        *(60, 60),
    ]


def test_an_endpoint_that_nobody_looks_after_is_disabled() -> None:
    """After five days, or when what waits for it has grown beyond reason."""
    assert disabling_reason(DISABLE_AFTER_S - 1, 1_000_000) is None
    assert disabling_reason(DISABLE_AFTER_S, 0) == "failing"
    assert disabling_reason(60, 1_000_001) == "backlog"
