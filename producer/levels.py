"""The overload level as this process knows it: asked for again and again, told on change.

    governor ──publishes──▶ gate ──asked every 200 ms──▶ LevelBook ──▶ answers, status, streams
    operator ──orders──▶ PostgreSQL ──▶ LimitBook ──────────┘

What is told is decided by `standing_of`, a pure rule: what an operator ordered outranks what the
governor published; without the gate's Valkey nothing can be admitted, so each process answers
`closed` by itself; and where the governor's lease has lapsed, its level and rate count no longer:
rate limits, the in-flight bound and the wait by its last service rate hold, and the standing says
that nobody governs.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

import structlog
from msgspec import Struct, field
from msgspec.structs import replace

from producer.answers import CALLERS_LIMITS, Accepted, Answer, IssuancePaused, Limited
from producer.limits import Rules
from workers.contract.gate import GateUnreachable
from workers.domain.overload import Level, Policy

_log = structlog.get_logger()

ASK_INTERVAL_S: Final = 0.2
SILENCE_S_MAX: Final = 1.0  # without an answer of the gate's for longer, it counts as away
CLOSE_S_MAX: Final = 1.0  # nobody waits longer for a thread that a dead server holds
_RATIO_WEIGHT: Final = 0.1  # of one interval's answers: the last two seconds or so count
_CLOSED_RETRY_MS: Final = 5_000  # when to look again at what opens at a time nobody knows
_SHEDDING_RETRY_MS_MIN: Final = 1_000


class Published(Protocol):
    """What the gate tells of the governor's word (`Gate.policy`)."""

    @property
    def policy(self) -> Policy | None: ...
    @property
    def epoch(self) -> int: ...
    @property
    def lease_left_ms(self) -> int: ...
    @property
    def in_flight(self) -> int: ...


class CampaignStanding(Struct, frozen=True):
    """What the chat layer may want to know of a campaign.

    `paused`: an operator has paused its issuance, until `resume_at` if that is known.
    """

    paused: bool
    resume_at: datetime | None
    starts_at: datetime
    ends_at: datetime


class Standing(Struct, frozen=True, kw_only=True):
    """How things stand. Times are Unix ms.

    `governed`: the governor's lease is alive. `reachable`: the gate was heard within the last second.
    `admit_ratio` is the share of the intents answered here lately that were not refused by a limit
    of ours. `epoch` is the publishing governor's.
    """

    level: Level = Level.NORMAL
    reason: str = ""
    since_ms: int = 0
    until_ms: int | None = None
    governed: bool = False
    reachable: bool = True
    epoch: int = 0
    predicted_wait_ms: int | None = None  # None: nobody has measured it
    in_flight: int = 0
    admit_ratio: float = 1.0
    campaigns: Mapping[str, CampaignStanding] = field(default_factory=dict)

    @property
    def issuance_paused(self) -> bool:
        """Whether coupons are given out nowhere."""
        return self.level is not Level.NORMAL

    @property
    def redemption_paused(self) -> bool:
        """Whether no order is taken at all."""
        return self.level is Level.CLOSED

    def retry_after_ms(self, now_ms: int) -> int:
        """Return when an intent not yet sent had best be sent: 0 is now. Without jitter."""
        match self.level:
            case Level.NORMAL | Level.THROTTLED:
                return 0
            case Level.SHEDDING:
                return max(_SHEDDING_RETRY_MS_MIN, self.predicted_wait_ms or 0)
            case Level.CLOSED:
                left_ms = 0 if self.until_ms is None else self.until_ms - now_ms
                return left_ms if left_ms > 0 else _CLOSED_RETRY_MS

    @property
    def news(self) -> tuple[object, ...]:
        """What listeners are told of at once when it changes; mere figures they hear in time."""
        return (
            self.level,
            self.reason,
            self.since_ms,
            self.until_ms,
            self.governed,
            self.reachable,
            self.campaigns,
        )


def standing_of(
    published: Published | None, rules: Rules, before: Standing, now_ms: int
) -> Standing:
    """Decide what holds, from the latest of each source; `published` is None if the gate is away.

    `since_ms` is when the level and its reason began to hold, as far as this process knows.
    """
    ordered = rules.limits.ordered
    if ordered is not None and ordered.until_ms is not None and ordered.until_ms <= now_ms:
        ordered = None
    governed = (
        published is not None and published.policy is not None and published.lease_left_ms > 0
    )
    policy = published.policy if published is not None and governed else None
    if published is None and (ordered is None or ordered.level is not Level.CLOSED):
        holds = Policy(level=Level.CLOSED, reason="valkey")
    else:
        holds = ordered or policy or Policy()
    goes_on = (before.level, before.reason) == (holds.level, holds.reason)
    since_ms = holds.since_ms or (before.since_ms if goes_on else 0) or now_ms
    return Standing(
        level=holds.level,
        reason=holds.reason,
        since_ms=since_ms,
        until_ms=holds.until_ms,
        governed=governed,
        reachable=published is not None,
        epoch=before.epoch if published is None else published.epoch,
        predicted_wait_ms=None if policy is None else policy.predicted_wait_ms,
        in_flight=before.in_flight if published is None else published.in_flight,
        admit_ratio=before.admit_ratio,
        campaigns=_campaigns(rules, datetime.fromtimestamp(now_ms / 1_000, UTC)),
    )


def _campaigns(rules: Rules, now: datetime) -> dict[str, CampaignStanding]:
    """Return the campaigns that are not over."""
    standings = {}
    for campaign_id, term in rules.windows.items():
        if term.ends_at > now:
            resume_at = rules.issuance_pauses.get(campaign_id)
            paused = campaign_id in rules.issuance_pauses and (resume_at is None or resume_at > now)
            standings[campaign_id] = CampaignStanding(
                paused, resume_at if paused else None, term.starts_at, term.ends_at
            )
    return standings


class LevelBook:
    """Holds the latest standing; a thread keeps it, anybody reads it."""

    def __init__(
        self,
        ask: Callable[[], Published] | None = None,
        rules: Callable[[], Rules] = Rules,
    ) -> None:
        """`ask` asks the gate (it may raise `GateUnreachable`); without it nothing ever changes.

        `rules` returns the operators' word; it is called from the thread, and must be quick.
        """
        self._ask = ask
        self._rules = rules
        self._listeners: list[tuple[asyncio.AbstractEventLoop, Callable[[], None]]] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="levels", daemon=True)
        self._heard_at = time.monotonic()
        self._tally = _Tally()
        self.standing = Standing(since_ms=time.time_ns() // 1_000_000)
        self.policy: Policy | None = None  # as published, while its lease holds

    def start(self) -> None:
        """Begin to keep the standing."""
        if self._ask is not None:
            self._thread.start()

    def close(self) -> None:
        """Stop keeping it; whoever listened is told nothing more."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(timeout=CLOSE_S_MAX)

    def listen(self, wake: Callable[[], None]) -> None:
        """Call `wake` on the running loop whenever there is news, until the loop ends."""
        self._listeners.append((asyncio.get_running_loop(), wake))

    def observe(self, answers: Sequence[Answer]) -> None:
        """Note what was answered to intents; on the event loop."""
        self._tally.note(answers)

    def _keep(self) -> None:
        while not self._ending.is_set():
            try:
                self._look()
            except Exception:  # a level that no longer moves would be told for ever
                _log.exception("level not kept")
            self._ending.wait(ASK_INTERVAL_S)

    def _look(self) -> None:
        before = self.standing
        published = self._published()
        if published is None and before.reachable and not self._is_silent():
            return  # not away yet: what was heard last holds
        if published is None:
            self.policy = None
        now_ms = time.time_ns() // 1_000_000
        standing = standing_of(published, self._rules(), before, now_ms)
        self.standing = replace(standing, admit_ratio=self._tally.ratio())
        if self.standing.news != before.news:
            self._tell(before)

    def _published(self) -> Published | None:
        """Ask the gate; None if it cannot be asked."""
        assert self._ask is not None, "the thread runs only with somebody to ask"
        try:
            published = self._ask()
        except GateUnreachable:
            return None
        except Exception:  # a fault of ours: nothing was heard all the same
            _log.exception("gate not asked")
            return None
        self._heard_at = time.monotonic()
        self.policy = published.policy if published.lease_left_ms > 0 else None
        return published

    def _is_silent(self) -> bool:
        return time.monotonic() - self._heard_at > SILENCE_S_MAX

    def _tell(self, before: Standing) -> None:
        now = self.standing
        if (now.level, now.reason, now.governed) != (before.level, before.reason, before.governed):
            _log.info("overload", overload_level=now.level, why=now.reason, governed=now.governed)
        for loop, wake in self._listeners:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and its listeners
                loop.call_soon_threadsafe(wake)


class _Tally:
    """What share of the intents got past our own limits: counted by the loop, read by the thread."""

    def __init__(self) -> None:
        self._admitted = self._refused = 0
        self._seen = (0, 0)
        self._ratio = 1.0

    def note(self, answers: Sequence[Answer]) -> None:
        """Count; what was refused by a limit of the caller's own says nothing of us."""
        refused = admitted = 0
        for answer in answers:
            kind = type(answer)
            if kind is Accepted:
                admitted += 1
            elif kind is IssuancePaused or (
                isinstance(answer, Limited) and answer.limit not in CALLERS_LIMITS
            ):
                refused += 1
        self._admitted += admitted
        self._refused += refused

    def ratio(self) -> float:
        """Return the share lately; to be asked once an interval."""
        now = (self._admitted, self._refused)
        admitted, refused = now[0] - self._seen[0], now[1] - self._seen[1]
        self._seen = now
        asked = admitted + refused
        fresh = admitted / asked if asked else 1.0  # nobody refused is nobody kept out
        self._ratio += _RATIO_WEIGHT * (fresh - self._ratio)
        return round(self._ratio, 3)
