"""Figures: what the tables say at one moment, for those who watch.

Everything is read in one snapshot, so that what is accepted is the sum of what is decided and what is
open. The tallies are what batches counted as they committed: reading them costs a millisecond, however
many orders there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from workers.store import audit
from workers.store.pool import Connection
from workers.store.sql import queries

_SQL = queries("figures")

# Of the audit, what reads no order: the balances against the ledger.
DRIFT_CHECKS = ("stock_adds_up", "ledger_equals_balances", "ledger_batches_balance")


class Tally(Struct, frozen=True):
    """How many intents of a campaign came to one end; `reason` is the refusal, '' if committed.

    `kind` is order, issuance, or bulk: coupons that were issued without an intent.
    """

    campaign_id: str
    kind: str
    reason: str
    intents: int
    coupons: int


class Budget(Struct, frozen=True):
    """A budget in minor units."""

    initial: int
    available: int
    reserved: int
    spent: int


class Campaign(Struct, frozen=True):
    """A campaign; `budget`, in its currency, is None where it gives no coupons out."""

    campaign_id: str
    currency: str
    issuance_paused: bool
    budget: Budget | None


class Stock(Struct, frozen=True):
    """The units of an item."""

    campaign_id: str
    sku: str
    initial: int
    available: int
    reserved: int
    sold: int


class Figures(Struct, frozen=True):
    """One moment. `oldest_age_s` is 0 while nothing is open."""

    tallies: Sequence[Tally]
    open_count: int
    oldest_age_s: float
    quarantined: int
    campaigns: Sequence[Campaign]
    stock: Sequence[Stock]

    @property
    def accepted(self) -> int:
        """All intents that were ever journalled."""
        return sum(tally.intents for tally in self.tallies) + self.open_count


def read(
    connection: Connection, campaign_ids: Sequence[str], campaigns_max: int, skus_max: int
) -> Figures:
    """Read one snapshot; `campaign_ids` are those to show, none: the newest. Raises psycopg.Error."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        tallies = [Tally(*row) for row in connection.execute(_SQL.tallies_read)]
        opened = connection.execute(_SQL.open_read).fetchone()
        assert opened is not None, "a count has a row"
        wanted = {"campaign_ids": list(campaign_ids) or None, "campaigns_max": campaigns_max}
        campaigns = [
            Campaign(name, currency, paused, None if amounts[0] is None else Budget(*amounts))
            for name, currency, paused, *amounts in connection.execute(_SQL.campaigns_read, wanted)
        ]
        shown = {"campaign_ids": [one.campaign_id for one in campaigns], "skus_max": skus_max}
        stock = [Stock(*row) for row in connection.execute(_SQL.stock_read, shown)]
    open_count, oldest_age_s, quarantined = opened
    return Figures(tallies, open_count, oldest_age_s or 0.0, quarantined, campaigns, stock)


def read_drift(connection: Connection) -> Mapping[str, int]:
    """Return how many violations each of `DRIFT_CHECKS` finds, in one snapshot."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return {name: audit.check(connection, name).violations for name in DRIFT_CHECKS}
