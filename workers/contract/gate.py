"""The gate: admits purchase intents against limits, level and stock, in Valkey.

One call to the function library in gate.lua serves a whole batch; its header is the specification.
The gate holds no truth. What it forgets costs speed only: until it is reconciled with the open
intents of the journal, it admits a small fixed rate. When it cannot be asked it raises
`GateUnreachable`, and nothing is admitted. An admission whose reply was lost may leave its ids in
flight, until the caller releases them or, once they are old enough, a reconciliation removes them:
nobody journalled them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final
from uuid import UUID

import msgspec
import redis

from config.settings import Settings
from workers.contract.admission import (
    Balance,
    CampaignLimits,
    Candidate,
    Limits,
    Quota,
    RateLimit,
    Units,
    Verdict,
)
from workers.contract.gate_memory import GRACE_MS, Memory, Reconciliation
from workers.contract.gate_policy import Published, numbers_of, read_policy
from workers.contract.library import GateUnreachable, Library, Source, open_client
from workers.contract.names import gate_names
from workers.contract.packing import Batch, join_ids
from workers.domain.overload import Policy

__all__ = [
    "LIBRARY_VERSION",
    "Balance",
    "CampaignLimits",
    "Candidate",
    "Gate",
    "GateUnreachable",
    "Limits",
    "Published",
    "Quota",
    "RateLimit",
    "Reconciliation",
    "Units",
    "Verdict",
    "open_client",
    "open_gate",
]

_SOURCE: Final = Source("gate.lua", "tidegate_version")
LIBRARY_VERSION: Final = _SOURCE.version
CANDIDATES_PER_CALL_MAX: Final = 500  # A call holds the server for about 4 ms.
IDS_PER_CALL_MAX: Final = 5_000  # The same, for ids that leave.
BALANCES_PER_CALL_MAX: Final = 1_000  # The same, for balances that are told.


def open_gate(settings: Settings) -> Gate:
    """Make the gate's client from the settings; it connects when it is first asked."""
    return Gate(
        open_client(settings.valkey.url, timeout_ms=settings.valkey.timeout_ms),
        key_prefix=settings.valkey.key_prefix,
        in_flight_max=settings.admission.in_flight_max,
        unreconciled_rate=settings.admission.unreconciled_rate,
    )


class Gate:
    """Admission by batches. Every method may raise `GateUnreachable`.

    `in_flight_max` bounds the intents without outcome. `unreconciled_rate`, a second, is admitted
    while the gate does not know them; deadlines are judged by it before a service rate was measured;
    and one that was published counts for no less once its governor is silent.
    """

    def __init__(
        self, client: redis.Redis, *, key_prefix: str, in_flight_max: int, unreconciled_rate: int
    ) -> None:
        if in_flight_max < 1:
            raise ValueError(f"expected in_flight_max of 1 or more, got {in_flight_max}")
        self._library = Library(client, _SOURCE)
        self._names = gate_names(key_prefix)
        self._memory = Memory(self._library, self._names)
        self._in_flight_max = in_flight_max
        # A tenth of a second's worth at once: a batch passes, a second's worth cannot pass twice.
        self._unreconciled = RateLimit(unreconciled_rate, max(1, unreconciled_rate // 10))
        names = self._names
        self._admit_keys = (
            *(names.in_flight, names.epoch, names.unreconciled, names.policy),
            *(names.level, names.balances, names.units, names.ahead),
        )
        self._units_keys = (names.in_flight, names.units, names.ahead)

    def admit(self, candidates: Sequence[Candidate], limits: Limits) -> list[Verdict]:
        """Admit or refuse each candidate, in order; a refused one has consumed nothing.

        Of what is scarce, better classes take first. Limits that are left out do not bind. Beyond
        `CANDIDATES_PER_CALL_MAX` candidates it takes several calls; if one of them fails, the
        earlier calls' ids stay in flight until the caller releases them all, or a reconciliation
        does.
        """
        verdicts: list[Verdict] = []
        for first in range(0, len(candidates), CANDIDATES_PER_CALL_MAX):
            part = candidates[first : first + CANDIDATES_PER_CALL_MAX]
            batch = Batch(part, limits, self._names.limits)
            packed = batch.packed(self._in_flight_max, self._unreconciled)
            answer = self._library.call("tidegate_admit_2", self._admit_keys, batch.ids(), packed)
            verdicts += batch.verdicts(answer)
        return verdicts

    def settle(
        self, ids: Sequence[UUID], announcement: bytes, balances: Sequence[Balance] = ()
    ) -> None:
        """Take intents that have their outcome out of flight, and publish the announcement.

        `balances` are as committed with the outcomes: in one step the units leave what is in flight
        and what is left. Repeating it is harmless to the gate; subscribers hear the announcement
        again.
        """
        rest = max(0, len(ids) - IDS_PER_CALL_MAX)
        self.release(ids[:rest])
        self._library.call(
            "tidegate_settle_2",
            (*self._units_keys, self._names.balances),
            join_ids(ids[rest:]),
            self._names.outcome_channel,
            announcement,
            _pack_balances(balances) if balances else b"",
        )

    def release(self, ids: Sequence[UUID]) -> None:
        """Take intents that were admitted, but not journalled, out of flight."""
        for first in range(0, len(ids), IDS_PER_CALL_MAX):
            part = join_ids(ids[first : first + IDS_PER_CALL_MAX])
            self._library.call("tidegate_release_2", self._units_keys, part)

    def tell_balances(self, balances: Sequence[Balance]) -> None:
        """Tell what is left of what is scarce; older versions are ignored, the same is refreshed.

        Whoever stops telling a balance lets it be forgotten: after some seconds nobody is refused
        by it.
        """
        for first in range(0, len(balances), BALANCES_PER_CALL_MAX):
            part = _pack_balances(balances[first : first + BALANCES_PER_CALL_MAX])
            self._library.call("tidegate_tell", (self._names.balances,), part)

    def take_lead(self, owner: str, lease_ms: int) -> int | None:
        """Lead, or go on leading, for so long from now; return the fencing epoch, or None.

        None: another leads. A new leader has a higher epoch than any before, across a flush, too.
        Whoever let its lease lapse leads anew.
        """
        keys = (self._names.lead, self._names.policy)
        return int(self._library.call("tidegate_lead", keys, owner, str(lease_ms))) or None

    def publish(self, policy: Policy, *, epoch: int, lease_ms: int) -> bool:
        """Put a policy in force for so long from now; False: a higher epoch leads or published."""
        keys = (self._names.lead, self._names.policy)
        numbers = msgspec.msgpack.encode(numbers_of(policy))
        packed = msgspec.msgpack.encode(policy)
        return bool(
            self._library.call("tidegate_publish", keys, str(epoch), str(lease_ms), numbers, packed)
        )

    def policy(self) -> Published:
        """Return the policy published last, and whether its lease still holds."""
        keys = (self._names.in_flight, self._names.epoch, self._names.policy)
        in_flight, reconciled, epoch, lease_left_ms, packed = self._library.call(
            "tidegate_published", keys
        )
        return Published(read_policy(packed), epoch, lease_left_ms, in_flight, bool(reconciled))

    def in_flight(self) -> int:
        """Return how many intents are in flight, as far as the gate knows."""
        return int(self._library.command("SCARD", self._names.in_flight))

    def reconciled(self) -> bool:
        """Say whether the gate knows what is in flight; it does not after a start or a flush."""
        keys = (self._names.in_flight, self._names.epoch)
        return bool(self._library.call("tidegate_state", keys)[1])

    def reconcile(
        self,
        open_ids: Callable[[], Iterable[UUID]],
        *,
        open_count: Callable[[], int] | None = None,
        grace_ms: int = GRACE_MS,
    ) -> Reconciliation:
        """Make the in-flight set equal to the open intents, and return units that none of it holds.

        `open_ids` reads all open intents of the journal, from the primary; it is called after the
        reconciliation has begun, and once more if ids turn out to be missing or stale. With
        `open_count`, a reconciled gate whose count agrees within `DRIFT_MAX` keeps its set as it is.
        """
        return self._memory.reconcile(open_ids, open_count, grace_ms)


def _pack_balances(balances: Sequence[Balance]) -> bytes:
    return msgspec.msgpack.encode(
        [field for one in balances for field in (one.key, one.version, one.available, one.reserved)]
    )
