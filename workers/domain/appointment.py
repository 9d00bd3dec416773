"""Appointments: a place in time for an order that load has refused.

Each gateway has a calendar. Its cursor is the time of the next free slot, and each window handed out
moves it on by one slot: 1/pace seconds, where the pace is what the capacity for appointments yields,
shared evenly by the gateways that asked lately. So windows add up to the capacity there is: what an
idle gateway leaves is handed out by the others, and a gateway that invents users spreads its own
share thinner, nobody else's. The cursor never lies before now plus a lead, the wait that is predicted
for whoever is already in. A window opens at its slot and stays open for its width, so that a person
or an SDK can come back within it; slots are spread, jitter is not needed.

Nothing is reserved. A window is a promise of class: its holder is admitted as APPOINTMENT, whose
floor of the admitted rate outlasts everybody else's. Admission goes by rate, so what holders leave
unused goes to newcomers by itself, and there is nothing to give back.

What happens to whom:
- early: told the same window again; not admitted on the ticket's strength.
- in the window, or late by no more than its width again: served as APPOINTMENT, once.
- later, or with a used ticket: a plain order, which may earn a new window.
- in time, yet turned away, because the service rate fell: windows already given stand, so the holder
  gets a new one at once, before the newcomers of its batch and beyond the general horizon.
- where the goods are gone: the answer is `sold_out`, as for everybody.

A calendar may hand out only what the database has recorded beforehand, a block of slot time. A
calendar that lost its memory begins where the recorded time ends, so that no slot is given twice.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from msgspec import Struct

from workers.domain.overload import IntentClass, Level

HORIZON_MS_MAX: Final = 30 * 60_000  # Who is told to come back later than this will not wait.
WIDTH_MS_MAX: Final = 60_000
GRACE_WIDTHS: Final = 1  # How late a holder may come, in widths of its window.
# A flush loses the rest of a block: this much slot time at most.
BLOCK_MS: Final = 120_000
# Long enough that a small gateway, which asks now and then, keeps its share while it is asked for.
ASKED_LATELY_MS: Final = 60_000
# Beyond this nobody is booked, not even who was turned away: no fault of ours may push it further.
BOOKED_AHEAD_MS_MAX: Final = 60 * 60_000

# A 429 earns nothing: it is the caller's own doing. Neither does a paused merchant or scarce stock.
_LOAD_LIMITS: Final = frozenset({"level", "deadline", "in_flight", "campaign"})

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)


class Window(Struct, frozen=True, gc=False):
    """From `starts_ms` until before `ends_ms`, in Unix ms of the gate's clock."""

    starts_ms: int
    ends_ms: int

    @property
    def width_ms(self) -> int:
        """How long it is open."""
        return self.ends_ms - self.starts_ms

    @property
    def grace_ends_ms(self) -> int:
        """From when on it counts for nothing any more."""
        return self.ends_ms + GRACE_WIDTHS * self.width_ms


class Appointment(Struct, frozen=True):
    """A window as its holder is told of it, with the ticket that proves it."""

    ticket: str
    not_before: datetime
    not_after: datetime


class Arrival(StrEnum):
    """When a holder comes, as its window sees it."""

    EARLY = "early"
    IN_WINDOW = "in_window"
    LATE = "late"  # within the grace
    LAPSED = "lapsed"
    USED = "used"  # by another intent, or a newer window of the same owner replaced it

    @property
    def keeps_place(self) -> bool:
        """Whether the holder is served as APPOINTMENT."""
        return self in (Arrival.IN_WINDOW, Arrival.LATE)


class Pace(Struct, frozen=True, kw_only=True):
    """How fast appointments may be handed out, and of what form.

    `per_s` is what the capacity for appointments serves a second, of all gateways together.
    `lead_ms`: how far from now the first window starts. `horizon_ms` bounds every window's end, from
    now, but for who was turned away.
    """

    per_s: float
    lead_ms: int = 0
    width_ms: int = 5_000
    horizon_ms: int = HORIZON_MS_MAX

    def __post_init__(self) -> None:
        if not 0 <= self.per_s < float("inf"):
            raise ValueError(f"expected a finite pace of 0 or more a second, got {self.per_s}")
        if not 1 <= self.width_ms <= WIDTH_MS_MAX:
            raise ValueError(f"expected a width from 1 to {WIDTH_MS_MAX} ms, got {self.width_ms}")
        if self.lead_ms < 0:
            raise ValueError(f"expected a lead of 0 ms or more, got {self.lead_ms}")

    @property
    def slot_us(self) -> float | None:
        """How far apart the windows of all gateways together are; None: there is no capacity.

        So it is where slots are longer than what anybody is booked ahead.
        """
        if self.per_s * BOOKED_AHEAD_MS_MAX < 1_000:
            return None
        return max(1.0, 1_000_000 / self.per_s)  # a microsecond is the clock's own step


class Block(Struct, frozen=True):
    """Slot time that a calendar may hand out once the database has recorded `until_ms`.

    It begins where the last block ended. `recorded_ms` is what the database must hold still for the
    block to be this claimant's (None: nothing yet).
    """

    recorded_ms: int | None
    begins_ms: int
    until_ms: int


def earns_appointment(limit: str, level: Level, intent_class: IntentClass) -> bool:
    """Say whether a refusal by this limit earns a window.

    Only an order does; and not while all is closed, when nobody knows how long.
    """
    return (
        limit in _LOAD_LIMITS
        and level is not Level.CLOSED
        and intent_class is not IntentClass.ISSUANCE
    )


def arrival(window: Window, now_ms: int) -> Arrival:
    """Say when a holder comes who comes now; whether the window was used is the calendar's to say."""
    if now_ms < window.starts_ms:
        return Arrival.EARLY
    if now_ms < window.ends_ms:
        return Arrival.IN_WINDOW
    return Arrival.LATE if now_ms < window.grace_ends_ms else Arrival.LAPSED


def appointment(window: Window, ticket: str) -> Appointment:
    """Return what the holder is told."""
    starts = _EPOCH + window.starts_ms * _MS
    return Appointment(ticket, starts, starts + window.width_ms * _MS)


def next_block(
    now_ms: int,
    lead_ms: int,
    cursor_ms: int | None,
    limit_ms: int | None,
    recorded_ms: int | None,
) -> Block | None:
    """Return the block that a calendar needs next; None: it has enough, or must not have more.

    `cursor_ms` and `limit_ms` are the calendar's own, None where it knows nothing; `recorded_ms` is
    the database's. Where the two ends agree the cursor goes on; else somebody else may have handed
    out what lies between, and the new block begins at the later end. A block is taken when half of
    one is left, so that an idle calendar costs a write a minute.
    """
    begins_ms = max(recorded_ms or 0, limit_ms or 0)
    goes_on = limit_ms == begins_ms
    start_ms = (cursor_ms or 0) if goes_on else begins_ms
    position_ms = max(start_ms, now_ms + lead_ms)
    if goes_on and recorded_ms == begins_ms and begins_ms - position_ms >= BLOCK_MS / 2:
        return None
    until_ms = min(position_ms + BLOCK_MS, now_ms + BOOKED_AHEAD_MS_MAX)
    return Block(recorded_ms, begins_ms, until_ms) if until_ms > begins_ms else None
