"""What is wanted of metrics and logs: that they are right, and cost little."""

from __future__ import annotations

from tests.benchmarks.goals import Aim, Bar, figure

OBSERVING: tuple[Aim, ...] = (
    Aim(
        "exact",
        "metrics against the audit's own counts after kills of workers, their children, API, exporter "
        "and governor in turn, at half of the load that the machine takes",
        (
            Bar("units apart", 0, 0, figure("exact", "differences"), less=True),
            Bar("falls of a counter", 0, 0, figure("exact", "falls"), less=True),
            Bar("receipts lost", 0, 0, figure("exact", "receipts_lost"), less=True),
            Bar("intents without a receipt", 0, 0, figure("exact", "unheard"), less=True),
            Bar("audit violations", 0, 0, figure("exact", "violations"), less=True),
        ),
        lambda r: r.told(
            "{:,.0f} accepted, {:,.0f} committed, {:,.0f} refused for {:,.0f} reasons, {:,.0f} coupons "
            "issued, {:,.0f} redeemed, in {:,.0f} series; {:,.0f} kills and {:,.0f} restarts in "
            "{:,.0f} s at {:,.0f}/s; {:,.0f} receipts, {:,.0f} times asked again",
            *(
                ("exact", name)
                for name in (
                    "accepted",
                    "committed",
                    "refused",
                    "reasons",
                    "issued",
                    "redeemed",
                    "series",
                    "kills",
                    "restarts",
                    "seconds",
                    "offered_per_s",
                    "receipts",
                    "asked_again",
                )
            ),
        ),
    ),
    Aim(
        "observed",
        "throughput with metrics and logs as shipped, all scraped every 5 s, over the same with "
        "metrics and logs that do nothing; both at once, 500 connections each; median of pairs",
        (
            Bar("", 0.95, 0.98, figure("observed", "kept"), digits=3),
            Bar("by all CPU", 0.95, 0.98, figure("observed", "same_cpu"), digits=3),
            Bar(
                "ms p99 of a scrape, alone at 1,000 connections",
                100,
                20,
                figure("observed", "scrape_p99_ms"),
                less=True,
            ),
        ),
        lambda r: r.told(
            "{:,.0f}/s with, {:,.0f}/s without; {:.0f} pairs, {:.3f} to {:.3f}; two without beside "
            "each other {:.3f}, by all CPU {:.3f}, of {:.0f} pairs; µs of CPU per order: API {:.1f} "
            "and {:.1f}, worker {:.1f} and {:.1f}, exporter {:.1f} and {:.1f}, PostgreSQL {:.1f} and "
            "{:.1f}; {:,.0f} scrapes, {:,.0f} lines of log",
            *(
                ("observed", name)
                for name in (
                    "on_per_s",
                    "off_per_s",
                    "pairs",
                    "kept_least",
                    "kept_most",
                    "kept_of_alike",
                    "same_cpu_of_alike",
                    "controls",
                    "api_on_us",
                    "api_off_us",
                    "worker_on_us",
                    "worker_off_us",
                    "exporter_on_us",
                    "exporter_off_us",
                    "postgres_on_us",
                    "postgres_off_us",
                    "scrapes",
                    "log_lines",
                )
            ),
        ),
    ),
)
