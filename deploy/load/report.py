"""The report: what was sent, what was promised, what became of it, and whether that adds up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from msgspec import Struct

from deploy.load.books import Books, Faults
from deploy.load.histogram import Percentiles
from deploy.load.words import plain


class Latency(Struct, frozen=True):
    """Milliseconds. Counted from the moment a send was due, unless said otherwise."""

    acceptance: Percentiles  # to the receipt
    refusal: Percentiles  # to a no
    with_retries: Percentiles  # from the first send of an intent to its receipt, waits included
    reply: Percentiles  # from writing to answer: the server alone
    lateness: Percentiles  # from due to written: this sender alone
    sojourn: Percentiles  # from receipt to outcome, by the server's clock


class Report(Struct, frozen=True, kw_only=True):
    """One run. `holds` is the check `intents = outcomes`: every receipt has exactly one outcome."""

    profile: str
    loop: str  # "open" or "closed"
    seed: int
    intents: int
    sent: int
    posts: int
    accepted: int
    outcomes: int
    committed: int
    refused_at_once: dict[str, int]  # by reason, nothing journalled
    refused_with_receipt: dict[str, int]  # by reason, the outcome of a receipt
    told_no: dict[str, int]  # every no told, also to senders who came back
    unknown: int
    unsent: int
    retries: int
    replies_lost: int
    repeats_answered_the_same: int
    sending_s: float
    drain_s: float
    sent_per_s: float
    accepted_per_s: float
    committed_per_s: float  # from the first receipt to the last outcome, by the server's clock
    connections: int
    latency_ms: Latency
    faults: Faults
    holds: bool


class Run(Struct, frozen=True):
    """How a run was made, as far as a report tells it."""

    profile: str
    loop: str
    seed: int
    sending_s: float
    drain_s: float
    connections: int


def make(run: Run, books: Books) -> Report:
    """Close the books."""
    tally, faults = books.tally(), books.faults()
    outcomes = Counter(books.outcomes_by)
    committed = outcomes.pop("committed", 0)
    return Report(
        profile=run.profile,
        loop=run.loop,
        seed=run.seed,
        intents=tally.intents,
        sent=tally.sent,
        posts=tally.posts,
        accepted=tally.accepted,
        outcomes=committed + outcomes.total(),
        committed=committed,
        refused_at_once=_ranked(books.refused_by),
        refused_with_receipt=_ranked(outcomes),
        told_no=_ranked(books.told),
        unknown=tally.unknown,
        unsent=tally.unsent,
        retries=tally.retries,
        replies_lost=tally.lost,
        repeats_answered_the_same=tally.repeats_same,
        sending_s=round(run.sending_s, 3),
        drain_s=round(run.drain_s, 3),
        sent_per_s=_per_s(tally.sent, run.sending_s),
        accepted_per_s=_per_s(tally.accepted, run.sending_s),
        committed_per_s=_per_s(committed, _deciding_s(books)),
        connections=run.connections,
        latency_ms=_latency(books),
        faults=faults,
        # An intent of which nobody can say whether it was accepted is no outcome either.
        holds=faults.none and tally.unknown == 0,
    )


def lines(report: Report) -> Iterator[str]:
    """Write the report out, a line at a time."""
    yield f"profile {report.profile}, {report.loop} loop, seed {report.seed}"
    yield ""
    yield _figure("sent", report.sent, f"of {report.intents:,} intents, in {report.posts:,} posts")
    yield _figure("accepted", report.accepted, "receipts: a promise of exactly one outcome each")
    yield _figure("committed", report.committed, "orders")
    yield from _reasons("refused with a receipt", report.refused_with_receipt)
    yield from _reasons("refused at once", report.refused_at_once)
    if report.unsent:
        yield _figure("never sent", report.unsent, "no connection could be had")
    if report.unknown:
        yield _figure("unknown", report.unknown, "nobody could say whether they were accepted")
    yield _figure("keys sent again", report.repeats_answered_the_same, "answered the same")
    yield _figure("retries", report.retries, f"{report.replies_lost:,} replies lost")
    yield ""
    yield (
        f"{report.sent_per_s:,.0f} sent/s, {report.accepted_per_s:,.0f} accepted/s over "
        f"{report.sending_s:.1f} s; {report.committed_per_s:,.0f} committed/s from the first "
        "receipt to the last outcome"
    )
    yield from latency_lines(report)
    yield ""
    yield verdict(report)


def latency_lines(report: Report) -> Iterator[str]:
    """Write the latencies as a table."""
    at, origin = report.latency_ms, "due" if report.loop == "open" else "sent"
    rows = {
        f"{origin} to receipt": at.acceptance,
        f"{origin} to refusal": at.refusal,
        f"first {origin} to receipt, retries included": at.with_retries,
        "written to answer": at.reply,
        "due to written (this sender)": at.lateness,
        "receipt to outcome": at.sojourn,
    }
    yield f"{'milliseconds':<42}{'p50':>9}{'p90':>9}{'p99':>9}{'p99.9':>9}{'max':>9}"
    for name, row in rows.items():
        if row.count:
            figures = (row.p50, row.p90, row.p99, row.p99_9, row.max)
            yield f"{name:<42}" + "".join(f"{figure:>9,.1f}" for figure in figures)


def verdict(report: Report) -> str:
    """Say whether intents = outcomes, in one line, and what is amiss where not."""
    sums = f"{report.accepted:,} receipts, {report.outcomes:,} outcomes"
    if report.holds:
        return f"intents = outcomes: yes ({sums}; each exactly one)"
    faults = {name: getattr(report.faults, name) for name in Faults.__struct_fields__}
    amiss = [f"{name.replace('_', ' ')}: {count:,}" for name, count in faults.items() if count]
    if report.unknown:
        amiss.append(f"unknown: {report.unknown:,}")
    return f"intents = outcomes: NO ({sums}; {'; '.join(amiss)})"


def _figure(name: str, count: int, remark: str) -> str:
    return f"{name:<24}{count:>12,}  {remark}"


def _reasons(title: str, by_reason: Mapping[str, int]) -> Iterator[str]:
    yield _figure(title, sum(by_reason.values()), "")
    for reason, count in by_reason.items():
        yield f"  {reason:<26}{count:>8,}  {plain(reason)}"


def _ranked(by_reason: Mapping[str, int]) -> dict[str, int]:
    ranked = sorted(by_reason.items(), key=lambda pair: (-pair[1], pair[0]))
    return {reason: count for reason, count in ranked if count}


def _deciding_s(books: Books) -> float:
    if books.first_accepted_at is None or books.last_decided_at is None:
        return 0.0
    return (books.last_decided_at - books.first_accepted_at).total_seconds()


def _per_s(count: int, seconds: float) -> float:
    return round(count / seconds, 1) if seconds > 0 else 0.0


def _latency(books: Books) -> Latency:
    return Latency(
        acceptance=books.acceptance.percentiles(),
        refusal=books.refusal.percentiles(),
        with_retries=books.first_due_to_receipt.percentiles(),
        reply=books.reply.percentiles(),
        lateness=books.lateness.percentiles(),
        sojourn=books.sojourn.percentiles(),
    )
