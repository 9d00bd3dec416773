"""The physical limit: PostgreSQL alone, taking the rows of orders in batches, through our own SQL.

What the intake's journal and a worker's processor say to PostgreSQL is recorded on a database with
coupons, and then said again to a copy of that database made before: the same statements in the same
transactions, with fsync, and no HTTP, gate, queue or Python to speak of. What the repeating clients
use of the cores is told apart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from random import Random
from types import TracebackType
from typing import Self

import psycopg
from msgspec import Struct
from psycopg import sql

from deploy.campaigns.issuing import BATCH, issue_batch, make_grants
from deploy.embedded import seeding
from deploy.embedded.cluster import Cluster
from tests.benchmarks import processes
from tests.benchmarks.measuring import MeasurementError, Tables
from tests.benchmarks.orders import HOT, HOT_CAMPAIGN
from tests.benchmarks.replay import Recorder, Replayer, Said
from tests.benchmarks.world import CAMPAIGN
from workers.contract.ids import uuid7_many
from workers.domain.intent import IntentBody, Kind, Line
from workers.service.process_batch import Processor
from workers.store import journal
from workers.store.issuing import Grant
from workers.store.pool import OWNER, Bounds, Connection, connect
from workers.store.session import BatchSession

CLIENTS = 2  # one's journal beside the other's batch; what is hot is locked by one at a time
CONNECTIONS = 3  # of a client: the journal's, the batch's, the claims'
# Orders that are recorded for each second of a measurement: more than were ever taken.
_RECORDED_PER_S = {1: 1_000, 10: 6_000, 50: 18_000, 100: 24_000, 500: 40_000}
_DISPATCH_AFTER_MS = 60_000
_GATEWAY = seeding.GATEWAY
_ORIGINAL, _COPY = "tidegate", "replayed"


class Speed(Struct, frozen=True):
    """What one size of batch came to; CPU in microseconds per order."""

    batch: int
    committed_per_s: float
    postgres_us: float
    client_us: float
    others_cores: float  # what else ran on the machine meanwhile, as a share of a core


class Alone:
    """A PostgreSQL with the benchmark's campaign; a context manager."""

    def __init__(self) -> None:
        self._cluster = Cluster(servers_only=True)
        self._users = 1

    def __enter__(self) -> Self:
        """Start the server."""
        self._cluster.start()
        seeding.seed(self._dsn(_ORIGINAL), [seeding.read_campaign(CAMPAIGN)], "")
        # Nobody measures the original, and nobody misses it: its commits need not wait.
        self._run("ALTER DATABASE {} SET synchronous_commit = off", _ORIGINAL)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server."""
        self._cluster.__exit__(kind, error, trace)

    def measure(self, size: int, seconds: float) -> Speed:
        """Write batches of `size` orders for `seconds`, or until those recorded are written."""
        batches = int(_RECORDED_PER_S[size] * seconds) // (size * CLIENTS)
        grants = self._issue(batches * size * CLIENTS)
        with closing(Tables(self._dsn(_ORIGINAL))) as tables:
            tables.settle()
        self._run("CREATE DATABASE {} TEMPLATE {}", _COPY, _ORIGINAL)
        try:
            share = batches * size
            recorded = [
                self._record(grants[n * share : (n + 1) * share], size) for n in range(CLIENTS)
            ]
            return self._replay(recorded, size, seconds)
        finally:
            self._run("DROP DATABASE {} WITH (FORCE)", _COPY)

    def _issue(self, count: int) -> list[Grant]:
        """Issue coupons, and deal them in any order."""
        first, self._users = self._users, self._users + count
        grants = make_grants([f"u-{n}" for n in range(first, first + count)])
        with self._connect(self._dsn(_ORIGINAL)) as connection:
            for start in range(0, count, BATCH):
                issue_batch(connection, HOT_CAMPAIGN, grants[start : start + BATCH], "bench")
        Random(first).shuffle(grants)
        return grants

    def _record(self, grants: Sequence[Grant], size: int) -> list[list[Said]]:
        """Journal and process batches on the original; return what was said for each."""
        batches: list[list[Said]] = []
        with (
            Recorder(self._dsn(_ORIGINAL)) as recorder,
            self._connect(recorder.dsn) as connection,
            closing(BatchSession(lambda: self._connect(recorder.dsn), "bench")) as session,
        ):
            processor = Processor(session, lambda *_: None, batch_max=size)
            for start in range(0, len(grants), size):
                entries = _entries(grants[start : start + size])
                journal.append_many(connection, entries, _DISPATCH_AFTER_MS)
                processor.run([entry.intent_id for entry in entries])
                batches.append(recorder.take())
        return batches

    def _replay(self, recorded: Sequence[list[list[Said]]], size: int, seconds: float) -> Speed:
        with closing(Tables(self._dsn(_COPY))) as tables, ExitStack() as stack:
            tables.settle()
            replayers = [stack.enter_context(closing(self._replayer(stack))) for _ in recorded]
            before, cpu_before, began = tables.committed(), self._cpu(), time.monotonic()
            _say_all(list(zip(replayers, recorded, strict=True)), began + seconds)
            took = time.monotonic() - began
            cpu = processes.shares(cpu_before, self._cpu(), took)
            committed = tables.committed() - before
        if not committed:
            raise MeasurementError("PostgreSQL alone committed nothing")
        return Speed(
            batch=size,
            committed_per_s=committed / took,
            postgres_us=cpu["postgres"] * took / committed * 1e6,
            client_us=cpu["sender"] * took / committed * 1e6,
            others_cores=cpu["others"],
        )

    def _replayer(self, stack: ExitStack) -> Replayer:
        opened = [self._connect(self._dsn(_COPY)) for _ in range(CONNECTIONS)]
        return Replayer([stack.enter_context(closing(one)) for one in opened])

    def _cpu(self) -> dict[str, float]:
        return processes.cpu_seconds(self._cluster.processes())

    def _connect(self, dsn: str) -> Connection:
        return connect(dsn, OWNER, Bounds(), name="bench")

    def _dsn(self, database: str) -> str:
        return self._cluster.dsn.rpartition("/")[0] + f"/{database}"

    def _run(self, statement: str, *names: str) -> None:
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*(sql.Identifier(name) for name in names)))


def _say_all(clients: Sequence[tuple[Replayer, list[list[Said]]]], until: float) -> None:
    """Let all clients speak at once until a time. Raises what the first of them raised."""
    failed: list[BaseException] = []

    def client(replayer: Replayer, batches: list[list[Said]]) -> None:
        try:
            for batch in batches:  # a whole one: who stops in its midst holds what is hot
                if failed or time.monotonic() > until:
                    return
                for said in batch:
                    replayer.say(said)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=client, args=one, daemon=True) for one in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def _entries(grants: Sequence[Grant]) -> list[journal.Entry]:
    lines = tuple(Line(sku, 1) for sku in HOT)
    entries = []
    for intent_id, (coupon_id, user_id) in zip(uuid7_many(len(grants)), grants, strict=True):
        entries.append(
            journal.Entry(
                digest=journal.key_digest(_GATEWAY, Kind.ORDER, user_id, str(intent_id)),
                intent_id=intent_id,
                fingerprint=intent_id,
                kind=Kind.ORDER,
                gateway_id=_GATEWAY,
                idempotency_key=str(intent_id),
                user_id=user_id,
                campaign_id=HOT_CAMPAIGN,
                body=IntentBody(lines=lines, coupon_id=coupon_id, locale="zh-CN"),
            )
        )
    return entries
