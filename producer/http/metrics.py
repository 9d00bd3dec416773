"""The API's series. Their labels are few and fixed: never a user's, an intent's or a gateway's."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Sequence

from prometheus_client import Counter, Histogram

from producer.answers import (
    Accepted,
    Answer,
    Conflict,
    IssuancePaused,
    Limited,
    NotAccepted,
    Replayed,
    Unanswered,
)

INTENTS_ANSWERED = Counter(
    "tidegate_intents_answered_total",
    "Intents answered by the intake, by answer.",
    ["answer"],
)
BATCH_INTENTS = Histogram(
    "tidegate_intake_batch_intents",
    "Intents in one batch of the intake.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000),
)

_WORDS = {
    Accepted: "accepted",
    Replayed: "replayed",
    Conflict: "conflict",
    Limited: "limited",
    NotAccepted: "not_accepted",
    IssuancePaused: "issuance_paused",
}
_BY_ANSWER = {
    word: INTENTS_ANSWERED.labels(word)
    for word in (*_WORDS.values(), "unanswered_no", "unanswered_unknown")
}


def observe_batch(answers: Sequence[Answer]) -> None:
    """Count the answers of a batch."""
    BATCH_INTENTS.observe(len(answers))
    for word, count in Count([word_of(answer) for answer in answers]).items():
        _BY_ANSWER[word].inc(count)


def observe_excuse(answer: Answer) -> None:
    """Count an answer that no batch gave."""
    _BY_ANSWER[word_of(answer)].inc()


def word_of(answer: Answer) -> str:
    """Name an answer in one word."""
    if isinstance(answer, Unanswered):
        return f"unanswered_{answer.accepted}"
    return _WORDS[type(answer)]
