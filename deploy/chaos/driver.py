"""The driver: plays the workload against the API, and writes down every call and what came of it.

Open loop: when each buyer comes was settled beforehand. A buyer asks again with the same key until
the answer is definite, learns the outcome, comes back later to hear it again, and may pay, cancel, or
come with another wish under the same key. Nothing here judges an answer; the checkers do.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from random import Random
from typing import Final, Literal, TypeVar

import msgspec

from deploy.chaos.answers import is_definite, read_change, read_poll, read_post, read_rebody
from deploy.chaos.asking import Asker, NotSentError
from deploy.chaos.history import Entry, History, now
from deploy.chaos.workload import Ending, Wish
from deploy.load.wire import Reply, Target, Wire

_ANSWER_TIMEOUT_S: Final = 6.0  # the API answers within 5 s whatever is dead
_BUYERS_MAX: Final = 500  # at once; who comes beyond it does not get through, and is not counted
_AGAIN_S: Final = (0.1, 1.5)  # between two attempts: doubled with each
_POLL_S: Final = (0.15, 1.5)
_POLLED_AGAIN_SHARE: Final = 0.15  # of the buyers come back to ask, or post, again
_POLLED_AGAIN_S_MAX: Final = 4.0
_COME_BACK_LOOK_S: Final = 0.1
_TICK_S: Final = 0.005
_FINAL_LANES: Final = 24
_FINAL_ATTEMPTS_MAX: Final = 40
_PRICE: Final = 1800  # of what is paid for; see campaign.toml

T = TypeVar("T")


class Driver:
    """One run of the load. `start`, then `stop_arrivals`, `finish`, `ask_for_all`, `close`."""

    def __init__(
        self,
        to: Target,
        workload: Iterator[Wish],
        history: History,
        rate: float,
        seed: int,
        *,
        hasty: bool = False,
    ) -> None:
        """Keep what is needed; nothing is sent yet.

        `rate` is in intents a second. Who is `hasty` asks again at once.
        """
        self._to, self._workload, self._history = to, workload, history
        self._rate = rate
        self._again_s = (_TICK_S, _TICK_S) if hasty else _AGAIN_S
        self._random = Random(f"driver/{seed}")
        self._wire = Wire(to)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="driver", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._arriving = True
        self._patient = True
        self._asker = Asker(to)
        self.receipts: dict[str, tuple[str, Wish]] = {}  # by key: the promised intent
        self.unclear: dict[str, Wish] = {}  # by key: whose last word is unknown
        self.outcomes: dict[str, str] = {}  # by key
        self.arrivals = self.turned_away = 0

    def start(self) -> None:
        """Let buyers arrive."""
        self._thread.start()
        self._call_soon(self._arrivals())

    def stop_arrivals(self) -> None:
        """Let nobody new come; who is here goes on."""
        self._arriving = False

    @property
    def buyers(self) -> int:
        """How many have no definite answer, or no outcome, yet."""
        return len(self._tasks)

    def finish(self, timeout_s: float) -> bool:
        """Wait until every buyer knows; after the time they give up. Tell whether all knew."""
        done = self._wait(self._all_gone(timeout_s))
        self._patient = False
        for task in list(self._tasks):
            self._loop.call_soon_threadsafe(task.cancel)
        self._wait(self._all_gone(_ANSWER_TIMEOUT_S))
        return done

    def ask_for_all(self) -> None:
        """Ask once more what became of every receipt, by its id, and of every unclear key."""
        self._wait(self._final_round())

    def probe(self, wish: Wish) -> bool:
        """Post one intent and wait for its outcome; tell whether it came within a few seconds."""
        return self._wait(self._probe(wish))

    def close(self) -> None:
        """Cut all connections and end the thread. Idempotent."""
        if self._thread.is_alive():
            self._wait(self._leave())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    # ---- buyers

    async def _arrivals(self) -> None:
        due = now()
        while self._arriving:
            due += self._random.expovariate(self._rate)
            await asyncio.sleep(max(_TICK_S, due - now()) if due > now() else 0)
            if len(self._tasks) >= _BUYERS_MAX:
                self.turned_away += 1
                continue
            self.arrivals += 1
            self._spawn(self._buyer(next(self._workload)))

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _buyer(self, wish: Wish) -> None:
        if wish.twin:
            self._spawn(self._place(wish))
        await self._place(wish)
        if wish.key not in self.receipts:
            return
        if wish.rebody:
            await self._rebody(wish)
        await self._learn(wish)
        if wish.ending != "leave" and self.outcomes.get(wish.key, "").startswith("committed"):
            await self._end(wish, wish.ending)
        if self._random.random() < _POLLED_AGAIN_SHARE:
            await self._come_back(wish)

    async def _come_back(self, wish: Wish) -> None:
        """Ask again later, and no later than the last buyers come."""
        due = now() + self._random.uniform(0.1, _POLLED_AGAIN_S_MAX)
        while self._arriving and now() < due:
            await asyncio.sleep(_COME_BACK_LOOK_S)
        await self._random.choice((self._poll, self._post))(wish)

    async def _place(self, wish: Wish) -> None:
        """Post until the answer is definite: a receipt, or a no that will not change."""
        pause_s = self._again_s[0]
        while self._patient:
            entry = await self._post(wish)
            if entry.phase == "ok":
                return
            likely = entry.reason == "likely_sold_out"
            if entry.phase == "no" and not likely and (is_definite(entry) or not self._arriving):
                return
            await asyncio.sleep(pause_s * (0.5 + self._random.random()))
            pause_s = min(pause_s * 2, self._again_s[1])

    async def _post(self, wish: Wish) -> Entry:
        call = self._history.begin(
            "post",
            key=wish.key,
            user=wish.user,
            kind=wish.kind,
            units=wish.units,
            coupon=wish.coupon,
        )
        try:
            reply = await self._ask(self._request(wish, wish.body))
        except NotSentError:
            return self._history.end(call, "post", "no", key=wish.key, reason="not sent")
        except asyncio.CancelledError:
            self._unclear(wish)
            raise
        entry = self._history.end(call, "post", **read_post(reply), key=wish.key)
        if entry.phase == "ok":
            self.receipts.setdefault(wish.key, (entry.intent_id, wish))
            self.unclear.pop(wish.key, None)
            self._note(wish, entry)
        elif entry.phase == "unknown":
            self._unclear(wish)
        return entry

    def _unclear(self, wish: Wish) -> None:
        if wish.key not in self.receipts:
            self.unclear[wish.key] = wish

    async def _learn(self, wish: Wish) -> None:
        pause_s = _POLL_S[0]
        while self._patient and wish.key not in self.outcomes:
            await asyncio.sleep(pause_s * (0.5 + self._random.random()))
            pause_s = min(pause_s * 1.6, _POLL_S[1])
            await self._poll(wish)

    async def _poll(self, wish: Wish) -> Entry:
        intent_id, _ = self.receipts[wish.key]
        call = self._history.begin("poll", key=wish.key, intent_id=intent_id)
        entry = await self._read("poll", call, self._wire.intent(intent_id), wish)
        self._note(wish, entry)
        return entry

    async def _find(self, wish: Wish) -> Entry:
        call = self._history.begin("find", key=wish.key)
        payload = self._wire.intent_of(wish.user, wish.key.encode(), wish.kind)
        entry = await self._read("find", call, payload, wish)
        if entry.phase == "ok":
            self.receipts.setdefault(wish.key, (entry.intent_id, wish))
            self._note(wish, entry)
        return entry

    async def _read(
        self, op: Literal["poll", "find"], call: int, payload: bytes, wish: Wish
    ) -> Entry:
        try:
            reply = await self._ask(payload)
        except NotSentError:
            reply = None
        return self._history.end(call, op, **read_poll(reply), key=wish.key)

    def _note(self, wish: Wish, entry: Entry) -> None:
        if entry.outcome:
            self.outcomes.setdefault(wish.key, entry.outcome)

    async def _rebody(self, wish: Wish) -> None:
        call = self._history.begin("rebody", key=wish.key)
        reply = None
        with contextlib.suppress(NotSentError):
            reply = await self._ask(self._request(wish, wish.rebody))
        self._history.end(call, "rebody", **read_rebody(reply), key=wish.key)

    async def _end(self, wish: Wish, ending: Ending) -> None:
        """Pay or cancel; a lost answer is asked for again, as such a call may be."""
        op: Literal["pay", "cancel"] = "pay" if ending == "pay" else "cancel"
        intent_id, _ = self.receipts[wish.key]
        path = f"/v1/orders/{intent_id}/{'payment' if op == 'pay' else 'cancel'}"
        payment = {"payment_reference": wish.key, "amount": _PRICE}
        body = msgspec.json.encode(payment) if op == "pay" else b""
        while self._patient:
            call = self._history.begin(op, key=wish.key, intent_id=intent_id)
            reply = None
            with contextlib.suppress(NotSentError):
                reply = await self._ask(self._wire.post(path, wish.key.encode(), body))
            entry = self._history.end(call, op, **read_change(reply), key=wish.key)
            if entry.phase != "unknown":
                return
            await asyncio.sleep(_AGAIN_S[1] * self._random.random())

    def _request(self, wish: Wish, body: bytes) -> bytes:
        payload = self._wire.post(wish.path, wish.key.encode(), body)
        if not wish.waits:
            return payload
        return payload.replace(b"\r\nContent-Length:", b"\r\nPrefer: wait=2\r\nContent-Length:", 1)

    async def _ask(self, payload: bytes) -> Reply | None:
        return await self._asker.ask(payload, _ANSWER_TIMEOUT_S)

    # ---- the end

    async def _leave(self) -> None:
        """End all that goes on, as after Ctrl-C: buyers, and what nobody waits for any more."""
        self._arriving = self._patient = False
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await self._asker.close()

    async def _all_gone(self, timeout_s: float) -> bool:
        give_up_at = now() + timeout_s
        while self._tasks and now() < give_up_at:
            await asyncio.sleep(_TICK_S)
        return not self._tasks

    async def _final_round(self) -> None:
        questions = [(wish, self._poll) for _, wish in self.receipts.values()]
        questions += [(wish, self._find) for wish in self.unclear.values()]
        waiting = iter(questions)

        async def lane() -> None:
            for wish, ask in waiting:
                await self._until_known(wish, ask)

        await asyncio.gather(*(lane() for _ in range(_FINAL_LANES)))

    async def _until_known(
        self, wish: Wish, ask: Callable[[Wish], Coroutine[None, None, Entry]]
    ) -> None:
        for attempt in range(_FINAL_ATTEMPTS_MAX):
            entry = await ask(wish)
            if entry.phase in ("ok", "missing"):
                return
            await asyncio.sleep(min(0.05 * 2**attempt, 1.0))

    async def _probe(self, wish: Wish) -> bool:
        self._patient = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                if (await self._post(wish)).phase == "ok":
                    await self._learn(wish)
        self._patient = False
        return wish.key in self.outcomes

    def _call_soon(self, coroutine: Coroutine[None, None, None]) -> None:
        self._loop.call_soon_threadsafe(self._spawn, coroutine)

    def _wait(self, coroutine: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
