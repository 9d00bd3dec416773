"""Keeping the calendars: what the governor does each tick, so that windows can be handed out.

    calendar.begin ──▶ store.read ──▶ next_block for each ──▶ store.extend ──▶ calendar.extend

A block is recorded before the calendar may hand it out, and only if the recorded time is still what
the block was made from. So each stretch of time is one claimant's, and two governors, or two gates
after a split, never hand out the same slot. A governor that dies in between loses its block; the next
one begins behind it. The calendar is asked first, so that while the gate is away no slot time is
spent on it in the database: each lost block moves the calendar by two minutes.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Protocol

from msgspec import Struct

from workers.contract.calendar import CalendarState
from workers.domain.appointment import Block, next_block


class Store(Protocol):
    """What keeping the calendars needs of the store; see `store.calendars`."""

    def read(self) -> Mapping[str, int | None]: ...
    def extend(self, blocks: Mapping[str, Block]) -> Container[str]: ...


class Calendar(Protocol):
    """What it needs of the gate; see `contract.calendar`."""

    def begin(self) -> CalendarState: ...
    def extend(self, blocks: Mapping[str, Block]) -> bool: ...


class KeptCalendars(Struct, frozen=True):
    """What a tick did.

    `extended` are the gateways whose calendars were given a block, `restored` those of them that
    began anew there. `forgotten`: the gate lost its memory in the midst of it; the next tick restores.
    """

    extended: int = 0
    restored: int = 0
    forgotten: bool = False


def keep_calendars(store: Store, calendar: Calendar, *, lead_ms: int) -> KeptCalendars:
    """Give every live gateway's calendar slot time enough for the next ticks.

    `lead_ms` is the lead of the pace in force: blocks reach beyond the first window. The time is the
    gate's own. Raises `GateUnreachable` or psycopg's errors; the next tick does what was left undone.
    """
    state = calendar.begin()
    recorded = store.read()

    blocks = _blocks(state, recorded, lead_ms)
    if not blocks:
        return KeptCalendars()

    taken = store.extend(blocks)
    blocks = {gateway_id: block for gateway_id, block in blocks.items() if gateway_id in taken}
    known = calendar.extend(blocks)
    restored = [one for one, block in blocks.items() if state.limits_ms.get(one) != block.begins_ms]
    return KeptCalendars(len(blocks), len(restored), forgotten=not known)


def _blocks(
    state: CalendarState, recorded: Mapping[str, int | None], lead_ms: int
) -> dict[str, Block]:
    needed = {
        gateway_id: next_block(
            state.now_ms,
            lead_ms,
            state.cursors_ms.get(gateway_id),
            state.limits_ms.get(gateway_id),
            until_ms,
        )
        for gateway_id, until_ms in recorded.items()
    }
    return {gateway_id: block for gateway_id, block in needed.items() if block is not None}
