"""What the record of `make bench-campaign` says to the goals. Of a part of the run, nothing."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import msgspec

from tests.benchmarks.campaign_beside import TURNS
from tests.benchmarks.campaign_report import Record

WHOLE = 10_000_000


def read(path: Path) -> Record | None:
    """Read the record; None when there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except FileNotFoundError:
        return None


def minutes(record: Record | None) -> float | None:
    """Return the minutes of sending and deciding ten million orders, if all of it was sound."""
    if record is None or record.summary.orders < WHOLE or not record.summary.good:
        return None
    return record.summary.sending_s / 60


def growth(record: Record | None) -> float | None:
    """Return the rate with ten million orders in the tables over that with none, by turns."""
    if record is None or record.summary.orders < WHOLE or record.summary.beside is None:
        return None
    return record.summary.beside.ratio


def growth_text(record: Record | None) -> str:
    """Both sides of the ratio, each with the rows it had."""
    if record is None:
        return ""
    first, last, beside = record.summary.first, record.summary.last, record.summary.beside
    run = (
        f"in the run itself {first.committed_per_s:,.0f}/s with {first.orders_before:,} orders in the "
        f"tables and on, {last.committed_per_s:,.0f}/s with {last.orders_before:,} and on; "
        f"{record.measured_at.date()}"
    )
    if beside is None:
        return run
    full, empty = median(beside.full_per_s), median(beside.empty_per_s)
    return f"by turns {full:,.0f}/s full, {empty:,.0f}/s empty (medians of {TURNS}); {run}"


def memory_text(record: Record | None) -> str:
    """The memory of each process after warm-up and at the end."""
    if record is None:
        return ""
    flat = record.summary.memory_flat
    verdicts = {True: ", flat", False: ", GROWS", None: ""}
    return "; ".join(
        f"{name} {one.warm:,.0f} → {one.end:,.0f} MiB{verdicts[flat.get(name)]}"
        for name, one in record.summary.memory_mib.items()
    )


def run_text(record: Record | None) -> str:
    """What was run, when, and whether it was sound."""
    if record is None:
        return ""
    summary = record.summary
    audit = "audit clean" if summary.audit_clean else "AUDIT NOT CLEAN"
    counts = "" if summary.counts_agree else ", COUNTS DO NOT AGREE"
    return (
        f"{summary.orders:,} orders, {summary.committed_per_s:,.0f}/s, {audit}{counts}; with "
        f"coupons issued on the way and the audit {summary.all_in_s / 60:.1f} minutes; "
        f"{record.measured_at.date()}"
    )
