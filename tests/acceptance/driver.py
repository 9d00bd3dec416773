"""A driver that believes nobody: it posts intents from many threads and keeps its own history.

A chat gateway in miniature: it asks again with the same key until it has a definite answer, however
often the system dies meanwhile. What it was promised is compared with the tables afterwards.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psycopg

from workers.store import audit

ASK_AGAIN_S = 0.05


@dataclass
class History:
    """What was posted and what was heard. `receipts` maps a key to the intent it was promised."""

    receipts: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    answers: Counter[tuple[int, str]] = field(default_factory=Counter)  # status, and the reason
    broken_promises: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def promised(self, key: str, intent_id: str) -> None:
        with self.lock:
            before = self.receipts.setdefault(key, intent_id)
            if before != intent_id:
                self.broken_promises.append(f"{key}: {before}, then {intent_id}")


class Driver:
    """Posts one-line orders of random SKUs until told to stop; a context manager."""

    def __init__(
        self, api_url: str, api_key: str, *, skus: list[str], key_space: str = "", threads: int = 12
    ) -> None:
        self.history = History()
        self._netloc = urlsplit(api_url).netloc
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        self._skus = skus
        self._key_space = key_space
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(threads)
        ]

    def __enter__(self) -> Driver:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, patience_s: float = 60.0) -> None:
        """Stop posting new intents; every open question is asked until it is answered."""
        self._stop.set()
        deadline = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        assert not any(thread.is_alive() for thread in self._threads), "a question stayed open"

    def wait_for_receipts(self, count: int, timeout_s: float = 30.0) -> None:
        """Return when `count` more receipts than now have been given."""
        goal = len(self.history.receipts) + count
        deadline = time.monotonic() + timeout_s
        while len(self.history.receipts) < goal:
            assert time.monotonic() < deadline, f"no progress: {self.history.answers}"
            time.sleep(0.02)

    def _run(self, thread: int) -> None:
        rng = random.Random(thread)
        number = 0
        while not self._stop.is_set():
            number += 1
            name = f"{self._key_space}-{thread}-{number}"
            self._place(name, f"u{name}", rng.choice(self._skus))

    def _place(self, key: str, user: str, sku: str) -> None:
        """Ask until the answer is definite. Only 202, 200 and a plain 4xx are."""
        body = json.dumps(
            {
                "user_id": user,
                "campaign_id": "busy",
                "lines": [{"sku": sku, "quantity": 1}],
                "ttl_ms": 600_000,
            }
        )
        while True:
            status, answer = self._post(key, body)
            with self.history.lock:
                why = answer.get("reason") or answer.get("limit") or answer.get("code", "")
                self.history.answers[status, f"{why} {answer.get('level', '')}".strip()] += 1
            if status in (200, 202) and "intent_id" in answer:
                return self.history.promised(key, answer["intent_id"])
            if status == 200:  # a business no, and nothing was journalled
                self.history.refused.add(key)
                return None
            if status == 503 and answer["accepted"] == "no" and self._stop.is_set():
                self.history.refused.add(key)
                return None
            assert status in (0, 500, 503), f"{status}: {answer}"
            time.sleep(ASK_AGAIN_S)

    def _post(self, key: str, body: str) -> tuple[int, Any]:
        headers = {**self._headers, "Idempotency-Key": key}
        return post(self._netloc, "/v1/intents", body, headers)


class Crowd:
    """So many buyers of one unit each of one SKU, posted in batches of 100 by eight threads."""

    SIZE = 100

    def __init__(self, api_url: str, api_key: str, *, sku: str, buyers: int) -> None:
        self.history = History()
        self._netloc = urlsplit(api_url).netloc
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        self._sku = sku
        self._waiting = deque(range(buyers))
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(8)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self, timeout_s: float = 90.0) -> None:
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        assert not any(thread.is_alive() for thread in self._threads), "buyers are still waiting"

    @property
    def answered(self) -> int:
        """How many buyers know what became of their wish, or will be told."""
        return len(self.history.receipts) + len(self.history.refused)

    def wait_for_answers(self, count: int, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        goal = min(self.answered + count, 9_900)
        while self.answered < goal:
            assert time.monotonic() < deadline, f"no progress: {self.history.answers}"
            time.sleep(0.01)

    def _run(self) -> None:
        while True:
            with self.history.lock:
                mine = [self._waiting.popleft() for _ in range(min(self.SIZE, len(self._waiting)))]
            if not mine:
                return
            while mine:
                mine = self._ask(mine)

    def _ask(self, buyers: list[int]) -> list[int]:
        """Post these buyers' intents; return those without a definite answer."""
        body = json.dumps([self._intent(buyer) for buyer in buyers])
        status, answers = post(self._netloc, "/v1/intents/batch", body, self._headers)
        if status != 200:
            time.sleep(ASK_AGAIN_S)
            return buyers
        again = []
        for buyer, answer in zip(buyers, answers, strict=True):
            if "intent_id" in answer:
                self.history.promised(f"buyer-{buyer}", answer["intent_id"])
            elif answer.get("final"):
                assert answer["reason"] == "sold_out", answer
                with self.history.lock:
                    self.history.refused.add(f"buyer-{buyer}")
            else:
                likely = answer.get("reason") == "likely_sold_out"
                assert likely or answer["status_code"] == 503, answer
                again.append(buyer)
        if len(again) == len(buyers):
            time.sleep(ASK_AGAIN_S)
        return again

    def _intent(self, buyer: int) -> dict[str, Any]:
        return {
            "idempotency_key": f"buyer-{buyer}",
            "user_id": f"u-{buyer}",
            "campaign_id": "busy",
            "lines": [{"sku": self._sku, "quantity": 1}],
            "ttl_ms": 600_000,
        }


def post(netloc: str, path: str, body: str, headers: dict[str, str]) -> tuple[int, Any]:
    """Post once, on a connection of its own; status 0 is an answer that never came."""
    connection = http.client.HTTPConnection(netloc, timeout=15)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError):
        return 0, {}
    finally:
        connection.close()


def wait_until_drained(dsn: str, timeout_s: float = 60.0) -> float:
    """Wait until no intent is open; return the seconds it took. PostgreSQL may be restarting."""
    started = time.monotonic()
    while time.monotonic() - started < timeout_s:
        try:
            with psycopg.connect(dsn, connect_timeout=3) as connection:
                row = connection.execute("SELECT count(*) FROM tidegate.open_intents").fetchone()
                if row == (0,):
                    return time.monotonic() - started
        except psycopg.Error:
            pass
        time.sleep(0.1)
    raise AssertionError("intents are still open: " + str(row))


def verify(history: History, dsn: str) -> None:
    """Compare every promise with the tables, and let the audit prove the rest."""
    assert not history.broken_promises
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT idempotency_key, intent_id::text, status FROM audit.intents"
        ).fetchall()
    stored = {key: (intent_id, status) for key, intent_id, status in rows}
    assert len(stored) == len(rows), "one key, two intents"
    for key, intent_id in history.receipts.items():
        assert stored[key][0] == intent_id, f"{key} was promised {intent_id}"
        assert stored[key][1] in ("committed", "refused"), f"{key} has no outcome"
    for key in history.refused:
        assert key not in stored, f"{key} was told no, and exists"
    report = audit.run(dsn, drained=True)
    assert report.clean, [check for check in report.checks if check.violations]
