"""A row of scarcity: forty buyers for each unit, and what each of them is told, and when.

The buyers come in an open loop. Who is told to wait comes back when he was told, or in the window of
his appointment, with the same key; who hears a no of business stays away. When the units in flight
covered the stock is read off the tables: the acceptance of the intent that took the last unit. From
then on nobody may be sent to wait for what is gone; a governor tells balances every half second, so
that much later counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from random import Random

import psycopg
from msgspec import Struct

from config.settings import Settings, Worker
from deploy import campaigns
from tests.benchmarks.buyers import ACCEPTED, UNCLEAR, WAIT, Buyers, Heard, as_told
from tests.benchmarks.course import Course, Finding
from tests.benchmarks.measuring import MeasurementError
from tests.benchmarks.orders import SCARCE_CAMPAIGN, scarce_campaign, scarce_posts
from tests.benchmarks.overloading import BATCH_MAX, CONNECTIONS, far_worker, open_count, wait_until
from tests.benchmarks.sender import arrivals, percentile
from tests.benchmarks.world import World, in_force
from workers.domain.campaign import parse

BUYERS = 40_000
UNITS = 1_000
SECONDS = 35.0
_DRAIN_MAX_S = 60.0


class Sale(Struct, frozen=True):
    """What the tables say. Unix seconds; 0 where it never came to that."""

    available: int
    reserved: int
    sold: int
    accepted: int
    committed: int
    covered_at: float  # the acceptance of the intent that took the last unit
    gone_at: float  # the decision of the last sale


def scarce(course: Course) -> Finding:
    """40,000 buyers of 1,000 units in half a minute; shorter rows have fewer of both."""
    seconds = course.given.at_most(SECONDS)
    part = seconds / SECONDS
    units, buyers = max(1, round(UNITS * part)), round(BUYERS * part)
    course.say("starting a Tidegate whose workers are far from their database")
    settings = Settings(worker=Worker(batch_max=BATCH_MAX))
    with World(workers=0, settings=settings) as world, far_worker(world):
        campaigns.apply(world.cluster.dsn, parse(scarce_campaign(units)))
        in_force()
        course.say(f"{buyers:,} buyers of {units:,} units in {seconds:.0f} s")
        crowd = Buyers(
            world.to,
            scarce_posts(world.to),
            arrivals(buyers / seconds, seconds, seed=1),
            seconds=seconds,
            connections=CONNECTIONS,
            come_back=as_told(Random("scarce")),
        )
        heard = crowd.run()
        with closing(psycopg.connect(world.cluster.dsn, autocommit=True)) as connection:
            wait_until(lambda: open_count(connection) == 0, _DRAIN_MAX_S)
            sale = read_sale(connection, units)
    if not sale.gone_at:
        raise MeasurementError(f"the units were not sold in time: {sale}")
    age_s = settings.governor.balances_interval_ms / 1_000
    return Finding(figures_of(heard, sale, units, age_s))


def figures_of(heard: Sequence[Heard], sale: Sale, units: int, age_s: float) -> dict[str, float]:
    """Say what the buyers were told, against what the tables say was true then."""
    words = Counter(one.word for one in heard)
    given = [one.place for one in heard if one.place is not None]
    truly = [one for one in heard if one.word == "sold_out" and one.final]
    otherwise = [one.heard_at for one in heard if not (one.word == "sold_out" and one.final)]
    return {
        "units": float(units),
        "buyers": float(len({one.buyer for one in heard})),
        "sold": float(sale.sold),
        "oversold": float(max(0, sale.sold + sale.reserved - units, -sale.available)),
        "unsold": float(sale.available + sale.reserved),
        "accepted": float(sale.accepted),
        "sold_per_s": sale.sold / max(sale.gone_at - min(one.sent_at for one in heard), 1e-9),
        "waits": float(words[WAIT]),
        "waits_after_covered": float(
            sum(one.word == WAIT and one.sent_at > sale.covered_at + age_s for one in heard)
        ),
        "likely_sold_out": float(words["likely_sold_out"]),
        "sold_out": float(len(truly)),
        "unclear": float(words[UNCLEAR]),
        "appointments": float(len(given)),
        "appointments_too_late": float(
            sum(place.not_before.timestamp() > sale.gone_at for place in given)
        ),
        "sold_out_first_ms": 1_000
        * (min((one.heard_at for one in truly), default=sale.gone_at) - sale.gone_at),
        "sold_out_lag_ms": 1_000 * max(0.0, max(otherwise, default=0.0) - sale.gone_at),
        "no_p99_ms": 1_000
        * percentile([one.heard_at - one.sent_at for one in heard if one.word != ACCEPTED], 0.99),
    }


def read_sale(connection: psycopg.Connection, units: int) -> Sale:
    """Read what became of the units."""
    row = connection.execute(
        """
        WITH asked AS (SELECT * FROM audit.intents WHERE campaign_id = %(campaign)s)
        SELECT s.available, s.reserved, s.sold, (SELECT count(*) FROM asked),
               (SELECT count(*) FROM asked WHERE status = 'committed'),
               coalesce((SELECT extract(epoch FROM accepted_at)::float8 FROM asked
                         ORDER BY accepted_at OFFSET %(last)s LIMIT 1), 0),
               coalesce((SELECT extract(epoch FROM decided_at)::float8 FROM asked
                         WHERE status = 'committed'
                         ORDER BY decided_at OFFSET %(last)s LIMIT 1), 0)
        FROM audit.stock s WHERE s.campaign_id = %(campaign)s
        """,
        {"campaign": SCARCE_CAMPAIGN, "last": units - 1},
    ).fetchone()
    assert row is not None, "the campaign was applied"
    return Sale(*row)
