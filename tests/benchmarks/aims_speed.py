"""What is wanted of speed."""

from __future__ import annotations

from tests.benchmarks import campaign_record
from tests.benchmarks.goals import Aim, Bar, Results, figure


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


SPEED = (
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
)
