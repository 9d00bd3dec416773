"""Frames: a run as it stands, in figures that fit one glance."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from time import monotonic
from typing import Protocol

from msgspec import Struct, field

from deploy.load.books import Books, Tally
from deploy.load.histogram import Percentiles

_PACE_WINDOW_S = 2.0


class Observed(Protocol):
    """What the database says of a campaign at one moment, read beside the run."""

    @property
    def committed(self) -> int:
        """Orders."""

    @property
    def in_flight(self) -> int:
        """Receipts without an outcome."""

    @property
    def refused(self) -> Mapping[str, int]:
        """Refused receipts by reason."""

    @property
    def stock(self) -> Mapping[str, tuple[int, int]]:
        """Units available and initial, by SKU."""


class Frame(Struct, frozen=True, kw_only=True):
    """One picture of a step."""

    done: int
    total: int
    elapsed_s: float
    clock: str = ""  # where the profile's own clock stands: "hour 4.2 of 9"
    tally: Tally | None = None
    sent_per_s: float = 0.0
    accepted_per_s: float = 0.0
    acceptance: Percentiles | None = None
    refused: Mapping[str, int] = field(default_factory=dict)  # by reason, at once and later
    observed: Observed | None = None
    # Without the database, what became of receipts is known only once they are asked for.
    knows_outcomes: bool = True

    @property
    def share(self) -> float:
        """How much of the step is done, from 0 to 1."""
        return min(self.done / self.total, 1.0) if self.total else 0.0

    @property
    def committed(self) -> int:
        """Orders committed, by the database where it is read, else as far as the books know."""
        if self.observed is not None:
            return self.observed.committed
        return self.tally.committed if self.tally is not None else 0

    @property
    def in_flight(self) -> int:
        """Receipts without an outcome yet."""
        if self.observed is not None:
            return self.observed.in_flight
        tally = self.tally
        return tally.accepted - tally.committed - tally.refused_later if tally is not None else 0


class Pace:
    """Rates over the last two seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque()

    def rates(self, sent: int, accepted: int) -> tuple[float, float]:
        """Take in the counts of now; return sent and accepted per second."""
        now = monotonic()
        self._seen.append((now, sent, accepted))
        while now - self._seen[0][0] > _PACE_WINDOW_S:
            self._seen.popleft()
        then, sent_then, accepted_then = self._seen[0]
        if now - then < 0.1:
            return 0.0, 0.0
        return (sent - sent_then) / (now - then), (accepted - accepted_then) / (now - then)


def of_books(
    books: Books,
    pace: Pace,
    elapsed_s: float,
    *,
    done: int,
    total: int,
    clock: str = "",
    observed: Observed | None = None,
    knows_outcomes: bool = True,
) -> Frame:
    """Draw a frame from a run's books, and from what the database says where it is read."""
    tally = books.tally()
    sent_per_s, accepted_per_s = pace.rates(tally.sent, tally.accepted)
    refused = Counter(books.refused_by)
    if observed is not None:
        refused.update(observed.refused)
    else:
        refused.update({k: n for k, n in books.outcomes_by.items() if k != "committed"})
    return Frame(
        done=done,
        total=total,
        elapsed_s=elapsed_s,
        clock=clock,
        tally=tally,
        sent_per_s=sent_per_s,
        accepted_per_s=accepted_per_s,
        acceptance=books.acceptance.percentiles(),
        refused=+refused,
        observed=observed,
        knows_outcomes=knows_outcomes,
    )


def top(counts: Mapping[str, int], most: int) -> list[tuple[str, int]]:
    """The greatest few counts, the others added up as `others`."""
    ranked = Counter(counts).most_common()
    head, tail = ranked[:most], ranked[most:]
    return [*head, ("others", sum(n for _, n in tail))] if tail else head
