"""What a campaign run came to: its summary, in lines and as a record. Pure but for one write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.benchmarks import records
from tests.benchmarks.campaign_beside import Beside
from tests.benchmarks.campaign_log import Chunk, Ended, Standing
from tests.benchmarks.machine import Machine

_STRETCH = 1_000_000  # orders at each end that growth is read from
_WARM_UP = 0.1  # share of the run after which memory should be flat
_TELLING = 10  # chunks; fewer say nothing of memory
_FLAT_MIB, _FLAT_SHARE = 32.0, 0.1  # growth that is no growth: of small processes, of large ones


class Memory(Struct, frozen=True):
    """MiB of one process after warm-up, at its greatest since, and at the end."""

    warm: float
    peak: float
    end: float

    @property
    def flat(self) -> bool:
        """Whether it did not grow."""
        return self.end - self.warm <= max(_FLAT_MIB, _FLAT_SHARE * self.warm)


class Stretch(Struct, frozen=True):
    """Orders per second over some chunks, and how many orders the tables held before them."""

    orders_before: int
    orders: int
    committed_per_s: float


class Summary(Struct, frozen=True, kw_only=True):
    """The run in figures. Seconds of sending include the waiting for each chunk's outcomes."""

    orders: int
    planned: int
    accepted: int
    orders_in_tables: int
    receipts: int
    refused_receipts: int
    refused: dict[str, int]  # noes on the way, each sent again
    posts: int
    repeats_answered_the_same: int
    sessions: int
    all_in_s: float
    sending_s: float
    issuing_s: float
    planning_s: float
    committed_per_s: float
    first: Stretch
    last: Stretch
    growth: float  # the last stretch over the first, whatever the machine did meanwhile
    beside: Beside | None = None  # the full tables beside empty ones
    memory_mib: dict[str, Memory]
    memory_flat: dict[str, bool]  # empty of a run that is too short to say
    us_per_order: dict[str, float]
    bytes_per_order: float
    table_bytes: dict[str, int]
    audit_clean: bool
    audit_s: float
    audit_checks: int
    violated: list[str]
    counts_agree: bool

    @property
    def good(self) -> bool:
        """Whether every promise was kept."""
        return self.audit_clean and self.counts_agree


class Record(Struct, frozen=True, kw_only=True):
    """What is written down for `RESULTS.md` and its charts."""

    measured_at: datetime
    machine: Machine
    chunks: list[Chunk]
    audit_clean: bool
    summary: Summary


def summarise(standing: Standing) -> Summary:
    """Add up a run that has ended."""
    chunks, ended, wish = standing.chunks, standing.ended, standing.wish
    assert ended is not None
    assert wish is not None
    sending_s = sum(chunk.seconds for chunk in chunks)
    orders, last = standing.orders, chunks[-1]
    refused = sum((Counter(chunk.refused) for chunk in chunks), Counter[str]())
    accepted = sum(chunk.accepted for chunk in chunks)
    first, final = stretches(chunks)
    memory = memory_of(chunks)
    return Summary(
        orders=orders,
        planned=wish.orders,
        accepted=accepted,
        orders_in_tables=ended.orders_in_tables,
        receipts=ended.receipts,
        refused_receipts=ended.refused_receipts,
        refused=dict(refused),
        posts=sum(chunk.posts for chunk in chunks),
        repeats_answered_the_same=sum(chunk.repeats_answered_the_same for chunk in chunks),
        sessions=standing.sessions,
        all_in_s=standing.all_in_s,
        sending_s=sending_s,
        issuing_s=sum(chunk.issuing_s for chunk in chunks),
        planning_s=sum(chunk.planning_s for chunk in chunks),
        committed_per_s=orders / sending_s,
        first=first,
        last=final,
        growth=final.committed_per_s / first.committed_per_s,
        beside=standing.beside,
        memory_mib=memory,
        memory_flat={name: one.flat for name, one in memory.items() if len(chunks) >= _TELLING},
        us_per_order=_us_per_order(chunks),
        bytes_per_order=sum(last.table_bytes.values()) / orders,
        table_bytes=last.table_bytes,
        audit_clean=ended.audit_clean,
        audit_s=ended.audit_s,
        audit_checks=ended.audit_checks,
        violated=ended.violated,
        counts_agree=_agree(wish.orders, accepted, ended),
    )


def _agree(planned: int, accepted: int, ended: Ended) -> bool:
    """Each planned order is there once, and each receipt became an order or was refused."""
    became = ended.orders_in_tables + ended.refused_receipts
    return planned == ended.orders_in_tables and accepted == ended.receipts == became


def stretches(chunks: Sequence[Chunk]) -> tuple[Stretch, Stretch]:
    """Return the first and the last million orders; halves of a run that is too short for both.

    Chunks that were interrupted are left out: they were sent in two parts, by servers just started.
    """
    chunks = [chunk for chunk in chunks if not chunk.interrupted_s] or chunks
    total = sum(chunk.orders for chunk in chunks)
    wanted = min(_STRETCH, total // 2)
    return _stretch(chunks, wanted), _stretch(chunks[::-1], wanted)


def _stretch(chunks: Sequence[Chunk], wanted: int) -> Stretch:
    taken: list[Chunk] = []
    for chunk in chunks:
        if sum(one.orders for one in taken) >= max(wanted, 1):
            break
        taken.append(chunk)
    orders = sum(chunk.orders for chunk in taken)
    return Stretch(
        orders_before=min(chunk.orders_before for chunk in taken),
        orders=orders,
        committed_per_s=orders / sum(chunk.seconds for chunk in taken),
    )


def memory_of(chunks: Sequence[Chunk]) -> dict[str, Memory]:
    """Return each process's memory after a tenth of the run and at the end."""
    since = chunks[max(1, round(len(chunks) * _WARM_UP)) - 1 :]
    return {
        name: Memory(mib, max(one.rss_mib.get(name, 0.0) for one in since), end)
        for name, mib in since[0].rss_mib.items()
        if (end := since[-1].rss_mib.get(name)) is not None
    }


def _us_per_order(chunks: Sequence[Chunk]) -> dict[str, float]:
    """CPU of each process, of chunks that were sent in one go."""
    whole = [chunk for chunk in chunks if not chunk.interrupted_s] or list(chunks)
    orders = sum(chunk.orders for chunk in whole)
    names = dict.fromkeys(name for chunk in whole for name in chunk.cpu_s)
    return {
        name: sum(chunk.cpu_s.get(name, 0.0) for chunk in whole) / orders * 1e6 for name in names
    }


def lines(summary: Summary) -> Iterator[str]:
    """Write the summary out."""
    yield f"{summary.orders:,} orders in {summary.sending_s / 60:.1f} minutes of sending"
    yield f"  {summary.committed_per_s:,.0f} orders a second, each POST one intent"
    yield (
        f"  all in, {summary.all_in_s / 60:.1f} minutes in {summary.sessions} session(s): coupons "
        f"{summary.issuing_s:.0f} s, planning {summary.planning_s:.0f} s, "
        f"audit {summary.audit_s:.0f} s"
    )
    yield (
        f"  growth: {_told(summary.first)}, {_told(summary.last)}: {summary.growth:.3f} of the "
        "first speed"
    )
    if summary.beside is not None:
        yield f"  {summary.orders:,} orders in the tables beside none: {_turns(summary.beside)}"
    yield "  memory, MiB after warm-up, greatest since, at the end:"
    for name, one in summary.memory_mib.items():
        flat = summary.memory_flat.get(name)
        verdict = "" if flat is None else "flat" if flat else "GROWS"
        yield f"    {name:<14}{one.warm:>10,.1f}{one.peak:>10,.1f}{one.end:>10,.1f}  {verdict}".rstrip()
    cpu = ", ".join(f"{name} {us:.0f}" for name, us in summary.us_per_order.items())
    yield f"  CPU, microseconds per order: {cpu}"
    yield f"  {summary.bytes_per_order:,.0f} bytes in the tables for each order"
    if summary.refused:
        yield f"  refused on the way and sent again: {summary.refused}"
    yield (
        f"  planned {summary.planned:,}, receipts {summary.receipts:,}, orders in the tables "
        f"{summary.orders_in_tables:,}, refused receipts {summary.refused_receipts:,}: "
        + ("they add up" if summary.counts_agree else "they do NOT add up")
    )
    clean = "clean" if summary.audit_clean else f"NOT clean: {', '.join(summary.violated)}"
    yield f"  audit: {clean} ({summary.audit_checks} checks, {summary.audit_s:.1f} s)"


def _told(stretch: Stretch) -> str:
    return f"{stretch.committed_per_s:,.0f}/s with {stretch.orders_before:,} orders in the tables"


def _turns(beside: Beside) -> str:
    turns = zip(beside.full_per_s, beside.empty_per_s, strict=True)
    told = ", ".join(f"{full:,.0f} / {empty:,.0f}" for full, empty in turns)
    return f"{beside.ratio:.3f} ({told} a second)"


def write(path: Path, standing: Standing, machine: Machine) -> Record:
    """Write the record; helpers of the benchmark make tables and charts of it."""
    summary = summarise(standing)
    assert standing.ended is not None
    record = Record(
        measured_at=standing.ended.at,
        machine=machine,
        chunks=standing.chunks,
        audit_clean=summary.audit_clean,
        summary=summary,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(records.rounded(record)), indent=1)
    path.write_bytes(text + b"\n")
    return record
