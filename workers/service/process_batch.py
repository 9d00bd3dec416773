"""Process a batch: claim, gather, decide, apply, announce. The one place where orders are made.

A hint says that there is work, and names some; the claim takes those and the oldest others, so a
batch grows by itself with the backlog, arrival order is kept, a lost hint is healed by the next one,
and a doubled hint finds nothing. Then one transaction does everything, and the outcome is told.

What may go wrong, and whose fault it is (`store.errors.fault_of`):
- CONTENTION: another batch was in the way. Again, a bounded number of times.
- SYSTEM: disk, shutdown, a lost connection. Nobody's intent is to blame: raised; the intents stay
  open, and the next hint or the redispatcher brings them back. If the connection went during COMMIT,
  the outcome is read again later and announced if it is there.
- OWN: the data of one intent. Once more on a fresh snapshot, then the batch is halved until the
  intent stands alone; alone, it is kept back for a while and counted, if others commit meanwhile.
  At `FAILURES_MAX` it is quarantined and its outcome told.
- Death: an intent that kills its process leaves no exception. So each batch records its claim before
  the work; a record that outlives its worker makes its intents suspects, which are then tried in
  ever smaller company, alone at last.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol
from uuid import UUID

from msgspec import Struct, field

from config import failpoints
from workers.contract.admission import Balance
from workers.contract.ids import uuid7
from workers.contract.resource import IntentResource, resource_of
from workers.domain.decide import decide
from workers.domain.intent import Intent
from workers.domain.movements import Movements, movements_of
from workers.domain.outcome import Outcome, Refusal
from workers.domain.snapshot import CounterKey, Snapshot
from workers.service.attempts import Attempt, Watch, attempts_of
from workers.service.balances import balances_after
from workers.service.suspects import by_suspicion
from workers.store.batch import Claim, Deaths
from workers.store.errors import Fault, fault_of

CONTENTION_RETRIES_MAX = 5  # each waited a lock_timeout or lost a deadlock: more is an outage
FAILURES_MAX = 3  # alone, while others commit: then it is the intent, not the weather
FAILURE_PAUSE_MS = 1_000  # doubled with each failure; a poisonous intent costs a batch each time
ERROR_TEXT_MAX = 2_000  # enough for a traceback's last words


class Store(Protocol):
    """What a batch needs of the store; see `store.session.BatchSession`."""

    def transaction(self) -> AbstractContextManager[None]: ...
    def claim(self, hinted: Sequence[UUID], limit: int) -> Claim: ...
    def record_claim(self, batch_id: UUID, intent_ids: Sequence[UUID]) -> dict[UUID, Deaths]: ...
    def forget_claim(self, batch_id: UUID) -> None: ...
    def gather(self, intents: Sequence[Intent]) -> tuple[Snapshot, datetime]: ...
    def apply_and_commit(
        self,
        batch_id: UUID,
        outcomes: Sequence[Outcome],
        moved: Movements,
        decided_at: datetime,
        *,
        counted: Container[CounterKey],
        before_commit: Callable[[], None],
    ) -> None: ...
    def record_failure(
        self, intent_id: UUID, error: str, *, counted: bool, pause_ms: int, failures_max: int
    ) -> int: ...
    def record_quarantine(self, intent_id: UUID, error: str, attempts: int) -> None: ...
    def decided(self, intent_ids: Sequence[UUID]) -> list[IntentResource]: ...


class BatchReport(Struct):
    """What a call did, for telemetry: counts, whom it decided, and times in milliseconds.

    `sizes` and the lists of `stage_ms` have an entry for each batch; `intent_ids` and `sojourn_ms` have
    one for each outcome. `attempts` are those with intents whose traces are followed.
    """

    claimed: int = 0
    sizes: list[int] = field(default_factory=list)
    intent_ids: list[UUID] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)  # "committed" or the refusal
    contentions: int = 0
    failures: int = 0
    quarantined: int = 0
    suspects: int = 0
    sojourn_ms: list[float] = field(default_factory=list)
    stage_ms: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    attempts: list[Attempt] = field(default_factory=list)


class Processor:
    """Turns open intents into outcomes, one batch at a time; for one thread.

    `announce` is told the resources of every committed outcome, and what is left of what they have
    taken where it is scarce, `scarce_max` units or fewer; it must not raise. With `follows`,
    attempts with intents whose traces are followed are reported.
    """

    def __init__(
        self,
        store: Store,
        announce: Callable[[Sequence[IntentResource], Sequence[Balance]], None],
        *,
        batch_max: int,
        scarce_max: int = 0,
        follows: bool = False,
        decide: Callable[[Sequence[Intent], Snapshot, datetime], list[Outcome]] = decide,
    ) -> None:
        self._store = store
        self._announce = announce
        self._batch_max = batch_max
        self._scarce_max = scarce_max
        self._follows = follows
        self._decide = decide
        self._successes = 0  # batches that committed more than refusals for lateness
        self._successes_at_failure: dict[UUID, int] = {}
        self._unsure: set[UUID] = set()  # claimed when a commit's reply was lost

    def run(
        self, hinted: Sequence[UUID], *, until: float = 0.0, report: BatchReport | None = None
    ) -> BatchReport:
        """Process the hinted intents and the oldest others; go on while batches come out full.

        `until` is a time of the monotonic clock after which no further batch is begun. Raises the
        fault of the system that stopped it; what was committed before stays committed and told, and
        is in the caller's `report`.
        """
        report = BatchReport() if report is None else report
        self._settle_unsure()
        while True:
            before = report.claimed
            self._attempt(hinted[: self._batch_max], self._batch_max, report)
            if report.claimed - before < self._batch_max or time.monotonic() >= until:
                return report
            hinted = ()

    def _settle_unsure(self) -> None:
        """Tell what was committed by a COMMIT whose reply was lost.

        What has no outcome yet is asked about again: the server may still be at that COMMIT.
        """
        if self._unsure:
            decided = self._store.decided(list(self._unsure))
            self._announce(decided, ())
            self._unsure -= {resource.intent_id for resource in decided}

    def _attempt(
        self, ids: Sequence[UUID], limit: int, report: BatchReport, *, wary: bool = True
    ) -> None:
        """Bring the claimed intents to their outcomes, whatever it takes short of the system.

        `wary` stops at intents that outlived a worker; they are then tried apart, unwarily.
        """
        contentions = own_errors = 0
        while True:
            claimed: list[UUID] = []
            try:
                return self._batch(ids, limit, claimed, report, wary=wary)
            except _SuspectsError as found:
                return self._try_suspects(claimed, found.deaths, report)
            except Exception as error:
                fault = fault_of(error)
                if fault is Fault.CONTENTION and contentions < CONTENTION_RETRIES_MAX:
                    contentions += 1
                    report.contentions += 1
                    time.sleep(random.uniform(0.002, 0.02) * contentions)
                elif fault is not Fault.OWN or not claimed:
                    raise
                elif own_errors == 0:
                    own_errors += 1
                    ids, limit = claimed, 0
                else:
                    return self._bisect(claimed, error, report, wary=wary)

    def _batch(
        self,
        ids: Sequence[UUID],
        limit: int,
        claimed: list[UUID],
        report: BatchReport,
        *,
        wary: bool,
    ) -> None:
        """Run one transaction over `ids` and others up to `limit`; `claimed` learns whom it has."""
        watch = Watch(report.stage_ms)
        batch_id = uuid7()
        with self._store.transaction():
            claim = self._store.claim(ids, limit)
            watch.lap("claim")
            if not claim.intents:
                return
            claimed += [intent.intent_id for intent in claim.intents]
            try:
                deaths = self._store.record_claim(batch_id, claimed)
                watch.lap("record")
                failpoints.hit("worker.after_claim")
                if wary and deaths:
                    raise _SuspectsError(deaths)
                outcomes, decided_at, snapshot = self._decide_all(claim, watch)
                moved = movements_of(outcomes)
                self._commit(batch_id, outcomes, moved, decided_at, snapshot.counters)
            except Exception as error:
                if self._follows and not isinstance(error, _SuspectsError):
                    report.attempts += attempts_of(watch, batch_id, claim, fault=error)
                self._store.forget_claim(batch_id)
                raise
        watch.lap("apply")
        if any(outcome.refusal is not Refusal.DEADLINE_EXPIRED for outcome in outcomes):
            self._successes += 1
        balances = balances_after(snapshot, moved, self._scarce_max)
        self._tell(outcomes, decided_at, report, balances)
        watch.lap("announce")
        if self._follows:
            report.attempts += attempts_of(watch, batch_id, claim, outcomes)

    def _decide_all(self, claim: Claim, watch: Watch) -> tuple[list[Outcome], datetime, Snapshot]:
        """Decide a claim; return outcomes, when they were decided, and what was known.

        Intents already past their deadline take no lock.
        """
        assert claim.at is not None
        late = [intent for intent in claim.intents if intent.deadline <= claim.at]
        timely = [intent for intent in claim.intents if intent.deadline > claim.at]
        outcomes = [Outcome(intent=intent, refusal=Refusal.DEADLINE_EXPIRED) for intent in late]
        if not timely:
            return outcomes, claim.at, Snapshot()
        if claim.unreadable:
            for intent in timely:
                if intent.intent_id in claim.unreadable:
                    raise _UnreadableError(claim.unreadable[intent.intent_id])
        snapshot, decided_at = self._store.gather(timely)
        watch.lap("gather")
        outcomes += self._decide(timely, snapshot, decided_at)
        watch.lap("decide")
        return outcomes, decided_at, snapshot

    def _commit(
        self,
        batch_id: UUID,
        outcomes: list[Outcome],
        moved: Movements,
        decided_at: datetime,
        counted: Container[CounterKey],
    ) -> None:
        try:
            self._store.apply_and_commit(
                batch_id,
                outcomes,
                moved,
                decided_at,
                counted=counted,
                before_commit=lambda: failpoints.hit("worker.before_commit"),
            )
        except Exception as error:
            if fault_of(error) is Fault.SYSTEM:
                self._unsure.update(outcome.intent.intent_id for outcome in outcomes)
            raise
        failpoints.hit("worker.after_commit")

    def _tell(
        self,
        outcomes: list[Outcome],
        decided_at: datetime,
        report: BatchReport,
        balances: Sequence[Balance] = (),
    ) -> None:
        report.sizes.append(len(outcomes))
        report.claimed += len(outcomes)
        report.intent_ids += [outcome.intent.intent_id for outcome in outcomes]
        for outcome in outcomes:
            report.outcomes[outcome.refusal.value if outcome.refusal else "committed"] += 1
        report.sojourn_ms += [
            (decided_at - outcome.intent.accepted_at).total_seconds() * 1000 for outcome in outcomes
        ]
        if self._successes_at_failure or self._unsure:
            for outcome in outcomes:
                self._successes_at_failure.pop(outcome.intent.intent_id, None)
                self._unsure.discard(outcome.intent.intent_id)
        failpoints.hit("worker.before_announce")
        self._announce([resource_of(outcome, decided_at) for outcome in outcomes], balances)

    def _bisect(
        self, ids: list[UUID], error: Exception, report: BatchReport, *, wary: bool
    ) -> None:
        """Find the intent that fails: halves, until one stands alone."""
        if len(ids) == 1:
            return self._fail_alone(ids[0], error, report)
        middle = len(ids) // 2
        for half in (ids[:middle], ids[middle:]):
            self._attempt(half, 0, report, wary=wary)

    def _fail_alone(self, intent_id: UUID, error: Exception, report: BatchReport) -> None:
        """Count a failure if others commit meanwhile: else it may be us, and nobody is to blame."""
        report.failures += 1
        counted = self._successes > self._successes_at_failure.get(intent_id, 0)
        self._successes_at_failure[intent_id] = self._successes
        text = f"{type(error).__name__}: {error}"[:ERROR_TEXT_MAX]
        failures = self._store.record_failure(
            intent_id,
            text,
            counted=counted,
            pause_ms=FAILURE_PAUSE_MS,
            failures_max=FAILURES_MAX,
        )
        if failures >= FAILURES_MAX:
            self._quarantine(intent_id, text, failures, report)

    def _try_suspects(
        self, ids: list[UUID], deaths: dict[UUID, Deaths], report: BatchReport
    ) -> None:
        """Try the unsuspected together, the suspects in small company, the worst not once more."""
        report.suspects += len(deaths)
        groups = by_suspicion(ids, deaths)
        for group in groups.together:
            self._attempt(group, 0, report, wary=False)
        for intent_id in groups.hopeless:
            times = deaths[intent_id].alone
            text = f"the worker died {times} times with this intent alone in hand"
            self._quarantine(intent_id, text, times, report)

    def _quarantine(self, intent_id: UUID, error: str, attempts: int, report: BatchReport) -> None:
        """List the intent with its error and tell its outcome, in one commit."""
        watch = Watch(defaultdict(list))
        batch_id = uuid7()
        with self._store.transaction():
            claim = self._store.claim([intent_id], 0)
            if not claim.intents or claim.at is None:
                return
            outcome = Outcome(intent=claim.intents[0], refusal=Refusal.COULD_NOT_BE_PROCESSED)
            self._store.record_quarantine(intent_id, error, attempts)
            self._commit(batch_id, [outcome], Movements(), claim.at, ())
        watch.lap("apply")
        report.quarantined += 1
        self._tell([outcome], claim.at, report)
        if self._follows:
            report.attempts += attempts_of(watch, batch_id, claim, [outcome])


class _UnreadableError(Exception):
    """An intent's body is none that this version can read."""


class _SuspectsError(Exception):
    """Some claimed intents were in the hands of batches that died."""

    def __init__(self, deaths: dict[UUID, Deaths]) -> None:
        super().__init__(f"{len(deaths)} suspects")
        self.deaths = deaths
