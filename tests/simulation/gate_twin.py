"""A twin of gate.lua in plain Python: the same rules over dictionaries, with a clock that is handed in.

It knows what the simulation asks: orders of one class, limits of gateways, level, in-flight bound,
deadlines, stock, the lease, the reconciliation. `test_gate_twin.py` holds it
against the library in a real Valkey, but for the length of the waits. Words and numbers are those of
the library's header.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import Struct

from workers.contract.admission import Balance, Candidate, Limits, RateLimit, Verdict
from workers.contract.gate import Published
from workers.contract.gate_policy import BALANCE_AGE_US_MAX, BURST_US, DEBT_US, GUARANTEED, SEEN_US
from workers.domain.overload import SHARES, IntentClass, Level, Policy

_ORDER = SHARES[IntentClass.ORDER]
_KEPT_US = 60_000_000  # a balance that is told no more


class Told(Struct):
    """A balance as it was told last."""

    version: int
    available: int
    reserved: int
    at_us: int


class Limit(Struct):
    """A rate on its way through one call: what fits now, and what was taken."""

    layer: str
    interval_us: float
    burst: float
    backlog_us: float
    room: int
    taken: int = 0
    turned_away: int = 0

    def wait_us(self) -> float:
        """Return how long until the next of those it refuses has room."""
        self.turned_away += 1
        backlog = self.backlog_us + self.taken * self.interval_us
        return backlog + (self.turned_away - self.burst) * self.interval_us


class Server:
    """What the library keeps, and its functions. `now_us` is the server's clock."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self.now_us = now_us
        self.incarnation: bytes | None = None
        self.flush()

    def flush(self) -> None:
        """Forget every key, as FLUSHALL does."""
        self.in_flight: set[bytes] = set()
        self.epoch: bytes | None = None
        self.began: dict[str, bytes] = {}  # reconciliations, by key
        self.tats: dict[str, float] = {}
        self.asked: dict[str, int] = {}  # gateways, by when they asked last
        self.lead: tuple[int, int, int, str] = (0, 0, 0, "")
        self.word: tuple[int, int, int, Policy | None] = (0, 0, 0, None)
        self.balances: dict[str, Told] = {}
        self.units: dict[bytes, Counter[str]] = {}
        self.ahead: Counter[str] = Counter()

    def restart(self) -> None:
        """Lose the keys, and the library's own memory."""
        self.flush()
        self.incarnation = None

    @property
    def reconciled(self) -> bool:
        """Whether the set in flight is known to be true."""
        return self.incarnation is not None and self.epoch == self.incarnation

    # admit ---------------------------------------------------------------------------------------

    def admit(
        self,
        candidates: Sequence[Candidate],
        limits: Limits,
        in_flight_max: int,
        unreconciled: RateLimit,
    ) -> list[Verdict]:
        """See `Gate.admit`."""
        now, reconciled = self.now_us(), self.reconciled
        fresh, policy = self._policy(now, unreconciled.rate)
        rates = self._rates(candidates, limits, None if reconciled else unreconciled, policy, now)
        trusted = policy.service_per_s or unreconciled.rate
        wait_max_ms = policy.wait_max_ms if policy.service_per_s else math.inf
        in_flight, ahead = len(self.in_flight), Counter(self.ahead)
        refused: dict[int, dict[str, Any]] = {}
        admitted: list[Candidate] = []
        for place, one in enumerate(candidates):
            own = self._own(rates, one, shared=not reconciled)
            bar = self._bar(one, policy, ahead, now)
            in_time = trusted * min(one.ttl_ms, wait_max_ms) / 1_000
            if (
                bar is None
                and in_flight < min(in_flight_max, math.floor(in_time) + 1)
                and not any(limit.room < 1 for limit in own)
                and _level_has_room(rates, one.gateway_id)
            ):
                _take(rates, own, one.gateway_id)
                ahead.update(self._known(one))
                in_flight += 1
                admitted.append(one)
            else:
                refused[place] = bar or {}
        late = 0
        for place, told in refused.items():
            if told:
                continue
            one, waits = candidates[place], [("in_flight", 0.0)]
            own = self._own(rates, one, shared=not reconciled)
            waits += [(limit.layer, limit.wait_us()) for limit in own if limit.room < 1]
            excess = in_flight - trusted * min(one.ttl_ms, wait_max_ms) / 1_000
            if excess > 0:
                waits.append(("deadline", (excess + late) / trusted * 1e6))
                late += 1
            if not _level_has_room(rates, one.gateway_id):
                waits.append(("level", rates[f"cell:{one.gateway_id}"].wait_us()))
            layer, wait_us = max(waits, key=lambda wait: wait[1])
            told.update(limit=layer, retry_after_ms=math.ceil(math.ceil(wait_us) / 1_000))
        self._keep(rates, admitted, policy, now)
        return [
            Verdict(
                admitted=place not in refused,
                reconciled=reconciled,
                in_flight=len(self.in_flight),
                user_quota=None,
                gateway_quota=None,
                level=policy.level,
                policy_fresh=fresh,
                predicted_wait_ms=math.ceil(len(self.in_flight) * 1_000 / policy.service_per_s)
                if policy.service_per_s
                else 0,
                **{"limit": None, "retry_after_ms": 0} | refused.get(place, {}),
            )
            for place in range(len(candidates))
        ]

    def _policy(self, now: int, least_per_s: float) -> tuple[bool, Policy]:
        """Return whether the lease holds, and what counts: after it the measures alone."""
        _, ends, lease, word = self.word
        word = word or Policy(wait_max_ms=2**53)
        fresh = _left(ends, lease, now) > 0
        if fresh:
            return fresh, word
        per_s = word.service_per_s and max(word.service_per_s, least_per_s)
        return fresh, Policy(service_per_s=per_s, wait_max_ms=word.wait_max_ms)

    def _rates(
        self,
        candidates: Sequence[Candidate],
        limits: Limits,
        unreconciled: RateLimit | None,
        policy: Policy,
        now: int,
    ) -> dict[str, Limit]:
        """Return the limits of this call, by what they are kept under."""
        gateways = {one.gateway_id for one in candidates}
        stated = {
            f"gateway:{name}": ("gateway", rate, 0)
            for name, rate in limits.gateways.items()
            if name in gateways
        }
        if unreconciled is not None:
            stated["unreconciled"] = ("in_flight", unreconciled, 0)
        found = {
            key: self._limit(key, layer, rate.interval_us, rate.burst, debt, now)
            for key, (layer, rate, debt) in stated.items()
        }
        if policy.level is Level.SHEDDING and policy.admitted_per_s is not None:
            asked = {name for name, at in self.asked.items() if at >= now - SEEN_US} | gateways
            part = max(min(GUARANTEED * _ORDER.cap, GUARANTEED), _ORDER.floor) / len(asked)
            parts = {"total": (1.0, DEBT_US), "cap": (_ORDER.cap, DEBT_US)}
            parts |= {f"cell:{name}": (part, 0) for name in gateways}
            for key, (share, debt) in parts.items():
                interval_us = 1e6 / (share * policy.admitted_per_s)
                burst = 1 + BURST_US / interval_us
                found[key] = self._limit(key, "level", interval_us, burst, debt, now)
        return found

    def _limit(
        self, key: str, layer: str, interval_us: float, burst: float, debt_us: int, now: int
    ) -> Limit:
        backlog = min(max(self.tats.get(key, now) - now, 0), interval_us * burst + debt_us)
        room = math.floor(burst - (backlog - 0.5) / interval_us)
        return Limit(layer, interval_us, burst, backlog, room)

    def _own(self, rates: dict[str, Limit], one: Candidate, *, shared: bool) -> list[Limit]:
        keys = [f"gateway:{one.gateway_id}"] + ["unreconciled"] * shared
        return [rates[key] for key in keys if key in rates]

    def _known(self, one: Candidate) -> Counter[str]:
        """Return how much it wants of balances that are known."""
        wants: Counter[str] = Counter()
        for units in one.units:
            if units.key in self.balances:
                wants[units.key] += units.amount
        return wants

    def _bar(
        self, one: Candidate, policy: Policy, ahead: Counter[str], now: int
    ) -> dict[str, Any] | None:
        """Return what refuses it whatever the rates are."""
        short = None
        for key, amount in self._known(one).items():
            told = self.balances[key]
            if _left(told.at_us + BALANCE_AGE_US_MAX, BALANCE_AGE_US_MAX, now) <= 0:
                continue
            final = told.available + told.reserved < amount
            if final or (short is None and told.available - ahead[key] < amount):
                short = {"limit": "stock", "retry_after_ms": 0, "final": final}
                short |= {"ahead": ahead[key], "left": told.available, "wanted": amount}
                if final:
                    return short
        if policy.level is Level.CLOSED:
            return {"limit": "level", "retry_after_ms": 0}
        return short

    def _keep(
        self, rates: dict[str, Limit], admitted: Sequence[Candidate], policy: Policy, now: int
    ) -> None:
        for one in admitted:
            member = one.intent_id.bytes
            self.in_flight.add(member)
            if member not in self.units and (wants := self._known(one)):
                self.units[member] = wants
                self.ahead.update(wants)
        for key, limit in rates.items():
            if limit.taken:
                backlog = limit.backlog_us + limit.taken * limit.interval_us
                self.tats[key] = math.floor(now + backlog + 0.5)
            if key.startswith("cell:"):
                self.asked[key.removeprefix("cell:")] = now

    # settle, release, tell -----------------------------------------------------------------------

    def take_out(self, members: Iterable[bytes]) -> None:
        """Take ids out of flight, and return the units that they hold."""
        for member in members:
            self.in_flight.discard(member)
            self.ahead.subtract(self.units.pop(member, Counter()))
        self.ahead = +self.ahead

    def tell(self, balances: Iterable[Balance]) -> None:
        """Keep the newest of what is told."""
        now = self.now_us()
        for one in balances:
            old = self.balances.get(one.key)
            if (
                old is None
                or one.version >= old.version
                or not _left(old.at_us + _KEPT_US, _KEPT_US, now)
            ):
                self.balances[one.key] = Told(one.version, one.available, one.reserved, now)

    # lead, publish -------------------------------------------------------------------------------

    def take_lead(self, owner: str, lease_ms: int) -> int:
        """See `Gate.take_lead`; 0: another leads."""
        now = self.now_us()
        epoch, ends, lease, leader = self.lead
        holds = _left(ends, lease, now) > 0
        if holds and leader != owner:
            return 0
        if not holds:
            epoch = max(epoch + 1, self.word[0] + 1, now // 1_000)
        self.lead = (epoch, now + lease_ms * 1_000, lease_ms * 1_000, owner)
        return epoch

    def publish(self, policy: Policy, epoch: int, lease_ms: int) -> bool:
        """See `Gate.publish`."""
        if epoch < max(self.lead[0], self.word[0]):
            return False
        now = self.now_us()
        self.word = (epoch, now + lease_ms * 1_000, lease_ms * 1_000, policy)
        return True

    def published(self) -> Published:
        """See `Gate.policy`."""
        epoch, ends, lease, policy = self.word
        left_ms = math.ceil(_left(ends, lease, self.now_us()) / 1_000)
        return Published(policy, epoch, left_ms, len(self.in_flight), self.reconciled)

    # What a reconciler calls ---------------------------------------------------------------------

    def call(self, function: str, keys: Sequence[str], *args: bytes | str) -> Any:
        """Answer the functions by which `gate_memory` reconciles."""
        if function == "tidegate_reconcile_begin":
            known = len(self.in_flight), int(self.reconciled)
            self.incarnation = self.incarnation or str(args[0]).encode()
            self.began[keys[2]] = self.incarnation
            return [self.now_us() // 1_000, *known]
        if function == "tidegate_reconcile_finish":
            began = self.began.get(keys[1])
            if began is None or began != self.incarnation:
                return 0
            self.epoch = self.began.pop(keys[1])
            return 1
        assert function == "tidegate_reconcile_units", function
        stale = [member for member in self.units if member not in self.in_flight]
        self.take_out(stale)
        self.ahead = sum(self.units.values(), Counter())
        return [b"0", len(stale)]

    def command(self, name: str, *args: Any) -> Any:
        """Answer the plain commands among its steps."""
        if name == "TIME":
            return divmod(self.now_us(), 1_000_000)
        if name == "SSCAN":
            return 0, sorted(self.in_flight)
        before = len(self.in_flight)
        members = set(args[1:])
        self.in_flight = self.in_flight - members if name == "SREM" else self.in_flight | members
        return abs(len(self.in_flight) - before)


def _left(ends_us: int, lease_us: int, now: int) -> int:
    left = ends_us - now
    return left if 0 < left <= lease_us else 0


def _level_has_room(rates: dict[str, Limit], gateway: str) -> bool:
    if "total" not in rates or rates[f"cell:{gateway}"].room >= 1:
        return True
    return rates["cap"].room >= 1 and rates["total"].room >= 1


def _take(rates: dict[str, Limit], own: list[Limit], gateway: str) -> None:
    taken = list(own)
    if "total" in rates:
        cell = rates[f"cell:{gateway}"]
        taken += [rates["cap"], rates["total"]] + [cell] * (cell.room >= 1)
    for limit in taken:
        limit.room -= 1
        limit.taken += 1
