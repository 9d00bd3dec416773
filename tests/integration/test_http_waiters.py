"""Waiting for outcomes on the real channel: heard at once, found anyway, never confused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import redis
from msgspec.structs import replace

from producer.sojourn import FALLBACK_MS
from producer.waiters import SAMPLES_PER_BATCH, Waiters
from workers.contract import announce
from workers.contract.gate import open_client
from workers.contract.ids import uuid7, uuid7_floor
from workers.contract.resource import IntentResource, pack
from workers.domain.odds import Takings
from workers.domain.outcome import Refusal

CHANNEL = "{waiters}:outcomes"


class Channel:
    """The server's side: announces, and cuts the listeners off."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = redis.Redis.from_url(url)
        self.journal: dict[UUID, IntentResource] = {}
        self.looks = 0
        self.away = False

    def announce(self, *ids: UUID) -> None:
        outcomes = [(intent_id, pack(outcome(intent_id))) for intent_id in ids]
        self.client.publish(CHANNEL, announce.encode(outcomes))

    async def read(self, intent_id: UUID) -> IntentResource | None:
        self.looks += 1
        if self.away:
            raise OSError("no journal")
        return self.journal.get(intent_id)


def outcome(intent_id: UUID, decided: bool = True) -> IntentResource:
    now = datetime.now(UTC)
    return IntentResource(
        intent_id=intent_id,
        kind="order",
        gateway_id="chat",
        user_id="u",
        locale=None,
        accepted_at=now,
        decided_at=now if decided else None,
    )


@pytest.fixture
def channel(valkey_url: str) -> Channel:
    return Channel(valkey_url)


def run(channel: Channel, scenario: Callable[[Waiters], Awaitable[None]]) -> None:
    async def whole() -> None:
        waiters = Waiters(lambda: open_client(channel.url, timeout_ms=1_000), CHANNEL, channel.read)
        waiters.start()
        try:
            await until(lambda: waiters.listening)
            await scenario(waiters)
        finally:
            waiters.close()

    asyncio.run(asyncio.wait_for(whole(), timeout=30))


async def until(reached: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_an_announced_outcome_is_heard_at_once_and_without_a_look(channel: Channel) -> None:
    """Of a batch for everybody, each waiter hears its own."""

    async def scenario(waiters: Waiters) -> None:
        ids = [uuid7() for _ in range(3)]
        with waiters.waiting(ids[0]) as first, waiters.waiting(ids[2]) as third:
            waits = [asyncio.ensure_future(one.outcome(5)) for one in (first, third)]
            channel.announce(uuid7(), *ids)
            heard = await asyncio.gather(*waits)
        assert [one and one.intent_id for one in heard] == [ids[0], ids[2]]
        assert channel.looks == 0
        assert waiters.count == 0

    run(channel, scenario)


@pytest.mark.parametrize("off", [timedelta(hours=-1), timedelta(hours=1)])
def test_how_long_outcomes_take_is_told_by_the_databases_clock(
    channel: Channel, off: timedelta
) -> None:
    """Not by that of this process, nor by that of whoever made the id."""

    async def scenario(waiters: Waiters) -> None:
        then = datetime.now(UTC) + off
        decided = replace(
            outcome(uuid7_floor(then)), accepted_at=then, decided_at=then + timedelta(seconds=7)
        )
        record = (decided.intent_id, pack(decided))
        channel.client.publish(CHANNEL, announce.encode([record]))
        await until(lambda: waiters.sojourn.wait_ms() != FALLBACK_MS)
        assert waiters.sojourn.wait_ms() == 7_000

    run(channel, scenario)


def test_an_outcome_that_comes_before_the_wait_begins_is_not_missed(channel: Channel) -> None:
    """Registered before the submission: between receipt and wait nothing is lost."""

    async def scenario(waiters: Waiters) -> None:
        intent_id = uuid7()
        with waiters.waiting(intent_id) as waiter:
            channel.announce(intent_id)
            await asyncio.sleep(0.2)
            heard = await waiter.outcome(5)
        assert heard is not None
        assert channel.looks == 0

    run(channel, scenario)


def test_two_who_wait_for_one_intent_both_hear_it(channel: Channel) -> None:
    """A poller and a stream may wait for the same outcome."""

    async def scenario(waiters: Waiters) -> None:
        intent_id = uuid7()
        with waiters.waiting(intent_id) as one, waiters.waiting(intent_id) as two:
            waits = asyncio.gather(one.outcome(5), two.outcome(5))
            await asyncio.sleep(0)
            channel.announce(intent_id)
            assert all(await waits)

    run(channel, scenario)


def test_a_lost_announcement_is_made_up_for_by_the_journal(channel: Channel) -> None:
    """Who hears nothing looks, less and less often, and not at what is undecided."""

    async def scenario(waiters: Waiters) -> None:
        intent_id = uuid7()
        channel.journal[intent_id] = outcome(intent_id, decided=False)
        with waiters.waiting(intent_id) as waiter:
            assert await waiter.outcome(2) is None
            assert 1 <= channel.looks <= 3
            channel.away = True
            assert await waiter.outcome(1, look_first=True) is None
            channel.away = False
            channel.journal[intent_id] = outcome(intent_id)
            assert await waiter.outcome(2, look_first=True) is not None

    run(channel, scenario)


def test_a_listener_cut_off_listens_again(channel: Channel) -> None:
    """Meanwhile the journal is looked at more often; afterwards announcements are heard again."""

    async def scenario(waiters: Waiters) -> None:
        channel.client.client_kill_filter(_type="pubsub")
        await until(lambda: not waiters.listening)
        await until(lambda: waiters.listening)
        intent_id = uuid7()
        with waiters.waiting(intent_id) as waiter:
            wait = asyncio.ensure_future(waiter.outcome(5))
            channel.announce(intent_id)
            assert await wait is not None
        assert channel.looks == 0

    run(channel, scenario)


def test_noise_on_the_channel_harms_nobody(channel: Channel) -> None:
    """What cannot be read is skipped: the next announcement is heard."""

    async def scenario(waiters: Waiters) -> None:
        intent_id = uuid7()
        with waiters.waiting(intent_id) as waiter:
            channel.client.publish(CHANNEL, b"\xff noise")
            channel.client.publish(CHANNEL, announce.encode([(intent_id, b"not a resource")]))
            channel.announce(intent_id)
            assert await waiter.outcome(5) is not None
        assert waiters.listening

    run(channel, scenario)


def test_those_who_wait_are_let_go_at_the_end(channel: Channel) -> None:
    """A process that ends keeps nobody until the end of his wait."""

    async def scenario(waiters: Waiters) -> None:
        with waiters.waiting(uuid7()) as waiter:
            wait = asyncio.ensure_future(waiter.outcome(30))
            await asyncio.sleep(0.1)
            began = time.monotonic()
            waiters.release()
            assert await wait is None
            assert time.monotonic() - began < 0.5

    run(channel, scenario)


def test_what_share_takes_is_counted_from_what_is_announced(channel: Channel) -> None:
    """Whoever waits, or nobody; what cannot be read counts as nothing."""

    def announced(refusal: Refusal | None, count: int) -> bytes:
        ids = [uuid7() for _ in range(count)]
        told = [(one, pack(replace(outcome(one), refusal=refusal))) for one in ids]
        return announce.encode([*told, (uuid7(), b"not a resource")])

    async def scenario(waiters: Waiters) -> None:
        assert waiters.takings == Takings()
        channel.client.publish(CHANNEL, announced(Refusal.COUPON_EXPIRED, 2))
        channel.client.publish(CHANNEL, announced(Refusal.SOLD_OUT, 2))
        channel.client.publish(CHANNEL, announced(None, 100 * SAMPLES_PER_BATCH - 1))
        await until(lambda: waiters.takings.taken > 0)
        assert waiters.takings == Takings(taken=SAMPLES_PER_BATCH, forgone=2)

    run(channel, scenario)


def test_who_has_closed_hears_nothing_more(channel: Channel) -> None:
    """Nor does a listener that never reached a server keep its thread."""

    async def scenario() -> None:
        unreached = lambda: open_client("redis://127.0.0.1:1/0", timeout_ms=100)  # noqa: E731
        heard = lambda: open_client(channel.url, timeout_ms=1_000)  # noqa: E731
        for open_one in (unreached, heard):
            waiters = Waiters(open_one, CHANNEL, channel.read)
            waiters.start()
            await until(
                lambda waiters=waiters, opened=open_one: waiters.listening is (opened is heard)
            )  # type: ignore[misc]
            waiters.close()
            assert not waiters._hearing._thread.is_alive()

    asyncio.run(scenario())
