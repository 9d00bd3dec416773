"""Faults of a campaign file: each names its key, what is wrong there, and what mends it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from msgspec import Struct


class Fault(Struct, frozen=True, order=True):
    """One thing that is wrong: `key` is where (`items[3].price`), `mend` is what to write."""

    key: str
    problem: str
    mend: str

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}; {self.mend}"


class CampaignFileError(Exception):
    """A campaign file that cannot be applied; `faults` holds every reason at once."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        lines = "\n".join(f"  {fault}" for fault in self.faults)
        super().__init__(f"the campaign file cannot be applied:\n{lines}")


class Faults(list[Fault]):
    """Faults found so far."""

    def note(self, key: str, problem: str, mend: str) -> None:
        """Add one."""
        self.append(Fault(key, problem, mend))

    def about(self, key: str) -> bool:
        """Say whether something is wrong with `key` already."""
        return any(fault.key == key for fault in self)

    def raise_any(self) -> None:
        """Raise CampaignFileError if any fault was noted."""
        if self:
            raise CampaignFileError(self)


def nearest(word: str, known: Iterable[str]) -> str:
    """Say what was probably meant, or what there is: the mend of a misspelt name."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    some = ", ".join(f"`{name}`" for name in names[:8])
    return f"known are {some}{' and more' if len(names) > 8 else ''}" if names else "leave it out"
