"""What became of every intent of an open loop: read off the tables, told by when it was to be sent.

The n-th post of a run has the key `{run}-{n}` and the n-th of its send times. So the tables alone say
who was served of those who came in a second, however often they came back meanwhile.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from math import inf, nextafter
from uuid import UUID

import psycopg
from msgspec import Struct

_READ = """
SELECT idempotency_key, coalesce(reason, status),
       extract(epoch FROM accepted_at)::float8, extract(epoch FROM decided_at)::float8,
       extract(epoch FROM decided_at - tidegate.uuid7_time(intent_id))::float8
FROM audit.intents WHERE intent_id > %s
"""
_LOST = """
SELECT count(*) FROM unnest(%s::uuid[]) AS receipt (intent_id)
WHERE NOT EXISTS (SELECT FROM tidegate.outcomes o WHERE o.intent_id = receipt.intent_id)
"""


class Fate(Struct, frozen=True, gc=False):
    """What became of one intent. Times are Unix times, in seconds.

    `run` and `n` are of its key; `outcome` is `accepted` while there is none, `committed`, or the
    reason of a refusal; `took_s` is from posting to outcome.
    """

    run: str
    n: int
    outcome: str
    accepted_at: float
    decided_at: float | None
    took_s: float | None

    def is_told(self, outcome: str, within_s: float) -> bool:
        """Tell whether it had this outcome in time."""
        return self.outcome == outcome and self.took_s is not None and self.took_s <= within_s


def read(dsn: str, since: UUID) -> list[Fate]:
    """Read what became of the intents posted since an id was made."""
    with psycopg.connect(dsn) as connection:
        return [_fate(*row) for row in connection.execute(_READ, (since,))]


def lost(dsn: str, receipts: Collection[str]) -> int:
    """Count the receipts without an outcome."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(_LOST, (list(receipts),)).fetchone()
    assert row is not None
    return int(row[0])


def _fate(
    key: str, outcome: str, accepted_at: float, decided_at: float | None, took_s: float | None
) -> Fate:
    run, _, n = key.rpartition("-")
    return Fate(run, int(n), outcome, accepted_at, decided_at, took_s)


def share(due: Sequence[float], served: AbstractSet[int], since_s: float, until_s: float) -> float:
    """Return the share of those due in a span who were served; 1 where nobody came.

    `due` rises; `served` are places in it.
    """
    numbers = range(bisect_left(due, since_s), bisect_left(due, until_s))
    return sum(n in served for n in numbers) / len(numbers) if numbers else 1.0


def back_after_s(
    due: Sequence[float], served: AbstractSet[int], since_s: float, until_s: float, wanted: float
) -> float:
    """Return how long after `since_s` the last second ends of which fewer than `wanted` were served.

    0 where none does: then nothing was to be recovered from.
    """
    second, last = since_s, since_s
    while second < until_s:
        end = min(second + 1.0, until_s)
        if share(due, served, second, end) < wanted:
            last = end
        second = end
    return last - since_s


def least_per_s(times: Sequence[float], since: float, until: float, window_s: float) -> float:
    """Return the least number a second in any window that lies within a span.

    `times` rise. A span shorter than the window is the only one.
    """
    window_s = min(window_s, until - since)
    if window_s <= 0:
        return 0.0
    # It is least just behind a time that has left the window, or at either end of the span.
    starts = [since, until - window_s]
    starts += [nextafter(at, inf) for at in times if since <= at < until - window_s]
    return (
        min(bisect_left(times, start + window_s) - bisect_left(times, start) for start in starts)
        / window_s
    )
