"""A world in virtual time: clients, the gate, a queue, workers, and the governor over them.

Intents are counted, not made: a tick of 10 ms handles its arrivals as one cohort, whatever their
number, so a simulated minute takes some 40 ms and its length does not depend on the load. All
chance comes from one seeded generator: the same plan gives the same history.

What is modelled, and how true:
  clients   an open loop: they come as the plan says, however the system fares (Poisson by tick).
            Who is refused comes back as told, with jitter, until its patience ends; or, in a storm,
            five times in the next five ticks, whatever it was told. Who is admitted comes no more:
            its retries would carry the same key.
  gate      every tick: the lease of the policy, level, in-flight bound, wait bound, rate (GCRA).
            After the lease has lapsed only the in-flight bound and the wait bound hold.
  workers   take what is there up to a batch's most, oldest first. A batch takes a time of its own
            plus a time for each intent, so that capacity grows with the batches, as ours does.
  database  may pause: nothing is decided, and what is under way takes longer by the pause. It may
            be away: then nobody is admitted either, and probes are not answered.
  governor  samples every 250 ms, with noise on every number, steps, and publishes 10 ms later. It
            is told no more than on real servers, and knows the service rate of an earlier rush,
            if it is not said that there was none.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from workers.domain.governor import Sample, State, Tuning, policy_of, step, taken_over
from workers.domain.overload import Level, Policy
from workers.domain.service_rate import MEMORY_S, ServiceRate

TICK_S = 0.01
SAMPLE_TICKS = 25
LEASE_S = 3.0
UNRECONCILED_PER_S = 200.0  # what a lapsed service rate counts for at least, and one not measured
TTL_S = 10.0  # every intent's deadline
BURST_S = 0.1  # of the admitted rate; what the gate lets through at once
TOLD_S = (2.0, 10.0)  # between these a refused client is told to come back
PATIENCE = 5  # times that a client comes back
RING_TICKS = 2_048  # longer than anybody is told to wait

Span = tuple[float, float]


@dataclass(frozen=True)
class Plan:
    """What happens, all in seconds and intents a second. Spans are [from, to)."""

    load: Callable[[float], float]  # newcomers a second at a time
    seconds: float
    seed: int = 1
    capacity: Callable[[float], float] = lambda _: 2_000.0  # decided a second in full batches
    retries: str = "told"  # or "storm", "none"
    noise: float = 0.0  # every number of a sample is off by up to this share
    pauses: Sequence[Span] = ()
    away: Sequence[Span] = ()
    governor_dead: Sequence[Span] = ()
    lost: Callable[[float], int] = lambda _: 0  # the gate counts them, and nobody works on them
    issuance_share: Callable[[float], float] = lambda _: 0.0  # of newcomers, refused at throttled
    measured: bool = True  # whether the service rate is known from an earlier rush
    in_flight_max: int = 40_000
    workers: int = 4
    batch_max: int = 50
    batch_overhead: float = 0.3  # of a full batch's time, whatever is in it
    tuning: Tuning = field(default_factory=Tuning)


@dataclass
class History:
    """What happened, by seconds and by moments."""

    plan: Plan
    offered: Counter[int] = field(default_factory=Counter)  # by second, retries included
    accepted: Counter[int] = field(default_factory=Counter)
    decided: Counter[int] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)  # by layer
    sojourns: list[tuple[float, float, int]] = field(
        default_factory=list
    )  # accepted at, s, how many
    moves: list[tuple[float, Level, Level, str]] = field(default_factory=list)
    policies: list[tuple[float, Policy]] = field(default_factory=list)
    in_flight: list[tuple[float, int]] = field(default_factory=list)
    left_over: int = 0

    def goodput(self, since_s: float, until_s: float) -> float:
        """Return decided a second between two whole seconds, as a share of the capacity then."""
        seconds = range(int(since_s), int(until_s))
        capacity = sum(self.plan.capacity(second + 0.5) for second in seconds)
        return sum(self.decided[second] for second in seconds) / capacity

    def sojourn_s(self, share: float, since_s: float = 0.0, until_s: float = 1e9) -> float:
        """Return a percentile of the sojourn times of those accepted in a span."""
        waits = sorted((s, n) for at, s, n in self.sojourns if since_s <= at < until_s)
        rank = share * sum(n for _, n in waits)
        for wait_s, count in waits:
            rank -= count
            if rank <= 0:
                return wait_s
        return 0.0

    def level_at(self, at_s: float) -> Level:
        return next(
            (policy.level for at, policy in reversed(self.policies) if at <= at_s), Level.NORMAL
        )

    def normal_from(self, since_s: float) -> float | None:
        """Return from when on after `since_s` the level was normal to the end; None: it was not."""
        if self.policies[-1][1].level is not Level.NORMAL:
            return None
        last = [at for at, *_ in self.moves]
        return max(since_s, last[-1] if last else 0.0)

    def moves_between(self, since_s: float, until_s: float) -> int:
        return sum(since_s <= at < until_s for at, *_ in self.moves)

    def overloaded_until(self) -> float:
        """Return the end of the last second in which nine tenths of the capacity were asked for."""
        return max(
            (
                second + 1.0
                for second, count in self.offered.items()
                if count >= 0.9 * self.plan.capacity(second + 0.5)
            ),
            default=0.0,
        )

    def broken_laws(self) -> list[str]:
        """Return what went against the laws that hold in every history."""
        laws = {
            "everyone who is accepted is decided or still in flight": (
                self.accepted.total() == self.decided.total() + self.left_over
            ),
            "the bound of what is in flight holds": all(
                count <= self.plan.in_flight_max for _, count in self.in_flight
            ),
            "a rate is published from shedding on, and only then": all(
                (policy.admitted_per_s is None) == (policy.level.rank < Level.SHEDDING.rank)
                for _, policy in self.policies
            ),
            "every rate that is published is above zero": all(
                rate is None or rate > 0
                for _, policy in self.policies
                for rate in (policy.admitted_per_s, policy.service_per_s)
            ),
            "a level is not left faster than its hysteresis": not self.hasty_moves(),
        }
        return [law for law, holds in laws.items() if not holds]

    def hasty_moves(self) -> list[str]:
        """Return the moves down that came too soon, and those up that came too soon after one."""
        tuning, hasty, since_s = self.plan.tuning, [], -1e9
        rose = True
        for at, before, after, _ in self.moves:
            rises = after.rank > before.rank
            calm_s = tuning.reopen_after_s if before is Level.CLOSED else tuning.leave_after_s
            least_s = (0.0 if rose else tuning.enter_after_s) if rises else calm_s
            if at - since_s < least_s - 1e-6:
                hasty.append(
                    f"{before} to {after} at {at:.2f} s, {at - since_s:.2f} s after a move"
                )
            since_s, rose = at, rises
        return hasty


def run(plan: Plan) -> History:
    """Return what happens in a plan."""
    return _World(plan).run()


class _World:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.luck = Random(plan.seed)
        self.history = History(plan)
        self.now = 0.0
        # Cohorts: accepted at, how many.
        self.queue: deque[list[float]] = deque()
        self.queued = 0
        self.under_way = 0
        # Of each worker: when its batch is done, and what is in it.
        self.batches: list[tuple[float, list[tuple[float, int]]]] = [
            (0.0, []) for _ in range(plan.workers)
        ]
        self.returning: list[list[int]] = [[0] * (PATIENCE + 1) for _ in range(RING_TICKS)]
        self.published: tuple[float, Policy] | None = None
        self.tat = 0.0  # of the admitted rate
        self.state = State()
        if plan.measured:
            self.state = State(service=ServiceRate(MEMORY_S * plan.capacity(0.0), MEMORY_S))
        self.governs = True
        self.seen = {"accepted": 0, "decided": 0}
        self.seen_sojourns: list[tuple[float, int]] = []

    def run(self) -> History:
        ticks = round(self.plan.seconds / TICK_S)
        for tick in range(ticks):
            self.now = tick * TICK_S
            if tick % SAMPLE_TICKS == 0 and tick:
                self.govern()
            self.arrive(tick)
            self.work()
        self.history.left_over = self.queued + self.under_way
        return self.history

    @property
    def in_flight(self) -> int:
        return self.queued + self.under_way + self.plan.lost(self.now)

    # Clients

    def arrive(self, tick: int) -> None:
        slot = self.returning[tick % RING_TICKS]
        newcomers = self.poisson(self.plan.load(self.now) * TICK_S)
        share = self.plan.issuance_share(self.now)
        issuances = round(newcomers * share) if share else 0
        comers = [newcomers - issuances, *slot[1:]]
        for turn in range(1, PATIENCE + 1):
            slot[turn] = 0
        admitted = self.admit(comers, tick)
        if issuances and self.policy().level is Level.NORMAL:
            admitted += self.admit([issuances], tick)
        if admitted:
            self.queue.append([self.now, admitted])
            self.queued += admitted
            self.seen["accepted"] += admitted
            self.history.accepted[int(self.now)] += admitted

    def admit(self, comers: list[int], tick: int) -> int:
        """Return how many of those who come for the n-th time each are admitted."""
        total = sum(comers)
        if not total:
            return 0
        self.history.offered[int(self.now)] += total
        room, layer = self.room()
        admitted = min(room, total)
        refused = total - admitted
        if refused:
            self.history.refused[layer] += refused
            for turn, count in enumerate(comers):
                self.send_away(round(count * refused / total), turn, tick)
        return admitted

    def send_away(self, refused: int, turn: int, tick: int) -> None:
        if not refused or self.plan.retries == "none":
            return
        if turn >= PATIENCE:
            return
        if self.plan.retries == "storm":
            self.returning[(tick + 1) % RING_TICKS][turn + 1] += refused
            return
        for part in range(4):  # a cohort comes back in four parts
            count = (refused + part) // 4
            told_ticks = round(self.luck.uniform(*TOLD_S) / TICK_S)
            self.returning[(tick + told_ticks) % RING_TICKS][turn + 1] += count

    # The gate

    def policy(self) -> Policy:
        """Return the policy that the gate keeps now: after the lease, one without level and rate."""
        if self.published is None:
            return Policy()
        at_s, policy = self.published
        if self.now - at_s < LEASE_S:
            return policy
        per_s = policy.service_per_s
        return Policy(
            service_per_s=per_s and max(per_s, UNRECONCILED_PER_S), wait_max_ms=policy.wait_max_ms
        )

    def room(self) -> tuple[int, str]:
        """Return how many the gate would admit now, and the layer that bounds it."""
        policy = self.policy()
        if policy.level is Level.CLOSED or within(self.plan.away, self.now):
            return 0, "closed"
        room, layer = self.plan.in_flight_max - self.in_flight, "in_flight"
        per_s, wait_max_s = policy.service_per_s, policy.wait_max_ms / 1_000
        if not per_s:  # a guess, which no longest wait was set for
            per_s, wait_max_s = UNRECONCILED_PER_S, TTL_S
        fits = int(per_s * min(TTL_S, wait_max_s)) - self.in_flight
        if fits < room:
            room, layer = fits, "deadline"
        if policy.admitted_per_s is not None:
            by_rate = self.take_rate(policy.admitted_per_s, max(room, 0))
            if by_rate < room:
                room, layer = by_rate, "level"
        return max(room, 0), layer

    def take_rate(self, per_s: float, most: int) -> int:
        """Return how many the rate lets in. Called once a tick with comers; unused room is kept."""
        burst = max(1.0, per_s * BURST_S)
        backlog = min(max(0.0, self.tat - self.now) * per_s, burst)
        fits = min(int(burst - backlog + 1e-9), most)
        self.tat = self.now + (backlog + fits) / per_s
        return fits

    # Workers

    def work(self) -> None:
        until = self.now + TICK_S
        if within(self.plan.pauses, self.now) or within(self.plan.away, self.now):
            self.batches = [
                (done + TICK_S if taken else done, taken) for done, taken in self.batches
            ]
            return
        for number in range(len(self.batches)):
            done, taken = self.batches[number]
            while done <= until:
                if taken:
                    self.decide(done, taken)
                taken = self.claim()
                start = max(done, self.now)
                done = start + self.duration(taken) if taken else until
                if not taken:
                    break
            self.batches[number] = (done, taken)

    def claim(self) -> list[tuple[float, int]]:
        left, taken = self.plan.batch_max, []
        while left and self.queue:
            first = self.queue[0]
            count = min(left, int(first[1]))
            taken.append((first[0], count))
            first[1] -= count
            left -= count
            if not first[1]:
                self.queue.popleft()
        claimed = self.plan.batch_max - left
        self.queued -= claimed
        self.under_way += claimed
        return taken

    def duration(self, taken: list[tuple[float, int]]) -> float:
        plan = self.plan
        full_s = plan.workers * plan.batch_max / plan.capacity(self.now)
        fill = sum(count for _, count in taken) / plan.batch_max
        share = plan.batch_overhead + (1 - plan.batch_overhead) * fill
        return full_s * share * self.luck.uniform(0.8, 1.2)

    def decide(self, at_s: float, taken: list[tuple[float, int]]) -> None:
        for accepted_s, count in taken:
            self.history.sojourns.append((accepted_s, at_s - accepted_s, count))
            self.seen_sojourns.append((at_s - accepted_s, count))
            self.history.decided[int(at_s)] += count
            self.seen["decided"] += count
            self.under_way -= count

    # The governor

    def govern(self) -> None:
        now = self.now
        self.history.in_flight.append((now, self.in_flight))
        dead = within(self.plan.governor_dead, now)
        if not dead:
            if not self.governs:
                self.state = taken_over(self.published[1] if self.published else None, now)
            before = self.state.level
            self.state = step(self.state, self.sample(), self.plan.tuning)
            policy = policy_of(
                self.state, self.plan.tuning, round(1_000 * self.state.level_since_s)
            )
            self.published = (now + TICK_S, policy)
            self.history.policies.append((now, policy))
            if self.state.level is not before:
                self.history.moves.append((now, before, self.state.level, self.state.reason))
        self.governs = not dead
        self.seen = dict.fromkeys(self.seen, 0)
        self.seen_sojourns = []

    def sample(self) -> Sample:
        seen, off = self.seen, self.off
        away = within(self.plan.away, self.now)
        interval_s = SAMPLE_TICKS * TICK_S
        return Sample(
            at_s=self.now,
            interval_s=interval_s,
            postgres_ms=None if away else off(5.0),
            valkey_ms=off(1.0),
            in_flight=round(off(self.in_flight)),
            accepted=round(off(seen["accepted"])),
            decided=None if away else round(off(seen["decided"])),
            oldest_ms=None if away else off(1_000 * self.oldest_s()),
            sojourn_p50_ms=None if away else self.percentile_ms(0.50),
            sojourn_p99_ms=None if away else self.percentile_ms(0.99),
            postgres_connections_share=off(0.3),
            valkey_memory_share=off(0.2),
            dispatch_lag_ms=off(20.0),
        )

    def oldest_s(self) -> float:
        """Return the age of the oldest open intent; 0: none is open."""
        firsts = [taken[0][0] for _, taken in self.batches if taken]
        firsts += [self.queue[0][0]] if self.queue else []
        return self.now - min(firsts, default=self.now)

    def percentile_ms(self, share: float) -> float | None:
        rank = share * sum(count for _, count in self.seen_sojourns)
        for wait_s, count in sorted(self.seen_sojourns):
            rank -= count
            if rank <= 0:
                return self.off(1_000 * wait_s)
        return None

    def off(self, value: float) -> float:
        noise = self.plan.noise
        return value * self.luck.uniform(1 - noise, 1 + noise) if noise else value

    def poisson(self, mean: float) -> int:
        """Return a Poisson count; above 30 by the normal distribution, which is near enough."""
        if mean > 30:
            return max(0, round(self.luck.gauss(mean, mean**0.5)))
        count, product, bound = 0, self.luck.random(), 2.718281828459045**-mean
        while product > bound:
            count += 1
            product *= self.luck.random()
        return count


def within(spans: Sequence[Span], at_s: float) -> bool:
    return any(since <= at_s < until for since, until in spans)
