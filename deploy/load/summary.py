"""The demo's closing words, for somebody who has never seen Tidegate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from deploy.load.demo import Result
from deploy.load.report import latency_lines
from deploy.load.words import plain

_STOCK_LINES_MAX = 6


def lines(result: Result) -> Iterator[str]:
    """Write the summary, a line at a time."""
    load = result.load
    came = load.accepted + sum(load.refused_at_once.values()) + load.unsent + load.unknown
    yield from _title("What came")
    yield _figure(load.intents, f"intents to buy, in {load.sending_s:.0f} seconds")
    yield _figure(
        load.repeats_answered_the_same,
        "asked a second time with the same key, and were answered with the same order",
    )
    if load.retries:
        yield _figure(load.retries, "came back after a no or a lost reply")
    yield from _title("What was promised")
    yield _figure(load.accepted, "receipts, each the promise of exactly one outcome")
    yield from _reasons(load.refused_at_once, "told no at once, and promised nothing")
    if load.unsent:
        yield _figure(load.unsent, "could not even be sent: no connection was to be had")
    yield from _title("What became of the receipts")
    yield _figure(load.committed, "orders")
    yield from _reasons(load.refused_with_receipt, "refused, each with its reason")
    yield _figure(load.accepted - load.outcomes, "receipts without an outcome")
    yield from _stock(result.stock)
    yield from _title("How fast")
    yield f"  {load.accepted_per_s:>10,.0f}  accepted a second on average, on this machine"
    yield f"  {load.committed_per_s:>10,.0f}  orders committed a second"
    yield from ("  " + line for line in latency_lines(load))
    yield from _verdicts(result, came)


def _verdicts(result: Result, came: int) -> Iterator[str]:
    load, audit = result.load, result.audit
    examined = sum(check.examined for check in audit.checks)
    yield from _title("Does it add up?")
    yield _mark(came == load.intents, f"every one of {load.intents:,} intents was answered")
    yield _mark(load.holds, f"{load.accepted:,} receipts, {load.outcomes:,} outcomes, one each")
    if not load.holds:
        yield f"        {load.faults}; {load.unknown} unknown"
    yield _mark(result.coupons_live_hold, "every receipt for a coupon has one outcome too")
    yield _mark(result.books_agree, "the sender's own books and the tables agree on the orders")
    yield _mark(
        audit.clean,
        f"audit: {len(audit.checks)} checks over {examined:,} rows, "
        f"{sum(check.violations for check in audit.checks):,} violations",
    )
    for check in audit.checks:
        if check.violations:
            yield f"        {check.name}: {check.violations:,} ({check.example}): {check.rule}"
    yield ""
    yield f"{'All clean' if result.clean else 'NOT clean'}, after {result.took_s:.0f} seconds."


def _stock(stock: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    gone = {sku: first for sku, (left, first) in stock.items() if left == 0}
    yield from _title("What was scarce")
    yield _figure(len(gone), f"of {len(stock)} items sold out, to the last unit and no further")
    for sku, first in sorted(gone.items(), key=lambda pair: pair[1])[:_STOCK_LINES_MAX]:
        yield f"  {'':>10}  {sku}: all {first:,}"


def _title(text: str) -> Iterator[str]:
    yield ""
    yield text


def _figure(count: int, text: str) -> str:
    return f"  {count:>10,}  {text}"


def _reasons(by_reason: Mapping[str, int], text: str) -> Iterator[str]:
    yield _figure(sum(by_reason.values()), text)
    for reason, count in by_reason.items():
        yield f"  {'':>10}  {count:>8,}  {plain(reason)}"


def _mark(fine: bool, text: str) -> str:
    return f"  {'yes' if fine else 'NO':>10}  {text}"
