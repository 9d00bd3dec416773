"""Buyers: an open loop of people with one wish each, who may come back as they were told.

When each of them comes first was fixed before the start; a late answer delays nobody. Every answer is
read, unlike in `sender`: what each was told, and when, is what the rows about being told measure. Who
comes back brings the same key and body, and the ticket of his last appointment.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import time
from array import array
from collections.abc import Callable, Sequence
from datetime import datetime
from random import Random
from time import monotonic
from typing import Final

import msgspec
import uvloop
from msgspec import Struct

from deploy.load.connection import Pool, Post
from deploy.load.run import old_objects_left_alone
from deploy.load.wire import Reply, Target
from tests.benchmarks.measuring import MeasurementError

ACCEPTED: Final = "accepted"  # a receipt, or the outcome itself
WAIT: Final = "wait"  # 429 or 503: surely not accepted, come back
UNCLEAR: Final = "unclear"  # no answer, or one that does not say: ask again with the same key

_TICK_S = 0.001
_TIMEOUT_S = 10.0  # for an answer; the API gives itself 5
_DOUBT_S = 0.5  # before one who does not know asks again
_SPREAD = 0.1  # of a wait that was told, added so that a crowd does not return as one
_PATIENCE_S = 12.0  # for answers that are out when the sending is over


class Place(Struct, frozen=True):
    """An appointment, as it was told."""

    ticket: str
    not_before: datetime
    not_after: datetime


class Heard(Struct, frozen=True, kw_only=True):
    """One answer. Times are Unix seconds of this machine.

    `word` is one of the three above, or else the reason of a no of business. `place` is the
    appointment it gave, `shown` the one whose ticket the post had shown.
    """

    buyer: int
    sent_at: float
    heard_at: float
    word: str
    final: bool = False
    intent_id: str = ""
    wait_s: float = 0.0
    place: Place | None = None
    shown: Place | None = None


class _Body(Struct):
    status: str | int | None = None
    intent_id: str = ""
    reason: str | None = None
    final: bool = False
    accepted: str | None = None
    retry_after_ms: float = 0.0
    appointment: Place | None = None


_decode = msgspec.json.Decoder(_Body).decode

MakePost = Callable[[int, str], bytes]  # of a buyer, with a ticket or ""
ComeBack = Callable[[Heard], float | None]  # the Unix time of the next try; None: never


def never(_: Heard) -> None:
    """Whoever was answered stays away."""


def as_told(random: Random, away: float = 0.0) -> ComeBack:
    """Come back when told, or at any moment of the window; of windows, a share `away` is left unused.

    Who does not know asks again soon; who heard anything else stays away.
    """

    def come_back(heard: Heard) -> float | None:
        if heard.word == UNCLEAR:
            return heard.heard_at + random.uniform(0.5, 1.5) * _DOUBT_S
        if heard.word != WAIT:
            return None
        if (place := heard.place) is None:
            return heard.heard_at + heard.wait_s * (1 + random.random() * _SPREAD)
        if random.random() < away:
            return None
        return random.uniform(place.not_before.timestamp(), place.not_after.timestamp())

    return come_back


def heard_of(
    buyer: int, sent_at: float, heard_at: float, reply: Reply | None, shown: Place | None = None
) -> Heard:
    """Read an answer; `reply` None: there was none."""
    try:
        body = _Body() if reply is None else _decode(reply.body)
    except msgspec.MsgspecError:
        reply, body = None, _Body()
    word = UNCLEAR if reply is None else _word(reply.status, body)
    return Heard(
        buyer=buyer,
        sent_at=sent_at,
        heard_at=heard_at,
        word=word,
        final=body.final,
        intent_id=body.intent_id,
        wait_s=max(body.retry_after_ms / 1_000, 0.0 if reply is None else reply.retry_after_s),
        place=body.appointment,
        shown=shown,
    )


def _word(status: int, body: _Body) -> str:
    if status in (200, 202):
        return (body.reason or "no") if body.status == "not_accepted" else ACCEPTED
    if status == 429 or (status == 503 and body.accepted != "unknown"):
        return WAIT
    return UNCLEAR if status >= 500 else f"http_{status}"


class Buyers:
    """One open loop; one run. `come_back` says of each answer whether and when its buyer returns."""

    def __init__(
        self,
        to: Target,
        post: MakePost,
        due: array[float],
        *,
        seconds: float,
        connections: int,
        come_back: ComeBack = never,
    ) -> None:
        """`due` is when each buyer comes first, in seconds from the start; `seconds` ends it all."""
        self.heard: list[Heard] = []
        self.began_at = 0.0  # Unix time
        self._to = to
        self._post = post
        self._due = due
        self._seconds = seconds
        self._connections = connections
        self._come_back = come_back
        self._again: list[tuple[float, int]] = []  # Unix time, buyer
        self._places: dict[int, Place] = {}  # by buyer, the last he was given
        self._shown: dict[int, Place | None] = {}  # by buyer, while his post is under way
        self._out = 0

    def run(self) -> Sequence[Heard]:
        """Send until the end, hear the last answers, and return all in the order of their coming.

        Raises MeasurementError where most answers said nothing: then something else is measured.
        """
        with old_objects_left_alone():
            uvloop.run(self._run())
        unclear = [one for one in self.heard if one.word == UNCLEAR]
        if 2 * len(unclear) > len(self.heard):
            msg = f"{len(unclear)} of {len(self.heard)} answers said nothing"
            raise MeasurementError(msg)
        return self.heard

    def stop(self) -> None:
        """End the sending now, from any thread; `run` still hears the last answers."""
        self._seconds = 0.0

    async def _run(self) -> None:
        self._unix = time.time() - monotonic()  # a wall clock that nobody sets while we measure
        pool = Pool(self._to, self._connections, _TIMEOUT_S, listener=self)
        started = monotonic()
        self.began_at = started + self._unix
        try:
            await self._send(pool, started)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_S):
                    while self._out:
                        await asyncio.sleep(0.05)
        finally:
            await pool.close()

    async def _send(self, pool: Pool, started: float) -> None:
        due, at = self._due, 0
        while (now := monotonic()) < started + self._seconds:
            while at < len(due) and started + due[at] <= now:
                self._submit(pool, at, started + due[at])
                at += 1
            while self._again and self._again[0][0] <= now + self._unix:
                when, buyer = heapq.heappop(self._again)
                self._submit(pool, buyer, when - self._unix)
            await asyncio.sleep(_TICK_S)

    def _submit(self, pool: Pool, buyer: int, due: float) -> None:
        place = self._places.get(buyer)
        self._shown[buyer] = place
        self._out += 1
        payload = self._post(buyer, "" if place is None else place.ticket)
        pool.submit(Post((buyer,), (due,), payload))

    # ---- called by the pool

    def answered(self, post: Post, reply: Reply, now: float) -> None:
        """An answer came."""
        self._take(post, reply, now)

    def lost(self, post: Post, now: float) -> None:
        """It was written and no answer came."""
        self._take(post, None, now)

    def unsent(self, post: Post, now: float) -> None:
        """No connection could be had; the buyer knows no more than after a lost answer."""
        self._take(post, None, now)

    def _take(self, post: Post, reply: Reply | None, now: float) -> None:
        (buyer,) = post.members
        self._out -= 1
        sent = post.written_at or post.due[0]
        shown = self._shown.pop(buyer)
        heard = heard_of(buyer, sent + self._unix, now + self._unix, reply, shown)
        self.heard.append(heard)
        if heard.place is not None:
            self._places[buyer] = heard.place
        when = self._come_back(heard)
        if when is not None:
            heapq.heappush(self._again, (when, buyer))
