"""What all flows of a client share: their budget and throttles, their clocks, their common steps."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from producer.client import replies, requests
from producer.client.faults import GatewayFault
from producer.client.model import Accepted, IntentResult, Kind, NotAccepted, WaitNotice, Wish
from producer.client.pacing import RetryBudget, Throttle, backoff_s, later_s
from producer.client.replies import Doubt, Lost, No, Reply
from producer.client.requests import Request

T = TypeVar("T")

RETRY_S: Final = 1.0  # told where nobody could tell: an API that starts again takes seconds
_POLL_S_MIN: Final = 0.05
_POLL_S_MAX: Final = 5.0


class Options(Struct, frozen=True, kw_only=True):
    """How a client behaves. Seconds throughout.

    `patience_s` is how long a call waits for its turn and for its outcome, if it says nothing else; a
    send under way when it ends is let finish. `timeout_s` is what the API may take for an answer that
    it does not hold back; it gives itself 5. `connections_max` bounds the pool: each wish that waits
    for its outcome holds a connection. `throttle_k` and `retry_…`: see `pacing`.
    """

    patience_s: float = 20.0
    timeout_s: float = 8.0
    connect_timeout_s: float = 2.0
    connections_max: int = 100
    throttle_k: float = 2.0
    retry_ratio: float = 0.1
    retry_reserve: float = 10.0
    retry_trickle_per_s: float = 0.1


class Pause(Struct, frozen=True):
    """Wait; `notice` is for whoever waits with us."""

    seconds: float
    notice: WaitNotice | None = None


Flow = Generator[Request | Pause, Any, T]


def send(request: Request) -> Flow[Reply | Lost]:
    """Send, and hear."""
    heard = yield request
    assert isinstance(heard, Reply | Lost), "a request is answered by what was heard"
    return heard


def pause(seconds: float, notice: WaitNotice | None = None) -> Flow[bool]:
    """Wait; tell whether to go on."""
    go_on = yield Pause(seconds, notice)
    assert isinstance(go_on, bool), "a pause is answered by whether to go on"
    return go_on


@contextmanager
def naming_the_key(notice: WaitNotice) -> Iterator[None]:
    """Note in what is raised which wish was waiting: its key may be known to nobody else."""
    try:
        yield
    except Exception as error:
        error.add_note(f"while a wish waited; its idempotency key: {notice.idempotency_key}")
        raise


def is_taken(heard: Reply | Lost) -> bool:
    """Tell whether the API took a call up, be it to refuse it for the caller's own limit."""
    return isinstance(heard, Reply) and not replies.is_unclear(heard.status)


class Shared:
    """What the calls of one client share. The clocks are seconds, `draw` is evenly 0 to 1."""

    def __init__(
        self,
        options: Options | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.options = options or Options()
        self.now = monotonic
        self.wall = wall
        self.draw = draw
        self.budget = RetryBudget(
            self.options.retry_ratio, self.options.retry_reserve, self.options.retry_trickle_per_s
        )
        # Apart: while issuance is paused, as it is first, orders are not to be held back for it.
        self.throttles: dict[Kind, Throttle] = {
            "order": Throttle(self.options.throttle_k),
            "issuance": Throttle(self.options.throttle_k),
        }

    def ends(self, patience_s: float | None) -> float:
        """Return when a call's patience ends."""
        patience = self.options.patience_s if patience_s is None else patience_s
        return self.now() + max(0.0, patience)

    def admits(self, kind: Kind) -> bool:
        """Tell whether a first send may go out."""
        return self.throttles[kind].admits(self.now(), self.draw())

    def post(self, kind: Kind, request: Request) -> Flow[Reply | Lost]:
        """Send wishes, and note what came of it."""
        heard = yield from send(request)
        self.throttles[kind].heard(self.now(), accepted=is_taken(heard))
        return heard

    def token(
        self,
        attempt: int,
        told_s: float,
        ends: float,
        notice: Callable[[float], WaitNotice] = lambda wait_s: None,  # type: ignore[assignment,return-value]
    ) -> Flow[bool]:
        """Wait to ask again in doubt, as told and until there is a token; False: not in time."""
        while True:
            wait_s = later_s(max(backoff_s(attempt, self.draw()), told_s), self.draw())
            if self.now() + wait_s >= ends:
                return False
            if not (yield from pause(wait_s, notice(wait_s))):
                return False
            if self.budget.withdraw(self.now(), in_doubt=True):
                return True
            attempt, told_s = attempt + 1, 0.0

    def poll(self, accepted: Accepted, ends: float, *, at_once: bool) -> Flow[IntentResult]:
        """Ask for an outcome as often as the API said, ever more seldom, until `ends`.

        No repeats by the budget's reckoning: each is due, and they are few. Raises GatewayFault.
        """
        wish = Wish(kind="order", body="", locale=None, idempotency_key=accepted.idempotency_key)
        request = requests.get(f"/v1/intents/{accepted.intent_id}", self.options.timeout_s)
        pause_s = max(_POLL_S_MIN, accepted.poll_after_ms / 1_000)
        wait_s = 0.0 if at_once else later_s(pause_s, self.draw())
        while wait_s == 0.0 or self.now() + wait_s < ends:
            if wait_s and not (yield from pause(wait_s)):
                break
            heard = yield from send(request)
            told_s = 0.0
            match replies.read(heard, wish, replies.utc(self.wall())):
                case GatewayFault() as fault:
                    raise fault
                case Accepted(message=message):
                    accepted = replace(accepted, message=message)
                case No(told_s=told) | Doubt(told_s=told):
                    told_s = told or 0.0
                case NotAccepted():
                    pass  # no answer to this question
                case outcome:
                    return replace(outcome, replayed=accepted.replayed)
            pause_s = max(pause_s, min(pause_s * 1.5, _POLL_S_MAX))
            wait_s = later_s(max(pause_s, told_s), self.draw())
        return accepted

    def insist(self, request: Request, ends: float) -> Flow[Reply | float]:
        """Send what may be sent again until it is answered; else return when to try again, in s."""
        attempt = 1
        self.budget.deposit(self.now())
        while True:
            heard = yield from send(request)
            told_s = 0.0
            if isinstance(heard, Reply):
                if heard.status != 429 and not replies.is_unclear(heard.status):
                    return heard
                told_s = replies.wait_told_s(heard, replies.utc(self.wall())) or 0.0
            if not (yield from self.token(attempt, told_s, ends)):
                return max(told_s, RETRY_S)
            attempt += 1
