"""A world in virtual time for the SDK's flows: a clock, an API that misbehaves, many gateways' calls.

Nothing sleeps: a pause moves the clock, a request is answered by a function of the test's. Flows run
interleaved, as their times come, like threads that share one client.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random
from typing import Any
from uuid import UUID, uuid5

from producer.client.core import Core
from producer.client.flow import Options, Pause
from producer.client.model import WaitNotice, Wish
from producer.client.replies import Lost, Reply
from producer.client.requests import Request, wish

BEGAN = datetime(2026, 2, 6, 2, 0, tzinfo=UTC)
_NAMESPACE = UUID(int=7)

Serve = Callable[[Request], "Reply | Lost | tuple[Reply | Lost, float]"]


class World:
    """Runs flows of one core. `skew_s` is how far this machine's clock is ahead of the API's."""

    def __init__(self, serve: Serve, *, seed: int = 1, skew_s: float = 0.0, **options: Any) -> None:
        self.now = 1_000.0
        self.skew_s = skew_s
        self.core = Core(
            Options(**options),
            monotonic=lambda: self.now,
            wall=lambda: self.api_time().timestamp() + skew_s,
            draw=Random(seed).random,
        )
        self.serve = serve
        self.sent: list[tuple[float, Request]] = []
        self.notices: list[WaitNotice] = []
        self.results: list[Any] = []
        self.closing_at = float("inf")
        self._events: list[tuple[float, int, Generator[Any, Any, Any], int, Any]] = []
        self._numbers = itertools.count()

    def api_time(self) -> datetime:
        """The API's clock."""
        return BEGAN + timedelta(seconds=self.now - 1_000.0)

    def start(self, flow: Generator[Any, Any, Any], at_s: float = 0.0) -> int:
        """Start a flow `at_s` from the world's beginning; return the place of its result."""
        self.results.append(None)
        place = len(self.results) - 1
        self._push(1_000.0 + at_s, flow, place, None)
        return place

    def run(self) -> list[Any]:
        """Let everything happen; return the results."""
        while self._events:
            at, _, flow, place, heard = heapq.heappop(self._events)
            self.now = max(self.now, at)
            try:
                step = flow.send(heard)
            except StopIteration as done:
                self.results[place] = done.value
            except Exception as error:
                self.results[place] = error
            else:
                self._take(flow, place, step)
        return self.results

    def call(self, flow: Generator[Any, Any, Any]) -> Any:
        """Run one flow from now on; return its result, or raise what it raised."""
        place = len(self.results)
        self.results.append(None)
        self._push(self.now, flow, place, None)
        result = self.run()[place]
        if isinstance(result, Exception):
            raise result
        return result

    def posts(self) -> list[tuple[float, Request]]:
        """The posts of wishes."""
        return [(at, request) for at, request in self.sent if request.method == "POST"]

    def _take(self, flow: Generator[Any, Any, Any], place: int, step: Any) -> None:
        if isinstance(step, Pause):
            assert step.seconds >= 0
            if step.notice is not None:
                self.notices.append(step.notice)
            ends = self.now + step.seconds
            go_on = ends < self.closing_at
            self._push(ends if go_on else max(self.now, self.closing_at), flow, place, go_on)
            return
        self.sent.append((self.now, step))
        answer = self.serve(step)
        heard, takes_s = answer if isinstance(answer, tuple) else (answer, 0.01)
        self._push(self.now + takes_s, flow, place, heard)

    def _push(self, at: float, flow: Generator[Any, Any, Any], place: int, heard: Any) -> None:
        heapq.heappush(self._events, (at, next(self._numbers), flow, place, heard))


class Api:
    """A model of the API: what it holds by key, and a way to misbehave for each post.

    `deeds` says of each post what is to happen; see `serve`.
    """

    def __init__(self) -> None:
        self.world: World
        self.held: dict[str, float] = {}  # key to when it was journalled
        self.deeds: Callable[[Request], str] = lambda request: "commit"
        self.told: dict[str, datetime] = {}  # key to when it may come back, by the API's clock
        self.tickets: dict[str, int] = {}  # ticket to how often it came back
        self.early: list[str] = []
        self.wait_s = 5.0
        self.window_s = 4.0
        self.told_more_s = 0.0  # what an appointment's Retry-After adds to its beginning
        self._numbers = itertools.count(1)

    def __call__(self, request: Request) -> Reply | Lost:
        if request.method == "GET":
            return self._look_up(request.path)
        key = str(request.headers["idempotency-key"])
        if self.world.api_time() < self.told.pop(key, BEGAN):
            self.early.append(key)
        ticket = request.headers.get("tidegate-appointment")
        if ticket is not None:
            self.tickets[str(ticket)] = self.tickets.get(str(ticket), 0) + 1
        return self._do(self.deeds(request), key)

    def _do(self, deed: str, key: str) -> Reply | Lost:
        now = self.world.now
        if deed == "refuse_connection":
            return Lost(False, "ConnectError")
        if deed == "lose_before":
            return Lost(True, "ReadError")
        if deed in ("lose_after", "land_later", "unknown_after"):
            self.held.setdefault(key, now + (4.0 if deed == "land_later" else 0.0))
            return (
                self.problem(503, accepted="unknown", retry_after_ms=1_000)
                if deed == "unknown_after"
                else Lost(True, "ReadTimeout")
            )
        if deed == "bad_gateway":
            return Reply(502, {}, b"<html>")
        if deed == "intake_full":
            return self.problem(503, code="intake_full", accepted="unknown", retry_after_ms=500)
        if key in self.held and self.held[key] <= now:
            return self.reply(200, self.resource(key), {"idempotent-replayed": "true"})
        if deed in ("commit", "accept"):
            self.held[key] = now
            status = 200 if deed == "commit" else 202
            return self.reply(status, self.resource(key, decided=deed == "commit"))
        if deed == "sold_out":
            told = {"status": "not_accepted", "reason": "sold_out", "final": True, "message": "No."}
            return self.reply(200, told)
        return self._no(deed, key)

    def _no(self, deed: str, key: str) -> Reply:
        back = self.world.api_time() + timedelta(seconds=self.wait_s)
        self.told[key] = back
        wait_ms = self.wait_s * 1_000
        if deed == "limited":
            return self.problem(429, limit="user", accepted="no", retry_after_ms=wait_ms)
        if deed == "shed":
            return self.problem(503, limit="level", accepted="no", retry_after_ms=wait_ms)
        assert deed == "appoint", deed
        wait_ms += self.told_more_s * 1_000
        window = {
            "ticket": f"t{next(self._numbers)}",
            "not_before": back.isoformat(),
            "not_after": (back + timedelta(seconds=self.window_s)).isoformat(),
        }
        return self.problem(
            503, limit="level", accepted="no", retry_after_ms=wait_ms, appointment=window
        )

    def resource(self, key: str, *, decided: bool = True) -> dict[str, Any]:
        told: dict[str, Any] = {"intent_id": str(uuid5(_NAMESPACE, key)), "message": "Told."}
        if not decided:
            return told | {"status": "accepted", "poll_after_ms": 200, "estimated_wait_ms": 200}
        order = {"order_id": told["intent_id"], "status": "confirmed", "lines": []}
        money = {"total": 1800, "discount": 1800, "payable": 0, "currency": "CNY"}
        return told | {"status": "committed", "order": order | money}

    def problem(self, status: int, code: str = "reduced_capacity", **fields: Any) -> Reply:
        body = {"status": status, "code": code, "message": f"Busy: {code}.", "level": "shedding"}
        return self.reply(status, body | fields)

    def reply(self, status: int, body: Any, headers: dict[str, str] | None = None) -> Reply:
        """An answer with the API's date, which is whole seconds."""
        date = format_datetime(self.world.api_time(), usegmt=True)
        return Reply(
            status,
            {"date": date} | (headers or {}),
            body if isinstance(body, bytes) else json.dumps(body).encode(),
        )

    def _look_up(self, path: str) -> Reply:
        for key in self.held:
            if path.endswith(str(uuid5(_NAMESPACE, key))):
                return self.reply(200, self.resource(key))
        return self.problem(404, code="not_found")


def an_order(key: str | None = None, **fields: Any) -> Wish:
    """A wish to buy."""
    told = {"user_id": "u-1", "campaign_id": "spring", "lines": {"tea": 1}} | fields
    return wish("order", idempotency_key=key, **told)


def a_world(deeds: Callable[[Request], str] | None = None, **settings: Any) -> tuple[World, Api]:
    """A world with an API in it."""
    api = Api()
    world = World(api, **settings)
    api.world = world
    if deeds is not None:
        api.deeds = deeds
    return world, api


def in_turn(*deeds: str) -> Callable[[Request], str]:
    """Do one after the other, and the last for ever."""
    left = list(deeds)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]
