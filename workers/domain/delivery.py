"""Webhooks: what is told, when an attempt is repeated, when it is given up, what disables.

The schedule is the example of Standard Webhooks: at once, and nine more times over three days. What
answers 429 or 503 and says when to come back is asked again then, and the attempt is not counted;
its age ends it. An endpoint that fails time after time is probed with one event at a time, so that
what is dead takes no room from what is alive; the others wait, and are attempted once it answers.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

from msgspec import Struct


class EventType(StrEnum):
    """What an endpoint may be told. A status that an order was decided with is no change of it."""

    COMMITTED = "tidegate.intent.committed"
    REFUSED = "tidegate.intent.refused"
    CONFIRMED = "tidegate.order.confirmed"
    EXPIRED = "tidegate.order.expired"
    CANCELLED = "tidegate.order.cancelled"
    LEVEL_CHANGED = "tidegate.level.changed"
    TEST = "tidegate.test"


# What an endpoint may ask for; a test is sent to whoever is tested.
EVENTS: Final = tuple(event.value for event in EventType if event is not EventType.TEST)

MINUTE_S, HOUR_S, DAY_S = 60.0, 3_600.0, 86_400.0

RETRY_DELAYS_S: Final = (
    5.0,
    5 * MINUTE_S,
    30 * MINUTE_S,
    2 * HOUR_S,
    5 * HOUR_S,
    10 * HOUR_S,
    14 * HOUR_S,
    20 * HOUR_S,
    24 * HOUR_S,
)
JITTER: Final = 0.2  # of a delay, on top of it: failures that came together go apart
# No event is tried for longer: the whole schedule with its jitter, and the queue before it.
GIVE_UP_AFTER_S: Final = 4 * DAY_S
# An endpoint that has answered nothing well for so long is one that nobody looks after.
DISABLE_AFTER_S: Final = 5 * DAY_S
# Undelivered events of a failing endpoint; beyond it the outbox would only grow.
BACKLOG_MAX: Final = 1_000_000
# What a receiver may ask for by Retry-After; a typing error of its own must not end in silence.
RETRY_AFTER_MIN_S, RETRY_AFTER_MAX_S = 1.0, HOUR_S

ERROR_CHARS_MAX: Final = 200  # it may quote the receiver, and is kept with every event

FAILURES_MAX: Final = 5  # in a row: then the endpoint fails, not the event
PROBE_PAUSE_MIN_S, PROBE_PAUSE_MAX_S = 1.0, MINUTE_S

_GONE, _TOO_MANY, _UNAVAILABLE = 410, 429, 503


class Answer(Struct, frozen=True, kw_only=True):
    """What came of one attempt: a status, or `error` in words. `body` is its beginning."""

    status: int | None = None
    error: str = ""
    retry_after_s: float | None = None
    body: bytes = b""
    took_ms: float = 0.0

    @property
    def delivered(self) -> bool:
        """Whether the receiver took it."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def fault(self) -> str:
        """Why it was not delivered, in words for an operator."""
        return self.error or f"answered {self.status}"


class Fate(StrEnum):
    """What becomes of an event after an attempt."""

    DELIVERED = "delivered"
    AGAIN = "again"
    DEAD = "dead"  # given up; kept for an operator to replay


class Judgement(Struct, frozen=True):
    """What becomes of an event, and of its endpoint.

    `counted` says whether it was one of the attempts that the schedule has. `pauses_s` is how long
    the whole endpoint asked to be left alone. `disables`: the endpoint wants nothing more.
    """

    fate: Fate
    delay_s: float = 0.0
    counted: bool = True
    pauses_s: float = 0.0
    disables: bool = False


def judge(answer: Answer, attempts: int, age_s: float, spread: float) -> Judgement:
    """Decide about an event that was attempted `attempts` times before, and queued `age_s` ago.

    `spread` is drawn from 0 to 1.
    """
    if answer.delivered:
        return Judgement(Fate.DELIVERED)
    if age_s >= GIVE_UP_AFTER_S:
        return Judgement(Fate.DEAD, disables=answer.status == _GONE)
    asked_s = _asked_s(answer)
    if asked_s is not None:
        return Judgement(Fate.AGAIN, delay_s=asked_s, counted=False, pauses_s=asked_s)
    if attempts >= len(RETRY_DELAYS_S):
        return Judgement(Fate.DEAD, disables=answer.status == _GONE)
    delay_s = RETRY_DELAYS_S[attempts] * (1 + JITTER * spread)
    return Judgement(Fate.AGAIN, delay_s=delay_s, disables=answer.status == _GONE)


def _asked_s(answer: Answer) -> float | None:
    """How long a receiver that is overloaded asked us to wait, within bounds."""
    if answer.status not in (_TOO_MANY, _UNAVAILABLE) or answer.retry_after_s is None:
        return None
    return min(max(answer.retry_after_s, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S)


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Read a Retry-After: seconds, or a date; None where it is neither."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return (at - now).total_seconds()


def is_failing(failures: int) -> bool:
    """Say whether an endpoint is to be probed, after so many failures in a row."""
    return failures >= FAILURES_MAX


def probe_pause_s(failures: int) -> float:
    """Return the time between two probes of a failing endpoint; 0 for one that is not."""
    if not is_failing(failures):
        return 0.0
    doublings = min(failures - FAILURES_MAX, 10)
    return float(min(PROBE_PAUSE_MIN_S * 2**doublings, PROBE_PAUSE_MAX_S))


def disabling_reason(failing_s: float, backlog: int) -> str | None:
    """Say why an endpoint that has failed for `failing_s` is disabled; None: it is not."""
    if failing_s >= DISABLE_AFTER_S:
        return "failing"
    return "backlog" if backlog > BACKLOG_MAX else None
