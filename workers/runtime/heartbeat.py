"""The heartbeat: an order of our own through the whole path, now and then.

Everything else that is measured is measured from inside. This is what a user meets: posted over HTTP,
admitted, journalled, queued, decided and told. It is of a campaign of its own, and is counted like any
other order, for it is one.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import structlog

from config import meters
from config.settings import Exporter

_log = structlog.get_logger()

WAIT_S: Final = 10  # for the outcome; later is no heartbeat
_AGE = meters.gauge("tidegate_heartbeat_age_seconds")
_DURATION = meters.gauge("tidegate_heartbeat_duration_seconds")


class Heartbeat:
    """Posts the order in a thread of its own; without a key it does nothing, and shows nothing."""

    def __init__(self, settings: Exporter) -> None:
        self._settings = settings
        self._last_at = time.monotonic()  # before the first one, the age is that of the process
        self._beating = True

    def start(self) -> None:
        """Begin, if there is a key to post with."""
        if not self._settings.heartbeat_api_key:
            _log.info("no heartbeat: exporter.heartbeat_api_key is not set")
            return
        meters.before_reading(lambda: _AGE.set(time.monotonic() - self._last_at))
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            missed = self.beat()
            if missed is None:
                self._last_at = time.monotonic()
                _DURATION.set(self._last_at - began)
            if (missed is None) != self._beating:
                self._beating = missed is None
                _log.warning("heartbeat missed", why=missed) if missed else _log.info("heartbeat")
            interval_s = self._settings.heartbeat_interval_ms / 1_000
            time.sleep(max(0.0, began + interval_s - time.monotonic()))

    def beat(self) -> str | None:
        """Post one order and wait for its outcome; return what came instead, None: it came."""
        ours = self._settings
        parts = urlsplit(ours.heartbeat_url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        connection = kind(parts.netloc, timeout=WAIT_S + 2)
        body = {
            # A user for each day: one of many years would come to the end of what a user may order.
            "user_id": f"tidegate-heartbeat-{datetime.now(UTC):%Y-%m-%d}",
            "campaign_id": ours.heartbeat_campaign,
            "lines": [{"sku": ours.heartbeat_sku, "quantity": 1}],
            "ttl_ms": WAIT_S * 1_000,
        }
        headers = {
            "Authorization": f"Bearer {ours.heartbeat_api_key}",
            "Content-Type": "application/json",
            "Idempotency-Key": str(uuid.uuid4()),
            "Prefer": f"wait={WAIT_S}",
        }
        try:
            connection.request("POST", "/v1/intents", json.dumps(body), headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            return type(error).__name__
        finally:
            connection.close()
        if answer.get("status") == "committed":
            return None
        return f"{response.status} {answer.get('code') or answer.get('reason') or answer.get('status')}"
