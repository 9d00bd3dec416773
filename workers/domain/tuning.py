"""What the governor is given: the sample it takes in, and the numbers of its control law."""

from __future__ import annotations

from msgspec import Struct


class Sample(Struct, frozen=True, kw_only=True):
    """What was seen of the system in one interval. Of most parts None means: could not be read.

    Shares are 0 to 1. `postgres_ms` and `valkey_ms` are the latency of a probe, None when it was
    not answered; they have no default, since who did not ask must not say that nobody answered.
    """

    at_s: float  # when the interval ended, by the sampler's monotonic clock
    interval_s: float  # how long it was
    postgres_ms: float | None
    valkey_ms: float | None
    in_flight: int | None = None  # accepted, no outcome yet
    accepted: int | None = None  # in the interval
    decided: int | None = None  # in the interval
    oldest_ms: float | None = None  # age of the oldest open intent; 0: nothing is open
    sojourn_p50_ms: float | None = None  # of those decided in the interval; None also: none was
    sojourn_p99_ms: float | None = None  # likewise; told to operators, no rule listens to it
    postgres_connections_share: float | None = None  # of the connections that may be open
    valkey_memory_share: float | None = None  # of its maxmemory
    dispatch_lag_ms: float | None = None  # how long the oldest overdue hint is overdue


class Band(Struct, frozen=True):
    """A signal asks for its level from `enter` on, and holds it while it is above `leave`."""

    enter: float
    leave: float


class Tuning(Struct, frozen=True, kw_only=True):
    """The numbers of the control law, each with its reason. Raises ValueError of nonsense."""

    # What a buyer in a chat waits without asking what is wrong; the batch's own time is in it.
    target_wait_ms: int = 1_500
    # Shares of the target. Issuance pauses when half of it is used up, before anyone is refused.
    throttled: Band = Band(0.5, 0.25)
    # Shedding keeps the wait at the target itself, so it must be held well below that: else the
    # level would fall because it works.
    shedding: Band = Band(1.0, 0.5)
    # Two samples can be noise, three in half a second are not; a burst gets no further meanwhile
    # than wait_max_ms lets it.
    enter_after_s: float = 0.5
    # Ten times as long: pausing and resuming costs every user a message.
    leave_after_s: float = 5.0
    # Issuance that is itself the overload would come and go in that rhythm. Each time `normal` did
    # not last this long, the calm asked for doubles, up to three times: with the step before it and
    # the drain, `normal` is still reached well within half a minute.
    relapse_within_s: float = 20.0
    relapse_factor_max: float = 3.0

    # In what time the wait's distance from the target is made good: three times the loop's delay.
    correct_over_s: float = 2.0
    # At least: in a pause of 10 s this adds half a second of work.
    share_min: float = 0.05
    # At most: an empty queue fills to the target in two to three seconds.
    share_max: float = 1.5
    # While what is decided proves to be older than the prediction says: drain, whatever it says.
    share_doubtful: float = 0.9
    # Admitted a second when shedding begins before any rate was measured, and while hardly anything
    # waits: enough to measure a rate by.
    unmeasured_per_s: float = 200.0

    # The longest predicted wait that is admitted while nothing is shed, the same as while shedding:
    # the onset of a steep overload fills the queue to this before the level has risen, and whoever
    # is let in then is promised as much as those who come later.
    wait_max_ms: int = 2_850
    # While shedding, as a multiple of the target. What is promised is twice the target, and who is
    # let in at the very bound waits by a prediction, which errs by a twentieth.
    shedding_wait_max: float = 1.9

    # A failover or a restart takes seconds; calls within them meet errors of their own, not ours.
    unreachable_after_s: float = 2.0
    # Reachable this long before anything is admitted again: a flapping server answers now and then.
    reopen_after_s: float = 2.0
    # At 1 Valkey refuses to write; below it there must be room for what is already under way.
    valkey_memory: Band = Band(0.95, 0.85)
    # These slow us before they stop us: issuance pauses.
    postgres_ms: Band = Band(500, 200)
    postgres_connections: Band = Band(0.95, 0.85)
    dispatch_lag: Band = Band(2.0, 0.5)  # shares of the target

    def __post_init__(self) -> None:
        ours = (self.throttled, self.shedding, self.dispatch_lag)
        theirs = (self.valkey_memory, self.postgres_ms, self.postgres_connections)
        faults = [
            fault
            for fault, present in {
                "target_wait_ms must be above 0": self.target_wait_ms <= 0,
                "a band must leave below where it enters": any(
                    not 0 <= band.leave < band.enter for band in ours + theirs
                ),
                "shedding must enter above throttled": (
                    self.shedding.enter <= self.throttled.enter
                    or self.shedding.leave < self.throttled.leave
                ),
                "shedding must leave below the target, where it keeps the wait": (
                    self.shedding.leave >= 1
                ),
                "share_min must be above 0 and below share_doubtful": (
                    not 0 < self.share_min < self.share_doubtful < 1
                ),
                "share_max must be above 1": self.share_max <= 1,
                "unmeasured_per_s must be above 0": self.unmeasured_per_s <= 0,
                "correct_over_s must be above 0": self.correct_over_s <= 0,
                "times must not be below 0": (
                    min(self.enter_after_s, self.unreachable_after_s, self.reopen_after_s) < 0
                ),
                "leave_after_s must be above enter_after_s": (
                    self.leave_after_s <= self.enter_after_s
                ),
                "relapse_factor_max must not be below 1": self.relapse_factor_max < 1,
                "shedding_wait_max must be above 1": self.shedding_wait_max <= 1,
                "wait_max_ms must not be below shedding's": (
                    self.wait_max_ms < self.shedding_wait_max * self.target_wait_ms
                ),
            }.items()
            if present
        ]
        if faults:
            raise ValueError("; ".join(faults))
