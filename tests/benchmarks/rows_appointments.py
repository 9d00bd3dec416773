"""A row of appointments: whether who comes back when he was told is served, and what that costs.

Buyers who know nothing of each other come for the first time at three times the capacity, in an open
loop, for as long as the row lasts. Who is refused with an appointment comes back at a random moment of
its window with his ticket and the same key; one in ten never does. Who is refused without one comes
back after `Retry-After`. The returns come on top of the three times.

The capacity that the row is held against is the best that this row has seen: the probe's, and the
goodput of the same load from buyers of whom nobody ever comes back. A system of its own goes before for
the probe, because whoever is refused moves the calendar on, and the probe's buyers would have taken the
first minutes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from random import Random
from uuid import UUID

import psycopg
from msgspec import Struct

from config.settings import Settings, Worker
from tests.benchmarks.buyers import ACCEPTED, UNCLEAR, WAIT, Buyers, ComeBack, Heard, as_told, never
from tests.benchmarks.course import Course, Finding
from tests.benchmarks.overloading import (
    BATCH_MAX,
    CONNECTIONS,
    TTL_MS,
    capacity_per_s,
    far_worker,
    open_count,
    timely_between,
    wait_until,
)
from tests.benchmarks.sender import arrivals, percentile
from tests.benchmarks.world import World

TIMES = 3.0
SECONDS = 60.0
ALONE_S = 20.0  # of the same load without anybody who comes back
AWAY = 0.1  # of the appointments, nobody comes to
_BEGINNING = 1 / 6  # of the row, in which the queue fills and the first windows open; not judged
_DRAIN_MAX_S = 30.0


class Returned(Struct, frozen=True):
    """A first visit in an open window."""

    opened_at: float
    came_at: float
    at_once: bool  # admitted by this very call
    decided_at: float | None  # of its order; None: never admitted, or not yet decided


class Phase(Struct, frozen=True):
    """A load, what was heard of it, and the goodput of its judged part."""

    heard: Sequence[Heard]
    goodput_per_s: float


def appointments(course: Course) -> Finding:
    """Three times the capacity, and everybody comes back as he was told."""
    settings = Settings(worker=Worker(batch_max=BATCH_MAX))
    course.say("starting a Tidegate whose workers are far from their database")
    with World(workers=0, settings=settings) as world, far_worker(world):
        probed = capacity_per_s(course, world, world.bench)
    course.say("starting another, with an empty calendar")
    with World(workers=0, settings=settings) as world, far_worker(world):
        back = _phase(course, world, probed, SECONDS, as_told(Random("back"), AWAY))
        decided = _decided(world, back.heard)
        alone = _phase(course, world, probed, ALONE_S, never)
    capacity = max(probed, alone.goodput_per_s)
    return Finding(
        figures_of(back.heard, decided)
        | {
            "probed_per_s": probed,
            "nobody_back_per_s": alone.goodput_per_s,
            "goodput_per_s": back.goodput_per_s,
            "idle_share": 1 - back.goodput_per_s / capacity,
        }
    )


def _phase(course: Course, world: World, capacity: float, most_s: float, back: ComeBack) -> Phase:
    """Offer the load, and wait until what was accepted is decided."""
    seconds = course.given.at_most(most_s)
    due = arrivals(capacity * TIMES, seconds, seed=int(most_s))
    orders = world.orders(len(due), ttl_ms=TTL_MS)
    course.say(f"{capacity * TIMES:,.0f} buyers a second for {seconds:.0f} s")
    crowd = Buyers(
        world.to, orders.post, due, seconds=seconds, connections=CONNECTIONS, come_back=back
    )
    heard = crowd.run()
    ended_at = crowd.began_at + seconds
    begun_at = crowd.began_at + seconds * _BEGINNING
    with closing(psycopg.connect(world.cluster.dsn, autocommit=True)) as connection:
        wait_until(lambda: open_count(connection) == 0, _DRAIN_MAX_S)
        timely = timely_between(connection, begun_at, ended_at)
    return Phase(heard, timely / (ended_at - begun_at))


def figures_of(heard: Sequence[Heard], decided: dict[str, float]) -> dict[str, float]:
    """Say what came of appointments. `decided` are the Unix times of outcomes, by intent."""
    refused = [one for one in heard if one.word == WAIT]
    given = [one for one in refused if one.place is not None]
    leads = [one.place.not_before.timestamp() - one.heard_at for one in given if one.place]
    returned = returns(heard, decided)
    waited = [one.decided_at - one.came_at for one in returned if one.decided_at is not None]
    late = [one.decided_at - one.opened_at for one in returned if one.decided_at is not None]
    return {
        "buyers": float(len({one.buyer for one in heard})),
        "refusals": float(len(refused)),
        "tickets_per_refusal": len(given) / max(1, len(refused)),
        "lead_p50_s": percentile(leads, 0.50),
        "lead_p99_s": percentile(leads, 0.99),
        "came": float(len(returned)),
        "admitted_at_once": sum(one.at_once for one in returned) / max(1, len(returned)),
        "never_served": float(sum(one.decided_at is None for one in returned)),
        "arrival_to_outcome_p50_s": percentile(waited, 0.50),
        "arrival_to_outcome_p99_s": percentile(waited, 0.99),
        "opening_to_outcome_p50_s": percentile(late, 0.50),
        "opening_to_outcome_p99_s": percentile(late, 0.99),
        "unclear": float(sum(one.word == UNCLEAR for one in heard)),
    }


def returns(heard: Sequence[Heard], decided: dict[str, float]) -> list[Returned]:
    """Find each buyer's first visit in the window he was told; later ones are made good for it."""
    accepted = {one.buyer: one.intent_id for one in heard if one.word == ACCEPTED}
    seen: set[int] = set()
    found = []
    for one in heard:
        place = one.shown
        if place is None or one.buyer in seen:
            continue
        if not place.not_before.timestamp() <= one.sent_at < place.not_after.timestamp():
            continue
        seen.add(one.buyer)
        found.append(
            Returned(
                opened_at=place.not_before.timestamp(),
                came_at=one.sent_at,
                at_once=one.word == ACCEPTED,
                decided_at=decided.get(accepted.get(one.buyer, "")),
            )
        )
    return found


def _decided(world: World, heard: Sequence[Heard]) -> dict[str, float]:
    """Read when the accepted were decided, in Unix seconds."""
    ids = [UUID(one.intent_id) for one in heard if one.word == ACCEPTED and one.shown is not None]
    with closing(psycopg.connect(world.cluster.dsn, autocommit=True)) as connection:
        rows = connection.execute(
            """
            SELECT intent_id::text, extract(epoch FROM decided_at)::float8
            FROM tidegate.outcomes WHERE intent_id = ANY(%s)
            """,
            (ids,),
        ).fetchall()
    return dict(rows)
