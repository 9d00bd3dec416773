"""The words of overload: levels, classes of intents, and the policy that the governor publishes.

What closes first follows from what can wait: `throttled` pauses issuance and slows polls, so that
the capacity goes to those who hold coupons; `shedding` refuses orders by class; `closed` takes
nothing. Payments and cancels never reach the gate, and so are never shed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Struct


class Level(StrEnum):
    """How far the system closes, from open to shut."""

    NORMAL = "normal"
    THROTTLED = "throttled"
    SHEDDING = "shedding"
    CLOSED = "closed"

    @property
    def rank(self) -> int:
        """Its place from open (0) to shut (3)."""
        return _RANKS[self]


_RANKS: Final = {level: rank for rank, level in enumerate(Level)}


class IntentClass(StrEnum):
    """Who is served first when not all can be, in falling precedence."""

    APPOINTMENT = "appointment"  # comes back in the window that it was promised
    REDEMPTION = "redemption"  # an order with a coupon whose code verifies without the database
    ORDER = "order"
    ISSUANCE = "issuance"


class Share(Struct, frozen=True):
    """A class's part of the admitted rate, 0 to 1: at least `floor` while asked for, `cap` at most.

    A cap holds for every class, the first included: on the day that every order redeems, being of
    the better class must not be a way past the limit. But no cap is so low that a class which asks
    alone would drain the queue by which the level is held: the level would fall and rise for ever.
    """

    floor: float
    cap: float


# Floors leave a tenth free; a floor that nobody asks for goes to the others.
SHARES: Final = {
    IntentClass.APPOINTMENT: Share(0.60, 0.80),
    IntentClass.REDEMPTION: Share(0.20, 0.90),
    IntentClass.ORDER: Share(0.08, 0.80),
    IntentClass.ISSUANCE: Share(0.02, 0.20),
}
# Of the admitted rate, what is promised in windows: less than the floor of those who come back, since
# the rate itself may fall between a promise and its window.
APPOINTMENT_SHARE: Final = 0.50


class Policy(Struct, frozen=True, kw_only=True):
    """What the governor publishes to every gate and to the chat layer.

    `reason` is one word for why the level is not `normal`: `wait`, `postgres`, `valkey`, `dispatch`,
    `operator`, or "" when it is. `since_ms` and `until_ms` are Unix times; `until_ms` is known only
    of what an operator ordered for a time. `admitted_per_s` bounds all classes together and holds
    from `shedding` on; None: not bounded by rate. `service_per_s` is how many intents are decided a
    second when there is no lack of them; None: not measured yet. `wait_max_ms` is the longest
    predicted wait with which anybody is admitted.
    """

    level: Level = Level.NORMAL
    reason: str = ""
    since_ms: int = 0
    until_ms: int | None = None
    admitted_per_s: float | None = None
    service_per_s: float | None = None
    predicted_wait_ms: int = 0
    wait_max_ms: int = 60_000

    @property
    def issuance_paused(self) -> bool:
        """Whether load has paused issuance everywhere."""
        return self.level is not Level.NORMAL
