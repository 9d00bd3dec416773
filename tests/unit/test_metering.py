"""What an intake counts of an intent that never reached the gate."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from config import meters
from producer.answers import INTAKE_LIMIT, Answer, Limited, Posted, Unanswered
from producer.batcher import Batcher, Bounds
from producer.http.bootstrap import _Excuses
from workers.contract.ids import uuid7
from workers.domain.intent import IssuanceIntent, Line, OrderIntent

ORDER = OrderIntent(user_id="u", campaign_id="spring", lines=(Line("tea", 1),))
ISSUANCE = IssuanceIntent(user_id="u", campaign_id="spring")


class Stuck:
    """A lane's work that waits for something that is away."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def submit(self, batch: Sequence[Posted]) -> Sequence[Answer]:
        self.go.wait(30)
        return [Unanswered("no", "postgres") for _ in batch]

    def close(self) -> None:
        """Nothing to give back."""


def submitted_to_a_full_intake(posted: Posted, *, drained: bool = False) -> Answer:
    work = Stuck()

    async def story() -> Answer:
        bounds = Bounds(lanes=1, batch_max=1, pending_max=1, timeout_ms=20_000)
        batcher: Batcher[Posted, Answer] = Batcher("full", lambda: work, _Excuses(), bounds)
        batcher.submit(posted)
        if not drained:
            refused = await batcher.submit(posted)
        work.go.set()
        await batcher.drain()
        if drained:
            refused = await batcher.submit(posted)
        batcher.close()
        return refused

    return asyncio.run(story())


@pytest.mark.parametrize(("intent", "its_class"), [(ORDER, "order"), (ISSUANCE, "issuance")])
def test_an_intent_that_finds_the_intake_full_has_a_verdict(
    intent: OrderIntent | IssuanceIntent, its_class: str
) -> None:
    """Our limit refused it, as much as one of the gate's would have."""

    def counted() -> tuple[float, float]:
        answers = meters.readings("tidegate_intents_answered_total")
        verdicts = meters.readings("tidegate_verdicts_total")
        return answers.get(("limited",), 0), verdicts.get((its_class, INTAKE_LIMIT), 0)

    posted = Posted(intent_id=uuid7(), gateway_id="chat", idempotency_key="k", intent=intent)
    limited, shed = counted()
    refused = submitted_to_a_full_intake(posted)
    assert isinstance(refused, Limited)
    assert refused.limit == INTAKE_LIMIT
    assert counted() == (limited + 1, shed + 1)
    assert isinstance(submitted_to_a_full_intake(posted, drained=True), Limited)
    assert counted() == (limited + 2, shed + 1), "no load binds where a process ends"
