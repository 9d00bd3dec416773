"""The relay process: one event loop that posts, one connection that takes and records."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

import structlog

from config import meters
from config.settings import Settings
from workers.contract.couponcode import CouponCodes
from workers.contract.posting import Poster
from workers.contract.webhook import WebhookSecrets
from workers.domain.delivery import DAY_S, Answer, Judgement
from workers.runtime.telemetry import serve_metrics
from workers.service.letters import Writer
from workers.service.redispatch import Schedule
from workers.service.relay import Bounds, Relay
from workers.store import outbox, webhooks
from workers.store.outbox import Entry, Result, Told
from workers.store.pool import WORKER, Session, opener
from workers.store.webhooks import Endpoint, Health

_log = structlog.get_logger()

FIGURES_INTERVAL_S = 5.0
SWEEP_INTERVAL_S = 60.0
SWEEPS_MAX = 10  # in a row; the next interval goes on

_ATTEMPTS = meters.counters("tidegate_webhook_attempts_total")
_WAITING = meters.gauge("tidegate_outbox_waiting")
_DEAD = meters.gauge("tidegate_outbox_dead")
_OLDEST = meters.gauge("tidegate_outbox_oldest_age_seconds")


class RelayStore(Session):
    """The store's functions on one connection."""

    def read_enabled(self) -> list[Endpoint]:
        """See `store.webhooks.read_enabled`."""
        return webhooks.read_enabled(self.connection)

    def claim(self, room: Mapping[int, int], lease_ms: int) -> list[Entry]:
        """See `store.outbox.claim`."""
        return outbox.claim(self.connection, room, lease_ms)

    def claim_probes(self, endpoint_ids: Sequence[int], lease_ms: int) -> list[Entry]:
        """See `store.outbox.claim_probes`."""
        return outbox.claim_probes(self.connection, endpoint_ids, lease_ms)

    def read_told(self, intent_ids: Sequence[UUID]) -> dict[UUID, Told]:
        """See `store.outbox.read_told`."""
        return outbox.read_told(self.connection, intent_ids)

    def record(self, results: Sequence[Result]) -> None:
        """See `store.outbox.record`."""
        outbox.record(self.connection, results)

    def record_health(self, found: Sequence[Health]) -> None:
        """See `store.webhooks.record_health`."""
        webhooks.record_health(self.connection, found)

    def disable_gone(self, endpoint_id: int) -> bool:
        """See `store.webhooks.disable_gone`."""
        done = webhooks.disable_gone(self.connection, endpoint_id)
        if done:
            _log.warning("webhook disabled", endpoint=endpoint_id, reason=webhooks.GONE)
        return done


def run(settings: Settings, bounds: Bounds | None = None) -> int:
    """Deliver until SIGTERM or SIGINT; return the exit status."""
    meters.introduce("relay")
    serve_metrics(settings.relay.metrics_host, settings.relay.metrics_port, "relay")
    asyncio.run(_serve(settings, bounds or bounds_of(settings)))
    return 0


def bounds_of(settings: Settings) -> Bounds:
    """Take a relay's bounds from the settings."""
    return Bounds(
        endpoint_posts_max=settings.relay.endpoint_posts_max,
        posts_max=settings.relay.posts_max,
        interval_ms=settings.relay.interval_ms,
    )


def build_writer(settings: Settings) -> Writer:
    """Wire what writes and signs; it needs `secrets.master`."""
    master, old_masters = settings.secrets.master, settings.secrets.old_masters
    return Writer(
        WebhookSecrets(master, old_masters),
        CouponCodes(master, old_masters),
        settings.webhooks.source,
    )


async def _serve(settings: Settings, bounds: Bounds) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    poster = Poster(
        allow_private=settings.webhooks.allow_private,
        timeout_s=bounds.timeout_ms / 1000,
        lines_max=bounds.endpoint_posts_max,
    )
    relay = Relay(
        RelayStore(opener(settings.postgres, WORKER, "relay")),
        poster,
        build_writer(settings),
        bounds,
        observe=_observe,
        failed=lambda error: _log.warning("relay failed", error=error),
    )
    duties = asyncio.create_task(_run_duties(build_schedule(settings)))
    try:
        await relay.run(stop)
    finally:
        duties.cancel()
        poster.close()


def build_schedule(settings: Settings) -> Schedule:
    """Wire what keeps the outbox small, and what is told of it."""
    store = RelayStore(opener(settings.postgres, WORKER, "relay"))
    keep_s, keep_dead_s = (
        days * DAY_S for days in (settings.webhooks.keep_days, settings.webhooks.keep_dead_days)
    )
    schedule = Schedule(lambda name, error: _log.warning("duty failed", duty=name, error=error))
    schedule.add("tell figures", FIGURES_INTERVAL_S, lambda: _tell_figures(store))
    schedule.add("give up", SWEEP_INTERVAL_S, lambda: outbox.give_up_old(store.connection))
    schedule.add(
        "prune",
        SWEEP_INTERVAL_S,
        lambda: _until_few(
            lambda: outbox.prune(store.connection, keep_s=keep_s, keep_dead_s=keep_dead_s)
        ),
    )
    schedule.add("disable", SWEEP_INTERVAL_S, lambda: _disable_hopeless(store))
    return schedule


async def _run_duties(schedule: Schedule) -> None:
    while True:
        await asyncio.to_thread(schedule.run_due)
        await asyncio.sleep(1)


def _observe(entry: Entry, answer: Answer, judgement: Judgement) -> None:
    _ATTEMPTS[judgement.fate.value].inc()
    if not answer.delivered:
        _log.info(
            "webhook not delivered",
            endpoint=entry.endpoint_id,
            event_type=entry.event.value,
            subject=entry.subject_id,
            attempt=entry.attempts + 1,
            why=answer.fault.partition(": ")[0],  # the rest may quote the receiver
            fate=judgement.fate.value,
        )


def _tell_figures(store: RelayStore) -> None:
    found = outbox.figures(store.connection)
    _WAITING.set(found.waiting)
    _DEAD.set(found.dead)
    _OLDEST.set(found.oldest_s)


def _until_few(step: Callable[[], int]) -> None:
    for _ in range(SWEEPS_MAX):
        if step() < outbox.SWEEP_MAX:
            return


def _disable_hopeless(store: RelayStore) -> None:
    for endpoint_id, why in webhooks.disable_hopeless(store.connection):
        _log.warning("webhook disabled", endpoint=endpoint_id, reason=why)
