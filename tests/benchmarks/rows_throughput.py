"""Rows of throughput: closed loops against the shared system."""

from __future__ import annotations

from contextlib import closing

from tests.benchmarks.course import ASSUMED_PER_S, HEADROOM, Course, Finding, figures_of
from tests.benchmarks.measuring import Measured, MeasurementError, Tables
from tests.benchmarks.orders import spread_carts
from workers.store import audit as store_audit
from workers.store.pool import AUDITOR

CONNECTIONS = (8, 32, 128, 1_000)
MANY = 1_000
SHORT_S = 7.0
LONG_S = 20.0  # of many connections: a queue that swings by half a second must not be the figure
BATCH_CONNECTIONS = 64  # as many gateways, with a call of 100 under way each
PER_CALL = 100
PER_CALL_SIZES = (1, 10, 500)  # for the chart, beside it
_ASSUMED_BATCH_PER_S = 35_000


def connections(course: Course) -> Finding:
    """Committed and accepted per second as connections grow; the tables are empty at first."""
    measured = {
        f"{count:,} connections": course.closed(
            count,
            course.given.at_most(LONG_S if count == MANY else SHORT_S),
            expected_per_s=min(ASSUMED_PER_S, 1_000 * count),
        )
        for count in CONNECTIONS
    }
    figures = {"kept_up_least": min(one.kept_up for one in measured.values())}
    for one in measured.values():
        figures |= {
            f"accepted_per_s_{one.connections}": one.rates.accepted_per_s,
            f"committed_per_s_{one.connections}": one.rates.committed_per_s,
            f"p50_ms_{one.connections}": one.p50_ms,
            f"p99_ms_{one.connections}": one.p99_ms,
        }
    return Finding(figures, measured=measured)


def single(course: Course) -> Finding:
    """The sustained row: one intent per POST over 1,000 connections."""
    seconds = _sustained_s(course)
    last = (
        course.figure("connections", f"accepted_per_s_{MANY}")
        or course.closed(MANY, course.given.at_most(4)).rates.accepted_per_s
    )
    measured = course.closed(MANY, seconds, expected_per_s=last * HEADROOM)
    return Finding(figures_of(measured), measured={"single": measured})


def batch(course: Course) -> Finding:
    """Many intents per call; the row's own figure is at 100."""
    measured: dict[int, Measured] = {}
    for size in (*PER_CALL_SIZES, PER_CALL):
        # By then it is known how many it takes; no more coupons are issued than that.
        fastest = max((one.rates.accepted_per_s for one in measured.values()), default=0.0)
        expected = fastest * HEADROOM if size == PER_CALL else _ASSUMED_BATCH_PER_S
        seconds = _sustained_s(course) if size == PER_CALL else 3
        measured[size] = _per_call(course, size, seconds, expected)
    points = [
        {
            "per_call": size,
            "accepted_per_s": one.rates.accepted_per_s,
            "committed_per_s": one.rates.committed_per_s,
        }
        for size, one in sorted(measured.items())
    ]
    wanted = measured[PER_CALL]
    return Finding(
        figures_of(wanted) | _drained(wanted),
        points,
        {f"{size} per call": one for size, one in sorted(measured.items())},
    )


def _sustained_s(course: Course) -> float:
    return 3.0 if course.given.quick else course.given.seconds


def _per_call(course: Course, size: int, seconds: float, expected_per_s: float) -> Measured:
    # The same number of intents under way, whatever the size of a call.
    under_way = BATCH_CONNECTIONS * PER_CALL
    return course.closed(
        min(MANY, max(1, under_way // size)),
        seconds if size == PER_CALL else course.given.at_most(seconds),
        expected_per_s=ASSUMED_PER_S if size == 1 else expected_per_s,
        per_call=size,
    )


def _drained(measured: Measured) -> dict[str, float]:
    return {"drained_per_s": measured.drained / max(measured.drain_s, 1e-9)}


def spread(course: Course) -> Finding:
    """A hot pair and 1,000 SKUs by turns, twice each, so that the machine's moods fall on both."""
    seconds = course.given.at_most(5)
    hot, wide = [], []
    for turn in range(2):
        hot.append(course.closed(MANY, seconds))
        wide.append(course.closed(MANY, seconds, carts=spread_carts(turn)))
    hot_per_s = sum(one.rates.committed_per_s for one in hot) / 2
    spread_per_s = sum(one.rates.committed_per_s for one in wide) / 2
    figures = {
        "hot_per_s": hot_per_s,
        "spread_per_s": spread_per_s,
        "hot_over_spread": hot_per_s / max(spread_per_s, 1e-9),
    }
    named = {f"hot pair, {n}": one for n, one in enumerate(hot, 1)}
    return Finding(figures, measured=named | {f"1,000 SKUs, {n}": o for n, o in enumerate(wide, 1)})


def growth(course: Course) -> Finding:
    """As the 1,000 connections of `connections`, with the rows that this run has made by now."""
    measured = course.closed(MANY, course.given.at_most(8))
    figures = figures_of(measured)
    empty = course.figure("connections", f"committed_per_s_{MANY}")
    if empty:
        figures |= {"empty_per_s": empty, "over_empty": figures["committed_per_s"] / empty}
    return Finding(figures, measured={"growth": measured})


def audit(course: Course) -> Finding:
    """Audit everything that the shared system committed in this run. Raises MeasurementError."""
    course.say("auditing")
    report = store_audit.run(course.world.cluster.dsn, AUDITOR, drained=True)
    if not report.clean:
        broken = ", ".join(check.name for check in report.violated)
        raise MeasurementError(f"the audit found violations of: {broken}")
    with closing(Tables(course.world.cluster.dsn)) as tables:
        orders = tables.committed()
    return Finding(
        {"orders": orders, "checks": len(report.checks), "took_s": report.took_ms / 1_000}
    )
