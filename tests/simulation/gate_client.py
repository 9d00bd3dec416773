"""A client of the gate's twin, as `contract.gate.Gate` is of the gate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

from gate_twin import Server

from workers.contract.admission import Balance, Candidate, Limits, RateLimit, Verdict
from workers.contract.gate import Published, Reconciliation
from workers.contract.gate_memory import GRACE_MS, Memory
from workers.contract.names import gate_names
from workers.domain.overload import Policy

_NAMES = gate_names("twin")


class TwinGate:
    """A client of the twin, like `contract.gate.Gate`. `trip` is passed before and after each call.

    It may let time pass, and may raise `GateUnreachable`: before the call, or after it was heard.
    """

    def __init__(
        self,
        server: Server,
        *,
        in_flight_max: int,
        unreconciled_rate: int,
        trip: Callable[[], None] = lambda: None,
    ) -> None:
        self._server = server
        self._trip = trip
        self._in_flight_max = in_flight_max
        self._unreconciled = RateLimit(unreconciled_rate, max(1, unreconciled_rate // 10))
        self._memory = Memory(self, _NAMES)  # type: ignore[arg-type]

    def _ask(self, call: Callable[[], Any]) -> Any:
        self._trip()
        answer = call()
        self._trip()
        return answer

    def admit(self, candidates: Sequence[Candidate], limits: Limits) -> list[Verdict]:
        return self._ask(  # type: ignore[no-any-return]
            lambda: self._server.admit(candidates, limits, self._in_flight_max, self._unreconciled)
        )

    def settle(
        self, ids: Sequence[UUID], announcement: bytes, balances: Sequence[Balance] = ()
    ) -> None:
        def settled() -> None:
            self._server.take_out(one.bytes for one in ids)
            self._server.tell(balances)

        self._ask(settled)

    def release(self, ids: Sequence[UUID]) -> None:
        self._ask(lambda: self._server.take_out(one.bytes for one in ids))

    def tell_balances(self, balances: Sequence[Balance]) -> None:
        self._ask(lambda: self._server.tell(balances))

    def take_lead(self, owner: str, lease_ms: int) -> int | None:
        return self._ask(lambda: self._server.take_lead(owner, lease_ms)) or None

    def publish(self, policy: Policy, *, epoch: int, lease_ms: int) -> bool:
        return bool(self._ask(lambda: self._server.publish(policy, epoch, lease_ms)))

    def policy(self) -> Published:
        return self._ask(self._server.published)  # type: ignore[no-any-return]

    def in_flight(self) -> int:
        return int(self._ask(lambda: len(self._server.in_flight)))

    def reconciled(self) -> bool:
        return bool(self._ask(lambda: self._server.reconciled))

    def reconcile(
        self,
        open_ids: Callable[[], Iterable[UUID]],
        *,
        open_count: Callable[[], int] | None = None,
        grace_ms: int = GRACE_MS,
    ) -> Reconciliation:
        """Run the real reconciliation, step by step."""
        return self._memory.reconcile(open_ids, open_count, grace_ms)

    def call(self, function: str, keys: Sequence[str], *args: bytes | str) -> Any:
        return self._ask(lambda: self._server.call(function, keys, *args))

    def command(self, *command: Any) -> Any:
        return self._ask(lambda: self._server.command(*command))
