"""The gate's answer to a batch, as gate.lua packs it."""

from __future__ import annotations

import math
from typing import Final

import msgspec
from msgspec import Struct

from workers.contract.admission import LAYERS, Quota, RateLimit
from workers.domain.overload import Level

# When there is room in flight again, only who knows the service rate can say: this is a guess. It
# also caps the wait for the unreconciled rate: a reconciliation takes seconds at most.
IN_FLIGHT_RETRY_AFTER_MS: Final = 1_000

_IN_FLIGHT: Final = LAYERS.index("in_flight") + 1
_LEVELS: Final = tuple(Level)


class _Reply(Struct, array_like=True):
    reconciled: int
    in_flight: int
    refusals: list[int]
    backlogs_us: list[float]
    level: int
    policy_fresh: int
    predicted_wait_ms: int
    shortages: list[int]
    lasts: list[int]
    amounts: list[int]


_decode = msgspec.msgpack.Decoder(_Reply).decode


class Reply:
    """The reply of tidegate_admit_2, with names; candidates count from 0, places from 1."""

    def __init__(self, answer: bytes) -> None:
        reply = _decode(answer)
        self.reconciled = reply.reconciled == 1
        self.in_flight = reply.in_flight
        self.level = _LEVELS[reply.level]
        self.policy_fresh = reply.policy_fresh == 1
        self.predicted_wait_ms = reply.predicted_wait_ms
        self.refusals = _refusals(reply.refusals)
        self.shortages = _shortages(reply.shortages, reply.amounts)
        self.lasts_until_ms = _lasts(reply.lasts)
        self._backlogs_us = reply.backlogs_us
        self._quotas: dict[int, Quota] = {}
        self._unused: dict[RateLimit, Quota] = {}

    def quota(self, place: int, limit: RateLimit) -> Quota:
        """Return what is left of the limit at this place."""
        backlog_us = self._backlogs_us[place - 1]
        if backlog_us == 0:  # As most users' are in a flood; so they share one.
            quota = self._unused.get(limit)
            if quota is None:
                quota = self._unused[limit] = Quota(limit, limit.burst, 0)
            return quota
        quota = self._quotas.get(place)
        if quota is None:
            remaining = max(0, math.floor(limit.burst - (backlog_us - 0.5) / limit.interval_us))
            quota = self._quotas[place] = Quota(limit, remaining, math.ceil(backlog_us / 1000))
        return quota


def _refusals(flat: list[int]) -> dict[int, tuple[str, int]]:
    """Return by candidate the layer that refused it, and its wait in ms."""
    each = iter(flat)
    return {
        candidate - 1: (LAYERS[layer - 1], _retry_after_ms(layer, wait_us))
        for candidate, layer, wait_us in zip(each, each, each, strict=True)
    }


def _shortages(flat: list[int], amounts: list[int]) -> dict[int, tuple[bool, int, int, int]]:
    """Return by candidate whether a shortage is final, what is ahead, left, and wanted."""
    each = iter(flat)
    return {
        candidate - 1: (final == 1, ahead, left, wanted)
        for candidate, final, ahead, left, wanted in zip(
            each, each, each, each, amounts, strict=True
        )
    }


def _lasts(flat: list[int]) -> dict[int, int]:
    """Return by candidate until when what it wants lasts, in Unix ms."""
    each = iter(flat)
    return {candidate - 1: until_ms for candidate, until_ms in zip(each, each, strict=True)}


def _retry_after_ms(layer: int, wait_us: int) -> int:
    wait_ms = -(-wait_us // 1_000)
    if layer != _IN_FLIGHT:
        return wait_ms
    return min(wait_ms or IN_FLIGHT_RETRY_AFTER_MS, IN_FLIGHT_RETRY_AFTER_MS)
