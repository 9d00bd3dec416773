"""A waiter tells once, whatever comes in one turn of the event loop."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from uuid import UUID

import redis

from producer.waiters import DEAF_LOOK_S, Waiters
from workers.contract.ids import uuid7
from workers.contract.resource import IntentResource, pack

TURNS = 10  # more than a look into the journal takes here


def outcome(intent_id: UUID) -> IntentResource:
    now = datetime.now(UTC)
    return IntentResource(
        intent_id=intent_id,
        kind="order",
        gateway_id="chat",
        user_id="u",
        locale=None,
        accepted_at=now,
        decided_at=now,
    )


def nobody() -> redis.Redis:
    raise AssertionError("nobody listens here")


def test_an_outcome_that_is_heard_as_its_time_to_look_comes_is_told_once() -> None:
    """Twice would be an answer more on the caller's connection: that of the next call there."""
    intent_id = uuid7()
    told: list[IntentResource | None] = []

    async def read(asked: UUID) -> IntentResource | None:
        return outcome(asked)

    async def whole() -> None:
        loop = asyncio.get_running_loop()
        waiters = Waiters(nobody, "outcomes", read)
        waiters.register(intent_id).tell_outcome(5.0, told.append)
        time.sleep(
            2 * DEAF_LOOK_S
        )  # a busy moment: what came meanwhile, and what is due, come together
        loop.call_soon(waiters._deliver, [(intent_id.bytes, pack(outcome(intent_id)))])
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert waiters.count == 0

    asyncio.run(whole())
    assert [one.intent_id for one in told if one is not None] == [intent_id]
