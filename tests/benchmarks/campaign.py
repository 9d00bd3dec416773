"""Ten million orders, the whole nine-hour campaign, as fast as it goes, and the audit after it.

    python -m tests.benchmarks.campaign [--orders N] [--chunk N] [--data DIR] [--json]

Each order is one POST of one intent, with two lines and a coupon of its own, over 1,000 connections
in a closed loop, through a whole embedded Tidegate on real PostgreSQL with fsync. Some keys are sent
twice, as people do. Coupons are issued in bulk before each chunk of orders. After the audit the
full tables are measured beside empty ones. May be stopped at any time, by Ctrl-C or worse: the same
command goes on where it was. Exits 0 when the audit is clean and every planned order is in the
tables exactly once, 1 when not, 2 when it could not be run, 130 on Ctrl-C.
Writes `records/campaign.json` at the end of a run of a million orders or more.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psycopg

from deploy.campaigns import IssuingError
from deploy.campaigns.couponfile import CouponFileError
from deploy.embedded.cluster import Cluster
from deploy.embedded.errors import EmbeddedError
from deploy.load import profile
from tests.benchmarks import campaign_beside, campaign_report, records
from tests.benchmarks.campaign_chunk import ChunkError, Watcher, Way, forget_coupons, perform
from tests.benchmarks.campaign_log import (
    Beat,
    CampaignLog,
    CampaignLogError,
    Compared,
    Ended,
    Session,
    Wish,
)
from tests.benchmarks.campaign_report import Summary
from tests.benchmarks.campaign_screen import CampaignScreen
from tests.benchmarks.campaign_tables import CampaignTables, UndecidedError
from tests.benchmarks.machine import read_machine
from tests.benchmarks.measuring import MeasurementError
from tests.benchmarks.world import CAMPAIGN
from workers.store import audit
from workers.store.pool import AUDITOR

DATA = Path(__file__).parents[2] / ".bench" / "campaign"
RECORDED_FROM = 1_000_000  # orders; a shorter run says nothing of growth
# Tables and their indexes, measured; and once for all: the write-ahead log, which PostgreSQL keeps
# to 4 GB or so, what the audit sorts on disk, logs.
BYTES_PER_ORDER, BYTES_BESIDE = 1_700, 6_000_000_000
_BEAT_S = 1.0
_LOG = "campaign.jsonl"
_FAILURES = (
    CampaignLogError,
    ChunkError,
    MeasurementError,
    UndecidedError,
    EmbeddedError,
    IssuingError,
    CouponFileError,
    psycopg.Error,
    OSError,
)


class SpaceError(Exception):
    """The disk is too small; the message says by how much."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, or go on, and report."""
    given = _parser().parse_args(arguments)
    wish = Wish(orders=given.orders, chunk=given.chunk, seed=given.seed, repeats=given.repeats)
    data: Path = given.data.expanduser().resolve()
    try:
        if given.fresh:
            _forget(data)
        with CampaignLog(data / _LOG, wish) as log:
            summary = _run(log, wish, data, given)
    except KeyboardInterrupt:
        _say("stopped; the same command goes on from here")
        return 130
    except (*_FAILURES, SpaceError) as failure:
        _say(f"{type(failure).__name__}: {failure}")
        return 1 if isinstance(failure, ChunkError | UndecidedError) else 2
    if given.json:
        print(msgspec.json.format(msgspec.json.encode(records.rounded(summary))).decode())
    else:
        print("\n".join(campaign_report.lines(summary)))
    return 0 if summary.good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tests.benchmarks.campaign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    repeats = profile.load("qwen").mix.repeated_keys
    add = parser.add_argument
    add("--orders", type=int, default=10_000_000, help="in all")
    add("--chunk", type=int, default=250_000, help="orders between two lines of the record")
    add("--connections", type=int, default=1_000, help="posts outstanding at once")
    add("--workers", type=int, default=1, help="worker processes")
    add("--seed", type=int, default=1, help="the same seed sends the same orders")
    add("--repeats", type=float, default=repeats, help="share of keys sent twice (%(default)s)")
    add("--data", type=Path, default=DATA, help="folder of all data (%(default)s)")
    add("--fresh", action="store_true", help="forget an earlier run in that folder")
    add("--json", action="store_true", help="print the summary as JSON")
    return parser


def _run(log: CampaignLog, wish: Wish, data: Path, given: argparse.Namespace) -> Summary:
    """Do all chunks that are not done, then the end. A run that has ended is only told again."""
    standing, recorded = log.standing, wish.orders >= RECORDED_FROM
    if standing.ended is None or (recorded and standing.beside is None):
        _check_space(data, wish.orders - standing.orders)
        cluster = Cluster(data / "cluster", workers=given.workers, campaign=CAMPAIGN, on_event=_say)
        with CampaignScreen(wish.orders, standing.orders, standing.elapsed_s) as screen:
            screen.say("starting PostgreSQL, Valkey, the API and the workers")
            with cluster:
                if standing.ended is None:
                    log.append(Session(at=datetime.now(UTC)))
                    _perform(log, wish, cluster, screen, given.connections, data)
                if recorded:
                    _compare(log, cluster, screen, given.connections)
    return campaign_report.summarise(standing)


def _compare(log: CampaignLog, cluster: Cluster, screen: CampaignScreen, connections: int) -> None:
    """Hold the full tables against empty ones, and record it all."""
    screen.say("the full tables beside empty ones")
    beside = campaign_beside.compare(cluster, log.standing.orders, connections, screen.say)
    log.append(Compared(at=datetime.now(UTC), beside=beside))
    machine = read_machine(cluster.dsn, cluster.valkey_url)
    campaign_report.write(records.CAMPAIGN, log.standing, machine)
    screen.say(f"written: {records.CAMPAIGN}")


def _perform(
    log: CampaignLog,
    wish: Wish,
    cluster: Cluster,
    screen: CampaignScreen,
    connections: int,
    data: Path,
) -> None:
    began = time.monotonic()
    standing = log.standing
    if standing.sessions > 1:
        screen.say(f"going on after {standing.orders:,} of {wish.orders:,} orders")
    with CampaignTables(cluster.dsn) as tables:
        shown = _Shown(log, screen, tables, began)
        way = Way(cluster, tables, data, connections, shown)
        for number in range(len(standing.chunks), wish.chunks):
            chunk = perform(wish, number, standing.interrupted_s, way)
            log.append(chunk)
            forget_coupons(data, number)
            shown.beat()
            screen.say(
                f"  {standing.orders:>12,} orders: {chunk.committed_per_s:,.0f}/s, receipt after "
                f"p50 {chunk.p50_ms:,.0f} p99 {chunk.p99_ms:,.0f} ms"
            )
            gc.collect()
        _end(log, cluster, tables, screen, began)


def _end(
    log: CampaignLog,
    cluster: Cluster,
    tables: CampaignTables,
    screen: CampaignScreen,
    began: float,
) -> None:
    """Count and audit. What the tables say is asked of the tables alone."""
    screen.say("counting the tables")
    counts = tables.counts()
    audit_began = time.monotonic()
    report = audit.run(
        cluster.dsn, AUDITOR, drained=True, progress=lambda name: screen.say(f"audit: {name}")
    )
    now = time.monotonic()
    log.append(
        Ended(
            at=datetime.now(UTC).replace(microsecond=0),
            session_s=now - began,
            orders_in_tables=counts.orders,
            receipts=counts.receipts,
            refused_receipts=counts.refused_receipts,
            audit_clean=report.clean,
            audit_s=now - audit_began,
            audit_checks=len(report.checks),
            violated=[check.name for check in report.violated],
        )
    )


class _Shown(Watcher):
    """Shows a run and writes its beats."""

    def __init__(
        self, log: CampaignLog, screen: CampaignScreen, tables: CampaignTables, began: float
    ) -> None:
        self._log = log
        self._screen = screen
        self._tables = tables
        self._began = began
        self._beaten = self._looked = 0.0
        self._in_flight = 0

    def issuing(self, done: int, total: int) -> None:
        """See `Watcher`."""
        self._screen.show(self._log.standing.orders, 0, f"{done:,} of {total:,} coupons issued")
        self._beat_in_time(0.0)

    def sending(self, accepted: int, sending_s: float) -> None:
        """See `Watcher`."""
        orders = self._log.standing.orders + accepted
        now = time.monotonic()
        if now - self._looked >= 1.0:  # a look takes less than a millisecond
            self._looked = now
            self._in_flight = max(0, orders - self._tables.committed())
        self._screen.show(orders, self._in_flight, f"chunk {len(self._log.standing.chunks) + 1}")
        self._beat_in_time(sending_s)

    def beat(self, sending_s: float = 0.0) -> None:
        """Write down that this session lives."""
        self._beaten = time.monotonic()
        self._log.append(
            Beat(
                session_s=self._beaten - self._began,
                chunk=len(self._log.standing.chunks),
                sending_s=sending_s,
            )
        )

    def _beat_in_time(self, sending_s: float) -> None:
        if time.monotonic() - self._beaten >= _BEAT_S:
            self.beat(sending_s)


def _check_space(data: Path, orders: int) -> None:
    """Raise SpaceError where the orders that are still to come would not fit."""
    needed = orders * BYTES_PER_ORDER + min(BYTES_BESIDE, 500_000_000 + orders * 3_000)
    free = shutil.disk_usage(data).free
    if free < needed:
        msg = (
            f"{data} is on a disk with {free / 1e9:.1f} GB free, and {orders:,} orders need about "
            f"{needed / 1e9:.1f} GB: free some, give --data a folder on another disk, or --orders "
            "fewer"
        )
        raise SpaceError(msg)


def _forget(data: Path) -> None:
    """Remove an earlier run, and nothing that is not one."""
    if (data / _LOG).exists():
        shutil.rmtree(data)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
