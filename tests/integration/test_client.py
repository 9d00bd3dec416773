"""The gateway SDK over real connections: against the real API, and against a scripted one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from http_kit import Served, add_gateway, key_of, serve, settings_for
from scripted_api import Heard, Said, Scripted, scripted

from producer.client import (
    Accepted,
    AsyncGateway,
    Cancelled,
    Committed,
    Forbidden,
    Gateway,
    InvalidCall,
    Issued,
    KeyConflict,
    Money,
    NotDone,
    Options,
    Paid,
    Refused,
    Status,
    TurnedAway,
    Unauthenticated,
    Unknown,
    WaitNotice,
)
from tests.factories import GATEWAY, add_campaign, one, open_gate

KEY = key_of(GATEWAY)
TEA: dict[str, Any] = {"user_id": "u/1", "campaign_id": "spring", "lines": {"tea": 1}}


@pytest.fixture
def api(dsn: str, valkey_url: str) -> Iterator[Served]:
    """An API with a campaign, and a gateway that may do everything."""
    add_campaign(dsn)
    add_gateway(dsn)
    add_gateway(dsn, "reader", ("intents:read",))
    open_gate(valkey_url)
    with serve(settings_for(dsn, valkey_url)) as served:
        yield served


def order(intent_id: Any) -> dict[str, Any]:
    """An order as the API tells it."""
    money = {"total": 1800, "discount": 0, "payable": 1800, "currency": "CNY"}
    told = {"order_id": str(intent_id), "status": "awaiting_payment", "lines": []} | money
    return {"intent_id": str(intent_id), "status": "committed", "order": told, "message": "Done."}


def committed(heard: Heard) -> Said:
    """Take everything."""
    return 200, order(uuid4()), {}


def test_the_whole_life_of_an_order(api: Served) -> None:
    """A coupon, an order with it, its payment, its end: all through the SDK."""
    with api.worker(), Gateway(api.url, KEY) as gateway:
        issued = gateway.issue(user_id="u/1", campaign_id="spring", locale="el")
        assert isinstance(issued, Issued)
        coupons = gateway.coupons("u/1")
        assert isinstance(coupons, tuple)
        assert [coupon.code for coupon in coupons] == [issued.coupon.code]

        told = gateway.submit(
            **{**TEA, "lines": {"tea": 2}},
            coupon_code=issued.coupon.code,
            expected_total=Money(1_100, "CNY"),
            idempotency_key="k-1",
        )
        assert isinstance(told, Committed)
        assert (told.order.discount, told.order.payable) == (2_500, 1_100)
        assert told.message
        again = gateway.submit(
            **{**TEA, "lines": {"tea": 2}},
            coupon_code=issued.coupon.code,
            expected_total=Money(1_100, "CNY"),
            idempotency_key="k-1",
        )
        assert isinstance(again, Committed)
        assert (again.intent_id, again.replayed) == (told.intent_id, True)
        found = gateway.find("u/1", "k-1")
        assert isinstance(found, Committed)
        assert found.order == told.order

        wrong = gateway.pay(told.order.order_id, "p-1", 1)
        assert isinstance(wrong, NotDone)
        assert (wrong.reason, wrong.refund) == ("amount_wrong", False)
        paid = gateway.pay(told.order.order_id, "p-1", 1_100)
        assert isinstance(paid, Paid)
        assert paid.order.status == "confirmed"
        assert isinstance(gateway.pay(told.order.order_id, "p-1", 1_100), Paid)
        twice = gateway.pay(told.order.order_id, "p-2", 1_100)
        assert isinstance(twice, NotDone)
        assert (twice.reason, twice.refund) == ("recorded_for_refund", True)
        assert isinstance(gateway.cancel(told.order.order_id), Cancelled)
        assert gateway.find("u/1", "never") is None
        status = gateway.status()
        assert isinstance(status, Status)
        assert status.level == "normal"

        refused = gateway.submit(**{**TEA, "lines": {"gold": 1}})
        assert isinstance(refused, Refused)
        assert refused.reason == "unknown_sku"


def test_a_receipt_is_followed_to_its_outcome(api: Served) -> None:
    """When nobody decides in time, the receipt is told; when somebody does, the outcome."""
    with Gateway(api.url, KEY) as gateway:
        receipt = gateway.submit(**TEA, patience_s=1.2)
        assert isinstance(receipt, Accepted)
        assert receipt.message
        assert isinstance(gateway.follow(receipt, patience_s=0), Accepted)
        with api.worker():
            told = gateway.follow(receipt.intent_id, patience_s=10)
    assert isinstance(told, Committed)


def test_mistakes_are_raised_in_the_apis_words(api: Served) -> None:
    """What no waiting would mend."""
    with Gateway(api.url, KEY) as gateway:
        with pytest.raises(InvalidCall, match=r"lines\[0\]\.quantity"):
            gateway.submit(**{**TEA, "lines": {"tea": 0}})
        gateway.submit(**TEA, idempotency_key="k-1", patience_s=0)
        with pytest.raises(KeyConflict):
            gateway.submit(**{**TEA, "lines": {"bun": 1}}, idempotency_key="k-1", patience_s=0)
        with pytest.raises(TypeError):
            gateway.submit(**TEA, coupon="x")
    with Gateway(api.url, "tg_nobody") as gateway, pytest.raises(Unauthenticated):
        gateway.submit(**TEA)
    with Gateway(api.url, key_of("reader")) as gateway, pytest.raises(Forbidden):
        gateway.submit(**TEA)


def test_a_batch_is_answered_wish_by_wish(api: Served) -> None:
    """A bad one spoils nothing."""
    orders: list[Any] = [{**TEA, "idempotency_key": f"k-{n}"} for n in range(600)]
    orders[7] = {**orders[7], "lines": {"tea": 100}}
    with Gateway(api.url, KEY) as gateway:
        results = gateway.submit_many(orders)
    assert isinstance(results[7], InvalidCall)
    assert all(isinstance(told, Accepted) for n, told in enumerate(results) if n != 7)
    assert one(api.dsn, "SELECT count(*) FROM idempotency_keys") == 599


def test_the_asyncio_client_does_the_same(api: Served) -> None:
    """The same calls over the same core; hundreds at once over a bounded pool."""

    async def shop() -> None:
        async with AsyncGateway(api.url, KEY, Options(connections_max=10)) as gateway:
            issued = await gateway.issue(user_id="u/1", campaign_id="spring")
            assert isinstance(issued, Issued)
            coupons = await gateway.coupons("u/1")
            assert isinstance(coupons, tuple)
            assert len(coupons) == 1
            results = await asyncio.gather(
                *(gateway.submit(**{**TEA, "user_id": f"u-{n}"}) for n in range(100))
            )
            assert all(isinstance(told, Committed) for told in results)
            first = results[0]
            assert isinstance(first, Committed)
            assert isinstance(await gateway.pay(first.order.order_id, "p", 1_800), Paid)
            assert isinstance(await gateway.cancel(first.order.order_id), Cancelled)
            assert isinstance(await gateway.follow(first.intent_id), Committed)
            assert isinstance(await gateway.find("u-0", first.idempotency_key), Committed)
            many = await gateway.submit_many([{**TEA, "user_id": "u-many"}])  # type: ignore[typeddict-item]
            assert isinstance(many[0], Accepted)
            with pytest.raises(InvalidCall):
                await gateway.submit(**{**TEA, "lines": {}})
        with pytest.raises(RuntimeError, match="closed"):
            await gateway.submit(**TEA)

    with api.worker():
        asyncio.run(shop())


def test_one_client_serves_many_threads_over_few_connections() -> None:
    """Its pool is bounded, and nobody gets another's answer."""

    def say(heard: Heard) -> Said:
        time.sleep(0.005)
        told = order(uuid4())
        return 200, told | {"message": heard.headers["idempotency-key"]}, {}

    def shop(gateway: Gateway, thread: int, told: dict[str, str]) -> None:
        for n in range(20):
            result = gateway.submit(**TEA, idempotency_key=f"k-{thread}-{n}")
            told[result.idempotency_key] = result.message

    told: dict[str, str] = {}
    with scripted(say) as script, Gateway(script.url, KEY, Options(connections_max=4)) as gateway:
        threads = [
            threading.Thread(target=shop, args=(gateway, number, told)) for number in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert script.open_most <= 4
        assert script.connections <= 8
    assert len(told) == 320
    assert all(key == message for key, message in told.items())


def lose_twice() -> Any:
    """Take the intent, lose the answer; be unclear; then tell."""
    deeds: list[Said | None] = [None, (502, b"<html>", {})]
    intent_id = uuid4()
    return lambda heard: deeds.pop(0) if deeds else (200, order(intent_id), {})


def test_a_lost_answer_is_asked_for_with_the_same_key() -> None:
    """Over a connection that was really cut."""
    notices: list[WaitNotice] = []
    with scripted(lose_twice()) as script, Gateway(script.url, KEY) as gateway:
        told = gateway.submit(**TEA, on_wait=notices.append)
    assert isinstance(told, Committed)
    assert len(script.heard) == 3
    assert {heard.headers["idempotency-key"] for heard in script.heard} == {told.idempotency_key}
    assert len({heard.body for heard in script.heard}) == 1
    assert [notice.reason for notice in notices] == ["unknown", "unknown"]


def test_an_api_that_hangs_is_not_waited_for_for_ever() -> None:
    """Nor one that trickles its answer, nor one that is not there."""
    ending = threading.Event()

    def hang(heard: Heard) -> Said | None:
        ending.wait(10)
        return None

    def trickle(heard: Heard) -> Said:
        def spaces() -> Iterator[bytes]:  # JSON may begin with any number
            while not ending.wait(0.05):
                yield b" "

        return 200, spaces(), {"content-length": "1000000"}

    options = Options(timeout_s=0.3, connect_timeout_s=0.3)
    began = time.monotonic()
    for say in (hang, trickle):
        ending.clear()
        with scripted(say) as script, Gateway(script.url, KEY, options) as gateway:
            assert isinstance(gateway.submit(**TEA, patience_s=0.2), Unknown)
            assert isinstance(submit_on_a_loop(script, options, patience_s=0.2), Unknown)
            ending.set()
    with Gateway("http://127.0.0.1:9", KEY, options) as gateway:
        absent = gateway.submit(**TEA, patience_s=0.5)
    assert isinstance(absent, TurnedAway)
    assert absent.limit == "connection"
    assert time.monotonic() - began < 15


def submit_on_a_loop(script: Scripted, options: Options | None = None, **given: Any) -> Any:
    """Submit by the client for asyncio; return what it told."""

    async def call() -> Any:
        async with AsyncGateway(script.url, KEY, options) as gateway:
            return await gateway.submit(**TEA, **given)

    return asyncio.run(call())


def test_a_wait_for_a_connection_is_not_taken_off_the_time_for_the_answer() -> None:
    """By either client: who came second hears the outcome, though both waits together are long."""
    options = Options(timeout_s=2.5, connect_timeout_s=0.2, connections_max=1)

    def slowly(heard: Heard) -> Said:
        time.sleep(1.6)
        return committed(heard)

    def by_threads(script: Scripted) -> list[Any]:
        with Gateway(script.url, KEY, options) as gateway, ThreadPoolExecutor(2) as threads:
            return list(threads.map(lambda _: gateway.submit(**TEA, patience_s=0), range(2)))

    def by_a_loop(script: Scripted) -> list[Any]:
        async def call() -> list[Any]:
            async with AsyncGateway(script.url, KEY, options) as gateway:
                return await asyncio.gather(
                    *(gateway.submit(**TEA, patience_s=0) for _ in range(2))
                )

        return asyncio.run(call())

    def told_by(clients: Any) -> list[Any]:
        with scripted(slowly) as script:
            return clients(script)  # type: ignore[no-any-return]

    with ThreadPoolExecutor(2) as runs:
        for told in runs.map(told_by, (by_threads, by_a_loop)):
            assert [type(one) for one in told] == [Committed, Committed]


def test_what_a_listener_raises_names_the_wish_that_waits() -> None:
    """Its key was made by the client: nobody else could look it up."""

    def fail(notice: WaitNotice) -> None:
        raise LookupError("the chat is gone")

    async def fail_later(notice: WaitNotice) -> None:
        fail(notice)

    with scripted(lambda heard: None) as script:
        with pytest.raises(LookupError) as raised, Gateway(script.url, KEY) as gateway:
            gateway.submit(**TEA, on_wait=fail)
        with pytest.raises(LookupError) as raised_later:
            submit_on_a_loop(script, on_wait=fail_later)
        keys = [heard.headers["idempotency-key"] for heard in script.heard]
    for key, error in zip(keys, (raised, raised_later), strict=True):
        assert [key in note for note in error.value.__notes__] == [True]


def busy_until(seconds: float) -> tuple[Any, list[datetime]]:
    """Turn away with an appointment, and take who comes back with its ticket."""
    window: list[datetime] = []

    def say(heard: Heard) -> Said:
        if heard.headers.get("tidegate-appointment") == "ticket-1":
            return committed(heard)
        if not window:
            window.append(datetime.now(UTC) + timedelta(seconds=seconds))
        told = {
            "code": "reduced_capacity",
            "accepted": "no",
            "level": "shedding",
            "limit": "level",
            "message": "Busy.",
            "appointment": {
                "ticket": "ticket-1",
                "not_before": window[0].isoformat(),
                "not_after": (window[0] + timedelta(seconds=5)).isoformat(),
            },
        }
        return 503, told, {"retry-after": "2"}

    return say, window


def test_an_appointment_is_kept_while_the_chat_is_told() -> None:
    """By both clients; within the window, with the ticket."""
    notices: list[WaitNotice] = []

    async def hear(notice: WaitNotice) -> None:
        notices.append(notice)

    async def call(script: Scripted) -> None:
        async with AsyncGateway(script.url, KEY) as gateway:
            assert isinstance(await gateway.submit(**TEA, on_wait=hear), Committed)

    for run in ("threads", "asyncio"):
        say, window = busy_until(0.7)
        with scripted(say) as script:
            if run == "threads":
                with Gateway(script.url, KEY) as gateway:
                    assert isinstance(gateway.submit(**TEA, on_wait=notices.append), Committed)
            else:
                asyncio.run(call(script))
            assert len(script.heard) == 2
            assert window[0] <= datetime.now(UTC) <= window[0] + timedelta(seconds=5)
    assert [notice.reason for notice in notices] == ["appointment", "appointment"]


def test_closing_ends_the_waits_of_other_threads() -> None:
    """They are told what is known, at once."""
    say, _ = busy_until(60)
    told: list[Any] = []
    waiting = threading.Event()
    with scripted(say) as script:
        gateway = Gateway(script.url, KEY)
        thread = threading.Thread(
            target=lambda: told.append(
                gateway.submit(**TEA, patience_s=120, on_wait=lambda _: waiting.set())
            )
        )
        thread.start()
        assert waiting.wait(5)
        gateway.close()
        thread.join(5)
        gateway.close()
        with pytest.raises(RuntimeError, match="closed"):
            gateway.submit(**TEA)
        (turned_away,) = told
        assert isinstance(turned_away, TurnedAway)
        assert len(script.heard) == 1


def test_arguments_of_no_use_are_refused_before_anything_is_sent() -> None:
    """And the gateway's key is in no text."""
    for url in ("orders.example", "ftp://x", "http://", "http://x/?a=1"):
        with pytest.raises(ValueError, match="not the root of an API"):
            Gateway(url, KEY)
    for key in ("", "tg_a b", "tg_\n"):
        with pytest.raises(ValueError, match="gateway's key"):
            Gateway("http://x", key)
    with Gateway("http://x", KEY) as gateway:
        assert KEY not in repr(gateway)
