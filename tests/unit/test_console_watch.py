"""However many watch, the servers are asked once a second at most; and what is old says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from producer.console import watch as module
from producer.console.watch import Told, Watch
from producer.http.api import Api
from producer.http.problems import Code, Problem
from producer.levels import LevelBook, Standing
from workers.domain.overload import Level
from workers.store.figures import Budget, Campaign, Figures, Stock, Tally
from workers.store.overview import Overview


def an_overview(committed: int = 40) -> Overview:
    tallies = [
        Tally("spring", "order", "", committed, 0),
        Tally("spring", "order", "sold_out", 3, 0),
    ]
    campaigns = [
        Campaign("spring", "CNY", False, Budget(100, 50, 20, 30)),
        Campaign("bare", "CNY", False, None),
    ]
    stock = [Stock("spring", "tea", 10, 4, 1, 5), Stock("spring", "bun", 20, 20, 0, 0)]
    return Overview(
        figures=Figures(tallies, 7, 1.25, 0, campaigns, stock),
        ordered=None,
        pauses={},
        merchants=[],
        acts=[],
        workers=2,
    )


class World:
    """An API whose servers count how often they are asked."""

    def __init__(self) -> None:
        self.reads = self.asks = 0
        self.answer: Callable[[], Awaitable[Overview]] = self._at_once
        self.levels = LevelBook()
        self.levels.standing = Standing(level=Level.THROTTLED, reason="wait", since_ms=1_000)
        self.api = SimpleNamespace(
            overview=self.read,
            hints=self.ask,
            levels=self.levels,
            waiters=SimpleNamespace(sojourn=SimpleNamespace(true_ms=lambda within_s: 12)),
            intake=SimpleNamespace(pending=3),
        )
        self.watch = Watch(cast(Api, self.api))

    async def read(self) -> Overview:
        self.reads += 1
        return await self.answer()

    async def _at_once(self) -> Overview:
        return an_overview()

    def ask(self) -> int:
        self.asks += 1
        return 5

    async def seen(self) -> dict[str, Any]:
        return cast(dict[str, Any], json.loads((await self.watch.current()).body))


def in_world(story: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        await story(World())

    asyncio.run(run())


def test_a_crowd_that_watches_is_one_reading() -> None:
    """A hundred at once share one look, and those who come within its second as well."""

    async def story(world: World) -> None:
        told = await asyncio.gather(*(world.watch.current() for _ in range(100)))
        assert len({id(one) for one in told}) == 1
        assert await world.watch.current() is told[0]
        assert (world.reads, world.asks) == (1, 1)

    in_world(story)


def test_nothing_is_asked_while_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even once."""
    monkeypatch.setattr(module, "INTERVAL_S", 0.01)

    async def story(world: World) -> None:
        await asyncio.sleep(0.05)
        assert (world.reads, world.asks) == (0, 0)

    in_world(story)


def test_a_second_later_it_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the first who wants to know."""
    monkeypatch.setattr(module, "INTERVAL_S", 0.01)
    monkeypatch.setattr(module, "REST_SHARE", 0)

    async def story(world: World) -> None:
        first = await world.watch.current()
        await asyncio.sleep(0.02)
        assert await world.watch.current() is not first
        assert world.reads == 2

    in_world(story)


def test_a_slow_reading_is_repeated_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine times what it took, it rests: a large table is not counted all the time."""
    monkeypatch.setattr(module, "INTERVAL_S", 0.001)

    async def slow() -> Overview:
        await asyncio.sleep(0.1)
        return an_overview()

    async def story(world: World) -> None:
        world.answer = slow
        began = asyncio.get_running_loop().time()
        while world.reads < 2:
            await world.watch.current()
            await asyncio.sleep(0.002)
        assert asyncio.get_running_loop().time() - began >= 0.1 + 9 * 0.1

    in_world(story)


def test_a_database_that_hangs_holds_no_viewer_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known is told without it, and that it is away."""
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)
    hanging = asyncio.Event()

    async def hang() -> Overview:
        await hanging.wait()
        return an_overview()

    async def story(world: World) -> None:
        world.answer = hang
        seen = await world.seen()
        assert seen["read_at"] is None
        assert seen["campaigns"] == []
        assert seen["level"]["level"] == "throttled"
        assert {"name": "PostgreSQL", "up": False} in seen["dependencies"]
        hanging.set()

    in_world(story)


def test_what_was_read_last_stays_with_its_time_when_reading_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wall of dashes in the worst hour helps nobody."""
    monkeypatch.setattr(module, "INTERVAL_S", 0.001)
    monkeypatch.setattr(module, "REST_SHARE", 0)

    async def fail() -> Overview:
        raise Problem(Code.READING_UNAVAILABLE, "away")

    async def story(world: World) -> None:
        before = await world.seen()
        world.answer = fail
        await asyncio.sleep(0.01)
        after = await world.seen()
        assert after["campaigns"] == before["campaigns"] != []
        assert after["read_at"] == before["read_at"]
        assert after["rates"]["committed"] is None
        assert {"name": "PostgreSQL", "up": False} in after["dependencies"]

    in_world(story)


def test_a_broker_that_cannot_be_asked_is_down_and_its_length_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever its transport raises, and whatever it said before."""
    monkeypatch.setattr(module, "INTERVAL_S", 0.001)

    async def story(world: World) -> None:
        assert (await world.seen())["queue"]["hints"] == 5
        await asyncio.sleep(0.01)

        def fail() -> int:
            raise ConnectionRefusedError

        world.api.hints = fail
        seen = await world.seen()
        assert seen["queue"]["hints"] is None
        assert {"name": "Broker", "up": False} in seen["dependencies"]

    in_world(story)


def test_a_summary_adds_up_what_the_tables_say() -> None:
    """Commits without bulk coupons, stock of the items shown, refusals where they were given."""

    async def story(world: World) -> None:
        seen = await world.seen()
        assert seen["committed"] == 40
        assert seen["queue"] == {
            "open": 7,
            "oldest_age_s": 1.25,
            "in_flight": 0,
            "hints": 5,
            "pending": 3,
            "quarantined": 0,
            "workers": 2,
        }
        campaign, bare = seen["campaigns"]
        assert campaign["stock"] == {"initial": 30, "available": 24, "reserved": 1, "sold": 5}
        assert campaign["budget"] == {"initial": 100, "available": 50, "reserved": 20, "spent": 30}
        assert bare["budget"] is None
        decided = [one for one in seen["refusals"] if one["where"] == "decision"]
        assert decided == [
            {"where": "decision", "reason": "sold_out", "last_minute": 0, "total": 3}
        ]

    in_world(story)


def test_who_stops_watching_ends_nobody_elses_look() -> None:
    """A viewer that leaves in the middle takes only itself away."""

    async def story(world: World) -> None:
        leaving = asyncio.ensure_future(world.watch.current())
        staying = asyncio.ensure_future(world.watch.current())
        await asyncio.sleep(0)
        leaving.cancel()
        assert isinstance(await staying, Told)

    in_world(story)
