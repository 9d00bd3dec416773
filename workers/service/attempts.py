"""Attempts: transactions over a batch, timed, and told for the intents whose traces are followed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from msgspec import Struct

from workers.domain.outcome import Outcome
from workers.store.batch import Claim


class Attempt(Struct, frozen=True):
    """One transaction, for those intents in it whose traces are followed.

    `followed` has for each its id, its place in the trace (`traceparent`, and `tracestate` or None),
    and its outcome in one word, or "" where the attempt decided nothing; `fault` is then the kind of
    error. `laps` says when each stage ended. Times are of `time.perf_counter`.
    """

    batch_id: UUID
    size: int
    followed: list[tuple[UUID, tuple[str, str | None], str]]
    began: float
    ended: float
    laps: list[tuple[str, float]]
    fault: str


class Watch:
    """Notes the milliseconds since the last lap under a stage, and when each stage ended."""

    def __init__(self, stages: defaultdict[str, list[float]]) -> None:
        self._stages = stages
        self.began = self._last = time.perf_counter()
        self.laps: list[tuple[str, float]] = []

    def lap(self, stage: str) -> None:
        """End a stage."""
        now = time.perf_counter()
        self._stages[stage].append((now - self._last) * 1000)
        self._last = now
        self.laps.append((stage, now))


def attempts_of(
    watch: Watch,
    batch_id: UUID,
    claim: Claim,
    outcomes: Sequence[Outcome] = (),
    fault: Exception | None = None,
) -> list[Attempt]:
    """Return the attempt at a claim, or nothing where none of its intents is followed."""
    followed = {
        intent.intent_id: (intent.body.traceparent, intent.body.tracestate)
        for intent in claim.intents
        if intent.body.traceparent is not None
    }
    if not followed:
        return []
    words = {
        outcome.intent.intent_id: outcome.refusal.value if outcome.refusal else "committed"
        for outcome in outcomes
    }
    return [
        Attempt(
            batch_id=batch_id,
            size=len(claim.intents),
            followed=[(one, place, words.get(one, "")) for one, place in followed.items()],
            began=watch.began,
            ended=time.perf_counter(),
            laps=watch.laps,
            fault="" if fault is None else type(fault).__name__,
        )
    ]
