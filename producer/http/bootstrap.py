"""The composition root of an API process: a page of constructor calls.

Nothing here waits for a dependency: connections are opened by the threads that need them, when
they first do, and again whenever they broke.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Sequence

import redis
from msgspec.structs import replace

from config.settings import Settings
from config.tracing import open_tracer
from config.tracing.tracer import Tracer
from producer import metering
from producer.answers import INTAKE_LIMIT, Accepted, Answer, Limited, Posted, Unanswered
from producer.batcher import Batcher, Bounds, Work
from producer.http.access import AccessLog
from producer.http.api import Api
from producer.http.auth import Gateway, Keys
from producer.http.desk import Desk
from producer.http.messages import Messages
from producer.http.tracing import CallTraces
from producer.intake import Intake
from producer.levels import LevelBook
from producer.publisher import Publisher
from producer.sojourn import rest_s
from producer.tracing import IntakeTraces
from producer.waiters import Waiters
from producer.wiring import open_intake, open_levels, open_limits
from workers.contract.celery_app import make_app
from workers.contract.couponcode import CouponCodes
from workers.contract.gate import open_client
from workers.contract.hints import hint_sender, waiting_hints
from workers.contract.names import gate_names
from workers.domain.odds import TAKEN_SHARE
from workers.store import overview
from workers.store.keys import read_keys
from workers.store.overview import Shown
from workers.store.pool import OPERATOR, PRODUCER, WORKER, connect, opener
from workers.store.pulling import BOUNDS as OPERATING

MakeWork = Callable[[], Work[Posted, Answer]]

# The intake gives up before its callers are answered without it: its own answer knows more.
_INTAKE_SHARE = 0.8
_FULL_RETRY_MS_MIN = 1_000
_SPANS_REST_S = 2.0  # for the spans of the last calls
_PUBLISH_REST_S = 2.0  # for the hints of the last batches; what is not sent is found without


@contextlib.asynccontextmanager
async def open_api(settings: Settings) -> AsyncIterator[Api]:
    """Build the API's parts on the running loop, and take them down in the opposite order."""
    codes = CouponCodes(settings.secrets.master, settings.secrets.old_masters)
    limits = open_limits(settings, "api-limits")
    tracer = open_tracer(settings.tracing, "api")
    traces = None if tracer is None else IntakeTraces(tracer, settings.broker_url)
    broker = make_app(settings)
    send = hint_sender(broker, settings.broker.publish_timeout_ms / 1_000)
    hearing: list[Waiters] = []  # none before they are made
    publisher = Publisher(
        send if traces is None else traces.sending(send),
        batch_max=settings.worker.batch_max,
        unheard_max=settings.api.hints_unheard_max,
        hears=lambda: any(waiters.listening for waiters in hearing),
    )

    levels = open_levels(settings, limits)

    def make_intake() -> Intake:
        return open_intake(
            settings,
            "api-intake",
            limits,
            levels,
            publisher.offer,
            codes,
            accept_timeout_ms=int(settings.api.accept_timeout_ms * _INTAKE_SHARE),
            taken_share=lambda: next((one.takings.share for one in hearing), TAKEN_SHARE),
            tell=None if traces is None else traces.tell_batch,
        )

    limits.start()
    levels.start()
    publisher.start()
    try:
        async with assemble(
            settings,
            make_intake,
            codes,
            publisher.heard,
            levels,
            functools.partial(waiting_hints, broker),
            tracer,
        ) as api:
            hearing.append(api.waiters)
            yield api
    finally:
        await asyncio.to_thread(publisher.close, _PUBLISH_REST_S)
        if tracer is not None:
            await asyncio.to_thread(tracer.close, _SPANS_REST_S)
        levels.close()
        limits.close()


@contextlib.asynccontextmanager
async def assemble(
    settings: Settings,
    make_work: MakeWork,
    codes: CouponCodes,
    heard: Callable[[Sequence[bytes]], None] = lambda intent_ids: None,
    levels: LevelBook | None = None,
    hints: Callable[[], int] = lambda: 0,
    tracer: Tracer | None = None,
) -> AsyncIterator[Api]:
    """Build the API around any intake; on leaving, answer everything that was taken.

    `heard` is told the ids of every announcement. Without `levels` all is normal for ever. `hints`
    asks the broker how many wait. Without `tracer` no call is followed.
    """
    levels = levels or LevelBook()
    desk = Desk(
        opener(settings.postgres, PRODUCER, "api-reads"),
        opener(settings.postgres, WORKER, "api-orders"),
        lambda: connect(settings.postgres.dsn, OPERATOR, OPERATING, name="api-console"),
        settings.api.accept_timeout_ms,
    )
    keys = Keys(lambda: _load_keys(desk))
    waiters = Waiters(
        lambda: _client(settings),
        gate_names(settings.valkey.key_prefix).outcome_channel,
        desk.read,
        heard,
    )
    intake = _open_batcher(settings, make_work, levels, waiters)
    waiters.start()
    refreshing = asyncio.create_task(keys.keep_fresh())
    try:
        yield Api(
            intake=intake,
            keys=keys,
            desk=desk,
            waiters=waiters,
            messages=Messages(),
            codes=codes.code_of,
            levels=levels,
            wait_max_s=settings.api.wait_max_s,
            draining=asyncio.Event(),
            access=AccessLog(settings.log.sample_share),
            traces=_call_traces(settings, tracer),
            overview=lambda: desk.oversee(functools.partial(overview.read, shown=_shown(settings))),
            hints=hints,
        )
    finally:
        refreshing.cancel()
        await asyncio.gather(refreshing, return_exceptions=True)
        await asyncio.gather(intake.drain(), desk.drain())
        for part in (intake, desk, waiters):
            part.close()


def _open_batcher(
    settings: Settings, make_work: MakeWork, levels: LevelBook, waiters: Waiters
) -> Batcher[Posted, Answer]:
    """Make the intake's batcher; it rests after full batches while outcomes are late."""
    return Batcher(
        "intake",
        make_work,
        _Excuses(),
        _bounds(settings),
        functools.partial(_observe, levels),
        lambda answers: rest_s(
            waiters.sojourn.wait_ms(),
            sum(isinstance(answer, Accepted) for answer in answers) / settings.api.batch_max,
        ),
    )


class _Excuses:
    """What the intake's callers are told where the intake cannot."""

    def full(self, item: Posted, wait_ms: int) -> Answer:
        """Refuse: by the time there were room, the answer would come too late."""
        metering.count_full(item.kind)
        return self.closing(item, wait_ms)

    def closing(self, item: Posted, wait_ms: int) -> Answer:
        """Refuse in the same words, but it is no load that binds: another process has room."""
        answer = Limited(INTAKE_LIMIT, max(wait_ms, _FULL_RETRY_MS_MIN))
        metering.count_excuse(answer)
        return answer

    def unsent(self) -> Answer:
        """Say that nobody knows: this call did nothing, but the journal was not asked for its key."""
        answer = Unanswered("unknown", "postgres")
        metering.count_excuse(answer)
        return answer

    def unheard(self) -> Answer:
        """Say that nobody knows."""
        answer = Unanswered("unknown", "postgres")
        metering.count_excuse(answer)
        return answer


def _bounds(settings: Settings) -> Bounds:
    api = settings.api
    worth = api.batch_max // 2
    return Bounds(api.lanes, api.batch_max, api.pending_max, api.accept_timeout_ms, worth)


def _observe(levels: LevelBook, answers: Sequence[Answer]) -> None:
    metering.count_answers(answers)
    levels.observe(answers)


def _call_traces(settings: Settings, tracer: Tracer | None) -> CallTraces | None:
    return None if tracer is None else CallTraces(tracer, settings.tracing.sample_share)


def _shown(settings: Settings) -> Shown:
    """Show the campaigns that the exporter shows by name; a page bears fewer items than a scrape."""
    shown = Shown(settings.exporter.campaigns)
    return replace(shown, campaigns_max=min(shown.campaigns_max, settings.exporter.campaigns_max))


def _client(settings: Settings) -> redis.Redis:
    return open_client(settings.valkey.url, timeout_ms=settings.valkey.timeout_ms)


async def _load_keys(desk: Desk) -> dict[bytes, Gateway]:
    keys = await desk.ask(read_keys)
    return {
        digest: Gateway(gateway_id, frozenset(scopes))
        for digest, (gateway_id, scopes) in keys.items()
    }
