"""Promises: what went in comes out (Jepsen's total queue), and what was told no stays out."""

from __future__ import annotations

from deploy.chaos.checks.finding import Finding, Gathered, findings
from deploy.chaos.checks.keys import keys_of

_TERMINAL = ("committed", "refused")
_POISON = "-poison-"  # in the keys of intents that no worker can read
_QUARANTINED = "could_not_be_processed"


def receipts_come_out(gathered: Gathered) -> list[Finding]:
    """Every receipt is in the journal under its key, with exactly one terminal outcome."""
    rows = {row.intent_id: row for row in gathered.tables.intents}
    lost, open_, other = [], [], []
    for name, key in keys_of(gathered.history).items():
        for intent_id in {entry.intent_id for entry in [*key.receipts, *key.found]}:
            row = rows.get(intent_id)
            if row is None:
                lost.append(f"{name} was promised {intent_id}, which does not exist")
            elif row.key != name:
                other.append(f"{name} was promised {intent_id}, which is {row.key}'s")
            elif row.status not in _TERMINAL:
                open_.append(f"{name}: {intent_id} is {row.status}")
    check = "receipts come out"
    return [
        *findings(check, "I1", "receipts of intents that are lost", lost),
        *findings(check, "I2", "receipts of somebody else's intents", other),
        *findings(check, "I1", "receipts without a terminal outcome after the drain", open_),
    ]


def noes_never_commit(gathered: Gathered) -> list[Finding]:
    """A key that heard nothing but no, to every one of its calls, is not in the journal."""
    bound = {row.key: row for row in gathered.tables.intents}
    said = "keys that were told no every time, and are in the journal"
    broken = [
        f"{name}: told {key.noes[-1].reason or key.noes[-1].http}, and is {bound[name].intent_id}"
        for name, key in keys_of(gathered.history).items()
        if key.noes and not key.receipts and not key.open and name in bound
    ]
    return findings("noes never commit", "I11", said, broken)


def receipts_are_not_denied(gathered: Gathered) -> list[Finding]:
    """Who posts again what was promised before is never told no, whatever the load."""
    promised_at: dict[str, float] = {}
    began: dict[int, float] = {}
    denied = []
    for entry in gathered.history:
        if entry.op != "post":
            continue
        if entry.phase == "invoke":
            began[entry.call] = entry.at
        elif entry.phase == "ok":
            promised_at.setdefault(entry.key, entry.at)
        elif (
            entry.phase == "no"
            and entry.http  # else it did not arrive
            and began.get(entry.call, 0.0) > promised_at.get(entry.key, float("inf"))
        ):
            denied.append(f"{entry.key}: {entry.reason or entry.http}")
    return findings("receipts are not denied", "I8", "promised, posted again, and told no", denied)


def unknown_at_most_once(gathered: Gathered) -> list[Finding]:
    """A key whose call had no clear end is there at most once, and what is told of it is true."""
    counts: dict[str, int] = {}
    for row in gathered.tables.intents:
        counts[row.key] = counts.get(row.key, 0) + 1
    twice, denied, silent = [], [], []
    for name, key in keys_of(gathered.history).items():
        count = counts.get(name, 0)
        if count > 1:
            twice.append(f"{name}: {count} intents")
        if count and key.missing and not key.found and not key.receipts:
            denied.append(f"{name} is in the journal, and was not found by its key")
        if key.open and not key.receipts and not key.found and not key.missing:
            silent.append(f"{name}: nobody could tell what became of it")
    check = "unknown at most once"
    return [
        *findings(check, "I2", "keys with more than one intent", twice),
        *findings(check, "I8", "keys that are known, and were denied after the drain", denied),
        *findings(check, "I10", "keys that could not be asked for after the drain", silent),
    ]


def orders_were_attempted(gathered: Gathered) -> list[Finding]:
    """Every intent was asked for under that key, and every order holds just what was asked for."""
    keys = keys_of(gathered.history)
    unasked = [
        f"{row.intent_id} under {row.key}"
        for row in gathered.tables.intents
        if row.key not in keys and _POISON not in row.key
    ]
    lines: dict[str, dict[str, int]] = {}
    for line in gathered.tables.lines:
        lines.setdefault(line.order_id, {})[line.sku] = line.quantity
    key_of = {row.intent_id: row.key for row in gathered.tables.intents}
    other = []
    for order in gathered.tables.orders:
        wish = keys.get(key_of.get(order.intent_id, ""))
        if wish is None:
            other.append(f"order {order.order_id} of an intent that nobody asked for")
        elif lines.get(order.order_id, {}) != wish.units or order.user != wish.user:
            got = lines.get(order.order_id, {})
            other.append(f"order {order.order_id}: asked for {wish.units}, holds {got}")
    check = "orders were attempted"
    return [
        *findings(check, "I3", "intents that nobody asked for", unasked),
        *findings(check, "I3", "orders of what was not asked for", other),
    ]


def poison_is_told(gathered: Gathered) -> list[Finding]:
    """An intent that nobody can read is refused as such: one outcome, like any other."""
    wrong = [
        f"{row.intent_id} is {row.status} {row.reason}"
        for row in gathered.tables.intents
        if _POISON in row.key and row.reason != _QUARANTINED
    ]
    return findings("poison is told", "I1", "unreadable intents that nobody was told of", wrong)
