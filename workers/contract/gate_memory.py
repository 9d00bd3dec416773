"""The gate's memory of what is in flight, made equal to the open intents of the journal.

Why reconciling is safe at any speed, with any number of reconcilers, each of which may stop
anywhere. Ids are added that were open when the journal was read: at worst one of them has been
settled since, and is counted until the next round. Ids are removed that were not open then, nor
when read once more, and were made more than a grace before the reconciliation began, so that they
are settled or never will be journalled: an id that is admitted while a slow reconciler runs is
younger than what it removes. Counting too much admits too little, for one round.

Too few are counted after a flush, or when the journal is held up for longer than the grace: ids that
are journalled after the open ones were read are missing until a later round reads again. They are
what was on its way to the journal at that moment, and by so much the bound may be overrun.

Units are held by ids in flight only, so they are looked at last, when the set is right.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import Final
from uuid import UUID

from msgspec import Struct

from workers.contract.library import Library
from workers.contract.names import GateNames

SCAN_COUNT: Final = 1_000  # Ids that are looked at in one step: about 4 ms of the server's time.
ID_BYTES: Final = 16
# Longer than an intent takes from admission to the journal's commit, but for a journal that is held
# up. No longer: what a process that died had admitted fills the bound of those who come.
GRACE_MS: Final = 5_000
DRIFT_MAX: Final = 0.02  # Share of the in-flight ids: less is what is under way between the two.


class Reconciliation(Struct, frozen=True):
    """What a reconciliation found and did.

    `finished` is false if the gate lost its memory meanwhile: run it again. `compared_only` says
    that the counts agreed and the set was left alone. `units_returned` counts the ids that held
    units without being in flight.
    """

    finished: bool
    compared_only: bool
    added: int
    removed: int
    units_returned: int = 0


class Memory:
    """One deployment's in-flight set and held units, as a reconciler sees them."""

    def __init__(self, library: Library, names: GateNames) -> None:
        self._library = library
        self._names = names

    def reconcile(
        self,
        open_ids: Callable[[], Iterable[UUID]],
        open_count: Callable[[], int] | None,
        grace_ms: int,
    ) -> Reconciliation:
        """Make both true, in steps of a few milliseconds; `Gate.reconcile` says how."""
        key = self._names.reconciling_key(token := secrets.token_hex(8))
        begin_keys = (self._names.in_flight, self._names.epoch, key)
        begun = self._library.call("tidegate_reconcile_begin", begin_keys, token)
        now_ms, in_flight, reconciled = begun
        if reconciled and open_count and _agree(in_flight, open_count()):
            returned = self._return_stale_units()
            return Reconciliation(True, True, added=0, removed=0, units_returned=returned)

        is_open = _bytes_of(open_ids())
        seen, stale = self._scan(is_open, now_ms, grace_ms)
        missing = is_open - seen
        if stale or (reconciled and missing):
            # Most are not missing, but settled since they were read as open; and what seemed stale
            # may have been on its way to a journal that was held up.
            is_open = _bytes_of(open_ids())
            missing &= is_open
            stale -= is_open
        removed = self._in_runs("SREM", stale)
        added = self._in_runs("SADD", missing)
        returned = self._return_stale_units()
        finish_keys = (self._names.epoch, key)
        finished = self._library.call("tidegate_reconcile_finish", finish_keys) == 1
        return Reconciliation(finished, False, added, removed, returned)

    def _scan(
        self, is_open: set[bytes], began_ms: int, grace_ms: int
    ) -> tuple[set[bytes], set[bytes]]:
        """Return what is in the set, and what of it is not open, unless it is too young to judge."""
        seen: set[bytes] = set()
        stale: set[bytes] = set()
        cursor = 0
        while True:
            cursor, members = self._library.command(
                "SSCAN", self._names.in_flight, cursor, "COUNT", SCAN_COUNT
            )
            seen.update(members)
            # Made after now: by a host whose clock ran ahead. Not after the beginning, or a
            # reconciler that slept would remove what came meanwhile.
            seconds, microseconds = self._library.command("TIME")
            newest_ms = seconds * 1_000 + microseconds // 1_000 + grace_ms
            stale.update(
                member
                for member in members
                if member not in is_open
                and not began_ms - grace_ms <= _made_at_ms(member) <= newest_ms
            )
            if cursor == 0:
                return seen, stale

    def _in_runs(self, command: str, members: Iterable[bytes]) -> int:
        """Add or remove members, so many at a time; return how many were not, or were, there."""
        listed, count = list(members), 0
        for first in range(0, len(listed), SCAN_COUNT):
            run = listed[first : first + SCAN_COUNT]
            count += int(self._library.command(command, self._names.in_flight, *run))
        return count

    def _return_stale_units(self) -> int:
        """Return the units that are held by what is not in flight; count the rest anew."""
        keys = (self._names.in_flight, self._names.units, self._names.ahead)
        returned, cursor = 0, b"0"
        while True:
            cursor, count = self._library.call("tidegate_reconcile_units", keys, cursor)
            returned += int(count)
            if cursor == b"0":
                return returned


def _bytes_of(intent_ids: Iterable[UUID]) -> set[bytes]:
    return {intent_id.bytes for intent_id in intent_ids}


def _agree(in_flight: int, open_count: int) -> bool:
    return abs(in_flight - open_count) <= DRIFT_MAX * in_flight


def _made_at_ms(member: bytes) -> int:
    """Return when a UUIDv7 was made; what is no id was made long ago."""
    return int.from_bytes(member[:6]) if len(member) == ID_BYTES else 0
