"""The governor process: one tick after another until told to stop, its parts on the real servers."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Container, Mapping

import structlog
from msgspec.structs import replace

from config import meters
from config.settings import Settings
from workers.contract.calendar import Calendar
from workers.contract.gate import GateUnreachable, open_client, open_gate
from workers.contract.names import gate_names
from workers.domain.appointment import Block
from workers.domain.governor import Tuning
from workers.domain.overload import Policy
from workers.runtime.hearing import Listener
from workers.runtime.looking import PostgresLooker, Probe, Sources, memory_share
from workers.runtime.stopping import told_to_stop
from workers.runtime.telemetry import serve_metrics
from workers.runtime.telling import Telling
from workers.service.appointments import keep_calendars
from workers.service.govern import Governor, TickReport
from workers.service.redispatch import Schedule
from workers.store import calendars, outbox
from workers.store.pool import WORKER, Session, opener

_log = structlog.get_logger()

# Done while leading, in a thread of its own: a duty may wait for a dead database, the lead may not.
# Each is told what the last tick did.
Duty = Callable[[TickReport], object]

DUTIES_INTERVAL_S = 0.5


class Blocks(Session):
    """Blocks of slot time as PostgreSQL records them."""

    def read(self) -> Mapping[str, int | None]:
        """See `store.calendars.read`."""
        return calendars.read(self.connection)

    def extend(self, blocks: Mapping[str, Block]) -> Container[str]:
        """See `store.calendars.extend`."""
        return calendars.extend(self.connection, blocks)


def run(settings: Settings) -> int:
    """Govern until SIGTERM or SIGINT; return the exit status."""
    meters.introduce("governor")
    serve_metrics(settings.governor.metrics_host, settings.governor.metrics_port, "governor")
    stop = told_to_stop()
    listener = _listener(settings)
    listener.start()
    governor = build_governor(settings, listener)
    duties = _Duties(
        {
            "keep calendars": build_calendar_keeper(settings),
            "note the level": build_level_noter(settings),
        }
    )
    told = Telling()
    interval_s = settings.governor.interval_ms / 1_000
    next_at = time.monotonic()
    while not stop.wait(max(0.0, next_at - time.monotonic())):
        # From tick to tick, not from end to beginning; a tick that was late is not made up for.
        next_at = max(next_at + interval_s, time.monotonic())
        try:
            report = governor.tick()
        except Exception:  # a bug in one sample must not leave the system without a governor
            _log.exception("tick failed")
            continue
        told.tell(report)
        duties.run(report)
    try:
        governor.hand_over()
    except GateUnreachable:
        _log.warning("lead not handed over: the gate is away")
    listener.close()
    return 0


def build_governor(settings: Settings, listener: Listener) -> Governor:
    """Wire the governor to the real servers."""
    ours = settings.governor
    # Three calls a tick must fit into the lease, or a slow gate would cost the lead.
    timeout_ms = min(settings.valkey.timeout_ms, ours.lease_ms // 4)
    bounded = replace(settings, valkey=replace(settings.valkey, timeout_ms=timeout_ms))
    client = open_client(settings.valkey.url, timeout_ms=timeout_ms)
    postgres = replace(settings.postgres, statement_timeout_ms=2 * ours.probe_timeout_ms)
    looker = PostgresLooker(
        opener(postgres, WORKER, "governor"),
        ours.balances_interval_ms / 1_000,
        ours.scarce_units_max,
    )
    sources = Sources(
        listener.take,
        looker.read,
        lambda: memory_share(client),
        wait_s=ours.interval_ms / 2_000,
        timeout_s=ours.probe_timeout_ms / 1_000,
    )
    return Governor(
        sources, open_gate(bounded), tuning_of(settings), owner=_owner(), lease_ms=ours.lease_ms
    )


def build_calendar_keeper(settings: Settings) -> Duty:
    """Wire the duty that lets windows be handed out; the first starts after the wait of now."""
    blocks = Blocks(opener(settings.postgres, WORKER, "governor-calendars"))
    valkey = settings.valkey
    client = open_client(valkey.url, timeout_ms=valkey.timeout_ms)
    calendar = Calendar(client, valkey.key_prefix)

    def keep(report: TickReport) -> object:
        policy = report.policy or Policy()
        return keep_calendars(blocks, calendar, lead_ms=policy.predicted_wait_ms)

    return keep


def build_level_noter(settings: Settings) -> Duty:
    """Wire the duty that puts changes of the level in force into the outbox."""
    session = Session(opener(settings.postgres, WORKER, "governor-outbox"))

    def note(report: TickReport) -> object:
        ordered, policy = report.ordered, report.policy or Policy()
        if ordered is not None:
            since_ms = round(ordered.ordered_at.timestamp() * 1_000)
            return outbox.note_level(session.connection, ordered.level, "operator", since_ms)
        return outbox.note_level(session.connection, policy.level, policy.reason, policy.since_ms)

    return note


def tuning_of(settings: Settings) -> Tuning:
    """Return the rules' numbers: what an operator may set, and their own for the rest."""
    ours = settings.governor
    return Tuning(target_wait_ms=ours.target_wait_ms, wait_max_ms=ours.wait_max_ms)


def _listener(settings: Settings) -> Listener:
    valkey = settings.valkey
    return Listener(
        lambda: open_client(valkey.url, timeout_ms=valkey.timeout_ms),
        gate_names(valkey.key_prefix).outcome_channel,
    )


def _owner() -> str:
    """Name this process; one that is started again under its old pid is another."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class _Duties:
    """Runs what is due while leading. One that hangs keeps the others waiting, and nobody else."""

    def __init__(self, duties: dict[str, Duty]) -> None:
        self._report = TickReport()
        self._schedule = Schedule(
            lambda name, error: _log.warning("duty failed", duty=name, error=error)
        )
        for name, duty in duties.items():
            self._schedule.add(name, DUTIES_INTERVAL_S, self._bound(duty))
        self._thread = Probe("duties", self._schedule.run_due, timeout_s=60.0) if duties else None

    def run(self, report: TickReport) -> None:
        """Let what is due begin, if we lead."""
        if self._thread is not None and report.published and report.policy is not None:
            self._report = report
            self._thread.ask()

    def _bound(self, duty: Duty) -> Callable[[], object]:
        return lambda: duty(self._report)
