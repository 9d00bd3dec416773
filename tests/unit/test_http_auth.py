"""Keys: known at once, learnt soon, lost soon, and never a reason to hammer the database."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

import pytest

from producer.http import auth
from producer.http.auth import Gateway, Keys
from producer.http.problems import Code, Problem

CHAT = Gateway("chat", frozenset({"intents:write"}))
KEY = b"tg_chat_secret"


class Store:
    """The table of keys; counts how often it was read."""

    def __init__(self) -> None:
        self.keys = {hashlib.sha256(KEY).digest(): CHAT}
        self.away = False
        self.reads = 0

    async def load(self) -> dict[bytes, Gateway]:
        self.reads += 1
        if self.away:
            raise OSError("no database")
        return dict(self.keys)


def run(scenario: Callable[[Store, Keys], Awaitable[None]]) -> None:
    async def whole() -> None:
        store = Store()
        await scenario(store, Keys(store.load))

    asyncio.run(asyncio.wait_for(whole(), timeout=20))


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "LOOK_INTERVAL_S", 0.1)
    monkeypatch.setattr(auth, "REFRESH_INTERVAL_S", 0.05)


async def refused(keys: Keys, authorization: bytes | None) -> Code:
    with pytest.raises(Problem) as caught:
        await keys.identify(authorization)
    return caught.value.code


def test_a_key_names_its_gateway() -> None:
    """The scheme is read in any case, the key as it is."""

    async def scenario(store: Store, keys: Keys) -> None:
        assert await keys.identify(b"Bearer " + KEY) == CHAT
        assert keys.known(b"Bearer " + KEY) == CHAT
        assert await keys.identify(b"bearer  " + KEY) == CHAT
        assert store.reads == 1

    run(scenario)


@pytest.mark.parametrize("authorization", [None, b"", b"Basic eDp5", b"Bearer", b"Bearer  "])
def test_a_call_without_a_key_is_refused_without_a_look(authorization: bytes | None) -> None:
    """There is nothing to be looked up."""

    async def scenario(store: Store, keys: Keys) -> None:
        assert await refused(keys, authorization) is Code.UNAUTHENTICATED
        assert store.reads == 0

    run(scenario)


def test_a_thousand_unknown_keys_cost_one_look() -> None:
    """Guessing costs the guesser time, and the database nothing."""

    async def scenario(store: Store, keys: Keys) -> None:
        guesses = [refused(keys, b"Bearer tg_%d" % n) for n in range(1_000)]
        assert set(await asyncio.gather(*guesses)) == {Code.UNAUTHENTICATED}
        assert store.reads == 1
        await refused(keys, b"Bearer tg_again")
        assert store.reads == 2

    run(scenario)


def test_a_call_during_the_first_look_waits_for_that_look() -> None:
    """A process that has just started keeps its first callers no longer than the database does."""

    async def scenario(store: Store, keys: Keys) -> None:
        refreshing = asyncio.ensure_future(keys.keep_fresh())
        began = asyncio.get_running_loop().time()
        assert await keys.identify(b"Bearer " + KEY) == CHAT
        assert asyncio.get_running_loop().time() - began < 0.05
        assert store.reads == 1
        refreshing.cancel()

    run(scenario)


def test_a_key_made_just_now_is_good_at_its_first_use() -> None:
    """An unknown key makes the cache look again before anyone says no."""

    async def scenario(store: Store, keys: Keys) -> None:
        await keys.identify(b"Bearer " + KEY)
        store.keys[hashlib.sha256(b"tg_new").digest()] = CHAT
        assert await keys.identify(b"Bearer tg_new") == CHAT

    run(scenario)


def test_a_revoked_key_is_good_no_longer_than_a_refresh() -> None:
    """Keys are read again and again, not only when one is missed."""

    async def scenario(store: Store, keys: Keys) -> None:
        refreshing = asyncio.ensure_future(keys.keep_fresh())
        await keys.identify(b"Bearer " + KEY)
        store.keys.clear()
        await asyncio.sleep(0.2)
        assert keys.known(b"Bearer " + KEY) is None
        refreshing.cancel()

    run(scenario)


def test_known_keys_stay_good_without_the_database() -> None:
    """An outage of PostgreSQL takes no gateway's name away; of a key unknown nothing can be said."""

    async def scenario(store: Store, keys: Keys) -> None:
        await keys.identify(b"Bearer " + KEY)
        store.away = True
        refreshing = asyncio.ensure_future(keys.keep_fresh())
        await asyncio.sleep(0.2)
        assert keys.known(b"Bearer " + KEY) == CHAT
        assert not keys.fresh
        assert await refused(keys, b"Bearer tg_unknown") is Code.READING_UNAVAILABLE
        store.away = False
        await asyncio.sleep(0.2)
        assert keys.fresh
        assert await refused(keys, b"Bearer tg_unknown") is Code.UNAUTHENTICATED
        refreshing.cancel()

    run(scenario)
