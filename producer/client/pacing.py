"""When to send, and when not to: three rules that keep a crowd of clients from becoming a storm.

Pure apart from their own memory: each is told the time (a monotonic clock's seconds) and draws
nothing itself. Each has its own lock, because all calls of a client share it.
"""

from __future__ import annotations

import threading
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final

_BACKOFF_S: Final = 0.1
_BACKOFF_MAX_S: Final = 5.0
_SPREAD: Final = 0.1  # of a wait, added so that those who were told the same do not return as one
_SPREAD_MIN_S: Final = 0.1
_WINDOW_SPREAD_S_MAX: Final = 2.0
_CLOCK_S: Final = 1.0
WAIT_S_MAX: Final = 366 * 86_400.0  # what is beyond it is nonsense, and no date


class RetryBudget:
    """How many sends may be repeats: a tenth of the first ones, and a small reserve.

    A token bucket as in Finagle's RetryBudget (2016; its default is a fifth, and 10 a second): each
    first send pays in `ratio`, each repeat takes 1. Here the bucket holds `reserve` at most, so that
    a long calm saves up no storm, and fills by itself at `trickle_per_s` only, so that a thousand
    idle gateways together stay harmless. Over any time, repeats <= ratio * first sends + reserve +
    trickle_per_s * seconds.

    Departure, after gRPC's throttling (gRFC A6), which repeats only from a bucket more than half
    full: that holds for repeats after a plain no. The lower half is kept for those who do not know
    what became of their wish, because they cannot tell their user anything else.

    Who comes at an appointed time is no repeat: the capacity was set aside for it.
    """

    def __init__(
        self, ratio: float = 0.1, reserve: float = 10.0, trickle_per_s: float = 0.1
    ) -> None:
        self._ratio = ratio
        self._reserve = reserve
        self._trickle_per_s = trickle_per_s
        self._tokens = reserve
        self._at: float | None = None
        self._lock = threading.Lock()

    def deposit(self, now: float) -> None:
        """Note a first send."""
        with self._lock:
            self._fill(now)
            self._tokens = min(self._reserve, self._tokens + self._ratio)

    def withdraw(self, now: float, *, in_doubt: bool) -> bool:
        """Take the token of a repeat; False: there is none for it."""
        with self._lock:
            self._fill(now)
            kept = 0.0 if in_doubt else self._reserve / 2
            if self._tokens - 1 < kept - 1e-9:
                return False
            self._tokens -= 1
            return True

    def _fill(self, now: float) -> None:
        passed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        self._tokens = min(self._reserve, self._tokens + passed * self._trickle_per_s)


class Throttle:
    """Adaptive throttling on the client's side (Site Reliability Engineering, 2016, chapter 21).

    A wish is rejected here with probability max(0, (requests - k * accepts) / (requests + 1)),
    counted over two minutes. `requests` are what the gateway wished to send, rejected or not;
    `accepts` what the API took up and answered, a no of business or of the caller's own limit (429)
    included. A 503, a 5xx or no answer is no accept. So at overload k times as much is sent as is
    taken: enough to notice the end of it, and the API's work of refusing is bounded.

    Departures. A request is counted when its answer is heard: one that waits for its outcome is no
    sign of overload. With fewer than `requests_min` in two minutes nothing is rejected: one unlucky
    call tells nothing. Once in `probe_s` one is let through: after an outage the formula alone would
    try once in two minutes. And once all that was heard in a cell of ten seconds was taken, what was
    before is forgotten: to reject for minutes what would be taken were a failure of our own.
    """

    cells: Final = 12
    cell_s: Final = 10.0
    requests_min: Final = 10
    probe_s: Final = 1.0

    def __init__(self, k: float = 2.0) -> None:
        self._k = k
        self._cells: list[_Cell] = []
        self._sent_at = float("-inf")
        self._lock = threading.Lock()

    def admits(self, now: float, drawn: float) -> bool:
        """Tell whether a first send may go out. `drawn` is evenly random, 0 to 1."""
        with self._lock:
            cell = self._cell(now)
            if drawn < self._probability() and now - self._sent_at < self.probe_s:
                cell.requests += 1
                return False
            self._sent_at = now
            return True

    def heard(self, now: float, *, accepted: bool) -> None:
        """Note the answer to a send, first or repeated, or that there was none."""
        with self._lock:
            cell = self._cell(now)
            cell.requests += 1
            cell.accepts += accepted
            cell.failures += not accepted

    def _probability(self) -> float:
        requests = sum(cell.requests for cell in self._cells)
        accepts = sum(cell.accepts for cell in self._cells)
        if requests < self.requests_min:
            return 0.0
        return max(0.0, (requests - self._k * accepts) / (requests + 1))

    def _cell(self, now: float) -> _Cell:
        """Return the cell of this time; forget what is too old, or what no longer says anything."""
        number = int(now // self.cell_s)
        cells = self._cells
        if not cells or cells[-1].number < number:
            if cells and cells[-1].accepts >= 1 and not cells[-1].failures:
                del cells[:-1]
            cells.append(_Cell(number))
            self._cells = [cell for cell in cells if cell.number > number - self.cells]
        return self._cells[-1]


class _Cell:
    __slots__ = ("accepts", "failures", "number", "requests")

    def __init__(self, number: int) -> None:
        self.number = number
        self.requests = 0
        self.accepts = 0
        self.failures = 0


def backoff_s(attempt: int, drawn: float) -> float:
    """Return the pause after try `attempt`: doubled each time, to a bound, less a random half."""
    return min(_BACKOFF_S * 2.0 ** min(attempt - 1, 20), _BACKOFF_MAX_S) * (1 - drawn / 2)


def later_s(told_s: float, drawn: float) -> float:
    """Spread a wait that was told: never earlier, up to a tenth later."""
    return told_s + drawn * max(_SPREAD_MIN_S, told_s * _SPREAD)


def within_s(window_s: float, drawn: float) -> float:
    """Choose a moment early in an appointment's window.

    The API's clock is known to the second only, and the way there takes time too.
    """
    return drawn * min(max(0.0, window_s - _CLOCK_S) / 2, _WINDOW_SPREAD_S_MAX)


def told_s(retry_after: str | None, retry_after_ms: float | None, now: datetime) -> float | None:
    """Read when to come back, in seconds from `now`; None where nothing readable was told.

    `retry_after` is seconds or an HTTP date. Where the header and our own member differ, both spread
    by chance, the later one holds: never earlier than told.
    """
    waits = [] if retry_after_ms is None else [retry_after_ms / 1_000]
    header = (retry_after or "").strip()
    if header.isascii() and header.isdigit():
        waits.append(float(header[:9]))
    elif header and (date := http_date(header)) is not None:
        waits.append((date - now).total_seconds())
    return min(max(0.0, *waits), WAIT_S_MAX) if waits else None


def http_date(header: str | None) -> datetime | None:
    """Read an HTTP date; None for anything else."""
    try:
        date = parsedate_to_datetime(header or "")
    except (TypeError, ValueError, OverflowError):
        return None
    return None if date.tzinfo is None else date
