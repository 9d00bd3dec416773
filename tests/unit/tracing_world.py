"""An intent's whole way in one process: the API's call, the intake, the publisher, a worker's batch.

The parts are the real ones; in place of PostgreSQL, Valkey and the broker stand lists.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from config.tracing.sdk import SdkExports
from config.tracing.tracer import Tracer
from producer import intake as intake_module
from producer.answers import Posted
from producer.http.access import AccessLog
from producer.http.api import Api
from producer.http.app import App
from producer.http.auth import Gateway
from producer.http.calls import Reply
from producer.http.messages import Messages
from producer.http.tracing import CallTraces
from producer.intake import Intake
from producer.levels import LevelBook
from producer.publisher import Publisher
from producer.sojourn import Sojourn
from producer.tracing import IntakeTraces
from tests.factories import MASTER
from workers.contract.couponcode import CouponCodes
from workers.contract.trace import context_of
from workers.domain.intent import Intent, IntentBody, Kind
from workers.domain.snapshot import Budget, Campaign, Item, Snapshot
from workers.runtime.tracing import tell_attempts
from workers.service.process_batch import BatchReport, Processor
from workers.store.batch import Claim
from workers.store.journal import Entry

DAY = timedelta(days=1)
ORDER = {"user_id": "u-1", "campaign_id": "spring", "lines": [{"sku": "tea", "quantity": 1}]}
CHAT = Gateway("chat", frozenset({"intents:write", "intents:read"}))


class World:
    """What is posted waits in `posted`, what is accepted in `open`, what is hinted at in `hints`."""

    def __init__(self, patch: pytest.MonkeyPatch, share: float = 0.0) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer = Tracer(SdkExports("test", [self.exporter]), interval_s=0.01)
        traces = IntakeTraces(self.tracer, "redis://")
        self.posted: list[tuple[Posted, Any]] = []
        self.open: dict[UUID, Intent] = {}
        self.hints: list[tuple[list[UUID], str | None]] = []
        self.broken = False  # whether the broker refuses hints
        self.replies: list[Reply] = []
        self.publisher = Publisher(traces.sending(self._send), batch_max=500)
        self.intake = self._intake(traces)
        self.app = self._app(share)
        patch.setattr(intake_module.journal, "append_many", self._append)

    # What is done ----------------------------------------------------------------------------

    def post(
        self, traceparent: str | None = None, key: str = "k-1", state: str = "", **body: Any
    ) -> None:
        """Post an order over the short way."""
        fields = {
            "content-type": "application/json",
            "idempotency-key": key,
            "traceparent": traceparent,
            "tracestate": state,
        }
        header = [(name.encode(), text.encode()) for name, text in fields.items() if text]
        assert self.app.hot(header, json.dumps({**ORDER, **body}).encode(), self.replies.append)

    def take(self) -> None:
        """Take what was posted, as one batch of the intake."""
        batch, self.posted = self.posted, []
        answers = self.intake.submit([posted for posted, _ in batch])
        for (_, tell), answer in zip(batch, answers, strict=True):
            tell(answer)

    def publish(self) -> None:
        """Send the hints that are due."""
        self.publisher.start()
        self.publisher.close(5)

    def work(self, traceparent: str | None = None, store: Store | None = None) -> None:
        """Decide all that is open; `traceparent` is of the hint that woke the worker."""
        made = Processor(store or Store(self.open), lambda *_: None, batch_max=500, follows=True)
        report = BatchReport()
        try:
            made.run([], report=report)
        finally:
            tell_attempts(self.tracer, report, context_of(traceparent), "redis")

    def spans(self) -> list[ReadableSpan]:
        """All that was told, in the order of its beginning."""
        self.tracer.close(10)
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    # What stands behind ----------------------------------------------------------------------

    def _intake(self, traces: IntakeTraces) -> Intake:
        admitting = SimpleNamespace(ask=lambda asked: [None for _ in asked])
        connection = SimpleNamespace(closed=False, close=lambda: None)
        return Intake(
            cast(Any, lambda: connection),
            cast(Any, None),
            cast(Any, admitting),
            self.publisher.offer,
            CouponCodes(MASTER),
            accept_timeout_ms=5_000,
            dispatch_after_ms=5_000,
            tell=traces.tell_batch,
        )

    def _app(self, share: float) -> App:
        app = App(cast(Any, None))
        app._api = cast(
            Api,
            SimpleNamespace(
                intake=SimpleNamespace(
                    submit_and_tell=lambda one, tell: self.posted.append((one, tell))
                ),
                keys=SimpleNamespace(known=lambda authorization: CHAT),
                waiters=SimpleNamespace(sojourn=Sojourn()),
                messages=Messages(),
                levels=LevelBook(),
                access=AccessLog(),
                wait_max_s=30,
                traces=CallTraces(self.tracer, share),
            ),
        )
        return app

    def _append(self, _: object, entries: Sequence[Entry], __: int) -> dict[UUID, datetime]:
        now = datetime.now(UTC)
        for entry in entries:
            body = msgspec.json.decode(msgspec.json.encode(entry.body), type=IntentBody)
            self.open[entry.intent_id] = Intent(
                intent_id=entry.intent_id,
                kind=entry.kind,
                gateway_id=entry.gateway_id,
                user_id=entry.user_id,
                campaign_id=entry.campaign_id,
                accepted_at=now,
                body=body,
            )
        return {entry.intent_id: now for entry in entries}

    def _send(self, intent_ids: Sequence[UUID], traceparent: str | None = None, /) -> None:
        if self.broken:
            raise ConnectionError("away")
        self.hints.append((list(intent_ids), traceparent))


class Store:
    """In place of the worker's PostgreSQL; `faults` are raised by the commits, one each."""

    def __init__(self, opened: dict[UUID, Intent], faults: Sequence[Exception] = ()) -> None:
        self._open = opened
        self._faults = list(faults)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        yield

    def claim(self, hinted: Sequence[UUID], limit: int) -> Claim:
        found = [one for one in self._open.values() if limit or one.intent_id in hinted]
        return Claim(tuple(found), datetime.now(UTC) if found else None)

    def record_claim(self, batch_id: UUID, intent_ids: Sequence[UUID]) -> dict[UUID, Any]:
        return {}

    def forget_claim(self, batch_id: UUID) -> None:
        pass

    def gather(self, intents: Sequence[Intent]) -> tuple[Snapshot, datetime]:
        now = datetime.now(UTC)
        campaign = Campaign(
            campaign_id="spring",
            currency="CNY",
            starts_at=now - DAY,
            ends_at=now + DAY,
            orders_per_user_max=100,
            coupons_per_user_max=100,
            payment_window_ms=900_000,
        )
        tea = Item(price=1_800, merchant_id="m", merchant_paused=False, available=100)
        return Snapshot(
            campaigns={"spring": campaign},
            items={("spring", "tea"): tea},
            budgets={"spring": Budget(budget=0, reserved=0, spent=0)},
            counters={("spring", "u-1", Kind.ORDER): 0},
        ), now

    def apply_and_commit(self, batch_id: UUID, outcomes: Sequence[Any], *_: Any, **__: Any) -> None:
        if self._faults:
            raise self._faults.pop(0)
        time.sleep(0.001)
        for outcome in outcomes:
            del self._open[outcome.intent.intent_id]

    def decided(self, intent_ids: Sequence[UUID]) -> list[Any]:
        return []

    record_failure = record_quarantine = cast(Any, None)
