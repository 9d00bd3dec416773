"""The intake of gateways that speak Celery: task `tidegate.submit_intent`.

The broker is untrusted: a message counts only with the gateway's signature over its body, and
nothing is promised until it is journalled. No answer goes back; the sender looks its keys up, or
hears by webhook, and sends again until they are found. What is malformed is logged and dropped.

The one argument is a list of intents, each an `OrderIntent` with its `idempotency_key` and
`submitted_at`. The headers `tidegate_key_id` and `tidegate_signature` name the gateway's key and sign
the list in its canonical form (`canonical`): sorted fields, no spaces, UTF-8. Age counts from
`submitted_at`: an intent past its `ttl_ms` when it is read here is dropped, since its sender no
longer waits.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
import structlog
from celery import Celery, Task, signals
from msgspec import Meta
from structlog.contextvars import bound_contextvars

from config import exceptions
from config.sampling import Sample
from config.settings import Settings
from config.tracing import open_tracer
from producer import metering
from producer.answers import Accepted, Answer, Posted, Unanswered
from producer.celery_tracing import MessageTraces, Sender
from producer.publisher import Publisher
from producer.tracing import IntakeTraces
from producer.wiring import open_intake, open_levels, open_limits
from workers.contract.couponcode import CouponCodes
from workers.contract.hints import hint_sender
from workers.contract.ids import uuid7_many
from workers.contract.names import SUBMIT_INTENT_TASK
from workers.contract.signing import signing_key, verify
from workers.contract.trace import trace_of_task, trace_text
from workers.domain.intent import IdempotencyKey, OrderIntent
from workers.store.limits import gateway_of_key
from workers.store.pool import PRODUCER, opener

_log = structlog.get_logger()

INTENTS_MAX = 500
BODY_BYTES_MAX = 1 << 20
KEY_ID_HEADER = "tidegate_key_id"
SIGNATURE_HEADER = "tidegate_signature"
SCOPE = "intents:write"  # as over HTTP
AHEAD_MAX = timedelta(seconds=30)  # a sender's clock may be this far ahead of ours
IDS_MAX = 10  # of intents named for one message
SPANS_REST_S = 2.0  # for the spans of the last messages
PUBLISH_REST_S = 2.0  # for the hints of the last batches; what is not sent is found without


class SubmittedIntent(OrderIntent, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An order's intent as it travels through the broker."""

    idempotency_key: IdempotencyKey
    submitted_at: datetime


_decode = msgspec.json.Decoder(
    Annotated[list[SubmittedIntent], Meta(min_length=1, max_length=INTENTS_MAX)]
).decode


def register_submit_intent(
    app: Celery,
    gateway_of: Callable[[str, bytes, str], str | None],
    submit: Callable[[Sequence[Posted], Sender, int], Sequence[Answer]],
) -> None:
    """Add the task to the app.

    `gateway_of(key_id, body, signature)` returns the gateway whose live key signed the body, or None.
    `submit` is told, beside the intents, the sender's place as the message has it, and its trace.
    """

    @app.task(name=SUBMIT_INTENT_TASK, bind=True, shared=False)  # type: ignore[untyped-decorator]
    def submit_intent(task: Task, intents: object) -> None:
        headers = task.request.headers or {}
        trace = trace_of_task(headers.get("traceparent"), task.request.id)
        with bound_contextvars(trace_id=trace_text(trace)):
            take(headers, trace, intents)

    def take(headers: dict[str, Any], trace: int, intents: object) -> None:
        try:
            body = canonical(intents)
        except (TypeError, ValueError, RecursionError):  # no JSON that we would have sent
            return _drop("not to be written as JSON")
        key_id, signature = headers.get(KEY_ID_HEADER), headers.get(SIGNATURE_HEADER)
        if not (isinstance(key_id, str) and isinstance(signature, str)):
            return _drop("not signed")
        gateway_id = gateway_of(key_id, body, signature)
        if gateway_id is None or len(body) > BODY_BYTES_MAX:
            return _drop("signature of no live key with the scope, or too large")
        try:
            posted = read(body, gateway_id, datetime.now(UTC))
        except msgspec.MsgspecError as error:
            return _drop(exceptions.decoded(str(error)), gateway=gateway_id)
        if posted:
            submit(posted, (headers.get("traceparent"), headers.get("tracestate")), trace)


def canonical(intents: object) -> bytes:
    """Return the bytes that are signed: the same for every sender of the same intents."""
    return msgspec.json.encode(intents, order="sorted")


def _drop(why: str, **known: str) -> None:
    _log.warning("submitted intents dropped", why=why, **known)


def read(body: bytes, gateway_id: str, now: datetime) -> list[Posted]:
    """Read a signed body; raises msgspec.MsgspecError naming the field that is wrong.

    What is past its `ttl_ms` is left out; what is not has its whole `ttl_ms` from acceptance, as
    over HTTP, for a key is bound to the intent as it was sent.
    """
    submitted = _decode(body)
    ids = uuid7_many(len(submitted))
    posted: list[Posted] = []
    for intent_id, one in zip(ids, submitted, strict=True):
        if one.submitted_at.tzinfo is None or one.submitted_at > now + AHEAD_MAX:
            raise msgspec.ValidationError(
                "`submitted_at` has no time zone or lies ahead of the clock"
            )
        if now >= one.submitted_at + timedelta(milliseconds=one.ttl_ms):
            continue
        fields = {name: getattr(one, name) for name in OrderIntent.__struct_fields__}
        posted.append(
            Posted(
                intent_id=intent_id,
                gateway_id=gateway_id,
                idempotency_key=one.idempotency_key,
                intent=OrderIntent(**fields),
            )
        )
    if len(posted) < len(submitted):
        too_old = len(submitted) - len(posted)
        _log.info("submitted intents too old", gateway=gateway_id, intents=too_old)
    return posted


class _Desk:
    """A child's own intake and its look-ups of keys; built by the first message, after the fork."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        self._settings = settings
        self._sample = Sample(settings.log.sample_share)
        open_connection = opener(settings.postgres, PRODUCER, "celery-intake")
        self._limits = open_limits(settings, "celery-limits")
        tracer = self._tracer = open_tracer(settings.tracing, "worker")
        url, share = settings.broker_url, settings.tracing.sample_share
        traces = None if tracer is None else IntakeTraces(tracer, url)
        self._messages = None if tracer is None else MessageTraces(tracer, share, url)
        send = hint_sender(app, settings.broker.publish_timeout_ms / 1000)
        self._publisher = Publisher(
            send if traces is None else traces.sending(send),
            batch_max=settings.worker.batch_max,
        )
        self._levels = open_levels(settings, self._limits)
        self._intake = open_intake(
            settings,
            "celery-intake",
            self._limits,
            self._levels,
            self._publisher.offer,
            CouponCodes(settings.secrets.master, settings.secrets.old_masters),
            accept_timeout_ms=settings.api.accept_timeout_ms,
            tell=None if traces is None else traces.tell_batch,
        )
        self._levels.start()
        self._open = open_connection
        self._limits.start()
        self._publisher.start()

    def close(self) -> None:
        """Send the hints of the last batches, and stop what runs beside."""
        self._publisher.close(PUBLISH_REST_S)
        if self._tracer is not None:
            self._tracer.close(SPANS_REST_S)
        self._levels.close()
        self._limits.close()
        self._intake.close()

    def gateway_of(self, key_id: str, body: bytes, signature: str) -> str | None:
        secrets = self._settings.secrets
        if not any(
            verify(body, signing_key(master, key_id), signature)
            for master in (secrets.master, *secrets.old_masters)
        ):
            return None
        with self._open() as connection:
            return gateway_of_key(connection, key_id, SCOPE)

    def submit(self, batch: Sequence[Posted], sender: Sender, trace: int) -> Sequence[Answer]:
        began, traces = time.perf_counter(), self._messages
        message = None if traces is None else traces.follow(sender, trace)
        answers = self._intake.submit(batch if message is None else message.on(batch))
        if traces is not None and message is not None:
            traces.tell(message, batch[0].gateway_id, len(batch))
        metering.count_answers(answers)
        accepted = [one.intent_id for one in answers if isinstance(one, Accepted)]
        troubled = any(isinstance(answer, Unanswered) for answer in answers)
        (_log.warning if troubled else _log.info)(
            "submitted intents taken",
            wide=True,
            gateway=batch[0].gateway_id,
            answers=Counter(type(answer).__name__.lower() for answer in answers),
            intent_ids=[one for one in accepted if self._sample.holds(one.int)][:IDS_MAX],
            duration_ms=round((time.perf_counter() - began) * 1_000, 2),
        )
        return answers


def register(app: Celery, settings: Settings) -> None:
    """Add the task to a worker's app, with an intake on the real servers behind it."""
    desks: list[_Desk] = []

    def desk() -> _Desk:
        if not desks:
            desks.append(_Desk(app, settings))
        return desks[0]

    def close(**_: object) -> None:
        for one in desks:
            one.close()

    signals.worker_process_shutdown.connect(close, weak=False)
    register_submit_intent(
        app,
        lambda key_id, body, signature: desk().gateway_of(key_id, body, signature),
        lambda *submitted: desk().submit(*submitted),
    )
