"""The simulation's twin of the gate says what the library in a real Valkey says, call by call."""

from __future__ import annotations

import time
from random import Random
from typing import Any
from uuid import UUID

import pytest
from gate_client import TwinGate
from gate_twin import Server

from workers.contract.admission import Balance, Candidate, Limits, RateLimit, Units, Verdict
from workers.contract.gate import Gate, open_client
from workers.contract.ids import uuid7
from workers.domain.overload import Level, Policy

STEPS = 60
LONG_AGO_MS = -3_600_000  # a grace by which every id is old enough to be judged
SETTINGS = {"in_flight_max": 12, "unreconciled_rate": 1}
# Slow enough that the milliseconds between the two calls make no difference, or no bound at all.
RATES = [RateLimit(0.01, 3), RateLimit(1_000_000, 1_000)]
LEVELS = [
    Policy(),
    Policy(service_per_s=2.0, wait_max_ms=2_500),
    Policy(level=Level.THROTTLED, service_per_s=100.0),
    Policy(level=Level.SHEDDING, service_per_s=100.0, admitted_per_s=0.001),
    Policy(level=Level.SHEDDING, service_per_s=100.0, admitted_per_s=1_000_000.0),
    Policy(level=Level.CLOSED, reason="postgres", service_per_s=0.5),
]


class _Pair:
    """The same calls to both; what they answer must be the same."""

    def __init__(self, url: str, seed: int) -> None:
        self.luck = Random(seed)
        self.client = open_client(url, timeout_ms=5_000)
        self.server = Server(self.now_us)
        self.gate = Gate(self.client, key_prefix="conformance", **SETTINGS)
        self.twin = TwinGate(self.server, **SETTINGS)
        self.ids: list[UUID] = [uuid7()]
        self.leads: list[tuple[int, int]] = [(1, 1)]  # fencing epochs of both
        self.version = 0

    def now_us(self) -> int:
        seconds, microseconds = self.client.time()
        return int(seconds) * 1_000_000 + int(microseconds)

    def step(self) -> None:
        """Take one step of any kind, then compare all that can be asked."""
        kinds = [self.admit] * 6 + [self.settle, self.settle, self.release, self.tell, self.tell]
        kinds += [self.lead, self.publish, self.publish, self.reconcile, self.reconcile]
        kinds += [self.flush, self.reload] * (self.luck.random() < 0.3)
        self.luck.choice(kinds)()
        real, twin = self.gate.policy(), self.twin.policy()
        assert (real.policy, real.in_flight, real.reconciled, real.lease_left_ms > 0) == (
            *(twin.policy, twin.in_flight, twin.reconciled),
            twin.lease_left_ms > 0,
        )

    def admit(self) -> None:
        luck = self.luck
        candidates = [self._candidate() for _ in range(luck.randint(1, 6))]
        limits = Limits(gateways={"g1": luck.choice(RATES)} if luck.random() < 0.5 else {})
        twins = self.twin.admit(candidates, limits)
        reals = self.gate.admit(candidates, limits)
        for real, twin in zip(reals, twins, strict=True):
            assert _known(real) == _known(twin)

    def _candidate(self) -> Candidate:
        luck = self.luck
        self.ids += [uuid7()]
        wants = luck.sample(["stock:s:tea", "stock:s:bun"], luck.randint(0, 2))
        return Candidate(
            intent_id=luck.choice([self.ids[-1]] * 9 + self.ids[-2:-1]),
            gateway_id=luck.choice(["g1", "g2"]),
            user_id="u",
            campaign_id="s",
            conversation_id=None,
            skus=(),
            ttl_ms=luck.choice([1_500, 5_000, 60_000]),
            units=tuple(Units(key, luck.randint(1, 3)) for key in wants),
        )

    def _balances(self) -> list[Balance]:
        luck = self.luck
        self.version += luck.choice([-1, 0, 1, 1])
        keys = luck.sample(["stock:s:tea", "stock:s:bun"], luck.randint(0, 2))
        version = max(0, self.version)
        return [
            Balance(key, version, luck.choice([0, 2, 9]), luck.choice([0, 0, 1])) for key in keys
        ]

    def _some_ids(self) -> list[UUID]:
        return self.luck.choices(self.ids[-20:], k=self.luck.randint(1, 6))

    def settle(self) -> None:
        ids, balances = self._some_ids(), self._balances()
        self.gate.settle(ids, b"", balances)
        self.twin.settle(ids, b"", balances)

    def release(self) -> None:
        ids = self._some_ids()
        self.gate.release(ids)
        self.twin.release(ids)

    def tell(self) -> None:
        balances = self._balances()
        self.gate.tell_balances(balances)
        self.twin.tell_balances(balances)

    def lead(self) -> None:
        owner, lease_ms = self.luck.choice("ab"), self.luck.choice([1, 60_000])
        real, twin = self.gate.take_lead(owner, lease_ms), self.twin.take_lead(owner, lease_ms)
        assert (real is None) == (twin is None)
        if real is not None and twin is not None:
            self.leads.append((real, twin))
        time.sleep(0.003)  # the short lease is over now

    def publish(self) -> None:
        policy, lease_ms = self.luck.choice(LEVELS), self.luck.choice([1, 60_000, 60_000])
        real, twin = self.luck.choice(self.leads[-2:])
        assert self.gate.publish(policy, epoch=real, lease_ms=lease_ms) == self.twin.publish(
            policy, epoch=twin, lease_ms=lease_ms
        )
        time.sleep(0.003)

    def reconcile(self) -> None:
        is_open = self._some_ids()
        real = self.gate.reconcile(lambda: is_open, grace_ms=LONG_AGO_MS)
        assert self.twin.reconcile(lambda: is_open, grace_ms=LONG_AGO_MS) == real

    def flush(self) -> None:
        self.client.flushall()
        self.server.flush()

    def reload(self) -> None:
        """The library is loaded anew: its own memory is gone, the keys are there."""
        self.client.function_flush()
        self.server.incarnation = None


def _known(verdict: Verdict) -> Any:
    """What does not depend on the moment."""
    one = verdict
    return (
        *(one.admitted, one.limit, one.reconciled, one.in_flight, one.level, one.policy_fresh),
        *(one.predicted_wait_ms, one.final, one.ahead, one.left, one.wanted),
    )


@pytest.mark.parametrize("seed", range(20))
def test_the_twin_of_the_gate_answers_as_the_library_does(valkey_url: str, seed: int) -> None:
    """Any calls, in any order: verdicts, binding layers, units, leases, reconciliations; no waits."""
    pair = _Pair(valkey_url, seed)
    for _ in range(STEPS):
        pair.step()
