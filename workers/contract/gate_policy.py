"""The governor's policy on its way through the gate, and the numbers that rule the levels there."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from workers.domain.overload import SHARES, IntentClass, Policy

CLASS_PLACES: Final = {intent_class: place for place, intent_class in enumerate(IntentClass, 1)}
_UNKNOWN: Final = -1

# Made at import, as every decoder here: threads that meet a type first, together, crash msgspec.
_decode = msgspec.msgpack.Decoder(Policy).decode

BURST_US: Final = 100_000  # of the level's rates: what is admitted must be served in time
DEBT_US: Final = 1_000_000  # of what is guaranteed beyond the room there is, kept to be paid back
SEEN_US: Final = 2_000_000  # who asked within that has a guaranteed rate
GUARANTEED: Final = 0.9  # of a cap; the rest is first come, and lets debts be paid
BALANCE_AGE_US_MAX: Final = 3_000_000  # an older reading of a balance judges nobody

# The fourth field of tidegate_admit_2, the same in every call.
PACKED_SHARES: Final = msgspec.Raw(
    msgspec.msgpack.encode(
        [BURST_US, DEBT_US, SEEN_US, GUARANTEED]
        + [part for one in IntentClass for part in (SHARES[one].floor, SHARES[one].cap)]
    )
)


class Published(Struct, frozen=True):
    """The policy that was published last, and what else a governor asks the gate.

    `policy` is None if none was, or it was forgotten. It is what it was after its lease has lapsed
    as well (`lease_left_ms` is 0 then): a new governor begins with it; who wants what is in force
    asks for `current`. `epoch` is its fencing epoch, 0 without one.
    """

    policy: Policy | None
    epoch: int
    lease_left_ms: int
    in_flight: int
    reconciled: bool

    @property
    def current(self) -> Policy | None:
        """The published policy while its lease holds."""
        return self.policy if self.lease_left_ms > 0 else None


def numbers_of(policy: Policy) -> tuple[int, float, float, int]:
    """Return the numbers that the gate goes by; -1 stands for what is not stated."""
    return (
        policy.level.rank,
        _UNKNOWN if policy.admitted_per_s is None else policy.admitted_per_s,
        _UNKNOWN if policy.service_per_s is None else policy.service_per_s,
        policy.wait_max_ms,
    )


def ordered_numbers(policy: Policy | None) -> tuple[float, ...]:
    """Return what the gate goes by of an operator's order; empty if there is none."""
    if policy is None:
        return ()
    return (*numbers_of(policy), _UNKNOWN if policy.until_ms is None else policy.until_ms)


def read_policy(packed: bytes) -> Policy | None:
    """Read what `msgspec.msgpack.encode` made of a policy; b"" is none."""
    return _decode(packed) if packed else None
