"""Rows of latency: open loops at a share of the sustained rate, and one caller alone."""

from __future__ import annotations

from tests.benchmarks.course import Course, Finding, figures_of
from tests.benchmarks.measuring import Measured
from tests.benchmarks.sender import arrivals

CONNECTIONS = 1_000
WAIT_S = 10
# The tables are settled before each row, and the first change of a page after a checkpoint writes the
# whole page: the price of a checkpoint, paid once in many minutes, is not a row's.
WARM_UP_S = 3.0
LOADS = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1)


def idle(course: Course) -> Finding:
    """One intent at a time, each sent when the outcome of the last was told."""
    orders = course.world.orders(3_000, wait_s=WAIT_S)
    course.say("one intent at a time")
    measured = course.world.bench.measure(
        orders.posts(), connections=1, seconds=course.given.at_most(3)
    )
    return Finding(
        figures_of(measured) | {"calls": measured.accepted, "told": measured.told},
        measured={"idle": measured},
    )


def acceptance(course: Course) -> Finding:
    """From the intended send time to the receipt, at half of the sustained rate."""
    measured = _open(course, 0.5, 15, warm_up_s=WARM_UP_S)
    return Finding(figures_of(measured), measured={"acceptance": measured})


def wait(course: Course) -> Finding:
    """From the intended send time to the outcome, at half of the sustained rate."""
    measured = _open(course, 0.5, 15, wait_s=WAIT_S, warm_up_s=WARM_UP_S)
    figures = figures_of(measured) | {
        "told_share": measured.told / max(measured.accepted, 1),
        "sojourn_p50_ms": measured.sojourn_p50_ms,
        "sojourn_p99_ms": measured.sojourn_p99_ms,
    }
    return Finding(figures, measured={"wait": measured})


def load(course: Course) -> Finding:
    """Acceptance latency from a tenth of the sustained rate to beyond it."""
    measured = {f"{share:.0%}": _open(course, share, 3, strict=False) for share in LOADS}
    points = [
        {
            "share": share,
            "offered_per_s": one.offered_per_s or 0.0,
            "committed_per_s": one.rates.committed_per_s,
            "p50_ms": one.p50_ms,
            "p99_ms": one.p99_ms,
        }
        for share, one in zip(LOADS, measured.values(), strict=True)
    ]
    return Finding({"sustained_per_s": course.peak_per_s()}, points, measured)


def _open(
    course: Course,
    share: float,
    seconds: float,
    *,
    wait_s: int = 0,
    warm_up_s: float = 0.0,
    strict: bool = True,
) -> Measured:
    seconds = course.given.at_most(seconds)
    per_s = course.peak_per_s() * share
    warm_up = arrivals(per_s, warm_up_s, seed=0)
    due = arrivals(per_s, seconds, seed=int(share * 100))
    posts = course.world.orders(len(warm_up) + len(due) + 2, wait_s=wait_s).posts()
    course.say(f"sending {per_s:,.0f} a second for {seconds:.0f} s, whatever the answers do")
    measure = course.world.bench.measure
    if warm_up:
        measure(posts, connections=CONNECTIONS, seconds=warm_up_s, due=warm_up, strict=strict)
    return measure(posts, connections=CONNECTIONS, seconds=seconds, due=due, strict=strict)
