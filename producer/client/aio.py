"""The client for asyncio. It runs the flows of `core`; what it decides itself is only how to wait.

The calls are those of `sync.Gateway`, to the letter. They stand twice, as does the running of a flow,
because `await` can be shared with nothing that does without; whatever needs no I/O is in `core` and
`transport`. One `AsyncGateway` serves one event loop. A call
that is cancelled leaves its wish as it was then: give a key of your own if you mean to cancel, and look
it up (`find`) afterwards.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Self, TypeVar, Unpack, cast
from uuid import UUID

import httpx

from producer.client import transport
from producer.client.core import Core
from producer.client.faults import GatewayFault
from producer.client.flow import Flow, Options, Pause, naming_the_key
from producer.client.model import (
    Accepted,
    Cancelled,
    IntentResult,
    IssuanceFields,
    KeyedOrderFields,
    Kind,
    NotDone,
    OrderFields,
    Paid,
    Status,
    SubmitResult,
    TurnedAway,
    Unconfirmed,
    Unknown,
    Unreadable,
    UserCoupon,
    WaitNotice,
)
from producer.client.replies import Lost, Reply
from producer.client.requests import Request

T = TypeVar("T")
OnWait = Callable[[WaitNotice], Awaitable[object] | object]


class AsyncGateway:
    """A gateway's client on one event loop; an asynchronous context manager.

    As `sync.Gateway`, but for `on_wait`: it may be a coroutine function too.
    """

    def __init__(
        self,
        url: str,
        key: str,
        options: Options | None = None,
        *,
        verify: transport.Verify = True,
    ) -> None:
        """Check the arguments; connect to nothing."""
        self._core = Core(options)
        settings = transport.settings(url, key, self._core.options, verify)
        self._client = httpx.AsyncClient(**settings)
        self._closing = asyncio.Event()
        self._running = 0
        self._idle = asyncio.Event()

    async def submit(
        self,
        *,
        idempotency_key: str | None = None,
        patience_s: float | None = None,
        on_wait: OnWait | None = None,
        **order: Unpack[OrderFields],
    ) -> SubmitResult:
        """Order. Without a key of yours it gets one, which the result names."""
        return await self._run(self._core.order(idempotency_key, patience_s, order), on_wait)

    async def issue(
        self,
        *,
        idempotency_key: str | None = None,
        patience_s: float | None = None,
        on_wait: OnWait | None = None,
        **issuance: Unpack[IssuanceFields],
    ) -> SubmitResult:
        """Ask for a coupon."""
        return await self._run(self._core.issue(idempotency_key, patience_s, issuance), on_wait)

    async def resume(
        self,
        told: TurnedAway | Unknown,
        *,
        patience_s: float | None = None,
        on_wait: OnWait | None = None,
    ) -> SubmitResult:
        """Go on with a wish that was turned away, or is in doubt: the same key, its place in time.

        Waits until it may; where that is beyond patience, the same is returned again.
        """
        return await self._run(self._core.submit(told.wish, patience_s), on_wait)

    async def submit_many(
        self, orders: Iterable[KeyedOrderFields], *, patience_s: float | None = None
    ) -> list[SubmitResult | GatewayFault]:
        """Order many times; return what came of each, in order. Receipts are not followed."""
        return await self._run(self._core.order_many(orders, patience_s))

    async def follow(
        self, accepted: Accepted | UUID, *, patience_s: float | None = None
    ) -> IntentResult:
        """Wait for an outcome; the receipt again where patience ends first."""
        return await self._run(self._core.follow(accepted, patience_s))

    async def find(
        self,
        user_id: str,
        idempotency_key: str,
        *,
        kind: Kind = "order",
        patience_s: float | None = None,
    ) -> IntentResult | Unreadable | None:
        """Return what a key is bound to; None: to nothing."""
        return await self._run(self._core.find(user_id, idempotency_key, kind, patience_s))

    async def pay(
        self, order_id: UUID, reference: str, amount: int, *, patience_s: float | None = None
    ) -> Paid | NotDone | Unconfirmed:
        """Report a payment of `amount` minor units; repeated with one reference it counts once."""
        return await self._run(self._core.pay(order_id, reference, amount, patience_s))

    async def cancel(
        self, order_id: UUID, *, patience_s: float | None = None
    ) -> Cancelled | NotDone | Unconfirmed:
        """Cancel an order; repeated it counts once."""
        return await self._run(self._core.cancel(order_id, patience_s))

    async def coupons(
        self, user_id: str, *, patience_s: float | None = None
    ) -> tuple[UserCoupon, ...] | Unreadable:
        """Return a user's coupons, the newest first."""
        return await self._run(self._core.coupons(user_id, patience_s))

    async def status(self, *, patience_s: float | None = None) -> Status | Unreadable:
        """Return how it goes."""
        return await self._run(self._core.status(patience_s))

    async def close(self, drain_s: float = 5.0) -> None:
        """End all waits, let sends under way finish within `drain_s`, and close. Idempotent.

        Calls that wait return what they know, as if their patience had ended.
        """
        self._closing.set()
        if self._running:
            try:
                async with asyncio.timeout(drain_s):
                    await self._idle.wait()
            except TimeoutError:
                pass
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(self, flow: Flow[T], on_wait: OnWait | None = None) -> T:
        if self._closing.is_set():
            raise RuntimeError("the gateway's client is closed")
        self._running += 1
        try:
            step = next(flow)
            while True:
                if isinstance(step, Request):
                    step = flow.send(await self._send(step))
                else:
                    step = flow.send(await self._pause(step, on_wait))
        except StopIteration as done:
            return cast(T, done.value)
        finally:
            flow.close()
            self._running -= 1
            if not self._running and self._closing.is_set():
                self._idle.set()

    async def _pause(self, pause: Pause, on_wait: OnWait | None) -> bool:
        loop = asyncio.get_running_loop()
        ends = loop.time() + pause.seconds
        if pause.notice is not None and on_wait is not None:
            with naming_the_key(pause.notice):
                heard = on_wait(pause.notice)
                if inspect.isawaitable(heard):
                    await heard
        try:
            async with asyncio.timeout_at(ends):
                await self._closing.wait()
        except TimeoutError:
            return True
        return False

    async def _send(self, request: Request) -> Reply | Lost:
        try:
            async with asyncio.timeout(transport.whole_s(request, self._core.options)):
                async with self._client.stream(
                    **transport.arguments(request, self._core.options)
                ) as response:
                    body = bytearray()
                    async for piece in response.aiter_bytes():
                        body += piece
                        if len(body) > transport.BODY_BYTES_MAX:
                            return transport.UNENDING
                    return transport.reply(response, bytes(body))
        except transport.ERRORS as error:
            return transport.lost(error)
        except TimeoutError:
            return transport.UNENDING
