"""A message that asks to be kept until later is taken now: it may not fill a worker's memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import MagicMock

import pytest
from celery.worker import strategy
from kombu.utils.json import dumps

from config.settings import Settings
from workers.contract.celery_app import make_app

LATER = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
HEADERS = {"task": "noted", "id": "1", "eta": LATER, "lang": "py", "retries": 0}
OLD_BODY = {"task": "noted", "id": "1", "args": [], "kwargs": {}, "eta": LATER}


def message_of(headers: dict[str, Any], payload: Any) -> MagicMock:
    return MagicMock(
        headers=headers,
        payload=payload,
        body=dumps(payload),
        content_type="application/json",
        content_encoding="utf-8",
        properties={},
        delivery_info={},
    )


@pytest.mark.parametrize(
    ("message", "body"),
    [
        (message_of(HEADERS, [[], {}, {}]), None),
        (message_of({}, OLD_BODY), OLD_BODY),  # as protocol 1 has it: all in the body
    ],
)
def test_it_goes_to_the_pool_at_once(message: MagicMock, body: Any) -> None:
    app = make_app(Settings())

    @app.task(name="noted", shared=False)  # type: ignore[untyped-decorator]
    def noted() -> None: ...

    consumer = MagicMock(disable_rate_limits=True, event_dispatcher=None)
    consumer.controller.state.revoked = set()
    take = strategy.default(noted, app, consumer)
    take(message, body, MagicMock(), MagicMock(), [])
    assert consumer.on_task_request.call_count == 1
    assert not consumer.timer.call_at.called
    assert not consumer.qos.increment_eventually.called
