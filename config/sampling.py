"""Which ids are told of: a share of all, the same ones in every process.

The decision is in the id itself: its last 56 bits, against a threshold. So one trace is told whole
or not at all, and a tracing library that samples as OpenTelemetry does (consistent probability
sampling; the random bits of W3C Trace Context, level 2) picks the same traces for the same share.
"""

from __future__ import annotations

from typing import Final

_BITS: Final = 56
_MASK: Final = (1 << _BITS) - 1


class Sample:
    """A share, 0 to 1, of all ids of 128 bits."""

    __slots__ = ("_least", "_least_hex")

    def __init__(self, share: float) -> None:
        self._least = round((1 - share) * (1 << _BITS))
        # As the last 14 digits of an id's text; `g` is beyond them all.
        self._least_hex = b"g" if self._least > _MASK else b"%014x" % self._least

    def holds(self, number: int) -> bool:
        """Say whether the share holds this id."""
        return number & _MASK >= self._least

    def may_hold(self, digits: bytes) -> bool:
        """Say whether it can hold an id that ends in these 14 digits; cheaper than reading it."""
        return digits >= self._least_hex
