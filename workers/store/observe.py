"""Watching a campaign sell: counts that are exact, and cheap enough to be asked for every second.

Problem: outcomes come by the ten thousand a second, and counting millions of them each second would
cost more than making them. Stock and budget are balances already, a row each. Outcomes have to be
counted, so only the new ones are; but which are new? An outcome's id says when its intent was made,
and its `decided_at` when it was decided; neither says when it was committed. A cursor on either
would pass by what was still being written, and miss it for ever.

What settles it are transaction ids. Whoever writes outcomes has its id, by the row locks of its
claim, before it reads the clock for `decided_at`. Each look takes an id itself, after reading the
clock: all that was decided before that time was decided by transactions of lower ids. So when these
have all ended, as a later look's snapshot tells, nothing decided before the time of the earlier look
can appear any more: those outcomes are counted for the last time, and only the later ones are
counted again at the next look. A long reader holds nothing up, for it has no transaction id; a
writer that hangs makes the looks dearer, never wrong. (A snapshot alone would not do: its xmax is
above what has ended, not above what has begun.) Only a primary gives out ids: aim at no replica.

Rejected alternatives: counters kept by the workers (one more hot row in every batch), the ledger (it
knows units, not orders, and no refusals), a margin of some seconds (right until it is not).
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from datetime import UTC, datetime

from msgspec import Struct

from workers.domain.intent import Kind
from workers.store.pool import Connection
from workers.store.redispatch import open_count
from workers.store.sql import queries

_SQL = queries("observe")
_ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
LOOKS_MAX = 1_000  # remembered while none of them settles; the oldest ones settle first anyway

_Key = tuple[str, str | None]  # kind, refusal


class Progress(Struct, frozen=True, kw_only=True):
    """A campaign at one moment.

    `committed` counts orders, `issued` the coupons that were asked for (not those of a bulk issue),
    `refused` both kinds of intents by reason; pruned ones count only for who saw them. `in_flight`
    is of the whole system. `stock` is units available and initial by SKU. `budget`, `spent` and
    `reserved` are minor units, zero for a campaign without coupons.
    """

    committed: int
    issued: int
    refused: Mapping[str, int]
    in_flight: int
    stock: Mapping[str, tuple[int, int]]
    budget: int
    spent: int
    reserved: int


class _Look(Struct, frozen=True):
    at: datetime
    xid: int


class ProgressReader:
    """Reads one campaign's progress again and again; the first look counts all, later ones the new.

    May be shared by threads; each look needs a connection that is in no transaction.
    """

    def __init__(self, campaign_id: str) -> None:
        self._campaign_id = campaign_id
        self._lock = threading.Lock()
        self._settled: Counter[_Key] = Counter()
        self._settled_until = _ALWAYS
        self._looks: deque[_Look] = deque(maxlen=LOOKS_MAX)

    def read(self, connection: Connection) -> Progress:
        """Look once: every figure is of the same moment. Raises psycopg.Error."""
        with self._lock, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            if self._settled_until > _ALWAYS:
                # A fresh partition without statistics must not be read from end to end.
                connection.execute("SET LOCAL enable_seqscan = off")
                connection.execute("SET LOCAL enable_partitionwise_join = on")
            counts = self._count(connection)
            return self._progress(connection, counts)

    def _count(self, connection: Connection) -> Counter[_Key]:
        """Return all counts of this moment; keep those that cannot change any more."""
        row = connection.execute(_SQL.moment_read).fetchone()
        if row is None:
            raise AssertionError("a look has its moment")
        at, xid, xmin = row
        settled_until = self._settles(xmin)
        rows = connection.execute(
            _SQL.outcomes_count,
            {
                "campaign_id": self._campaign_id,
                "counted_until": self._settled_until,
                "settled_until": settled_until,
            },
            prepare=False,  # planned for this very time: how much is new is what the plan rests on
        ).fetchall()
        settled, open_ended = Counter(self._settled), Counter[_Key]()
        for kind, reason, is_settled, count in rows:
            (settled if is_settled else open_ended)[kind, reason] += count
        self._settled, self._settled_until = settled, settled_until
        self._looks.append(_Look(at, xid))
        return settled + open_ended

    def _settles(self, xmin: int) -> datetime:
        """Return the time of the last look whose writers have all ended; drop it and those before."""
        settled_until = self._settled_until
        while self._looks and self._looks[0].xid <= xmin:
            settled_until = max(settled_until, self._looks.popleft().at)
        return settled_until

    def _progress(self, connection: Connection, counts: Counter[_Key]) -> Progress:
        where = {"campaign_id": self._campaign_id}
        stock = connection.execute(_SQL.stock_read, where).fetchall()
        row = connection.execute(_SQL.budget_read, where).fetchone()
        budget, spent, reserved = row or (0, 0, 0)
        refused = Counter[str]()
        for (_, reason), count in counts.items():
            if reason is not None:
                refused[reason] += count
        return Progress(
            committed=counts[Kind.ORDER, None],
            issued=counts[Kind.ISSUANCE, None],
            refused=dict(refused),
            in_flight=open_count(connection),
            stock={sku: (available, initial) for sku, available, initial in stock},
            budget=budget,
            spent=spent,
            reserved=reserved,
        )


def progress(connection: Connection, campaign_id: str) -> Progress:
    """Look once, counting all of the campaign's outcomes; see `ProgressReader` for many looks."""
    return ProgressReader(campaign_id).read(connection)
