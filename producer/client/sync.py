"""The client for threads. It runs the flows of `core`; what it decides itself is only how to wait.

One `Gateway` serves all threads of a process: they share its connections, and the rules that bound
what it sends. Make one, keep it, close it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
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
OnWait = Callable[[WaitNotice], object]


class Gateway:
    """A gateway's client, for any number of threads; a context manager.

    `url` is the API's root, `key` the gateway's. `verify` is as in httpx. In every call `patience_s`
    bounds how long it waits (`Options`), and `on_wait` hears of waits before they begin. Raises
    GatewayFault where the API will never take the call as it is, ValueError for arguments of no use,
    RuntimeError after `close`. What `on_wait` raises ends the call, with a note (`__notes__`) of the
    wish's idempotency key: it may be accepted, so look it up (`find`) before you make another.
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
        self._client = httpx.Client(**settings)
        self._closing = threading.Event()
        self._running = 0
        self._idle = threading.Condition()

    def submit(
        self,
        *,
        idempotency_key: str | None = None,
        patience_s: float | None = None,
        on_wait: OnWait | None = None,
        **order: Unpack[OrderFields],
    ) -> SubmitResult:
        """Order. Without a key of yours it gets one, which the result names."""
        return self._run(self._core.order(idempotency_key, patience_s, order), on_wait)

    def issue(
        self,
        *,
        idempotency_key: str | None = None,
        patience_s: float | None = None,
        on_wait: OnWait | None = None,
        **issuance: Unpack[IssuanceFields],
    ) -> SubmitResult:
        """Ask for a coupon."""
        return self._run(self._core.issue(idempotency_key, patience_s, issuance), on_wait)

    def resume(
        self,
        told: TurnedAway | Unknown,
        *,
        patience_s: float | None = None,
        on_wait: OnWait | None = None,
    ) -> SubmitResult:
        """Go on with a wish that was turned away, or is in doubt: the same key, its place in time.

        Waits until it may; where that is beyond patience, the same is returned again.
        """
        return self._run(self._core.submit(told.wish, patience_s), on_wait)

    def submit_many(
        self, orders: Iterable[KeyedOrderFields], *, patience_s: float | None = None
    ) -> list[SubmitResult | GatewayFault]:
        """Order many times; return what came of each, in order. Receipts are not followed."""
        return self._run(self._core.order_many(orders, patience_s))

    def follow(self, accepted: Accepted | UUID, *, patience_s: float | None = None) -> IntentResult:
        """Wait for an outcome; the receipt again where patience ends first."""
        return self._run(self._core.follow(accepted, patience_s))

    def find(
        self,
        user_id: str,
        idempotency_key: str,
        *,
        kind: Kind = "order",
        patience_s: float | None = None,
    ) -> IntentResult | Unreadable | None:
        """Return what a key is bound to; None: to nothing."""
        return self._run(self._core.find(user_id, idempotency_key, kind, patience_s))

    def pay(
        self, order_id: UUID, reference: str, amount: int, *, patience_s: float | None = None
    ) -> Paid | NotDone | Unconfirmed:
        """Report a payment of `amount` minor units; repeated with one reference it counts once."""
        return self._run(self._core.pay(order_id, reference, amount, patience_s))

    def cancel(
        self, order_id: UUID, *, patience_s: float | None = None
    ) -> Cancelled | NotDone | Unconfirmed:
        """Cancel an order; repeated it counts once."""
        return self._run(self._core.cancel(order_id, patience_s))

    def coupons(
        self, user_id: str, *, patience_s: float | None = None
    ) -> tuple[UserCoupon, ...] | Unreadable:
        """Return a user's coupons, the newest first."""
        return self._run(self._core.coupons(user_id, patience_s))

    def status(self, *, patience_s: float | None = None) -> Status | Unreadable:
        """Return how it goes."""
        return self._run(self._core.status(patience_s))

    def close(self, drain_s: float = 5.0) -> None:
        """End all waits, let sends under way finish within `drain_s`, and close. Idempotent.

        Calls that wait return what they know, as if their patience had ended.
        """
        self._closing.set()
        with self._idle:
            self._idle.wait_for(lambda: not self._running, drain_s)
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, flow: Flow[T], on_wait: OnWait | None = None) -> T:
        with self._idle:
            if self._closing.is_set():
                raise RuntimeError("the gateway's client is closed")
            self._running += 1
        try:
            step = next(flow)
            while True:
                if isinstance(step, Request):
                    step = flow.send(self._send(step))
                else:
                    step = flow.send(self._pause(step, on_wait))
        except StopIteration as done:
            return cast(T, done.value)
        finally:
            flow.close()
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def _pause(self, pause: Pause, on_wait: OnWait | None) -> bool:
        began = time.monotonic()
        if pause.notice is not None and on_wait is not None:
            with naming_the_key(pause.notice):
                on_wait(pause.notice)
        return not self._closing.wait(max(0.0, pause.seconds - (time.monotonic() - began)))

    def _send(self, request: Request) -> Reply | Lost:
        ends = time.monotonic() + transport.whole_s(request, self._core.options)
        try:
            with self._client.stream(
                **transport.arguments(request, self._core.options)
            ) as response:
                body = bytearray()
                for piece in response.iter_bytes():
                    body += piece
                    late = time.monotonic() > ends and not transport.is_whole(response)
                    if late or len(body) > transport.BODY_BYTES_MAX:
                        return transport.UNENDING
                return transport.reply(response, bytes(body))
        except transport.ERRORS as error:
            return transport.lost(error)
