"""Records as a benchmark leaves them, made up."""

from __future__ import annotations

from datetime import UTC, datetime

from tests.benchmarks.campaign_beside import Beside
from tests.benchmarks.campaign_log import Chunk, Ended, Standing, Wish
from tests.benchmarks.campaign_report import Record, summarise
from tests.benchmarks.goals import Results
from tests.benchmarks.machine import Machine
from tests.benchmarks.measuring import Measured, Rates
from tests.benchmarks.records import Bench, Row

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MACHINE = Machine("A Processor", 2, 23.5, "Linux 6.1", {"Python": "3.11.7"}, "abc1234")


def row(*, points: list[dict[str, float]] | None = None, run: str = "1", **figures: float) -> Row:
    """Make a row of figures."""
    return Row(run=run, measured_at=NOW, took_s=1.0, figures=figures, points=points or [])


def measured(connections: int = 8) -> Measured:
    """Make a measurement."""
    return Measured(
        connections=connections,
        seconds=8.0,
        accepted=8_000,
        rates=Rates(1_000.0, 990.0, 950.0),
        drain_s=0.1,
        drained=10,
        p50_ms=4.0,
        p99_ms=9.0,
        sojourn_p50_ms=5.0,
        sojourn_p99_ms=12.0,
        cores={"api": 0.8, "sender": 0.1},
        us_per_order={"api": 800.0, "sender": 100.0},
    )


def results() -> Results:
    """Make a little of everything that is drawn."""
    batches = [
        {"batch": n, "committed_per_s": 500.0 * n, "postgres_us": 9.0, "client_us": 1.0}
        for n in (1, 10, 100)
    ]
    calls = [{"per_call": n, "committed_per_s": 5_000.0 + n} for n in (1, 10, 100, 500)]
    loads = [
        {"offered_per_s": 1_000.0 * n, "p50_ms": 2.0 * n, "p99_ms": 9.0 * n} for n in range(1, 9)
    ]
    overloads = [
        {
            "times": n,
            "offered_per_s": 300.0 * n,
            "accepted": 6_000.0,
            "goodput_per_s": 300.0 - n,
            "late": 0.0,
            "sojourn_p50_ms": 1_500.0,
            "sojourn_p99_ms": 2_500.0,
            "refused_p99_ms": 9.0,
        }
        for n in (1.0, 2.0, 5.0, 10.0, 20.0)
    ]
    rows = {
        "overload": row(points=overloads, goodput_least=0.94),
        "single": row(accepted_per_s=10_100.0, committed_per_s=10_000.0, slowest_per_s=9_500.0),
        "plain": row(committed_per_s=300.0),
        "postgres": row(points=batches, committed_per_s=50_000.0, of_all_cores_per_s=60_000.0),
        "batch": row(points=calls, accepted_per_s=21_000.0, committed_per_s=20_000.0),
        "load": row(points=loads, sustained_per_s=7_500.0),
    }
    return Results(rows, campaign(10))


def bench() -> Bench:
    """Make the records of one run."""
    return Bench(MACHINE, results().rows)


BESIDE = Beside(orders=10_000_000, full_per_s=[9_600.0] * 3, empty_per_s=[10_000.0] * 3)


def campaign(
    millions: int,
    *,
    clean: bool = True,
    first_s: float = 96.0,
    last_s: float = 100.0,
    beside: Beside | None = BESIDE,
) -> Record:
    """Make a campaign run of ever slower chunks of a million."""
    step = (last_s - first_s) / max(millions - 1, 1)
    chunks = [chunk(n * 1_000_000, first_s + n * step) for n in range(millions)]
    orders = millions * 1_000_000
    ended = Ended(
        at=NOW,
        session_s=2 * sum(one.seconds for one in chunks),
        orders_in_tables=orders,
        receipts=orders,
        refused_receipts=0,
        audit_clean=clean,
        audit_s=60.0,
        audit_checks=20,
        violated=[] if clean else ["stock"],
    )
    wish = Wish(orders=orders, chunk=1_000_000, seed=1, repeats=0.0)
    standing = Standing(wish=wish, chunks=chunks, ended=ended, beside=beside, sessions=1)
    summary = summarise(standing)
    return Record(
        measured_at=NOW, machine=MACHINE, chunks=chunks, audit_clean=clean, summary=summary
    )


def chunk(before: int, seconds: float) -> Chunk:
    """Make a chunk of a million orders."""
    return Chunk(
        number=before // 1_000_000,
        orders_before=before,
        orders=1_000_000,
        seconds=seconds,
        sending_s=seconds,
        interrupted_s=0.0,
        issuing_s=20.0,
        planning_s=5.0,
        accepted=1_000_000,
        posts=1_000_000,
        repeats_answered_the_same=0,
        retries=0,
        refused={},
        accepted_per_s=1e6 / seconds,
        committed_per_s=1e6 / seconds,
        p50_ms=50.0,
        p99_ms=90.0,
        rss_mib={"api": 100.0},
        cpu_s={"api": 60.0},
        table_bytes={"orders": 1_000_000_000},
    )
