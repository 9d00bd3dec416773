"""What an intake counts: answers, verdicts, windows and the time of its stages.

Used by every process that has an intake: the API, and workers that take intents from Celery.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from config import meters
from config.catalogue import metric
from producer.answers import (
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
from workers.contract.admission import Verdict
from workers.domain.intent import Kind
from workers.domain.overload import IntentClass

_ANSWERS = meters.counters("tidegate_intents_answered_total")
_BATCH = meters.histogram("tidegate_intake_batch_intents")
_STAGES = meters.histograms("tidegate_intake_stage_seconds")
HINTS = meters.counters("tidegate_hints_published_total")
_WINDOWS = meters.counters("tidegate_appointments_total")
_VERDICTS = {
    (one, verdict): meters.counter(
        "tidegate_verdicts_total", **{"class": one.name.lower()}, verdict=verdict
    )
    for one in IntentClass
    for verdict in metric("tidegate_verdicts_total").labels["verdict"]
}
_WORDS = {
    Accepted: "accepted",
    Replayed: "replayed",
    Conflict: "conflict",
    Limited: "limited",
    NotAccepted: "not_accepted",
    IssuancePaused: "issuance_paused",
}


def count_answers(answers: Sequence[Answer]) -> None:
    """Count the answers of a batch."""
    _BATCH.observe(len(answers))
    told = Counter(map(type, answers))
    for kind, word in _WORDS.items():
        if told[kind]:
            _ANSWERS[word].inc(told[kind])
    if told[Unanswered]:
        for answer in answers:
            if type(answer) is Unanswered:
                _ANSWERS[word_of(answer)].inc()


def count_excuse(answer: Answer) -> None:
    """Count an answer that no batch gave."""
    _ANSWERS[word_of(answer)].inc()


def count_verdicts(classes: Sequence[IntentClass], verdicts: Sequence[Verdict]) -> None:
    """Count the gate's verdicts. In calm every order is of class `order`, whatever it holds."""
    told = Counter(
        [(one, verdict.limit or "admitted") for one, verdict in zip(classes, verdicts, strict=True)]
    )
    for key, count in told.items():
        _VERDICTS[key].inc(count)


def count_full(kind: Kind) -> None:
    """Count the verdict on an intent that found no place to wait for the gate's.

    Classes are told as in calm: by what it wishes for.
    """
    _VERDICTS[IntentClass[kind.name], INTAKE_LIMIT].inc()


def count_windows(*, given: int = 0, kept: int = 0, missed: int = 0) -> None:
    """Count windows in time: given to a refused intent, kept by one that came in it, or missed."""
    for fate, count in (("given", given), ("kept", kept), ("missed", missed)):
        if count:
            _WINDOWS[fate].inc(count)


class Watch:
    """Times the stages of one batch. `laps` says when each ended; times are of `perf_counter`."""

    def __init__(self) -> None:
        self.began = self._last = time.perf_counter()
        self.laps: list[tuple[str, float]] = []

    def lap(self, stage: str) -> None:
        """Count the time since the last lap as this stage's."""
        now = time.perf_counter()
        _STAGES[stage].observe(now - self._last)
        self._last = now
        self.laps.append((stage, now))


def word_of(answer: Answer) -> str:
    """Name an answer in one word."""
    if isinstance(answer, Unanswered):
        return f"unanswered_{answer.accepted}"
    return _WORDS[type(answer)]
