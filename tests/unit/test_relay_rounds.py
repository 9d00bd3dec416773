"""A relay's rounds: what is heard while it records, and what cannot be written."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from workers.domain.delivery import Answer, EventType, Fate
from workers.service.letters import Letter
from workers.service.relay import Bounds, Relay
from workers.store.outbox import Entry, Result, Told
from workers.store.webhooks import Endpoint, Health

AT = datetime(2026, 2, 6, 12, 0, tzinfo=UTC)
LEASE = UUID(int=9)
QUICK = Bounds(interval_ms=10)


def entry(number: int, endpoint_id: int = 1) -> Entry:
    """An event that is due."""
    return Entry(
        entry_id=number,
        endpoint_id=endpoint_id,
        subject_id=UUID(int=number),
        event=EventType.COMMITTED,
        occurred_at=AT,
        data=None,
        attempts=0,
        age_s=0.0,
        lease_id=LEASE,
    )


class Store:
    """Holds entries until they are claimed, and keeps what it is told."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = list(entries)
        self.results: list[Result] = []
        self.health: list[Health] = []
        self.recording: Callable[[], object] = lambda: None  # called before health is kept

    def read_enabled(self) -> list[Endpoint]:
        return [
            Endpoint(
                endpoint_id=endpoint_id,
                gateway_id="chat",
                url="https://hooks.example/",
                secret_refs=("ref",),
                failures=0,
                pause_s=0.0,
                failing_s=0.0,
            )
            for endpoint_id in (1, 2)
        ]

    def claim(self, room: Mapping[int, int], lease_ms: int) -> list[Entry]:
        taken, self.entries = self.entries, []
        return taken

    def claim_probes(self, endpoint_ids: Sequence[int], lease_ms: int) -> list[Entry]:
        return []

    def read_told(self, intent_ids: Sequence[UUID]) -> Mapping[UUID, Told]:
        return {}

    def record(self, results: Sequence[Result]) -> None:
        self.results += results

    def record_health(self, found: Sequence[Health]) -> None:
        self.recording()
        self.health += found

    def disable_gone(self, endpoint_id: int) -> bool:
        raise AssertionError("nobody is gone")


class Writer:
    """Writes all letters but one."""

    unwritable = 0

    def write(self, entry: Entry, told: Told | None) -> Letter:
        if entry.entry_id == self.unwritable:
            raise LookupError("the key of its coupon is gone")
        return Letter(str(entry.entry_id), b"{}")

    def sign(self, endpoint: Endpoint, letter: Letter) -> dict[str, str]:
        return {"webhook-id": letter.message_id}


class Poster:
    """Answers each letter as `answer` says."""

    def __init__(self, answer: Callable[[int], Answer]) -> None:
        self.answer = answer

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        return await asyncio.to_thread(self.answer, int(headers["webhook-id"]))


def deliver(
    store: Store, poster: Poster, writer: Any, reached: Callable[[], bool], **given: Any
) -> None:
    """Let a relay go round until that is reached."""

    async def run() -> None:
        relay = Relay(store, poster, writer, QUICK, **given)
        stop = asyncio.Event()
        going = asyncio.create_task(relay.run(stop))
        try:
            async with asyncio.timeout(10):
                while not reached():
                    await asyncio.sleep(0.005)
        finally:
            stop.set()
            await going

    asyncio.run(run())


def test_a_pause_that_is_asked_for_while_health_is_recorded_is_recorded_next() -> None:
    """The other relays would go on posting, and so would this one after a restart."""
    recording, heard = threading.Event(), threading.Event()
    store = Store([entry(1), entry(2)])

    def answer(number: int) -> Answer:
        if number == 1:
            return Answer(status=500)
        assert recording.wait(5)
        return Answer(status=429, retry_after_s=1_000)

    def hold() -> None:
        if not recording.is_set():
            recording.set()
            assert heard.wait(5)

    def observe(found: Entry, *_: object) -> None:
        if found.entry_id == 2:
            heard.set()

    store.recording = hold
    deliver(store, Poster(answer), Writer(), lambda: len(store.health) == 2, observe=observe)
    before, after = store.health
    assert before.failures == after.failures == 1
    assert after.pause_ms > 900_000


def test_health_that_could_not_be_recorded_is_recorded_later() -> None:
    """What the database did not take is not forgotten."""
    store = Store([entry(1)])
    lost: list[Exception] = []

    def lose_once() -> None:
        if not lost:
            raise ConnectionError("gone")

    store.recording = lose_once
    poster = Poster(lambda _: Answer(status=500))
    deliver(store, poster, Writer(), lambda: bool(store.health), failed=lost.append)
    assert len(lost) == 1
    assert store.health[0].failures == 1


def test_an_entry_that_cannot_be_written_fails_alone() -> None:
    """Its endpoint's other events, and other endpoints', are posted; it is tried again later."""
    store = Store([entry(1), entry(2), entry(3, 2)])
    writer, failed = Writer(), []
    writer.unwritable = 1
    poster = Poster(lambda _: Answer(status=204))
    deliver(store, poster, writer, lambda: len(store.results) == 3, failed=failed.append)
    told = {result.entry_id: result for result in store.results}
    assert [told[number].fate for number in (1, 2, 3)] == [
        Fate.AGAIN,
        Fate.DELIVERED,
        Fate.DELIVERED,
    ]
    assert "the key of its coupon is gone" in (told[1].error or "")
    assert told[1].counted
    assert [type(error) for error in failed] == [LookupError]
    assert store.health == [], "its endpoint has nothing to do with it"
