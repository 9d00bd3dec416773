"""The bank: at every moment balances are the sums of their movements, and what there is stays so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from deploy.chaos.checks.finding import Finding, Gathered, findings
from deploy.chaos.tables import AccountRow

_SUPPLY = "supply"


def accounts_add_up(gathered: Gathered) -> list[Finding]:
    """In the end each unit's accounts sum to zero, equal their ledger, and none is below zero."""
    unbalanced = [f"{batch}, {unit}: {total}" for batch, unit, total in gathered.tables.unbalanced]
    check = "accounts add up"
    return [
        *findings(check, "I7", "in the end", _faults(gathered.tables.accounts)),
        *findings(check, "I7", "batches whose movements do not balance", unbalanced),
    ]


def samples_add_up(gathered: Gathered) -> list[Finding]:
    """So they do at every moment that was looked at meanwhile."""
    broken = [
        f"at {sample.began:.1f}: {fault}"
        for sample in gathered.samples
        for fault in _faults(sample.accounts or ())
    ]
    return findings("samples add up", "I7", "in the midst of it", broken)


def sold_is_ordered(gathered: Gathered) -> list[Finding]:
    """Units sold and reserved are those of the living orders; no more than there were."""
    status = {order.order_id: order.status for order in gathered.tables.orders}
    ordered: defaultdict[tuple[str, str], int] = defaultdict(int)
    for line in gathered.tables.lines:
        part = {"confirmed": "sold", "awaiting_payment": "reserved"}.get(
            status.get(line.order_id, "")
        )
        if part:
            ordered[line.sku, part] += line.quantity
    balances = {row.account: row.balance for row in gathered.tables.accounts}
    wrong, over = [], []
    for sku, initial in gathered.initial_stock.items():
        root = f"stock:{gathered.campaign_id}:{sku}"
        for part in ("sold", "reserved"):
            stands = balances.get(f"{root}:{part}", 0)
            if stands != ordered[sku, part]:
                wrong.append(f"{sku}: {stands} {part}, and orders hold {ordered[sku, part]}")
        if ordered[sku, "sold"] + ordered[sku, "reserved"] > initial:
            over.append(f"{sku}: {ordered[sku, 'sold']} sold of {initial}")
        if -balances.get(f"{root}:{_SUPPLY}", -initial) != initial:
            wrong.append(
                f"{sku}: supply is {balances[f'{root}:{_SUPPLY}']}, and {initial} there were"
            )
    check = "sold is ordered"
    return [
        *findings(check, "I4", "balances that the orders contradict", wrong),
        *findings(check, "I4", "more sold than there was", over),
    ]


def _faults(accounts: Sequence[AccountRow]) -> Iterator[str]:
    sums: defaultdict[str, int] = defaultdict(int)
    for row in accounts:
        unit, _, part = row.account.rpartition(":")
        sums[unit] += row.balance
        if row.balance != row.moved:
            yield f"{row.account} is {row.balance}, and its movements sum to {row.moved}"
        if part != _SUPPLY and row.balance < 0:
            yield f"{row.account} is {row.balance}, below zero"
    for unit, total in sums.items():
        if total:
            yield f"{unit} sums to {total}, not to zero"
