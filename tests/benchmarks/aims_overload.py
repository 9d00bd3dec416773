"""What is wanted when more comes than can be done."""

from __future__ import annotations

from tests.benchmarks.goals import Aim, Bar, figure

OVERLOAD: tuple[Aim, ...] = (
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
