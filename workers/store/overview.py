"""What an operator looks at, at one moment: the figures, what operators ordered, who works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from msgspec import Struct

from workers.store import figures
from workers.store.figures import Figures
from workers.store.levels import LevelOrder, read_level
from workers.store.levers import IssuancePause
from workers.store.pool import Connection
from workers.store.pulling import counts
from workers.store.sql import queries

_SQL = queries("overview")


class Shown(Struct, frozen=True):
    """How much of it: the campaigns (none named: the newest), and at most so many of each list."""

    campaigns: Sequence[str] = ()
    campaigns_max: int = 12
    skus_max: int = 20
    merchants_max: int = 50
    actions_max: int = 8


class MerchantPause(Struct, frozen=True):
    """A merchant, and whether an operator has paused it. `until` None: until it is lifted."""

    merchant_id: str
    paused: bool
    until: datetime | None
    reason: str | None


class Act(Struct, frozen=True):
    """A line of the operators' record."""

    acted_at: datetime
    actor: str
    action: str
    subject: str
    reason: str | None


class Overview(Struct, frozen=True, kw_only=True):
    """One moment. `pauses` are of issuance, by campaign; `workers` those that have worked."""

    figures: Figures
    ordered: LevelOrder | None
    pauses: Mapping[str, IssuancePause]
    merchants: Sequence[MerchantPause]
    acts: Sequence[Act]
    workers: int


def read(connection: Connection, shown: Shown) -> Overview:
    """Read it all; the figures are of one snapshot. Raises psycopg.Error."""
    found = figures.read(connection, shown.campaigns, shown.campaigns_max, shown.skus_max)
    names = {"campaign_ids": [one.campaign_id for one in found.campaigns]}
    pauses = connection.execute(_SQL.pauses_read, names)
    merchants = connection.execute(_SQL.merchants_read, {"merchants_max": shown.merchants_max})
    acts = connection.execute(_SQL.actions_read, {"actions_max": shown.actions_max})
    (workers,) = counts(connection, _SQL.workers_count)
    return Overview(
        figures=found,
        ordered=read_level(connection),
        pauses={
            name: IssuancePause(since=since, until=until, reason=reason)
            for name, since, until, reason in pauses
        },
        merchants=[
            MerchantPause(name, paused, until if paused else None, reason if paused else None)
            for name, paused, until, reason in merchants
        ],
        acts=[Act(*row) for row in acts],
        workers=workers,
    )
