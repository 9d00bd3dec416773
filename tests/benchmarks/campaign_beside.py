"""The full tables beside empty ones, in turns of seconds.

A machine that is shared runs a third faster or slower from one quarter of an hour to the next, so
the last million of a run of half an hour, held against its first, says more of the machine than of
the tables. Here both are asked within the same minute: the campaign's own cluster, with all its
orders in it, and one that has just been made, with the same posts over the same connections.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from msgspec import Struct

from deploy.embedded.cluster import Cluster
from tests.benchmarks.course import ASSUMED_PER_S
from tests.benchmarks.world import World

TURNS = 5
SECONDS = 8.0
_USERS_FROM = 1_000_000_000  # whom the campaign gave no coupon


class Beside(Struct, frozen=True, kw_only=True):
    """Orders committed per second in each turn, and how many orders the full tables held."""

    orders: int
    full_per_s: list[float]
    empty_per_s: list[float]

    @property
    def ratio(self) -> float:
        """Full over empty: the median of the turns, each against its own neighbour."""
        return median(f / e for f, e in zip(self.full_per_s, self.empty_per_s, strict=True))


def compare(full: Cluster, orders: int, connections: int, say: Callable[[str], None]) -> Beside:
    """Send to a cluster that is full and runs, and to an empty one, by turns.

    Raises MeasurementError where a receipt is not in the tables.
    """
    with World(workers=1) as empty:
        worlds = (World(cluster=full, users_from=_USERS_FROM), empty)
        rates: list[list[float]] = [[], []]
        for turn in range(TURNS):
            for world, found in zip(worlds, rates, strict=True):
                measured = world.bench.measure(
                    world.orders(int(ASSUMED_PER_S * SECONDS)).posts(),
                    connections=connections,
                    seconds=SECONDS,
                )
                found.append(round(measured.rates.committed_per_s, 1))
            say(f"  turn {turn + 1}: {rates[0][-1]:,.0f}/s full, {rates[1][-1]:,.0f}/s empty")
    return Beside(orders=orders, full_per_s=rates[0], empty_per_s=rates[1])
