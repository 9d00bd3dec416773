"""Gate, governor, queue, workers and redispatchers in virtual time, under faults that a seed chooses.

Production runs as it is: `Intake`, `Admitting`, `BatchSession`, `Processor`, `Redispatch` on its
`Schedule`, `Governor`, the gate's `Memory`, `decide`. What they stand on are twins: `gate_twin` for
the library in Valkey, `sql_twin` for PostgreSQL, and here the queue, which loses, doubles, delays and
so reorders. For `CHAOS_S` processes die or pause, Valkey forgets, both servers go away, replies are
lost; then everything is healed, and at the end nothing may be lost, doubled, stranded or told falsely.

A seed is a story: the same one happens again, step by step.

    PYTHONPATH=. python tests/simulation/pipeline.py 17              replay seed 17, told as it happens
    PYTHONPATH=. python tests/simulation/pipeline.py 1 --count 5000  these seeds; only failures are told
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
from clients import Client, Crowd
from gate_client import TwinGate
from gate_twin import Server
from laws import IN_FLIGHT_MAX, broken_by
from looking import SCARCE_MAX, Looking
from sql_twin import BORN, Connection, Database, RedispatchStore
from standing_in import standing_in
from virtual import Actor, Killed, Mailbox, Stage

from producer.admitting import Admitting
from producer.intake import Intake
from producer.limits import Limits, Rules
from workers.contract.admission import Balance, RateLimit
from workers.contract.calendar import Calendar
from workers.contract.couponcode import CouponCodes
from workers.contract.gate import GateUnreachable, open_client
from workers.contract.resource import IntentResource
from workers.contract.ticket import Tickets
from workers.domain.decide import decide
from workers.domain.governor import Tuning
from workers.domain.intent import Intent
from workers.domain.outcome import Outcome
from workers.domain.overload import Level
from workers.domain.snapshot import Snapshot
from workers.service.govern import Governor
from workers.service.process_batch import Processor
from workers.service.redispatch import Bounds, Redispatch, Schedule, TickReport
from workers.store.errors import Fault, fault_of
from workers.store.session import BatchSession

CHAOS_S, END_S = 10.0, 38.0  # the faults end; all must be well
BATCH_MAX = 8
HINTS_MAX = 5
UNRECONCILED_PER_S = 30
BORN_US = round(BORN.timestamp() * 1e6)
_MASTER = "simulated-" * 4
_CODES, _TICKETS = CouponCodes(_MASTER), Tickets(_MASTER)
_CALENDAR = Calendar(open_client("redis://127.0.0.1:1/0", timeout_ms=100), "unreached")
_AWAY = (psycopg.Error, GateUnreachable, ConnectionError)  # what a duty may fail of


class Pipeline:
    """One run."""

    def __init__(self, seed: int, tell: Callable[[str], None] | None = None) -> None:
        self.stage = stage = Stage(seed)
        self.luck = luck = stage.luck
        self._tell = tell
        stock = {"tea": luck.randint(3, 40), "bun": luck.randint(3, 40)}
        self.database = Database(stage, stock, self._trip_to_postgres)
        self.server = Server(lambda: BORN_US + round(stage.now * 1e6))
        self.queue: Mailbox[list[UUID]] = Mailbox(stage)
        self.inbox: Mailbox[Client] = Mailbox(stage)
        self.told: dict[UUID, set[Any]] = {}  # outcomes as announced
        self.looking: dict[str, Looking] = {}  # by governor
        self.faults: list[str] = []  # what went against a law while it ran
        self.forgot = False  # whether Valkey lost its memory, or a journal was held up
        self.open_max = 0
        self.away = {"postgres": 0.0, "valkey": 0.0}  # until when
        self.pauses: dict[str, float] = {}  # by process: for how long, at its next statement
        self.in_hand: dict[str, list[UUID]] = {}
        self.poison: set[str] = set()  # users whose intents cannot be decided
        self.killers: set[str] = set()  # users whose intents kill their worker
        # How unkind this story is.
        self.lost_share = luck.choice([0.0, 0.01, 0.05])  # of trips to a server
        self.hints_lost = luck.choice([0.0, 0.2, 1.0])
        self.hints_doubled = luck.choice([0.0, 0.3])
        self.hint_delay_s = luck.choice([0.0, 0.1, 3.0])
        self.latency_s = luck.choice([0.0005, 0.002, 0.02])
        self.rate = luck.choice([None, RateLimit(10, 10)])  # of the gateway
        self.processes: dict[str, Actor] = {}
        self.roles: dict[str, Callable[[str], None]] = {}
        self.crowd = Crowd(self)
        self._begin()

    def say(self, *words: object) -> None:
        """Tell of a step, where somebody listens."""
        if self._tell is not None:
            self._tell(f"{self.stage.now:9.4f}  {' '.join(map(str, words))}")

    # Beginning, and what goes wrong --------------------------------------------------------------

    def _begin(self) -> None:
        luck = self.luck
        for role, body, most in (
            ("lane", self._lane, 2),
            ("worker", self._worker, 3),
            ("redispatcher", self._redispatcher, 2),
            ("governor", self._governor, 2),
        ):
            for number in range(luck.randint(1, most)):
                self._start(f"{role}-{number}", body)
        for _ in range(luck.randint(0, 8)):
            self.stage.at(luck.uniform(0, CHAOS_S), self._harm)
        self.stage.at(CHAOS_S, self._heal)

    def _start(self, name: str, body: Callable[[str], None]) -> None:
        self.roles[name] = body
        self.processes[name] = self.stage.spawn(name, partial(body, name))

    def _kill(self, name: str) -> None:
        """End a process; what it had in hand is lost or comes again, and so does the process."""
        self.processes[name].kill()
        self._died(name)

    def _died(self, name: str) -> None:
        self.say(name, "dies")
        message = self.in_hand.pop(name, None)
        if message is not None and self.luck.random() < 0.5:
            self.stage.after(self.luck.uniform(0.1, 3), partial(self.queue.put, message))
        self.stage.after(self.luck.uniform(0.1, 1), partial(self._start, name, self.roles[name]))

    def _harm(self) -> None:
        luck = self.luck
        kind = luck.choice(["kill", "kill", "pause", "flush", "restart", "postgres", "valkey"])
        if kind in ("kill", "pause"):
            name = luck.choice(sorted(self.processes))
            if kind == "kill":
                if not self.processes[name].over:
                    self._kill(name)
            else:
                self.pauses[name] = luck.uniform(1, 12)
                self.forgot |= name.startswith("lane")  # the journal is held up
        elif kind in ("flush", "restart"):
            self.say("valkey loses all:", kind)
            self.forgot = True
            self.queue.items.clear()
            (self.server.flush if kind == "flush" else self.server.restart)()
        else:
            self.away[kind] = self.stage.now + luck.uniform(0.2, 4)
            self.forgot |= kind == "postgres"
            self.say(kind, "is away until", round(self.away[kind], 2))

    def _heal(self) -> None:
        self.say("all is healed")
        self.away = dict.fromkeys(self.away, 0.0)
        self.pauses.clear()
        self.lost_share = self.hints_lost = self.hints_doubled = self.hint_delay_s = 0.0
        self.latency_s = min(self.latency_s, 0.002)

    def _name(self) -> str:
        actor = self.stage.acting
        return "" if actor is None else actor.name

    def _trip_to_postgres(self, connection: Connection) -> None:
        pause_s = self.pauses.pop(self._name(), 0.0)
        if pause_s:
            self.say(self._name(), "is paused for", round(pause_s, 2))
            if connection.in_transaction:
                self.stage.after(10.0, partial(_end_if, connection, connection.number))
        self.stage.sleep(pause_s + self.latency_s * self.luck.uniform(0.5, 2))
        if self.stage.now < self.away["postgres"] or self.luck.random() < self.lost_share:
            self.say(self._name(), "loses its connection to postgres")
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    def _trip_to_valkey(self) -> None:
        self.stage.sleep(self.latency_s * self.luck.uniform(0.2, 0.5))
        if self.stage.now < self.away["valkey"] or self.luck.random() < self.lost_share:
            self.say(self._name(), "does not reach valkey")
            raise GateUnreachable

    # Processes -----------------------------------------------------------------------------------

    def _gate(self) -> TwinGate:
        return TwinGate(
            self.server,
            in_flight_max=IN_FLIGHT_MAX,
            unreconciled_rate=UNRECONCILED_PER_S,
            trip=self._trip_to_valkey,
        )

    def _lane(self, name: str) -> None:
        """Submit what waits, as a lane of an API process does."""
        gate = self._gate()
        limits = Limits() if self.rate is None else Limits(gateways={"chat": self.rate})
        rules = Rules(limits=limits)
        admitting = Admitting(
            *(gate, _CALENDAR, _TICKETS, _CODES),  # type: ignore[arg-type]
            lambda: rules,
            lambda: Level.NORMAL,
            lambda: None,
        )
        intake = Intake(
            self.database.connect,  # type: ignore[arg-type]
            gate,  # type: ignore[arg-type]
            admitting,
            self._publish,
            _CODES,
            accept_timeout_ms=5_000,
            dispatch_after_ms=5_000,
        )
        while True:
            calls = [self.inbox.get()]
            while self.inbox.items and len(calls) < BATCH_MAX:
                calls.append(self.inbox.items.popleft())
            asked = [(call, call.posted()) for call in calls]
            answers = intake.submit([posted for _, posted in asked])
            self.open_max = max(self.open_max, len(self.database.open))
            for (call, posted), answer in zip(asked, answers, strict=True):
                call.hear(posted, answer)

    def _publish(self, intent_ids: Sequence[UUID]) -> None:
        luck = self.luck
        if luck.random() < self.hints_lost or self.stage.now < self.away["valkey"]:
            return self.say("a hint is lost")
        for _ in range(1 + (luck.random() < self.hints_doubled)):
            late = partial(self.queue.put, list(intent_ids))
            self.stage.after(luck.uniform(0, self.hint_delay_s), late)

    def _worker(self, name: str) -> None:
        """Take a message, process, take the next, as a worker's child does."""
        session = BatchSession(self.database.connect, name)  # type: ignore[arg-type]
        announce = partial(self._announce, self._gate(), name)
        processor = Processor(
            session, announce, batch_max=BATCH_MAX, scarce_max=SCARCE_MAX, decide=self._decide
        )
        while True:
            message = self.in_hand[name] = self.queue.get()
            try:
                report = processor.run(message, until=self.stage.now + 1.0)
                self.say(name, "decides", dict(report.outcomes), "failures", report.failures)
            except Exception as error:
                self.say(name, "puts a batch off:", repr(error))
                if fault_of(error) is Fault.OWN:
                    raise
            self.in_hand.pop(name, None)

    def _decide(
        self, intents: Sequence[Intent], snapshot: Snapshot, now: datetime
    ) -> list[Outcome]:
        users = {intent.user_id for intent in intents}
        if users & self.killers:
            self._died(self._name())
            raise Killed
        if users & self.poison:
            raise ValueError("poison")
        return decide(intents, snapshot, now)

    def _announce(
        self,
        gate: TwinGate,
        name: str,
        told: Sequence[IntentResource],
        balances: Sequence[Balance],
    ) -> None:
        now = self.database.at(self.stage.now)
        for one in told:
            self.told.setdefault(one.intent_id, set()).add(one.refusal)
            if one.intent_id not in self.database.outcomes:
                self.faults.append(f"{one.intent_id} is told before it is committed")
        ids = [one.intent_id for one in told]
        try:
            gate.settle(ids, b"", balances)
        except GateUnreachable:
            self._settle_later(ids, self.processes[name])
        else:
            sojourns = [(now - one.accepted_at).total_seconds() * 1_000 for one in told]
            for looking in self.looking.values():
                looking.ear += sojourns

    def _settle_later(self, ids: Sequence[UUID], process: Actor) -> None:
        """As `bootstrap.announcer`: what could not be told is settled while the process lives."""

        def settle() -> None:
            if self.stage.now < self.away["valkey"]:
                self._settle_later(ids, process)
            elif not process.over:
                self.server.take_out(one.bytes for one in ids)

        self.stage.after(1.0, settle)

    def _redispatcher(self, name: str) -> None:
        """Run the duties on their schedule, as `runtime.redispatcher.build_schedule` does."""
        gate, store = self._gate(), RedispatchStore(self.database.connect)
        bounds = Bounds(
            hints_per_tick_max=HINTS_MAX,
            dispatch_after_ms=5_000,
            expire_batch_max=100,
            batch_max=BATCH_MAX,
        )
        duties = Redispatch(store, self._publish, self._waiting, bounds)
        schedule = Schedule(self._duty_failed)

        def reconcile_unknown() -> None:
            if not gate.reconciled():
                gate.reconcile(store.open_ids)

        schedule.add("whole", 60.0, lambda: gate.reconcile(store.open_ids))
        schedule.add("unknown", 0, reconcile_unknown)
        schedule.add(
            "gate", 5.0, partial(gate.reconcile, store.open_ids, open_count=store.open_count)
        )
        schedule.add("hint", 0, lambda: duties.hint(TickReport()))
        while True:
            self.stage.sleep(0.5)
            schedule.run_due(self.stage.now)

    def _waiting(self) -> int:
        if self.stage.now < self.away["valkey"]:
            raise ConnectionError("no broker")
        return len(self.queue.items)

    def _duty_failed(self, duty: str, error: Exception) -> None:
        self.say(self._name(), "fails to", duty, repr(error))
        if not isinstance(error, _AWAY):
            raise error

    def _governor(self, name: str) -> None:
        looking = self.looking[name] = Looking(self)
        governor = Governor(
            looking,
            self._gate(),
            Tuning(),
            owner=name,
            lease_ms=3_000,
            clock=lambda: self.stage.now,
            unix_ms=lambda: self.server.now_us() // 1_000,
        )
        level = Level.NORMAL
        while True:
            self.stage.sleep(0.25)
            report = governor.tick()
            if report.policy is not None and report.policy.level is not level:
                level = report.policy.level
                self.say(name, "says", level)

    def run(self) -> list[str]:
        """Let it happen; return what went against the laws."""
        with standing_in(self.stage):
            try:
                self.stage.run(END_S)
            except Exception as error:
                return [f"somebody raised {error!r}"]
            finally:
                self.stage.close()
        return broken_by(self)


def _end_if(connection: Connection, number: int) -> None:
    """As `idle_in_transaction_session_timeout`: end a session whose transaction is still that one."""
    if connection.in_transaction and connection.number == number:
        connection.close()


def faults_of(seed: int) -> list[str]:
    """Return what a seed's story shows that must not be; with it, the command that replays it."""
    faults = Pipeline(seed).run()
    command = f"PYTHONPATH=. {sys.executable} tests/simulation/pipeline.py {seed}"
    return [f"seed {seed}, to be replayed by: {command}", *faults] if faults else []


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay one seed, or run many on all processors."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("seed", type=int)
    parser.add_argument("--count", type=int, default=1)
    given = parser.parse_args(arguments)
    if given.count == 1:
        faults = Pipeline(given.seed, print).run()
        print("\n".join(faults) or "all laws hold")
        return int(bool(faults))
    began, failed = time.perf_counter(), 0
    with ProcessPoolExecutor() as pool:
        seeds = range(given.seed, given.seed + given.count)
        for faults in pool.map(faults_of, seeds, chunksize=20):
            if faults:
                failed += 1
                print("\n  ".join(faults), flush=True)
    minutes = (time.perf_counter() - began) / 60
    print(f"{given.count} seeds, {failed} failed, {given.count / minutes:.0f} a minute")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
