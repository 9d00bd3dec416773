"""The row of exactness: through kills, what metrics show is what the tables say, to the unit.

Half of what this machine can do is offered for ten minutes, one intent per post: orders with a coupon
each, some of whose codes are used, another's, forged or no codes at all, so that there are refusals of
several reasons; and beside them people who ask for a coupon. Whoever gets no answer asks again with the
same key. Meanwhile one kind of process after the other is killed. Then nothing more is done than to
wait: until all processes are back, until no intent is open, until the exporter has read the tables
again. Each series that tells how many intents and coupons there were must then be what is counted row
by row in the audit's views; and each receipt that a sender holds must have its outcome there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPException
from typing import Final

import psycopg
from msgspec import Struct
from msgspec.structs import replace

from deploy.embedded.cluster import Cluster
from deploy.load import plan, profile
from deploy.load.books import Books
from deploy.load.generator import Mode
from deploy.load.goods import Goods
from deploy.load.plan import Plan
from deploy.load.profile import Cart, Mix, Retry
from deploy.load.run import send
from tests.benchmarks import fates
from tests.benchmarks.course import ASSUMED_PER_S, PROBE_S, Course, Finding
from tests.benchmarks.measuring import MeasurementError
from tests.benchmarks.onlooker import Onlooker
from tests.benchmarks.orders import HOT, HOT_CAMPAIGN
from tests.benchmarks.overloading import open_count, seconds_to_normal, wait_until
from tests.benchmarks.rows_faults import kill
from tests.benchmarks.scraping import (
    Labels,
    Rising,
    Samples,
    Scraper,
    labels_of,
    samples,
    scrape,
    total,
)
from tests.benchmarks.world import World
from workers.store import audit
from workers.store.pool import AUDITOR

TIMES = 10.0  # as long as `--seconds`: ten minutes where nobody says otherwise
QUICK_S = 15.0
SHARE = 0.5  # of what the machine can do
EVERY_S = 15.0  # between two kills, or less where each role would not come to its turn
ROLES: Final = ("worker", "api", "worker-child", "exporter", "governor")  # in the order of kills
ASKERS = 0.05  # for a coupon, beside each order
MIX = Mix(
    second_use=0.02,
    anothers_coupon=0.01,
    forged_coupon=0.01,
    bad_coupon=0.01,
    repeated_keys=0.02,
)
# Whoever wants to know: no refusal for load is final, and no silence is taken for an answer.
RETRY = Retry(attempts_max=100, retry_after_max_s=60.0, answer_timeout_s=20.0)
CONNECTIONS, _ASKERS_CONNECTIONS = 1_000, 50
_WORKERS = 2
_LOOK_S = 0.1
_BACK_MAX_S = 60.0  # for killed processes
_DRAIN_MAX_S = 120.0
_READ_MAX_S = 60.0  # for the exporter's next reading
_AT_ONCE = 100_000  # receipts that are looked up
_INTENTS = """
SELECT campaign_id, kind, status, coalesce(reason, ''), count(*) FROM audit.intents
GROUP BY campaign_id, kind, status, reason
"""
_COUPONS = """
SELECT campaign_id, count(*), count(redeemed_by_order) FROM audit.coupons GROUP BY campaign_id
"""
ACCEPTED: Final = "tidegate_intents_accepted_total"
REFUSED: Final = "tidegate_intents_refused_total"
SHOWN: Final = (
    ACCEPTED,
    "tidegate_intents_committed_total",
    REFUSED,
    "tidegate_coupons_issued_total",
    "tidegate_coupons_redeemed_total",
)


class Endured(Struct, frozen=True):
    """What became of the row's load."""

    books: Sequence[Books]  # of the senders
    shown: Samples  # by the exporter, in the end
    counted: Samples  # in the tables, in the end
    before: float  # intents that were there when it began
    kills: Mapping[str, int]  # of processes, by role
    restarts: int
    falls: int  # of a counter that the exporter showed meanwhile
    scrapes: int


def exact(course: Course) -> Finding:
    """Kill everything in turn under load, and compare."""
    given = course.given
    seconds = QUICK_S if given.quick else TIMES * given.seconds
    course.say("starting Tidegate")
    with World(workers=_WORKERS) as world:
        per_s = SHARE * _capacity_per_s(course, world)
        course.say(f"planning {per_s:,.0f} orders a second for {seconds:.0f} s")
        plans = _plans(world, per_s, seconds)
        endured = _endure(course, world, plans, every_s(seconds))
        course.say("looking up receipts, and auditing")
        lost = _lost(world.cluster.dsn, endured.books)
        report = audit.run(world.cluster.dsn, AUDITOR, drained=True)
    for (name, labels), units in differences(endured.shown, endured.counted).items():
        course.say(f"{units:+,.0f} in {name} {dict(labels)}")
    for check in report.violated:
        course.say(f"audit: {check.name}, such as {check.example}")
    figures = figures_of(endured) | {
        "seconds": seconds,
        "offered_per_s": sum(one.sends for one in plans) / seconds,
        "receipts_lost": float(lost),
        "violations": float(sum(check.violations for check in report.checks)),
        "checks": float(len(report.checks)),
    }
    return Finding(figures)


def _endure(course: Course, world: World, plans: Sequence[Plan], every_s: float) -> Endured:
    """Send while harm is done, wait until all is well and decided, and read both sides."""
    cluster, rising = world.cluster, Rising("exporter")
    with closing(psycopg.connect(cluster.dsn, autocommit=True)) as connection:
        before = total(count(connection), ACCEPTED)
        with _Harm(course, cluster, every_s) as harm:
            with Scraper(cluster.endpoints().metrics, rising.hear) as scraper:
                books = _send(course, world, plans, harm)
                _until_back(cluster)
        course.say(f"{harm.kills.total()} processes were killed; draining and comparing")
        wait_until(lambda: open_count(connection) == 0, _DRAIN_MAX_S)
        return Endured(
            books=books,
            shown=_read_after(cluster, time.time()),
            counted=count(connection),
            before=before,
            kills=harm.kills,
            restarts=harm.restarts,
            falls=rising.falls,
            scrapes=scraper.done - scraper.failed,
        )


def every_s(seconds: float) -> float:
    """Return the time between two kills: each role comes to its turn, however short it is."""
    return min(EVERY_S, seconds / (len(ROLES) + 1))


def _capacity_per_s(course: Course, world: World) -> float:
    """Find out how much the machine takes; what is learnt first, a worker has to learn once."""
    seconds = course.given.at_most(PROBE_S)
    posts = world.orders(int(ASSUMED_PER_S * (1.0 + seconds)) + 2 * CONNECTIONS).posts()
    course.say("finding out how much it takes")
    world.bench.measure(posts, connections=CONNECTIONS, seconds=1.0, strict=False)
    seconds_to_normal(world)
    measured = world.bench.measure(posts, connections=CONNECTIONS, seconds=seconds)
    return measured.rates.committed_per_s


def _plans(world: World, per_s: float, seconds: float) -> list[Plan]:
    """Plan the orders, and those who ask for a coupon."""
    orders = max(1, int(per_s * seconds))
    wallet = world.coupons(orders)
    goods = Goods(HOT_CAMPAIGN, HOT)
    terms = replace(
        profile.load("steady"), mix=MIX, cart=Cart(lines=(0.0, 1.0), zipf=0.0), retry=RETRY
    )
    askers = [f"asker-{n}" for n in range(int(orders * ASKERS))]
    return [
        plan.orders(terms, goods, wallet, count=orders, duration_s=seconds, seed=1),
        plan.issuances(terms, goods, askers, duration_s=seconds, seed=1),
    ]


def _send(course: Course, world: World, plans: Sequence[Plan], harm: _Harm) -> list[Books]:
    """Send the plans beside each other while harm is done; return the senders' books."""
    orders, askers = [Books(one.intents) for one in plans]
    course.say(f"sending, and killing every {harm.every_s:.1f} s")
    harm.begin()
    with ThreadPoolExecutor(1, "askers") as beside:
        asking = beside.submit(
            send, plans[1], world.to, askers, RETRY, mode=Mode(connections=_ASKERS_CONNECTIONS)
        )
        send(plans[0], world.to, orders, RETRY, mode=Mode(connections=CONNECTIONS))
        asking.result()
    harm.end()
    for books in (orders, askers):
        faults = replace(books.faults(), receipts_without_outcome=0)  # the tables are asked instead
        if not faults.none:
            raise MeasurementError(f"broken promises: {faults}")
    return [orders, askers]


class _Harm(Onlooker):
    """Kills one role after the other, and counts who was killed and who came in their place.

    A context manager; looks on until it is left, kills between `begin` and `end`.
    """

    def __init__(self, course: Course, cluster: Cluster, every_s: float) -> None:
        super().__init__("harm", _LOOK_S)
        self.every_s = every_s
        self.kills: Counter[str] = Counter()
        self._course = course
        self._cluster = cluster
        self._seen = self._living()
        self._first = len(self._seen)
        self._next_at = float("inf")
        self._turn = 0

    def begin(self) -> None:
        """Kill from now on."""
        self._next_at = time.monotonic() + self.every_s

    def end(self) -> None:
        """Kill no more."""
        self._next_at = float("inf")

    @property
    def restarts(self) -> int:
        """How many processes came after the first."""
        return len(self._seen) - self._first

    def look(self) -> None:
        """See who lives, and kill when it is time."""
        self._seen |= self._living()
        role = ROLES[self._turn % len(ROLES)]
        alive = self._cluster.processes().get(role, [])
        if alive and time.monotonic() >= self._next_at:
            kill(self._cluster, role)
            self._course.say(f"killed: {role}, {len(alive)}")
            self.kills[role] += len(alive)
            self._next_at += self.every_s
            self._turn += 1

    def _living(self) -> set[tuple[str, int]]:
        roles = self._cluster.processes()
        return {(role, pid) for role in ROLES for pid in roles.get(role, [])}


def _until_back(cluster: Cluster) -> None:
    """Wait until every process shows its metrics again. Raises MeasurementError."""
    waiting = cluster.endpoints().metrics
    wait_until(lambda: all(map(_shows, waiting.values())), _BACK_MAX_S)
    away = [name for name, url in waiting.items() if not _shows(url)]
    if away:
        raise MeasurementError(f"not there again: {', '.join(away)}")


def _shows(url: str) -> bool:
    try:
        return bool(scrape(url))
    except (OSError, HTTPException):
        return False


def _read_after(cluster: Cluster, at: float) -> Samples:
    """Return what the exporter shows once it has read the tables after a Unix time."""
    url = cluster.endpoints().metrics["exporter"]
    found: Samples = {}

    def is_read() -> bool:
        nonlocal found
        found = samples(scrape(url))
        return total(found, "tidegate_exporter_read_timestamp_seconds") > at + total(
            found, "tidegate_exporter_read_seconds"
        )

    wait_until(is_read, _READ_MAX_S)
    if not is_read():
        raise MeasurementError("the exporter does not read the tables any more")
    return {series: value for series, value in found.items() if series[0] in SHOWN}


def count(connection: psycopg.Connection) -> Samples:
    """Count row by row, in the audit's views, what the exporter's series must say."""
    found: Counter[tuple[str, Labels]] = Counter()
    for series, intents in _counted(connection):
        found[series] += intents
    return dict(found)


def _counted(connection: psycopg.Connection) -> Iterator[tuple[tuple[str, Labels], int]]:
    for campaign, kind, status, reason, intents in connection.execute(_INTENTS):
        yield (ACCEPTED, ()), intents
        if status != "accepted":
            labels = {"campaign": campaign, "kind": kind} | ({"reason": reason} if reason else {})
            yield (f"tidegate_intents_{status}_total", labels_of(labels)), intents
    for campaign, issued, redeemed in connection.execute(_COUPONS):
        labels_ = labels_of({"campaign": campaign})
        yield ("tidegate_coupons_issued_total", labels_), issued
        yield ("tidegate_coupons_redeemed_total", labels_), redeemed


def differences(shown: Samples, counted: Samples) -> Mapping[tuple[str, Labels], float]:
    """Return by how many units each series is above what was counted; those alike are left out."""
    apart = {
        series: shown.get(series, 0.0) - counted.get(series, 0.0) for series in shown | counted
    }
    return {series: units for series, units in apart.items() if units}


def figures_of(endured: Endured) -> dict[str, float]:
    """Say what the exporter showed, what the senders know, and how far both are from the tables."""
    shown, counted = endured.shown, endured.counted
    tallies = [one.tally() for one in endured.books]
    receipts = sum(one.accepted for one in tallies)
    refused = {
        dict(labels)["reason"]
        for (name, labels), value in shown.items()
        if name == REFUSED and value
    }
    sums = zip(("accepted", "committed", "refused", "issued", "redeemed"), SHOWN, strict=True)
    return {word: total(shown, name) for word, name in sums} | {
        "reasons": float(len(refused)),
        "series": float(len(shown | counted)),
        "differences": sum(map(abs, differences(shown, counted).values())),
        "falls": float(endured.falls),
        "scrapes": float(endured.scrapes),
        "receipts": float(receipts),
        # In the tables, and nobody holds a receipt: only one whose every answer was lost.
        "unheard": total(counted, ACCEPTED) - endured.before - receipts,
        "unknown": float(sum(one.unknown + one.unsent for one in tallies)),
        "asked_again": float(sum(one.retries for one in tallies)),
        "kills": float(sum(endured.kills.values())),
        "restarts": float(endured.restarts),
        **{f"killed, {role}": float(count) for role, count in endured.kills.items()},
    }


def _lost(dsn: str, books: Sequence[Books]) -> int:
    """Count the receipts that the senders hold and the tables have no outcome of."""
    receipts = [one for held in books for one in held.intent_ids if one is not None]
    parts = range(0, len(receipts), _AT_ONCE)
    return sum(fates.lost(dsn, receipts[at : at + _AT_ONCE]) for at in parts)
