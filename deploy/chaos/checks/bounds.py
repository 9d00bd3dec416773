"""Bounds: a counter read meanwhile lies between what was surely done and what was attempted."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate

from deploy.chaos.checks.finding import Finding, Gathered, findings
from deploy.chaos.checks.keys import keys_of


def samples_within_bounds(gathered: Gathered) -> list[Finding]:
    """Units taken are at least those of orders told before the look, at most those asked for.

    Orders that were ever to be cancelled may have gone back, and count for nothing below.
    """
    keys = keys_of(gathered.history)
    cancelled = {entry.key for entry in gathered.history if entry.op == "cancel"}
    committed_at = _committed_at(gathered, cancelled)
    above, below = [], []
    for sku in gathered.initial_stock:
        asked = _Steps([(key.invoked_at, key.units.get(sku, 0)) for key in keys.values()])
        told = _Steps([(at, keys[name].units.get(sku, 0)) for name, at in committed_at.items()])
        root = f"stock:{gathered.campaign_id}:{sku}"
        for sample in gathered.samples:
            balances = {row.account: row.balance for row in sample.accounts or ()}
            if f"{root}:sold" not in balances:
                continue
            taken = balances[f"{root}:sold"] + balances[f"{root}:reserved"]
            if taken > asked.until(sample.ended):
                above.append(
                    f"{sku} at {sample.began:.1f}: {taken} taken, {asked.until(sample.ended)} asked for"
                )
            if taken < told.before(sample.began):
                below.append(
                    f"{sku} at {sample.began:.1f}: {taken} taken, {told.before(sample.began)} told"
                )
    check = "samples within bounds"
    return [
        *findings(check, "I9", "more units taken than were asked for by then", above),
        *findings(check, "I9", "fewer units taken than had been told by then", below),
    ]


def sold_out_exactly(gathered: Gathered) -> list[Finding]:
    """Of what more want than there is, all is sold: not one more, not one fewer."""
    sku = gathered.sells_out
    if not sku:
        return []
    balances = {row.account: row.balance for row in gathered.tables.accounts}
    root = f"stock:{gathered.campaign_id}:{sku}"
    sold, initial = balances.get(f"{root}:sold", 0), gathered.initial_stock[sku]
    wanted = sum(key.units.get(sku, 0) for key in keys_of(gathered.history).values())
    if wanted < initial:
        return findings(
            "sold out exactly", "I4", "too few wanted it to tell", [f"{wanted} of {initial} {sku}"]
        )
    wrong = [f"{sold} of {initial} {sku} are sold"] if sold != initial else []
    return findings("sold out exactly", "I4", "not exactly as many sold as there were", wrong)


def _committed_at(gathered: Gathered, without: set[str]) -> dict[str, float]:
    """When each key's order was first told."""
    key_of = {
        entry.intent_id: entry.key
        for entry in gathered.history
        if entry.op in ("post", "find") and entry.phase == "ok"
    }
    found: dict[str, float] = {}
    for entry in gathered.history:
        name = key_of.get(entry.intent_id)
        if name is None or name in without or entry.phase != "ok":
            continue
        if entry.outcome.startswith("committed "):
            found.setdefault(name, entry.at)
    return found


class _Steps:
    """A sum that grows at moments."""

    def __init__(self, steps: list[tuple[float, int]]) -> None:
        steps.sort()
        self._at = [at for at, _ in steps]
        self._sums = [0, *accumulate(units for _, units in steps)]

    def until(self, moment: float) -> int:
        return self._sums[bisect_right(self._at, moment)]

    def before(self, moment: float) -> int:
        return self._sums[bisect_left(self._at, moment)]
