"""The governor's rules: from samples of the system to the policy that every gate keeps.

WHAT IS MEASURED is time, not length, as in CoDel (RFC 8289). The predicted wait is what is in
flight over the measured service rate (Little's law; `service_rate`). Two things can prove it wrong,
and both are heard: silence (an intent was accepted and for a second nothing has been decided at
all), and age (what was decided lately was old, and so is the oldest that is open). Age alone is no
proof: one intent that a lock holds up must not close the shop.

THE LEVEL follows the longest of these, with hysteresis. It rises to the highest level that was
asked for by every sample of `enter_after_s`; it falls by one step when nothing has held it for
`leave_after_s`, so `normal` is reached by way of every level between. What asks and what holds are
two thresholds (`Band`), so that a wait at either one moves nothing. A pause of issuance can be the
very reason why it is calm; so each relapse from `normal` doubles the calm that the next return to it
takes, like the damping of routes that flap (RFC 2439), but with a bound that keeps the promise of
recovery, and forgotten as soon as `normal` has lasted. Where PostgreSQL or Valkey
cannot be reached, or Valkey is full, the level is `closed`; it opens to `shedding`, where the rate
is bounded and what piled up meanwhile is counted, never straight to `normal`.

THE RATE while shedding is steered so that the wait comes to the target and stays there:

    admitted_per_s = service_per_s * (1 - (wait - target) / correct_over_s)

within `share_min` and `share_max` of the service rate. What is too much in the queue is drained
over `correct_over_s`, what is missing is let in. At the target as much is admitted as is decided:
a small standing queue keeps every worker at work, and a wait of that length is the price. This is
the kind of law of RCP (Dukkipati and McKeown): an explicit rate, of a term for the capacity and a
term for the queue. Departures, and what was not taken:
  - RCP corrects its last rate and drains the queue; we begin at the measured service rate each time
    and keep a queue, so nothing winds up while few come.
  - PIE (RFC 8033) and CoDel seek a drop probability, because a router cannot say a rate; that takes
    an integral term. Here the queue itself is the integral of every error of the rate, so
    proportional control is enough: a service rate told 10 % too high leaves the wait a tenth of
    `correct_over_s` above the target, and no drift.
  - AIMD (DAGOR cuts by 5 % and adds 1 %) needs no service rate, but seventy steps to double what it
    admits when the system is well again, and saws around the capacity meanwhile.
  - The gradient of latencies (Envoy, Netflix) takes the shortest one for what is natural. Ours grows
    with the batches, as does the capacity; it would shed at noon what is fast enough.
  - Never zero: a trickle tells that the system is well again.
The queue answers to the rate like an integrator with a delay, of some 0.6 s: half an interval until
a sample is taken, smoothing of 0.4 s, the way to the gate. Such a loop does not overshoot while
`correct_over_s` is more than e times the delay.

A service rate of a bad moment (workers that were just starting) may be a hundredth of what they can
do, and steering by shares of it would take half a minute to find out. So while hardly anything
waits, `unmeasured_per_s` is admitted at least; the gate's bound of the wait holds what comes of it.

The gate keeps `wait_max_ms` by itself with every call, between two words of the governor; so a
burst fills the queue to that and no further, however steep it is.

No clock, no luck, no configuration: `at_s` is a reading of the sampler's monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from workers.domain.overload import Level, Policy
from workers.domain.service_rate import ServiceRate, doubted, measured, remembered
from workers.domain.tuning import Band, Sample, Tuning

__all__ = ["Band", "Sample", "State", "Tuning", "policy_of", "step", "taken_over"]

SILENCE_MS_MIN: Final = 1_000.0  # a shorter one is the space between two batches
_SMOOTHING_S: Final = 0.4  # a sample may be half wrong; three together are not
_DESCENDING: Final = tuple(sorted(Level, key=lambda level: -level.rank))


class State(Struct, frozen=True, kw_only=True):
    """What the governor remembers. `State()` is a beginning without any memory."""

    at_s: float | None = None  # of the last sample
    level: Level = Level.NORMAL
    level_since_s: float = 0.0
    reason: str = ""
    asked_since_s: tuple[tuple[Level, float], ...] = ()  # since when each higher level is asked for
    calm_since_s: float | None = None  # since when nothing holds the level
    relapse_factor: float = 1.0  # of the calm that a return to `normal` takes
    normal_again_s: float | None = None  # when the level last fell to `normal`

    service: ServiceRate = ServiceRate()
    in_flight: float | None = None  # smoothed
    age_ms: float = 0.0  # smoothed; what the decided and the oldest open have in common
    unheard_since_s: float | None = None  # the first acceptance after the last decision
    silence_ms: float = 0.0  # how long that is; 0: not worth speaking of

    @property
    def wait_ms(self) -> float:
        """The predicted wait of an intent accepted now."""
        per_s = self.service.per_s
        queued = 0.0 if per_s is None or self.in_flight is None else 1_000 * self.in_flight / per_s
        return max(queued, self.silence_ms)


class _Signal(Struct, frozen=True):
    """One reason to close: the level it asks for, and the level it holds."""

    reason: str
    asks: Level
    holds: Level


def step(state: State, sample: Sample, tuning: Tuning) -> State:
    """Return the state after one more sample."""
    state = _with_measures(state, sample)
    signals = tuple(_signals(state, sample, tuning))
    state = _with_evidence(state, sample.at_s, signals)

    risen = _risen(state, tuning)
    if risen is not None:
        state = replace(state, relapse_factor=_relapse_factor(state, tuning))
        return _moved(state, risen, _reason(signals, state.reason))
    fallen = _fallen(state, tuning)
    if fallen is not None:
        if state.level is Level.CLOSED:
            # Whatever it was that went away may be slower than it was.
            state = replace(state, service=doubted(state.service))
        return _moved(state, fallen, _reason(signals, state.reason))
    return state


def policy_of(state: State, tuning: Tuning, since_ms: int) -> Policy:
    """Return what to publish. A rate is told from `shedding` on.

    `since_ms` is `level_since_s` in Unix time, which no rule listens to.
    """
    sheds = state.level.rank >= Level.SHEDDING.rank
    return Policy(
        level=state.level,
        reason=state.reason,
        since_ms=since_ms,
        admitted_per_s=_admitted_per_s(state, tuning) if sheds else None,
        service_per_s=state.service.per_s,
        predicted_wait_ms=round(state.wait_ms),
        wait_max_ms=(
            round(tuning.shedding_wait_max * tuning.target_wait_ms) if sheds else tuning.wait_max_ms
        ),
    )


def taken_over(policy: Policy | None, at_s: float) -> State:
    """Return where a new leader begins: at the level and the rate that it finds published.

    A leader that began at `normal` would let everybody in until it had measured again. However old
    the policy is, it is a better beginning than none: a level too low is risen from in
    `enter_after_s`, one too high is fallen from as ever. None: nothing was ever published.
    """
    if policy is None:
        return State()
    return State(
        at_s=at_s,
        level=policy.level,
        level_since_s=at_s,
        reason=policy.reason,
        service=remembered(policy.service_per_s),
    )


# Measures ------------------------------------------------------------------------------------------


def _with_measures(state: State, sample: Sample) -> State:
    """Return the state with the sample's numbers in it. What could not be read stays as it was."""
    unheard_since_s = _unheard_since_s(state, sample)
    silence_ms = 0.0 if unheard_since_s is None else 1_000 * (sample.at_s - unheard_since_s)
    if sample.oldest_ms is not None:
        silence_ms = min(silence_ms, sample.oldest_ms)
    new = _weight_of_new(sample.interval_s)
    in_flight = state.in_flight if sample.in_flight is None else float(sample.in_flight)
    if state.in_flight is not None and in_flight is not None:
        in_flight = state.in_flight + new * (in_flight - state.in_flight)
    return replace(
        state,
        at_s=sample.at_s,
        level_since_s=sample.at_s if state.at_s is None else state.level_since_s,
        service=_service(state.service, sample),
        in_flight=in_flight,
        age_ms=state.age_ms + new * (_age_ms(sample) - state.age_ms),
        unheard_since_s=unheard_since_s,
        silence_ms=silence_ms if silence_ms >= SILENCE_MS_MIN else 0.0,
    )


def _weight_of_new(interval_s: float) -> float:
    return interval_s / (interval_s + _SMOOTHING_S) if interval_s > 0 else 0.0


def _unheard_since_s(state: State, sample: Sample) -> float | None:
    """Return since when an acceptance has waited for any decision at all.

    Who accepts nothing need not hear anything: at night silence is no sign.
    """
    nothing_in_flight = sample.in_flight == 0 and not sample.oldest_ms
    if sample.decided or nothing_in_flight:
        return None
    since_s = state.unheard_since_s
    if since_s is None and sample.accepted:
        since_s = sample.at_s - sample.interval_s
    # Nothing is open: what the gate counts is not in the journal yet, or never will be.
    return sample.at_s if since_s is not None and sample.oldest_ms == 0 else since_s


def _service(service: ServiceRate, sample: Sample) -> ServiceRate:
    if sample.decided is None:
        return service
    busy = _lacked_no_work(sample, sample.decided)
    return measured(service, sample.decided, sample.interval_s, busy=busy)


def _lacked_no_work(sample: Sample, decided: int) -> bool:
    """Return whether more was left over than one interval takes.

    What is in flight may be in nobody's hands: its process died, or a lock holds it. Then what
    flows past it is young; behind a queue of an interval's length it would be older than one
    (Little's law). Half an interval, since a queue that grows shows in the ages later.
    """
    if sample.in_flight is None or sample.in_flight <= decided:
        return False
    age_ms = sample.sojourn_p50_ms
    return age_ms is None or age_ms >= 1_000 * sample.interval_s / 2


def _age_ms(sample: Sample) -> float:
    """Return the age that the decided and the oldest open intent have in common; 0: unknown."""
    if sample.oldest_ms is None or sample.sojourn_p50_ms is None:
        return 0.0
    return min(sample.oldest_ms, sample.sojourn_p50_ms)


# Levels --------------------------------------------------------------------------------------------


def _signals(state: State, sample: Sample, tuning: Tuning) -> Iterator[_Signal]:
    """Yield every signal; of equals the first is told as the reason."""
    yield _reached("postgres", sample.postgres_ms)
    yield _reached("valkey", sample.valkey_ms)
    yield _graded("valkey", sample.valkey_memory_share, (Level.CLOSED, tuning.valkey_memory))
    waits = max(state.wait_ms, state.age_ms) / tuning.target_wait_ms
    yield _graded(
        "wait", waits, (Level.SHEDDING, tuning.shedding), (Level.THROTTLED, tuning.throttled)
    )
    lag = None if sample.dispatch_lag_ms is None else sample.dispatch_lag_ms / tuning.target_wait_ms
    yield _graded("dispatch", lag, (Level.THROTTLED, tuning.dispatch_lag))
    yield _graded("postgres", sample.postgres_ms, (Level.THROTTLED, tuning.postgres_ms))
    connections = sample.postgres_connections_share
    yield _graded("postgres", connections, (Level.THROTTLED, tuning.postgres_connections))


def _reached(reason: str, probe_ms: float | None) -> _Signal:
    level = Level.CLOSED if probe_ms is None else Level.NORMAL
    return _Signal(reason, level, level)


def _graded(reason: str, value: float | None, *bands: tuple[Level, Band]) -> _Signal:
    """Return the signal of a value; `bands` from the highest level down. None: it says nothing."""
    if value is None:
        return _Signal(reason, Level.NORMAL, Level.NORMAL)
    asks = next((level for level, band in bands if value >= band.enter), Level.NORMAL)
    holds = next((level for level, band in bands if value > band.leave), Level.NORMAL)
    return _Signal(reason, asks, holds)


def _with_evidence(state: State, at_s: float, signals: tuple[_Signal, ...]) -> State:
    """Return the state that knows how long higher levels are asked for and its own is not held."""
    asked = {signal.asks for signal in signals}
    if Level.SHEDDING in asked:  # A long wait asks for both; a dead server only for `closed`.
        asked.add(Level.THROTTLED)
    before = dict(state.asked_since_s)
    held = max(signal.holds.rank for signal in signals)
    calm_since_s = at_s if state.calm_since_s is None else state.calm_since_s
    return replace(
        state,
        asked_since_s=tuple(
            (level, before.get(level, at_s))
            for level in _DESCENDING
            if level in asked and level.rank > state.level.rank
        ),
        calm_since_s=calm_since_s if held < state.level.rank else None,
    )


def _risen(state: State, tuning: Tuning) -> Level | None:
    """Return the highest level that was asked for long enough."""
    at_s = state.at_s or 0.0
    for level, since_s in state.asked_since_s:
        closes = level is Level.CLOSED
        if at_s - since_s >= (tuning.unreachable_after_s if closes else tuning.enter_after_s):
            return level
    return None


def _fallen(state: State, tuning: Tuning) -> Level | None:
    """Return the next level down if nothing has held the present one for long enough."""
    if state.calm_since_s is None:
        return None
    match state.level:
        case Level.CLOSED:
            needed_s = tuning.reopen_after_s
        case Level.THROTTLED:
            needed_s = tuning.leave_after_s * state.relapse_factor
        case _:
            needed_s = tuning.leave_after_s
    if (state.at_s or 0.0) - state.calm_since_s < needed_s:
        return None
    return _DESCENDING[_DESCENDING.index(state.level) + 1]


def _relapse_factor(state: State, tuning: Tuning) -> float:
    """Return the factor after a rise: doubled if `normal` did not last, 1 if it did."""
    if state.level is not Level.NORMAL:
        return state.relapse_factor
    again_s = state.normal_again_s
    if again_s is None or (state.at_s or 0.0) - again_s >= tuning.relapse_within_s:
        return 1.0
    return min(2 * state.relapse_factor, tuning.relapse_factor_max)


def _moved(state: State, level: Level, reason: str) -> State:
    at_s = state.at_s or 0.0
    return replace(
        state,
        level=level,
        level_since_s=at_s,
        normal_again_s=at_s if level is Level.NORMAL else state.normal_again_s,
        reason="" if level is Level.NORMAL else reason,
        asked_since_s=tuple(
            (asked, since_s) for asked, since_s in state.asked_since_s if asked.rank > level.rank
        ),
        calm_since_s=None,
    )


def _reason(signals: tuple[_Signal, ...], before: str) -> str:
    """Return what holds the highest level; if nothing holds any, what did before."""
    first = max(signals, key=lambda signal: signal.holds.rank)  # of equals the first
    return before if first.holds is Level.NORMAL else first.reason


# The rate ------------------------------------------------------------------------------------------


def _admitted_per_s(state: State, tuning: Tuning) -> float:
    """Return the rate that brings the wait to the target; always above zero."""
    service_per_s = state.service.per_s or tuning.unmeasured_per_s
    excess_s = (state.wait_ms - tuning.target_wait_ms) / 1_000
    share = 1 - excess_s / tuning.correct_over_s
    if state.age_ms > tuning.shedding_wait_max * tuning.target_wait_ms:
        share = min(share, tuning.share_doubtful)
    steered_per_s = service_per_s * min(max(share, tuning.share_min), tuning.share_max)
    idle_share = 1 - state.wait_ms / (tuning.shedding.leave * tuning.target_wait_ms)
    return max(steered_per_s, idle_share * tuning.unmeasured_per_s)
