"""The gate's calendar: hands out windows, marks them used, and is told how far it may go.

One call to the function library in calendar.lua serves a batch; its header is the specification,
`workers.domain.appointment` says what a window promises. The calendar holds no truth but who was told
which window. What it forgets delays windows by a block at most: until its keeper has given it the
next block, it books nothing, and who is refused is told only when to ask again. When it cannot be
asked it raises `GateUnreachable`.

Owners reach Valkey only as hashes, of gateway, campaign and user: they are personal, may be long,
and two gateways' users never meet.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

import msgspec
import redis
from msgspec import Struct

from workers.contract.library import Library, Source
from workers.contract.names import gate_names
from workers.domain.appointment import (
    ASKED_LATELY_MS,
    BOOKED_AHEAD_MS_MAX,
    GRACE_WIDTHS,
    Arrival,
    Block,
    Pace,
    Window,
    arrival,
)

WISHES_PER_CALL_MAX: Final = 500  # A call holds the server for about 2 ms.

_SOURCE: Final = Source("calendar.lua", "tidegate_calendar_version")
LIBRARY_VERSION: Final = _SOURCE.version


class Wish(Struct, frozen=True, gc=False):
    """An order that load has refused, and whose owner would come back.

    `until_ms` is the Unix ms from which on there is nothing to buy: no window ends later (None: not
    in sight). `was_turned_away`: the owner came in its window and could not be served. Then a window
    that has begun is replaced, and the pace's horizon does not bind.
    """

    gateway_id: str
    user_id: str
    campaign_id: str
    until_ms: int | None = None
    was_turned_away: bool = False


class Booked(Struct, frozen=True):
    """Each wish's window, in order, and the gate's own time, in Unix ms, before any was told.

    None: there is no window within what can be promised.
    """

    now_ms: int
    windows: Sequence[Window | None]


class Holder(Struct, frozen=True, gc=False):
    """An intent that shows the ticket of a window; `key` is the digest of its idempotency key."""

    gateway_id: str
    user_id: str
    campaign_id: str
    window: Window
    key: UUID


class CalendarState(Struct, frozen=True):
    """What the calendars of all gateways know, by the gate's clock.

    `cursors_ms` are the times from which on no slot is taken; `limits_ms` those before which slots
    may be. A gateway that either leaves out has no calendar.
    """

    now_ms: int
    cursors_ms: Mapping[str, int]
    limits_ms: Mapping[str, int]


class Calendar:
    """Windows by batches. Every method may raise `GateUnreachable`.

    The client must be one of `gate.open_client`: a repeated command could give a slot twice.
    """

    def __init__(self, client: redis.Redis, key_prefix: str) -> None:
        self._library = Library(client, _SOURCE)
        root = gate_names(key_prefix).limits
        self._keys = (f"{root}:calendars",)
        self._book_keys = (*self._keys, f"{root}:calendars:asked")
        self._owner_head = f"{root}:appointment:"

    def book(self, wishes: Sequence[Wish], pace: Pace) -> Booked:
        """Give each wish, of which there is one at least, a window where there is one.

        An owner who asks again gets the same window until it was used or its grace is over. Whoever
        was turned away goes before the others of the call, `WISHES_PER_CALL_MAX` of which fit one.
        """
        keys = self._owner_keys(wishes)
        of_owner: dict[str, Wish] = {}
        for key, wish in zip(keys, wishes, strict=True):
            if key not in of_owner or wish.was_turned_away:
                of_owner[key] = wish
        asked = list(of_owner.items())
        if any(wish.was_turned_away for wish in wishes):
            asked.sort(key=lambda item: not item[1].was_turned_away)
        times_ms: list[int] = []
        windows: dict[str, Window | None] = {}
        for first in range(0, len(asked), WISHES_PER_CALL_MAX):
            part = asked[first : first + WISHES_PER_CALL_MAX]
            now_ms, *flat = msgspec.msgpack.decode(
                self._library.call(
                    "tidegate_calendar_book_2", self._book_keys, _packed(part, pace)
                ),
                type=list[int],
            )
            times_ms.append(now_ms)
            for (key, _), starts_ms, width_ms in zip(part, flat[::2], flat[1::2], strict=True):
                windows[key] = Window(starts_ms, starts_ms + width_ms) if width_ms else None
        return Booked(min(times_ms), [windows[key] for key in keys])

    def use(self, holders: Sequence[Holder]) -> list[Arrival]:
        """Take each holder's window for its intent, in order; say when it comes.

        Where the arrival keeps its place, the window is this intent's alone, however often it asks.
        Who comes early keeps its window also where it was forgotten: `book` tells it again.
        """
        arrivals: list[Arrival] = []
        for first in range(0, len(holders), WISHES_PER_CALL_MAX):
            part = holders[first : first + WISHES_PER_CALL_MAX]
            now_ms, *taken = msgspec.msgpack.decode(
                self._library.call("tidegate_calendar_use", self._keys, self._packed_holders(part)),
                type=list[int],
            )
            arrivals += [
                _told(arrival(holder.window, now_ms), taken=took == 1)
                for holder, took in zip(part, taken, strict=True)
            ]
        return arrivals

    def give_back(self, holders: Sequence[Holder]) -> None:
        """Let the windows be used again of holders that were not admitted after all."""
        for first in range(0, len(holders), WISHES_PER_CALL_MAX):
            part = holders[first : first + WISHES_PER_CALL_MAX]
            self._library.call(
                "tidegate_calendar_give_back", self._keys, self._packed_holders(part)
            )

    def begin(self) -> CalendarState:
        """Return what the calendars know. Those that lost their memory begin anew, with nothing."""
        now_ms, fields = self._library.call(
            "tidegate_calendar_begin", self._keys, secrets.token_hex(8)
        )
        return _state(now_ms, fields)

    def extend(self, blocks: Mapping[str, Block]) -> bool:
        """Let each gateway's calendar hand out its block, which the database has recorded.

        A block is given once. False: the calendars lost their memory since `begin`; nothing was done.
        """
        packed = [
            value
            for gateway_id, block in blocks.items()
            for value in (gateway_id, block.begins_ms, block.until_ms)
        ]
        size = 3 * WISHES_PER_CALL_MAX
        done = [
            self._library.call(
                "tidegate_calendar_extend",
                self._keys,
                msgspec.msgpack.encode(packed[first : first + size]),
            )
            for first in range(0, len(packed), size)
        ]
        return all(done)

    def cursors(self) -> Mapping[str, int]:
        """Return the Unix ms from which on each gateway's slots are free, as far as is known."""
        return _state(0, self._library.command("HGETALL", *self._keys)).cursors_ms

    def _packed_holders(self, holders: Sequence[Holder]) -> bytes:
        packed: list[str | int] = []
        for key, holder in zip(self._owner_keys(holders), holders, strict=True):
            window = holder.window
            packed += (key, window.starts_ms, window.ends_ms, window.grace_ends_ms, holder.key.hex)
        return msgspec.msgpack.encode(packed)

    def _owner_keys(self, owners: Iterable[Wish | Holder]) -> list[str]:
        scopes: dict[tuple[str, str], blake2b] = {}
        keys = []
        for owner in owners:
            scope = scopes.get((owner.gateway_id, owner.campaign_id))
            if scope is None:
                scope = scopes[owner.gateway_id, owner.campaign_id] = _scope(owner)
            hashed = scope.copy()
            hashed.update(owner.user_id.encode())
            keys.append(self._owner_head + hashed.hexdigest())
        return keys


def _packed(asked: Sequence[tuple[str, Wish]], pace: Pace) -> bytes:
    places: dict[str, int] = {}
    packed: list[str | int] = []
    for key, wish in asked:
        place = places.setdefault(wish.gateway_id, len(places) + 1)
        horizon_ms = BOOKED_AHEAD_MS_MAX if wish.was_turned_away else pace.horizon_ms
        packed += (key, place, horizon_ms, wish.until_ms or 0, int(wish.was_turned_away))
    form = (pace.lead_ms, pace.width_ms, GRACE_WIDTHS)
    share = (pace.slot_us or 0, ASKED_LATELY_MS, list(places))
    return msgspec.msgpack.encode((*form, *share, packed))


def _told(came: Arrival, *, taken: bool) -> Arrival:
    return Arrival.USED if came.keeps_place and not taken else came


def _scope(owner: Wish | Holder) -> blake2b:
    # The lengths keep apart ("a", "bc") and ("ab", "c"), and the user that follows from both.
    gateway_id, campaign_id = owner.gateway_id, owner.campaign_id
    scope = f"{len(gateway_id)}:{gateway_id}{len(campaign_id)}:{campaign_id}"
    return blake2b(scope.encode(), digest_size=16)


def _state(now_ms: int, fields: Any) -> CalendarState:
    """Read the calendars' hash, from a flat list (FCALL) or a mapping (redis-py's HGETALL)."""
    pairs = (
        fields.items() if isinstance(fields, dict) else zip(fields[::2], fields[1::2], strict=True)
    )
    cursors: dict[str, int] = {}
    limits: dict[str, int] = {}
    for name, value in pairs:
        kind, _, gateway_id = name.decode().partition(":")
        if kind == "cursor":
            cursors[gateway_id] = math.ceil(float(value) / 1000)
        elif kind == "limit":
            limits[gateway_id] = int(value)
    return CalendarState(now_ms, cursors, limits)
