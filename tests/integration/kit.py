"""A world for one test: a campaign on a fresh database, a gate, intakes and processors on both."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from msgspec.structs import replace

from producer.answers import Posted
from producer.intake import Intake
from producer.limits import Limits
from tests.factories import GATEWAY, MASTER, add_campaign, admitting, open_gate
from workers.contract.couponcode import CouponCodes
from workers.contract.gate import Gate
from workers.contract.ids import uuid7
from workers.contract.resource import IntentResource
from workers.domain.decide import decide
from workers.domain.intent import IssuanceIntent, Line, OrderIntent
from workers.service.process_batch import Processor
from workers.store import audit
from workers.store.pool import OWNER, PRODUCER, WORKER, Bounds, Connection, connect
from workers.store.session import BatchSession

CODES = CouponCodes(MASTER)
CAMPAIGN = "spring"
_keys = itertools.count(1)


class World:
    """What the tests of intake and workers share; a context manager that closes all it opened."""

    def __init__(self, dsn: str, valkey_url: str = "") -> None:
        self.dsn = dsn
        self.valkey_url = valkey_url
        self.published: list[UUID] = []
        self.told: list[IntentResource] = []
        self.gate = open_gate(valkey_url) if valkey_url else None
        self._open = ExitStack()
        self.admin = connect(dsn, OWNER, Bounds(), name="test-admin")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()
        self.admin.close()

    # Parts ---------------------------------------------------------------------------------------

    def connection(self, role: str | None = OWNER, bounds: Bounds | None = None) -> Connection:
        """A connection that lives as long as this world."""
        made = connect(self.dsn, role, bounds or Bounds(), name="test")
        self._open.callback(made.close)
        return made

    def intake(
        self,
        *,
        dsn: str | None = None,
        gate: Gate | None = None,
        limits: Limits | None = None,
        bounds: Bounds | None = None,
        accept_timeout_ms: int = 5_000,
        open_connection: Callable[[], Connection] | None = None,
    ) -> Intake:
        """An intake of its own connection."""
        used_gate = gate or self.gate
        assert used_gate is not None, "this world has no Valkey"
        made = Intake(
            open_connection
            or (lambda: connect(dsn or self.dsn, PRODUCER, bounds or Bounds(), name="api")),
            used_gate,
            admitting(used_gate, CODES, limits),
            self.published.extend,
            CODES,
            accept_timeout_ms=accept_timeout_ms,
            dispatch_after_ms=5_000,
        )
        self._open.callback(made.close)
        return made

    def session(
        self, name: str = "w", *, dsn: str | None = None, bounds: Bounds | None = None
    ) -> BatchSession:
        """A worker's connections."""
        made = BatchSession(
            lambda: connect(dsn or self.dsn, WORKER, bounds or Bounds(), name=name), name
        )
        self._open.callback(made.close)
        return made

    def processor(
        self,
        name: str = "w",
        *,
        batch_max: int = 500,
        decide: Any = decide,
        dsn: str | None = None,
        bounds: Bounds | None = None,
    ) -> Processor:
        """A processor of its own connections, that tells `self.told`."""
        return Processor(
            self.session(name, dsn=dsn, bounds=bounds),
            lambda told, _: self.told.extend(told),
            batch_max=batch_max,
            decide=decide,
        )

    # State ---------------------------------------------------------------------------------------

    def campaign(self, campaign_id: str = CAMPAIGN, **terms: Any) -> None:
        """Open a campaign; see `factories.add_campaign`."""
        add_campaign(self.dsn, campaign_id, **terms)

    def issue(self, users: Sequence[str], campaign_id: str = CAMPAIGN) -> list[str]:
        """Give each user a coupon by the whole way; return their codes."""
        batch = [issuance(user, campaign_id=campaign_id) for user in users]
        self.intake().submit(batch)
        self.processor().run([posted.intent_id for posted in batch])
        return [CODES.code_of(posted.intent_id) for posted in batch]

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """What a query of the owner says."""
        return self.admin.execute(query, parameters).fetchall()

    def value(self, query: str, *parameters: Any) -> Any:
        """The first value of its first row."""
        return self.rows(query, *parameters)[0][0]

    def stock_of(self, sku: str = "tea", campaign_id: str = CAMPAIGN) -> tuple[int, int, int]:
        """Units available, reserved and sold."""
        row = self.rows(
            "SELECT available, reserved, sold FROM stock WHERE (campaign_id, sku) = (%s, %s)",
            campaign_id,
            sku,
        )[0]
        return row[0], row[1], row[2]

    def reasons(self) -> dict[str, int]:
        """Outcomes by reason; `committed` where there is none."""
        return dict(
            self.rows("SELECT coalesce(reason, 'committed'), count(*) FROM outcomes GROUP BY 1")
        )

    def deadlocks(self) -> int:
        """Deadlocks in this database so far. Ends all other sessions: they tell when they end."""
        self._open.close()
        others = (
            "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert comes_true(lambda: self.value(f"SELECT count(*) {others}") == 0)
        query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return int(self.value(query))

    def age(self, intent_ids: Sequence[UUID], ms: int) -> None:
        """Let intents have been accepted so much earlier."""
        with self.admin.transaction():
            self.admin.execute("SET LOCAL session_replication_role = replica")  # no triggers
            for table in ("intents", "open_intents"):
                self.admin.execute(
                    f"UPDATE {table} SET accepted_at = accepted_at - %s * interval '1 ms'"
                    " WHERE intent_id = ANY(%s)",
                    (ms, list(intent_ids)),
                )

    def end_pauses(self) -> None:
        """Let what is kept back be claimed again."""
        self.admin.execute("UPDATE open_intents SET retry_after = now() WHERE retry_after > now()")

    def open_count(self) -> int:
        """How many intents have no outcome yet."""
        return int(self.value("SELECT count(*) FROM open_intents"))

    def assert_clean(self, *, drained: bool = True) -> None:
        """The audit finds nothing."""
        report = audit.run(self.dsn, drained=drained)
        wrong = [(c.name, c.violations, c.example) for c in report.checks if c.violations]
        assert wrong == []


def order(
    user: str = "u-1",
    *,
    lines: Sequence[tuple[str, int]] = (("tea", 1),),
    key: str | None = None,
    gateway: str = GATEWAY,
    campaign_id: str = CAMPAIGN,
    **more: Any,
) -> Posted:
    """A posted order with a fresh id, and a fresh key unless one is given."""
    return Posted(
        intent_id=uuid7(),
        gateway_id=gateway,
        idempotency_key=key or f"key-{next(_keys)}",
        intent=OrderIntent(
            user_id=user,
            campaign_id=campaign_id,
            lines=tuple(Line(sku, quantity) for sku, quantity in lines),
            **more,
        ),
    )


def issuance(
    user: str = "u-1", *, key: str | None = None, campaign_id: str = CAMPAIGN, **more: Any
) -> Posted:
    """A posted wish for a coupon."""
    return Posted(
        intent_id=uuid7(),
        gateway_id=GATEWAY,
        idempotency_key=key or f"key-{next(_keys)}",
        intent=IssuanceIntent(user_id=user, campaign_id=campaign_id, **more),
    )


def again(posted: Posted) -> Posted:
    """The same intent posted again: a fresh id under the same key."""
    return replace(posted, intent_id=uuid7())


def ids_of(batch: Iterable[Posted]) -> list[UUID]:
    """The ids they were posted with."""
    return [posted.intent_id for posted in batch]


def at_once(jobs: Sequence[Callable[[], Any]], timeout_s: float = 60) -> list[Any]:
    """Run each job in a thread of its own, all released at one moment; raise the first error."""
    gate = threading.Barrier(len(jobs))
    results: list[Any] = [None] * len(jobs)
    errors: list[BaseException] = []

    def run(place: int, job: Callable[[], Any]) -> None:
        try:
            gate.wait(timeout_s)
            results[place] = job()
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(place, job), daemon=True)
        for place, job in enumerate(jobs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_s)
        assert not thread.is_alive(), "a job hangs"
    if errors:
        raise errors[0]
    return results


def comes_true(holds: Callable[[], bool], within_s: float = 10) -> bool:
    """Whether it holds within the time, looked at often."""
    until = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def in_child(work: Callable[[], object]) -> int | None:
    """Run work in a forked process; return its exit code, negative where a signal ended it."""
    child = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    child.start()
    child.join(30)
    if child.exitcode is None:
        child.kill()
        child.join()
        raise AssertionError("the child hangs")
    return child.exitcode


@contextmanager
def working(
    world: World, count: int, *, batch_max: int = 500, drain_s: float = 60
) -> Iterator[Counter[str]]:
    """Let processors work, each in a thread of its own; at the end, until nothing is open.

    Yields their counts: outcomes, contentions, failures. Raises what any of them raised.
    """
    counts: Counter[str] = Counter()
    errors: list[BaseException] = []
    done = threading.Event()

    def work(processor: Processor) -> None:
        try:
            while not done.is_set():
                report = processor.run([], until=time.monotonic() + 0.2)
                counts.update(report.outcomes)
                counts["contentions"] += report.contentions
                counts["failures"] += report.failures
                if not report.claimed:
                    done.wait(0.005)
        except BaseException as error:
            errors.append(error)
            done.set()

    processors = [world.processor(f"w{n}", batch_max=batch_max) for n in range(count)]
    threads = [threading.Thread(target=work, args=(one,), daemon=True) for one in processors]
    for thread in threads:
        thread.start()
    try:
        yield counts
        assert comes_true(lambda: bool(errors) or world.open_count() == 0, drain_s)
    finally:
        done.set()
        for thread in threads:
            thread.join(10)
    if errors:
        raise errors[0]
