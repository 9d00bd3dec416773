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

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPException
from typing import Final, Self

import psycopg
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
from tests.benchmarks.orders import HOT, HOT_CAMPAIGN
from tests.benchmarks.overloading import open_count, wait_until
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
_SHOWN: Final = (
    "tidegate_intents_accepted_total",
    "tidegate_intents_committed_total",
    "tidegate_intents_refused_total",
    "tidegate_coupons_issued_total",
    "tidegate_coupons_redeemed_total",
)


def exact(course: Course) -> Finding:
    """Kill everything in turn under load, and compare."""
    given = course.given
    seconds = QUICK_S if given.quick else TIMES * given.seconds
    course.say("starting Tidegate")
    with World(workers=_WORKERS) as world:
        per_s = SHARE * _capacity_per_s(course, world)
        rising = Rising("exporter")
        course.say(f"planning {per_s:,.0f} orders a second for {seconds:.0f} s")
        plans = _plans(world, per_s, seconds)
        with closing(psycopg.connect(world.cluster.dsn, autocommit=True)) as connection:
            before = _accepted(count(connection))
            with _Harm(course, world.cluster, every_s(seconds)) as harm:
                with Scraper(world.cluster.endpoints().metrics, rising.hear) as scraper:
                    books = _send(course, world, plans, harm)
                _until_back(world.cluster)
            course.say(f"{harm.kills.total()} processes were killed; draining and comparing")
            wait_until(lambda: open_count(connection) == 0, _DRAIN_MAX_S)
            shown, counted = _read_after(world.cluster, time.time()), count(connection)
        lost = _lost(world.cluster.dsn, books)
        report = audit.run(world.cluster.dsn, AUDITOR, drained=True)
    apart = differences(shown, counted)
    for (name, labels), units in apart.items():
        course.say(f"{units:+,.0f} in {name} {dict(labels)}")
    for check in report.violated:
        course.say(f"audit: {check.name}, such as {check.example}")
    figures = figures_of(shown) | {
        "seconds": seconds,
        "offered_per_s": sum(one.sends for one in plans) / seconds,
        "series": float(len(shown | counted)),
        "differences": sum(map(abs, apart.values())),
        "falls": float(rising.falls),
        "scrapes": float(scraper.done - scraper.failed),
        "receipts": float(sum(one.tally().accepted for one in books)),
        "receipts_lost": float(lost),
        "unheard": _accepted(counted) - before - sum(one.tally().accepted for one in books),
        "unknown": float(sum(one.tally().unknown + one.tally().unsent for one in books)),
        "asked_again": float(sum(one.tally().retries for one in books)),
        "kills": float(harm.kills.total()),
        "restarts": float(harm.restarts),
        "violations": float(sum(check.violations for check in report.checks)),
        "checks": float(len(report.checks)),
    }
    return Finding(figures | {f"killed, {role}": float(n) for role, n in harm.kills.items()})


def every_s(seconds: float) -> float:
    """Return the time between two kills: each role comes to its turn, however short it is."""
    return min(EVERY_S, seconds / (len(ROLES) + 1))


def _capacity_per_s(course: Course, world: World) -> float:
    """Find out how much the machine takes; what is learnt first, a worker has to learn once."""
    seconds = course.given.at_most(PROBE_S)
    posts = world.orders(int(ASSUMED_PER_S * (1.0 + seconds)) + 2 * CONNECTIONS).posts()
    course.say("finding out how much it takes")
    world.bench.measure(posts, connections=CONNECTIONS, seconds=1.0)
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


class _Harm:
    """Kills one role after the other, and counts who was killed and who came in their place.

    A context manager; its thread looks on until it is left, kills between `begin` and `end`.
    """

    def __init__(self, course: Course, cluster: Cluster, every_s: float) -> None:
        self.every_s = every_s
        self.kills: Counter[str] = Counter()
        self._course = course
        self._cluster = cluster
        self._seen = self._living()
        self._first = len(self._seen)
        self._next_at = float("inf")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="harm", daemon=True)

    def __enter__(self) -> Self:
        """Look on."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look on no more."""
        self._ended.set()
        self._thread.join()

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

    def _run(self) -> None:
        turn = 0
        while not self._ended.wait(_LOOK_S):
            self._seen |= self._living()
            role = ROLES[turn % len(ROLES)]
            alive = self._cluster.processes().get(role, [])
            if alive and time.monotonic() >= self._next_at:
                kill(self._cluster, role)
                self._course.say(f"killed: {role}, {len(alive)}")
                self.kills[role] += len(alive)
                self._next_at += self.every_s
                turn += 1

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
    return {series: value for series, value in found.items() if series[0] in _SHOWN}


def count(connection: psycopg.Connection) -> Samples:
    """Count row by row, in the audit's views, what the exporter's series must say."""
    found: Counter[tuple[str, Labels]] = Counter()
    for series, intents in _counted(connection):
        found[series] += intents
    return dict(found)


def _counted(connection: psycopg.Connection) -> Iterator[tuple[tuple[str, Labels], int]]:
    for campaign, kind, status, reason, intents in connection.execute(_INTENTS):
        yield ("tidegate_intents_accepted_total", ()), intents
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


def figures_of(shown: Samples) -> dict[str, float]:
    """Say what the exporter showed, and for how many reasons intents were refused."""
    refused = {
        dict(labels)["reason"]
        for (name, labels), value in shown.items()
        if name == "tidegate_intents_refused_total" and value
    }
    words = ("accepted", "committed", "refused", "issued", "redeemed")
    figures = {word: total(shown, name) for word, name in zip(words, _SHOWN, strict=True)}
    return figures | {"reasons": float(len(refused))}


def _accepted(counted: Samples) -> float:
    return total(counted, "tidegate_intents_accepted_total")


def _lost(dsn: str, books: Sequence[Books]) -> int:
    """Count the receipts that the senders hold and the tables have no outcome of."""
    receipts = [one for held in books for one in held.intent_ids if one is not None]
    parts = range(0, len(receipts), _AT_ONCE)
    return sum(fates.lost(dsn, receipts[at : at + _AT_ONCE]) for at in parts)
