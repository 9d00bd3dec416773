"""What speed is wanted: each goal with its bars, its measured figure, and both sides of its ratio.

Everything here is a function of the records. A *must* is what a release needs, a *goal* is what is
worth working for; a figure that was not measured meets neither and misses neither.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from msgspec import Struct

from tests.benchmarks import campaign_record
from tests.benchmarks.campaign_report import Record
from tests.benchmarks.records import Row


class Met(Enum):
    """How a figure stands to its bars."""

    GOAL = "goal"
    MUST = "must"
    MISSED = "missed"
    UNKNOWN = "not measured"


class Results(Struct, frozen=True):
    """All that was recorded on this machine."""

    rows: dict[str, Row]
    campaign: Record | None = None

    def get(self, row: str, figure: str) -> float | None:
        """Return one figure, if it was measured."""
        found = self.rows.get(row)
        return None if found is None else found.figures.get(figure)

    def ratio(self, upper: tuple[str, str], lower: tuple[str, str]) -> float | None:
        """Return one figure over another, if both were measured."""
        above, below = self.get(*upper), self.get(*lower)
        return None if above is None or not below else above / below

    def told(self, text: str, *figures: tuple[str, str]) -> str:
        """Fill figures into a text; empty when one was not measured."""
        values = [self.get(*figure) for figure in figures]
        return "" if None in values else text.format(*values)


class Bar(Struct, frozen=True):
    """One figure and what is wanted of it; `less` is better for some."""

    unit: str
    must: float
    goal: float
    value: Callable[[Results], float | None]
    less: bool = False
    digits: int = 0

    def met(self, results: Results) -> Met:
        """Compare."""
        value = self.value(results)
        if value is None:
            return Met.UNKNOWN
        if self._within(value, self.goal):
            return Met.GOAL
        return Met.MUST if self._within(value, self.must) else Met.MISSED

    def text(self, value: float | None) -> str:
        """Write a value with its unit."""
        return "–" if value is None else f"{value:,.{self.digits}f} {self.unit}".strip()

    def wanted(self, value: float) -> str:
        """Write what is wanted."""
        return (
            f"{'≤' if self.less else '≥'} {value:,.{self._digits_of(value)}f} {self.unit}".strip()
        )

    def _within(self, value: float, bar: float) -> bool:
        # As it is printed: nobody may read "10,000 ≥ 10,000: missed".
        value = round(value, self.digits)
        return value <= bar if self.less else value >= bar

    def _digits_of(self, value: float) -> int:
        return 0 if value == int(value) and self.digits < 2 else self.digits


class Aim(Struct, frozen=True):
    """One row of the goals. `row` is what measures it; `sides` says what its ratios are made of."""

    row: str
    what: str
    bars: tuple[Bar, ...]
    sides: Callable[[Results], str]


def figure(row: str, name: str) -> Callable[[Results], float | None]:
    """Take a figure as it was recorded."""
    return lambda results: results.get(row, name)


def _single_sides(results: Results) -> str:
    return "; ".join(
        filter(
            None,
            (
                results.told(
                    "accepted {:,.0f}/s, committed {:,.0f}/s, slowest 5 s {:,.0f}/s",
                    ("single", "accepted_per_s"),
                    ("single", "committed_per_s"),
                    ("single", "slowest_per_s"),
                ),
                results.told("plain Celery {:,.0f}/s", ("plain", "committed_per_s")),
                results.told(
                    "PostgreSQL alone in batches of 500 {:,.0f}/s", ("postgres", "committed_per_s")
                ),
            ),
        )
    )


AIMS = (
    Aim(
        "single",
        "orders committed per second, one intent per HTTP POST, coupon redeemed, two lines, one hot "
        "pair of SKUs, outcomes told, sustained, 1,000 connections",
        (
            Bar("/s", 6_000, 10_000, figure("single", "committed_per_s")),
            Bar(
                "× plain Celery",
                15,
                30,
                lambda r: r.ratio(("single", "committed_per_s"), ("plain", "committed_per_s")),
                digits=1,
            ),
        ),
        _single_sides,
    ),
    Aim(
        "batch",
        "the same through `/v1/intents/batch`, 100 per call",
        (Bar("/s", 12_000, 20_000, figure("batch", "committed_per_s")),),
        lambda r: r.told(
            "accepted {:,.0f}/s, committed {:,.0f}/s meanwhile, the rest drained at {:,.0f}/s",
            ("batch", "accepted_per_s"),
            ("batch", "committed_per_s"),
            ("batch", "drained_per_s"),
        ),
    ),
    Aim(
        "connections",
        "committed / accepted per second at 8, 32, 128, 1,000 connections, the least of them",
        (
            Bar(
                "",
                0.95,
                0.99,
                figure("connections", "kept_up_least"),
                digits=3,
            ),
        ),
        lambda r: ", ".join(
            r.told(
                f"{connections:,}: {{:,.0f}} / {{:,.0f}}",
                ("connections", f"committed_per_s_{connections}"),
                ("connections", f"accepted_per_s_{connections}"),
            )
            for connections in (8, 32, 128, 1_000)
        ).strip(", "),
    ),
    Aim(
        "acceptance",
        "acceptance latency at half of that load (open loop)",
        (
            Bar("ms p50", 10, 5, figure("acceptance", "p50_ms"), less=True, digits=1),
            Bar("ms p99", 50, 25, figure("acceptance", "p99_ms"), less=True, digits=1),
        ),
        lambda r: r.told("at {:,.0f}/s", ("acceptance", "offered_per_s")),
    ),
    Aim(
        "wait",
        "intent to outcome with `Prefer: wait`, at half load (open loop)",
        (
            Bar("ms p50", 60, 30, figure("wait", "p50_ms"), less=True, digits=1),
            Bar("ms p99", 300, 150, figure("wait", "p99_ms"), less=True, digits=1),
        ),
        lambda r: r.told(
            "at {:,.0f}/s; acceptance to outcome alone, by the server's clock, {:.1f} / {:.1f} ms",
            ("wait", "offered_per_s"),
            ("wait", "sojourn_p50_ms"),
            ("wait", "sojourn_p99_ms"),
        ),
    ),
    Aim(
        "idle",
        "one intent at a time, idle system, `Prefer: wait`",
        (Bar("ms p50", 20, 12, figure("idle", "p50_ms"), less=True, digits=1),),
        lambda r: r.told("p99 {:.1f} ms, {:,.0f} calls", ("idle", "p99_ms"), ("idle", "calls")),
    ),
    Aim(
        "spread",
        "one hot pair of SKUs against 1,000 SKUs spread",
        (Bar("", 0.9, 1.0, figure("spread", "hot_over_spread"), digits=2),),
        lambda r: r.told(
            "hot {:,.0f}/s, spread {:,.0f}/s",
            ("spread", "hot_per_s"),
            ("spread", "spread_per_s"),
        ),
    ),
    Aim(
        "campaign",
        "with 10 million orders in the tables against empty tables",
        (Bar("", 0.8, 0.95, lambda r: campaign_record.growth(r.campaign), digits=2),),
        lambda r: campaign_record.growth_text(r.campaign),
    ),
    Aim(
        "backlog",
        "drain rate with a backlog of 500,000 in flight against none",
        (Bar("", 0.9, 1.0, figure("backlog", "over_none"), digits=2),),
        lambda r: r.told(
            "backlog of {:,.0f}: {:,.0f}/s; of {:,.0f}: {:,.0f}/s",
            ("backlog", "backlog"),
            ("backlog", "drain_per_s"),
            ("backlog", "small"),
            ("backlog", "small_drain_per_s"),
        ),
    ),
    Aim(
        "campaign",
        "memory of every process over a run of 10 million orders: flat after warm-up",
        (),
        lambda r: campaign_record.memory_text(r.campaign),
    ),
    Aim(
        "campaign",
        "10 million orders, the whole nine-hour curve, as fast as it goes, clean audit",
        (
            Bar(
                "minutes",
                30,
                17,
                lambda r: campaign_record.minutes(r.campaign),
                less=True,
                digits=1,
            ),
        ),
        lambda r: campaign_record.run_text(r.campaign),
    ),
    Aim(
        "refused",
        "refused intent, CPU beyond an HTTP echo of the same body",
        (Bar("µs", 40, 20, figure("refused", "beyond_echo_us"), less=True),),
        lambda r: r.told(
            "refused {:.0f} µs, echo {:.0f} µs", ("refused", "refused_us"), ("refused", "echo_us")
        ),
    ),
    Aim(
        "overload",
        "overload: least goodput at 2, 5, 10 and 20 times the capacity, over the best",
        (Bar("", 0.95, 0.98, figure("overload", "goodput_least"), digits=3),),
        lambda r: "; ".join(
            filter(
                None,
                (
                    r.told("capacity {:,.0f}/s", ("overload", "capacity_per_s")),
                    r.told("plain Celery {:.2f}", ("plain_overload", "goodput_least")),
                ),
            )
        ),
    ),
    Aim(
        "overload",
        "the same: from acceptance to outcome; refusals, from the intended send time",
        (
            Bar("ms p99", 3_000, 2_000, figure("overload", "sojourn_p99_ms"), less=True),
            Bar("ms p99", 50, 25, figure("overload", "refused_p99_ms"), less=True, digits=1),
        ),
        lambda r: "",
    ),
    Aim(
        "overload",
        "after the overload, until `normal` again",
        (Bar("s", 30, 10, figure("overload", "normal_again_s"), less=True, digits=1),),
        lambda r: r.told(
            "receipt p50 at half load {:.1f} ms then, {:.1f} ms at full load before",
            ("overload", "calm_p50_ms"),
            ("overload", "before_p50_ms"),
        ),
    ),
)
