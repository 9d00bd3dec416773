"""Govern: one tick measures the load, steps the rules, and publishes the policy to every gate.

    take the lead ──▶ look ──▶ step (domain.governor) ──▶ publish ──▶ tell balances

Any number of governors may run. The gate lends the lead to one of them for a while; each of its words
carries the fencing epoch of its lead, and the gate takes none of an epoch that is past. So a governor
that was paused in the midst of a tick publishes nothing when it wakes, however sure it was. The others
watch what is published, and whoever takes the lead next goes on from there.

A dependency that does not answer is a measurement, not an error: what could not be read is None, and
the rules know what that means. A tick waits for nobody longer than the looks and the gate's client
allow, or the lease would lapse while the leader waits for the dead.

An operator's order is none of the rules' business: each gate lets it outrank what is published. What
is published stays the governor's own word, so that it holds again at once when the order is lifted; it
only states a rate while shedding is ordered, since an order brings no measurements.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from workers.contract.admission import Balance
from workers.contract.gate import GateUnreachable, Published
from workers.domain.governor import Sample, State, Tuning, policy_of, step, taken_over
from workers.domain.overload import Level, Policy
from workers.store.levels import LevelOrder
from workers.store.load import Load

RETELL_S: Final = 1.0  # the gate forgets a balance that it was not told for 3 s

Scarcity = Sequence[tuple[Balance, bool]]


class Heard(Struct, frozen=True):
    """How many outcomes were heard of since the last look, and sojourn times, in ms, of some."""

    decided: int
    sojourns_ms: Sequence[float]


class Look(Struct, frozen=True, kw_only=True):
    """What was seen beside the gate. None: it could not be read, or not in time.

    `postgres_ms` is how long PostgreSQL took to answer, or has been taking; `balances` are read now
    and then only, each with whether it is scarce.
    """

    heard: Heard | None = None
    postgres_ms: float | None = None
    load: Load | None = None
    balances: Scarcity | None = None
    valkey_memory_share: float | None = None


class Sources(Protocol):
    """Where the governor looks; see `runtime.looking`."""

    def hear(self) -> Heard | None: ...
    def look(self) -> Look: ...


class Gate(Protocol):
    """What governing needs of the gate; see `contract.gate`."""

    def take_lead(self, owner: str, lease_ms: int) -> int | None: ...
    def policy(self) -> Published: ...
    def publish(self, policy: Policy, *, epoch: int, lease_ms: int) -> bool: ...
    def tell_balances(self, balances: Sequence[Balance]) -> None: ...


class TickReport(Struct, frozen=True, kw_only=True):
    """What a tick did. `epoch` None: another leads, or the gate is away."""

    epoch: int | None = None
    published: bool = False
    policy: Policy | None = None
    sample: Sample | None = None
    ordered: LevelOrder | None = None
    balances: int = 0


class Governor:
    """Governs while it leads; for one thread. `owner` names this process among all others."""

    def __init__(
        self,
        sources: Sources,
        gate: Gate,
        tuning: Tuning,
        *,
        owner: str,
        lease_ms: int,
        clock: Callable[[], float] = time.monotonic,
        unix_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._sources = sources
        self._gate = gate
        self._tuning = tuning
        self._owner = owner
        self._lease_ms = lease_ms
        self._clock = clock
        self._unix_ms = unix_ms
        self._state: State | None = None  # None: another leads
        self._meter = _Meter()
        self._teller = _Teller(gate, clock)
        self._seen: tuple[Policy, float] | None = None  # another's policy, and when it was in force
        self._since: tuple[float, int] | None = None  # of the level: by our clock, and in Unix ms
        self._ordered: LevelOrder | None = None  # as read last

    def tick(self) -> TickReport:
        """Measure, decide, publish; or watch another who leads. Raises no error of a dependency."""
        try:
            epoch = self._gate.take_lead(self._owner, self._lease_ms)
            asked_at = self._clock()
            published = self._gate.policy()
        except GateUnreachable:
            return self._tick_without_gate()
        valkey_ms = (self._clock() - asked_at) * 1_000
        if epoch is None:
            return self._follow(published)
        if self._state is None:
            return self._begin(epoch, published)
        return self._govern(epoch, published, valkey_ms)

    def hand_over(self) -> None:
        """Leave the lead to whoever asks next; what was published holds for its lease."""
        if self._state is not None:
            self._state = None
            self._gate.take_lead(self._owner, 1)

    def _tick_without_gate(self) -> TickReport:
        """Nobody hears us; who leads goes on measuring, so as to know what was when all is back."""
        if self._state is None:
            return TickReport()
        _, sample = self._measured(published=None, valkey_ms=None)
        self._state = step(self._state, sample, self._tuning)
        return TickReport(sample=sample, ordered=self._ordered)

    def _follow(self, published: Published) -> TickReport:
        """Remember what holds, for the day we take over."""
        self._state = None
        if published.current is not None:
            self._seen = (published.current, self._clock())
        return TickReport(policy=published.current)

    def _begin(self, epoch: int, published: Published) -> TickReport:
        """Begin where the last leader stopped, and say so at once: its lease is running out."""
        word, at_s = self._last_word(published), self._clock()
        self._state = taken_over(word, at_s)
        self._since = (at_s, word.since_ms) if word is not None and word.since_ms else None
        self._ordered = None
        self._meter.begin(at_s)
        self._sources.hear()  # what was heard before is no part of the first interval
        self._teller.forget()
        return self._published(epoch, TickReport(epoch=epoch))

    def _last_word(self, published: Published) -> Policy | None:
        """Return the policy that was in force until now; an old one says nothing of today."""
        if published.current is not None:
            return published.current
        if self._seen is None:
            return None
        policy, seen_at = self._seen
        return policy if (self._clock() - seen_at) * 1_000 <= 2 * self._lease_ms else None

    def _govern(self, epoch: int, published: Published, valkey_ms: float) -> TickReport:
        look, sample = self._measured(published, valkey_ms)
        assert self._state is not None, "who does not lead does not govern"
        self._state = step(self._state, sample, self._tuning)
        report = self._published(
            epoch, TickReport(epoch=epoch, sample=sample, ordered=self._ordered)
        )
        if not report.published or look.balances is None:
            return report
        try:
            return replace(report, balances=self._teller.tell(look.balances))
        except GateUnreachable:
            return report  # what the gate was not told it does not hold against anybody

    def _published(self, epoch: int, report: TickReport) -> TickReport:
        """Publish; whose epoch is past leads no longer."""
        assert self._state is not None, "who does not lead publishes nothing"
        policy = self._policy(self._state, report.ordered)
        try:
            accepted = self._gate.publish(policy, epoch=epoch, lease_ms=self._lease_ms)
        except GateUnreachable:
            return replace(report, policy=policy)
        if not accepted:
            self._state = None
            return TickReport(sample=report.sample, ordered=report.ordered)
        return replace(report, policy=policy, published=True)

    def _policy(self, state: State, ordered: LevelOrder | None) -> Policy:
        since_ms = self._since_ms(state)
        policy = policy_of(state, self._tuning, since_ms)
        if ordered is None or ordered.level is not Level.SHEDDING:
            return policy
        if policy.admitted_per_s is not None:
            return policy
        shedding = policy_of(replace(state, level=Level.SHEDDING), self._tuning, since_ms)
        return replace(policy, admitted_per_s=shedding.admitted_per_s)

    def _since_ms(self, state: State) -> int:
        """Return when the level began: one number for as long as it goes on.

        Two clocks that are read anew each time tell a little otherwise each time, and every gate
        would take that for a change of the level.
        """
        if self._since is None or self._since[0] != state.level_since_s:
            age_s = 0.0 if state.at_s is None else self._clock() - state.level_since_s
            self._since = state.level_since_s, self._unix_ms() - round(1_000 * age_s)
        return self._since[1]

    def _measured(
        self, published: Published | None, valkey_ms: float | None
    ) -> tuple[Look, Sample]:
        at_s = self._clock()
        heard = self._sources.hear()
        look = replace(self._sources.look(), heard=heard)
        if look.load is not None:  # else what was ordered last still is, as far as is known
            self._ordered = look.load.ordered
        return look, self._meter.sample(look, published, valkey_ms, at_s)


class _Meter:
    """Makes samples of looks: what needs the look before is remembered here."""

    def __init__(self) -> None:
        self._at_s = 0.0
        self._in_flight: tuple[bool, int] | None = None  # whether the gate said so, and how many

    def begin(self, at_s: float) -> None:
        """Begin the first interval."""
        self._at_s = at_s
        self._in_flight = None

    def sample(
        self, look: Look, published: Published | None, valkey_ms: float | None, at_s: float
    ) -> Sample:
        """Make the sample of the interval that ends now."""
        heard, load = look.heard, look.load
        decided = None if heard is None else heard.decided
        in_flight = _in_flight(load, published)
        sample = Sample(
            at_s=at_s,
            interval_s=at_s - self._at_s,
            postgres_ms=look.postgres_ms,
            valkey_ms=valkey_ms,
            in_flight=None if in_flight is None else in_flight[1],
            accepted=_accepted(self._in_flight, in_flight, decided),
            decided=decided,
            oldest_ms=None if load is None else load.oldest_ms or 0.0,
            sojourn_p50_ms=None if heard is None else _percentile(heard.sojourns_ms, 0.50),
            sojourn_p99_ms=None if heard is None else _percentile(heard.sojourns_ms, 0.99),
            postgres_connections_share=None if load is None else load.connections_share,
            valkey_memory_share=look.valkey_memory_share,
            dispatch_lag_ms=None if load is None else max(0.0, load.overdue_ms or 0.0),
        )
        self._at_s, self._in_flight = at_s, in_flight
        return sample


def _in_flight(load: Load | None, published: Published | None) -> tuple[bool, int] | None:
    """Return how many are in flight, and whether the gate says so; if it has forgotten, the journal."""
    if published is not None and published.reconciled:
        return True, published.in_flight
    return None if load is None else (False, load.open_count)


def _accepted(
    before: tuple[bool, int] | None, now: tuple[bool, int] | None, decided: int | None
) -> int | None:
    """Return how many were accepted between two counts from one source: what left, and what came."""
    if before is None or now is None or decided is None or before[0] is not now[0]:
        return None
    return max(0, decided + now[1] - before[1])


def _percentile(values: Sequence[float], share: float) -> float | None:
    """Return the nearest-rank percentile; None of none."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


class _Teller:
    """Tells the gate what is scarce: news at once, the rest before it would be forgotten."""

    def __init__(self, gate: Gate, clock: Callable[[], float]) -> None:
        self._gate = gate
        self._clock = clock
        self._versions: dict[str, int] = {}  # as told
        self._told_all_at: float | None = None

    def forget(self) -> None:
        """Tell everything again: another may have told since, or nobody."""
        self._versions = {}
        self._told_all_at = None

    def tell(self, read: Scarcity) -> int:
        """Tell what must be told; return how many. What is scarce no longer is told that, once."""
        known = self._versions
        told = [balance for balance, scarce in read if scarce or balance.key in known]
        now = self._clock()
        if self._told_all_at is not None and now - self._told_all_at < RETELL_S:
            told = [balance for balance in told if known.get(balance.key) != balance.version]
        else:
            self._told_all_at = now
        if told:
            self._gate.tell_balances(told)
        scarce_keys = {balance.key for balance, scarce in read if scarce}
        known.update((balance.key, balance.version) for balance in told)
        self._versions = {key: version for key, version in known.items() if key in scarce_keys}
        return len(told)
