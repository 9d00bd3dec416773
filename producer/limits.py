"""The rules in force: limits, pauses and windows, kept fresh, usable when stale.

What operators set is true in PostgreSQL. Each process that admits reads it twice a second, so that a
lever holds at every gate within a second of its commit, and after any restart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import msgspec
import psycopg
import structlog
from msgspec import Struct, field
from msgspec.structs import replace

from workers.contract.admission import RATE_MAX, CampaignLimits, Limits, RateLimit
from workers.domain.overload import Policy
from workers.store.limits import Goods, LevelRow, MerchantRow, Rows, read_goods, read_rows
from workers.store.pool import Connection
from workers.store.sql import queries

__all__ = [
    "REFRESH_INTERVAL_S",
    "LimitBook",
    "Limits",
    "Rules",
    "RulesUnread",
    "Term",
    "parse",
    "rules_of",
]

_log = structlog.get_logger()
_SQL = queries("campaigns")

REFRESH_INTERVAL_S: Final = 0.5  # twice a second: a lever holds everywhere within one
# An older reading refuses nobody for a campaign that is not active: it may have been extended since.
ACTIVITY_S_MAX: Final = 1.0
# So near its start or its end the worker judges: a reading ages, journalling takes its time, and
# after a failover the database's clock is another host's.
BOUNDARY: Final = timedelta(seconds=3)
# Items may be ten thousands, and change hands rarely. What is not known yet, the worker judges.
GOODS_INTERVAL_S: Final = 5.0
MERCHANT_BURST_S: Final = 10  # a kitchen takes so much of its minute at once
FIRST_S_MAX: Final = 1.0  # nobody is admitted by rules that were never read, and nobody waits long
CLOSE_S_MAX: Final = 1.0  # nobody waits longer for a thread that a dead server holds


class Term(NamedTuple):
    """When a campaign is open: from `starts_at` until before `ends_at`."""

    starts_at: datetime
    ends_at: datetime


class Rules(Struct, frozen=True, kw_only=True):
    """Everything that a batch is admitted by.

    `items_merchant` says whose each (campaign, sku) is; `coupon_values` what a coupon of a campaign
    holds in its budget at most, in minor units. `issuance_pauses` are the campaigns whose issuance
    an operator has paused, with the time when it resumes by itself (None: when it is lifted).
    `windows` are of all campaigns: who is not there does not exist, as
    far as is known here. `inactive` are those that are surely not active, with the time when they
    start (None: they are over); who is not there is for the worker to judge.
    """

    limits: Limits = Limits()
    items_merchant: Goods = field(default_factory=dict)
    coupon_values: Mapping[str, int] = field(default_factory=dict)
    issuance_pauses: Mapping[str, datetime | None] = field(default_factory=dict)
    windows: Mapping[str, Term] = field(default_factory=dict)
    inactive: Mapping[str, datetime | None] = field(default_factory=dict)


class _Reading(NamedTuple):
    """Rules, and what stays of them when they are old. `read_at` is of the monotonic clock."""

    rules: Rules
    aged: Rules
    read_at: float


class RulesUnread(Exception):
    """The rules in force were never read yet."""


class LimitBook:
    """Hands out the latest rules; reads them again in the background of whoever asks.

    While PostgreSQL is away the last known rules stay in force: limits and pauses that vanish with
    a database would open the gate in its worst hour. Only what says that a campaign is not active
    does not outlast a second: an hour later it would still be told of one that has begun.
    """

    def __init__(self, open_connection: Callable[[], Connection]) -> None:
        self._open = open_connection
        self._reading = _Reading(Rules(), Rules(), 0.0)
        self._goods = _Goods()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="limits", daemon=True)
        self.loaded = threading.Event()

    def start(self) -> None:
        """Begin to keep the rules fresh."""
        self._thread.start()

    def close(self) -> None:
        """Stop refreshing; a read that hangs ends by its own time-out."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=CLOSE_S_MAX)

    def current(self) -> Rules:
        """Return the latest rules that could be read: the same object for as long as none changes."""
        reading = self._reading
        fresh = time.monotonic() - reading.read_at <= ACTIVITY_S_MAX
        return reading.rules if fresh else reading.aged

    def in_force(self) -> Rules:
        """Return the latest rules, and wait for the first; raises `RulesUnread` if none come soon.

        A process that has just started knows no limit, no pause and no closed level.
        """
        if not self.loaded.wait(FIRST_S_MAX):
            raise RulesUnread("the rules in force were never read")
        return self.current()

    def _refresh(self) -> None:
        connection: Connection | None = None
        while not self._stop.is_set():
            try:
                if connection is None or connection.closed:
                    connection = self._open()
                self._read(connection)
                self.loaded.set()
            except psycopg.Error as error:
                _log.warning("limits not refreshed", error=error)
                if connection is not None:
                    connection.close()
            except Exception:  # a book that is never read again would keep today's rules for ever
                _log.exception("limits not understood; the last known ones hold")
            self._stop.wait(REFRESH_INTERVAL_S)
        if connection is not None:
            connection.close()

    def _read(self, connection: Connection) -> None:
        began = time.monotonic()
        (now,) = connection.execute(_SQL.clock_read).fetchall()[0]
        rows = read_rows(connection)
        rules = rules_of(rows, self._goods.current(connection, rows), now)
        known = self._reading
        if rules == known.rules:
            self._reading = known._replace(read_at=began)
        else:
            self._reading = _Reading(rules, replace(rules, inactive={}), began)


class _Goods:
    """Whose each item is: read again when a campaign was applied, and now and then."""

    def __init__(self) -> None:
        self._goods: Goods = {}
        self._read_at: float | None = None
        self._applied: Mapping[str, datetime] = {}

    def current(self, connection: Connection, rows: Rows) -> Goods:
        applied = {name: row.applied_at for name, row in rows.campaigns.items()}
        now = time.monotonic()
        if (
            self._read_at is None
            or applied != self._applied
            or now - self._read_at >= GOODS_INTERVAL_S
        ):
            self._goods = read_goods(connection)
            self._read_at, self._applied = now, applied
        return self._goods


def rules_of(rows: Rows, goods: Goods, now: datetime) -> Rules:
    """Shape what the database holds; `now` is its clock, read no later than the rows."""
    inactive = dict(_inactive(rows, now))
    limits = parse(
        {name: row.rate_limits for name, row in rows.campaigns.items()},
        rows.gateways,
        over={name for name, starts_at in inactive.items() if starts_at is None},
    )
    return Rules(
        limits=replace(
            limits,
            merchants={
                name: _merchant_limit(row)
                for name, row in rows.merchants.items()
                if row.paused or row.orders_per_minute_max is not None
            },
            ordered=None if rows.ordered is None else _ordered(rows.ordered),
        ),
        items_merchant=goods,
        coupon_values={
            name: row.coupon_value
            for name, row in rows.campaigns.items()
            if row.coupon_value is not None
        },
        issuance_pauses={
            name: row.issuance_resume_at
            for name, row in rows.campaigns.items()
            if row.issuance_paused
        },
        windows={name: Term(row.starts_at, row.ends_at) for name, row in rows.campaigns.items()},
        inactive=inactive,
    )


def _inactive(rows: Rows, now: datetime) -> Iterator[tuple[str, datetime | None]]:
    """Tell whom a worker is sure to refuse, whatever is redeemed: see `workers.domain.decide`."""
    for name, row in rows.campaigns.items():
        if now >= row.ends_at + BOUNDARY:
            yield name, None
        elif now < row.starts_at - BOUNDARY:
            yield name, row.starts_at


def parse(
    campaigns: Mapping[str, bytes],
    gateways: Mapping[str, tuple[float, int] | None],
    over: Container[str] = (),
) -> Limits:
    """Shape limits: campaigns' are JSON by layer, gateways' rate and burst.

    A gateway without a limit of its own has the tightest that a campaign file states for gateways;
    those of campaigns that are `over` bind nobody.
    """
    by_campaign = {}
    common: list[RateLimit] = []
    for campaign_id, text in campaigns.items():
        layers = {
            layer: RateLimit(limit["rate"], limit["burst"])
            for layer, limit in msgspec.json.decode(text).items()
        }
        if "gateway" in layers:
            stated = layers.pop("gateway")
            if campaign_id not in over:
                common.append(stated)
        by_campaign[campaign_id] = CampaignLimits(**layers)
    tightest = min(common, key=lambda limit: limit.rate, default=None)
    by_gateway = {
        gateway_id: RateLimit(*own) if own else tightest
        for gateway_id, own in gateways.items()
        if own or tightest
    }
    return Limits(by_campaign, {k: v for k, v in by_gateway.items() if v is not None})


def _merchant_limit(row: MerchantRow) -> RateLimit | None:
    """Return what a merchant's kitchens take; None: it is paused, and takes nothing."""
    if row.paused or row.orders_per_minute_max is None:
        return None
    per_minute = row.orders_per_minute_max
    rate = min(per_minute / 60, RATE_MAX)  # beyond what a gate can tell apart there is no limit
    return RateLimit(rate, max(1, per_minute * MERCHANT_BURST_S // 60))


def _ordered(row: LevelRow) -> Policy:
    return Policy(
        level=row.level,
        reason="operator",
        since_ms=_unix_ms(row.ordered_at),
        until_ms=None if row.until is None else _unix_ms(row.until),
    )


def _unix_ms(at: datetime) -> int:
    return round(at.timestamp() * 1_000)
