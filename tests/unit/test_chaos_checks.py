"""Each check of a chaos run is quiet about a run as it should be, and speaks of a violation.

One small run, as it should be, is told by `Story`; each test tells it with one thing wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from msgspec.structs import replace

from deploy.chaos import checks
from deploy.chaos.checks import storms
from deploy.chaos.checks.finding import Finding, Gathered, Storm
from deploy.chaos.history import Entry
from deploy.chaos.receivers import SOUND, Heard
from deploy.chaos.sampler import ProcessUse, Sample
from deploy.chaos.tables import (
    AccountRow,
    CouponRow,
    IntentRow,
    LineRow,
    OrderRow,
    PaymentRow,
    Tables,
)

ID, PAID, NO_ID = "i-1", "i-2", "i-3"
TOLD = "committed 1800 - 1800 = 0"
PAID_TOLD = "committed 1800 - 0 = 1800"
REFUSED = "refused sold_out"


def entry(at: float, call: int, op: str, phase: str, **said: object) -> Entry:
    return Entry(at=at, call=call, op=op, phase=phase, **said)  # type: ignore[arg-type]


def accounts(sold: int = 2, *, available: int = 8, moved: int = 0) -> list[AccountRow]:
    """Ten there were, two sold; a thousand of budget, a hundred spent."""
    rows = {"supply": -10, "available": available, "reserved": 0, "sold": sold}
    money = {"supply": -1000, "available": 900, "reserved": 0, "spent": 100}
    return [
        *(AccountRow(f"stock:c:hot:{part}", n, n + moved) for part, n in rows.items()),
        *(AccountRow(f"budget:c:{part}", n, n) for part, n in money.items()),
    ]


HISTORY = [
    entry(1.0, 1, "post", "invoke", key="k-1", user="ann", units={"hot": 1}, coupon=True),
    entry(1.1, 1, "post", "ok", key="k-1", intent_id=ID, http=202),
    entry(1.2, 2, "post", "invoke", key="k-2", user="bob", units={"hot": 1}),
    entry(1.3, 2, "post", "unknown", key="k-2"),
    entry(1.4, 3, "post", "invoke", key="k-2", user="bob", units={"hot": 1}),
    entry(1.5, 3, "post", "ok", key="k-2", intent_id=PAID, http=202),
    entry(1.6, 4, "post", "invoke", key="k-3", user="cid", units={"hot": 1}),
    entry(1.7, 4, "post", "no", key="k-3", reason="sold_out", http=200),
    entry(1.8, 5, "post", "invoke", key="k-4", user="dan", units={"hot": 1}),
    entry(1.9, 0, "announced", "ok", intent_id=ID, outcome=TOLD),
    entry(2.0, 6, "poll", "invoke", key="k-1", intent_id=ID),
    entry(2.1, 6, "poll", "ok", key="k-1", intent_id=ID, outcome=TOLD, order_status="confirmed"),
    entry(2.2, 7, "poll", "invoke", key="k-2", intent_id=PAID),
    entry(2.3, 7, "poll", "ok", key="k-2", intent_id=PAID, outcome=PAID_TOLD),
    entry(2.4, 8, "pay", "invoke", key="k-2", intent_id=PAID),
    entry(2.5, 8, "pay", "ok", key="k-2", intent_id=PAID, outcome=PAID_TOLD),
    entry(2.6, 9, "rebody", "invoke", key="k-1"),
    entry(2.7, 9, "rebody", "no", key="k-1", reason="idempotency_conflict", http=422),
    entry(9.0, 10, "find", "invoke", key="k-4"),
    entry(9.1, 10, "find", "missing", key="k-4", http=404),
]
TABLES = Tables(
    intents=[
        IntentRow(ID, "order", "k-1", "ann", "committed", ""),
        IntentRow(PAID, "order", "k-2", "bob", "committed", ""),
    ],
    orders=[
        OrderRow(ID, ID, "ann", "confirmed", 1800, 1800, 0, "coupon-1"),
        OrderRow(PAID, PAID, "bob", "confirmed", 1800, 0, 1800, None),
    ],
    lines=[LineRow(ID, "hot", 1), LineRow(PAID, "hot", 1)],
    coupons=[CouponRow("coupon-1", "ann", "redeemed", 2500, ID)],
    payments=[PaymentRow(PAID, "k-2", 1800, "accepted")],
    accounts=accounts(),
)
USE = ProcessUse("worker", 77, 5, 100_000_000, 20)
SAMPLES = [
    Sample(
        began=0.5, ended=0.6, accounts=accounts(0, available=10), connections=20, processes=[USE]
    ),
    Sample(began=3.0, ended=3.1, accounts=accounts(), connections=20, hints=0, processes=[USE]),
]
HEARD = [
    Heard(
        at=at,
        receiver=receiver,
        event_id=f"evt_{intent_id}_{event}",
        event=event,
        intent_id=intent_id,
        key=key,
        body=f"{intent_id} {event}",
    )
    for at, receiver, event, intent_id, key in (
        (1.9, "dying", "committed", ID, "k-1"),
        (1.9, SOUND, "committed", ID, "k-1"),
        (2.0, "dying", "committed", ID, "k-1"),
        (2.3, SOUND, "committed", PAID, "k-2"),
        (2.6, SOUND, "confirmed", PAID, "k-2"),
    )
]
RUN = Gathered(
    history=HISTORY,
    tables=TABLES,
    samples=SAMPLES,
    campaign_id="c",
    initial_stock={"hot": 10},
    faults_planned=4,
    faults_done=3,
    receipts_min=2,
    budget=5_000,
    orders_per_user_max=1,
)


def broken_by(run: Gathered) -> list[str]:
    """The invariants that are found broken."""
    return sorted({finding.breaks for finding in checks.check(run)})


def with_entries(*more: Entry) -> Gathered:
    return replace(RUN, history=sorted([*HISTORY, *more], key=lambda one: one.at))


def without(wrong: Callable[[Entry], bool]) -> Gathered:
    return replace(RUN, history=[one for one in HISTORY if not wrong(one)])


def with_heard(at: int, **fields: object) -> Gathered:
    return replace(RUN, heard=changed(HEARD, at, **fields))


def with_storm(receipts_after: int, last_arrival_at: float = 30.0) -> Gathered:
    """A receipt every 100 ms before the storm; then so many in all, evenly."""
    before = [(10 + n / 10, f"b-{n}") for n in range(40)]
    after = [(20 + 10 * n / receipts_after, f"a-{n}") for n in range(receipts_after)]
    told = [
        entry(at, 100 + n, "post", "ok", key=key, intent_id=f"i-{key}", http=202)
        for n, (at, key) in enumerate([*before, *after])
    ]
    storm = Storm(began=14.0, ended=16.0, last_arrival_at=last_arrival_at)
    return Gathered(history=told, storm=storm)


def with_tables(**rows: object) -> Gathered:
    return replace(RUN, tables=replace(TABLES, **rows))


def test_a_run_as_it_should_be_has_no_findings() -> None:
    assert checks.check(RUN) == []


def test_a_finding_counts_all_and_shows_a_few() -> None:
    lost = [
        entry(3 + n / 100, 50 + n, "post", "ok", key=f"l-{n}", intent_id=f"l-{n}") for n in range(9)
    ]
    (found,) = [
        one
        for one in checks.check(with_entries(*lost))
        if one.said == "receipts of intents that are lost"
    ]
    assert (found.count, len(found.examples)) == (9, 5)


def intents(*rows: IntentRow) -> Gathered:
    return with_tables(intents=[*TABLES.intents, *rows])


def changed(rows: Sequence[object], at: int, **fields: object) -> list[object]:
    return [replace(row, **fields) if n == at else row for n, row in enumerate(rows)]  # type: ignore[type-var]


VIOLATIONS: dict[str, tuple[str, Gathered]] = {
    "a receipt's intent is gone": ("I1", with_tables(intents=TABLES.intents[1:])),
    "a receipt has no outcome after the drain": (
        "I1",
        with_tables(intents=changed(TABLES.intents, 0, status="accepted")),
    ),
    "a receipt names another key's intent": (
        "I2",
        with_tables(intents=changed(TABLES.intents, 0, key="k-9")),
    ),
    "what was told no is in the journal": (
        "I11",
        intents(IntentRow(NO_ID, "order", "k-3", "cid", "refused", "sold_out")),
    ),
    "an unclear key is there twice": (
        "I2",
        intents(*(IntentRow(f"u-{n}", "order", "k-4", "dan", "refused", "x") for n in (1, 2))),
    ),
    "an unclear key is there, and denied": (
        "I8",
        intents(IntentRow("u-1", "order", "k-4", "dan", "refused", "x")),
    ),
    "an unclear key can be asked by nobody": ("I10", without(lambda e: e.op == "find")),
    "an intent that nobody asked for": (
        "I3",
        intents(IntentRow("u-1", "order", "k-77", "eve", "refused", "x")),
    ),
    "an order of more than was asked for": (
        "I3",
        with_tables(lines=changed(TABLES.lines, 0, quantity=2)),
    ),
    "an order for somebody else": (
        "I3",
        with_tables(orders=changed(TABLES.orders, 0, user="eve")),
    ),
    "an unreadable intent has another outcome than quarantine": (
        "I1",
        intents(IntentRow("p-1", "order", "c-poison-0.5", "u-poison", "refused", "sold_out")),
    ),
    "a promised intent is not found any more": (
        "I1",
        with_entries(
            entry(4.0, 60, "poll", "invoke", key="k-1", intent_id=ID),
            entry(4.1, 60, "poll", "missing", key="k-1", http=404),
        ),
    ),
    "a promised intent is not found for a while": (
        "I8",
        with_entries(
            entry(1.91, 60, "poll", "invoke", key="k-1", intent_id=ID),
            entry(1.92, 60, "poll", "missing", key="k-1", http=404),
        ),
    ),
    "a known key is refused as if it were new": (
        "I8",
        with_entries(entry(4.0, 60, "rebody", "missing", key="k-1", http=503)),
    ),
    "an outcome changes between two polls": (
        "I8",
        with_entries(
            entry(4.0, 60, "poll", "invoke", key="k-1", intent_id=ID),
            entry(4.1, 60, "poll", "ok", key="k-1", intent_id=ID, outcome=REFUSED),
        ),
    ),
    "an announcement says another outcome": (
        "I8",
        with_entries(entry(4.0, 0, "announced", "ok", intent_id=PAID, outcome=TOLD)),
    ),
    "a told outcome is taken back": (
        "I8",
        with_entries(
            entry(4.0, 60, "poll", "invoke", key="k-1", intent_id=ID),
            entry(4.1, 60, "poll", "ok", key="k-1", intent_id=ID),
        ),
    ),
    "what was told is not what the tables say": (
        "I8",
        with_tables(orders=changed(TABLES.orders, 0, discount=1700, payable=100)),
    ),
    "one key is promised two intents": (
        "I2",
        with_entries(entry(4.0, 60, "post", "ok", key="k-1", intent_id=PAID)),
    ),
    "a key takes another wish": (
        "I2",
        with_entries(entry(4.0, 60, "rebody", "ok", key="k-1", intent_id=ID)),
    ),
    "a buyer's own wish is called another's": (
        "I8",
        with_entries(
            entry(4.0, 60, "post", "no", key="k-1", reason="idempotency_conflict", http=422)
        ),
    ),
    "an intent has two orders": (
        "I2",
        with_tables(
            orders=[*TABLES.orders, replace(TABLES.orders[0], order_id="o-2", coupon_id="z")]
        ),
    ),
    "a coupon is redeemed twice": (
        "I6",
        with_tables(orders=changed(TABLES.orders, 1, coupon_id="coupon-1", user="ann")),
    ),
    "a coupon is redeemed by a thief": (
        "I6",
        with_tables(coupons=[replace(TABLES.coupons[0], user="eve")]),
    ),
    "a discount without a coupon": (
        "I6",
        with_tables(orders=changed(TABLES.orders, 0, coupon_id=None)),
    ),
    "an order keeps two payments": ("I2", with_tables(payments=[*TABLES.payments] * 2)),
    "a payment that was told does not last": (
        "I8",
        with_tables(orders=changed(TABLES.orders, 1, status="expired")),
    ),
    "a balance is not the sum of its movements": ("I7", with_tables(accounts=accounts(moved=1))),
    "a unit does not sum to zero": ("I7", with_tables(accounts=accounts(available=9))),
    "a balance is below zero": ("I7", with_tables(accounts=accounts(12, available=-2))),
    "a batch does not balance": ("I7", with_tables(unbalanced=[("b-1", "stock:c:hot", 1)])),
    "a sample does not add up": (
        "I7",
        replace(RUN, samples=[replace(SAMPLES[1], accounts=accounts(available=7))]),
    ),
    "more is sold than orders hold": ("I4", with_tables(accounts=accounts(3, available=7))),
    "more is sold than there was": ("I4", replace(RUN, initial_stock={"hot": 1})),
    "more is taken than was asked for by then": (
        "I9",
        replace(RUN, samples=[replace(SAMPLES[0], began=1.0, ended=1.05, accounts=accounts())]),
    ),
    "less is taken than had been told by then": (
        "I9",
        replace(RUN, samples=[replace(SAMPLES[1], accounts=accounts(1, available=9))]),
    ),
    "one fewer is sold than there were, with buyers waiting": (
        "I4",
        replace(
            RUN,
            sells_out="hot",
            initial_stock={"hot": 3},
            tables=replace(
                TABLES,
                accounts=[
                    AccountRow("stock:c:hot:supply", -3, -3),
                    AccountRow("stock:c:hot:available", 1, 1),
                    AccountRow("stock:c:hot:sold", 2, 2),
                ],
            ),
            samples=[replace(SAMPLES[1], accounts=accounts())],
        ),
    ),
    "too few buyers came to sell out": ("I4", replace(RUN, sells_out="hot")),
    "an outcome is not told to the sound receiver": ("I1", replace(RUN, heard=HEARD[3:])),
    "an outcome is told by webhook, and is another": ("I8", with_heard(0, event="refused")),
    "an event comes with other words": ("I8", with_heard(2, body="other")),
    "an event comes under another id": ("I2", with_heard(2, event_id="evt_2")),
    "an order's payment is told before the order": (
        "I8",
        replace(RUN, heard=[*HEARD[:3], *HEARD[:2:-1]]),
    ),
    "a storm feeds itself": ("I10", with_storm(50)),
    "a storm was looked at too shortly": ("I10", with_storm(100, last_arrival_at=21.0)),
    "intents stay open": ("I10", replace(RUN, drained_s=None)),
    "a buyer stays without an answer": ("I10", replace(RUN, answered_all=False)),
    "nobody is served any more": ("I10", replace(RUN, recovered_s=None)),
    "memory grows": (
        "I12",
        replace(
            RUN,
            samples=[
                *SAMPLES,
                replace(SAMPLES[1], processes=[ProcessUse("worker", 77, 5, 400_000_000, 20)]),
            ],
        ),
    ),
    "open files grow": (
        "I12",
        replace(
            RUN,
            samples=[
                *SAMPLES,
                replace(SAMPLES[1], processes=[ProcessUse("worker", 77, 5, 100_000_000, 900)]),
            ],
        ),
    ),
    "connections are all taken in the end": (
        "I12",
        replace(RUN, samples=[*SAMPLES, replace(SAMPLES[1], connections=100)]),
    ),
    "hints pile up unacknowledged": (
        "I12",
        replace(RUN, samples=[*SAMPLES, replace(SAMPLES[1], unacknowledged=5_000)]),
    ),
    "hints pile up in the queue": (
        "I12",
        replace(RUN, samples=[*SAMPLES, replace(SAMPLES[1], hints=5_000)]),
    ),
    "a promise is denied when it is asked for again": (
        "I8",
        with_entries(
            entry(2.8, 70, "post", "invoke", key="k-1", user="ann", units={"hot": 1}, coupon=True),
            entry(2.9, 70, "post", "no", key="k-1", reason="closed", http=503),
        ),
    ),
    "somebody has more orders than he may": ("I5", replace(RUN, orders_per_user_max=0)),
    "more is promised and given than the budget holds": (
        "I5",
        replace(
            with_tables(
                coupons=[*TABLES.coupons, CouponRow("coupon-2", "bob", "issued", 2500, None)]
            ),
            budget=4_299,
        ),
    ),
    "ids stay in flight when nothing is open": ("I12", replace(RUN, in_flight_left=3)),
    "the gate cannot say what is in flight": ("I12", replace(RUN, in_flight_left=None)),
    "hardly anybody had a receipt": ("I1", replace(RUN, receipts_min=100)),
    "hardly any fault could be done": ("I1", replace(RUN, faults_planned=40)),
    "nothing was ever sampled": ("I1", replace(RUN, samples=[])),
    "the audit finds something": ("I7", replace(RUN, audit_violated=["stock_adds_up: 1 (hot)"])),
}


@pytest.mark.parametrize("what", VIOLATIONS)
def test_it_is_found_that(what: str) -> None:
    invariant, run = VIOLATIONS[what]
    assert invariant in broken_by(run)


def test_every_kind_of_finding_is_provoked_by_some_violation() -> None:
    """A check that no violation above turns red might as well not be there."""
    provoked = {finding.check for _, run in VIOLATIONS.values() for finding in checks.check(run)}
    silent = [check for check in checks.CHECKS if not _speaks(check)]
    assert not silent
    assert len(provoked) == len(checks.CHECKS)


def _speaks(check: Callable[[Gathered], list[Finding]]) -> bool:
    return any(check(run) for _, run in VIOLATIONS.values())


def test_a_storm_that_leaves_the_load_served_as_before_is_none() -> None:
    assert storms.served_as_before(with_storm(100)) == []


def test_a_receiver_that_heard_everything_in_order_has_no_findings() -> None:
    assert checks.check(replace(RUN, heard=HEARD)) == []


def test_a_process_that_was_started_again_has_not_grown() -> None:
    """The same pid may be another process."""
    other = ProcessUse("worker", 77, 6, 400_000_000, 900)
    run = replace(RUN, samples=[*SAMPLES, replace(SAMPLES[1], processes=[other])])
    assert broken_by(run) == []


def test_a_no_after_an_unclear_call_denies_nothing() -> None:
    """The unclear call may still be under way when the no is given."""
    more = [
        entry(2.8, 70, "post", "invoke", key="k-5", user="eve", units={"hot": 1}),
        entry(2.9, 70, "post", "unknown", key="k-5"),
        entry(3.0, 71, "post", "invoke", key="k-5", user="eve", units={"hot": 1}),
        entry(3.1, 71, "post", "no", key="k-5", reason="closed", http=503),
        entry(9.2, 72, "find", "ok", key="k-5", intent_id="i-5", outcome=REFUSED),
    ]
    row = IntentRow("i-5", "order", "k-5", "eve", "refused", "sold_out")
    run = replace(with_entries(*more), tables=replace(TABLES, intents=[*TABLES.intents, row]))
    assert broken_by(run) == []


def test_a_question_asked_before_the_receipt_may_find_nothing() -> None:
    early = [
        entry(1.05, 60, "poll", "invoke", key="k-1"),
        entry(1.15, 60, "poll", "missing", key="k-1"),
    ]
    assert broken_by(with_entries(*early)) == []
