"""The books: what this sender saw, one line for each intent key.

They are kept apart from everything the system says of itself, so that the two can be compared. What
they can prove alone: every receipt has exactly one outcome, a key is always answered with the same
intent, no two keys share one, an outcome never changes, and no known key is ever told no.
"""

from __future__ import annotations

from array import array
from collections import Counter
from datetime import datetime
from enum import IntEnum
from math import inf

from msgspec import Struct

from deploy.load.histogram import Histogram

Times = tuple[datetime, datetime]  # accepted and decided, by the server's clock


class State(IntEnum):
    """Where an intent stands. A receipt stays one whatever is answered after it."""

    PLANNED = 0
    ACCEPTED = 1
    REFUSED = 2  # told no, and the sender has given up; `reasons` says why
    UNKNOWN = 3  # a reply was lost and asking again did not help
    UNSENT = 4  # no connection could be had


# As plain numbers: these two are asked about for every answer.
_ACCEPTED, _REFUSED = int(State.ACCEPTED), int(State.REFUSED)


class Faults(Struct, frozen=True):
    """Broken promises. A sound system has none."""

    receipts_without_outcome: int = 0
    receipts_forgotten: int = 0  # a receipt's key is not known any more
    keys_answered_differently: int = 0  # one key, two intents
    intents_shared: int = 0  # two keys, one intent
    outcomes_changed: int = 0
    false_noes: int = 0  # a key with a receipt was told no afterwards

    @property
    def none(self) -> bool:
        """Whether everything was kept."""
        return self == Faults()


class Tally(Struct, frozen=True):
    """The books' totals at one moment."""

    intents: int
    sent: int  # intents sent at least once
    posts: int  # HTTP posts written, retries and repeats with them
    accepted: int
    refused: int
    unknown: int
    unsent: int
    committed: int
    refused_later: int  # accepted, then refused with a reason
    retries: int
    lost: int
    repeats_same: int
    repeats_other: int


class Books:
    """One run's books. Times are seconds on the sender's monotonic clock."""

    def __init__(self, intents: int) -> None:
        self.state = bytearray(intents)
        self.intent_ids: list[str | None] = [None] * intents
        self.outcomes: list[str | None] = [None] * intents
        self.coupon_codes: dict[int, str] = {}
        self.reasons: dict[int, str] = {}
        self.refused_by: Counter[str] = Counter()
        #: Every no that was told, also to senders who came back; `refused_by` counts intents.
        self.told: Counter[str] = Counter()
        self.outcomes_by: Counter[str] = Counter()
        #: From the moment a send was due to its receipt, or its no: what the sender's user felt.
        self.acceptance = Histogram()
        self.refusal = Histogram()
        #: From the first moment an intent was due to its receipt, waits and retries with it.
        self.first_due_to_receipt = Histogram()
        #: From writing to answer, whatever was answered: the server alone.
        self.reply = Histogram()
        #: From due to written: what this sender, or the want of a connection, added.
        self.lateness = Histogram()
        #: From receipt to outcome, by the server's own clock.
        self.sojourn = Histogram()
        self.first_accepted_at: datetime | None = None
        self.last_decided_at: datetime | None = None
        self.posts = self.retries = self.lost = self.repeats_same = 0
        self._first_due = array("d", [inf]) * intents
        self._accepted_at = array("d", [inf]) * intents
        self._states = [0] * len(State)
        self._states[State.PLANNED] = intents
        self._sent = 0
        self._forgotten: set[int] = set()
        self._other: set[int] = set()
        self._changed: set[int] = set()
        self._false_noes: set[int] = set()

    def due(self, i: int, at: float) -> None:
        """Intent `i` is due to be sent."""
        if self._first_due[i] == inf:
            self._first_due[i] = at
            self._sent += 1

    def accepted(self, i: int, intent_id: str, now: float) -> None:
        """A receipt for intent `i`, the first or again."""
        known = self.intent_ids[i]
        if known is not None:
            if known == intent_id:
                self.repeats_same += 1
            else:
                self._other.add(i)
            return
        self.intent_ids[i] = intent_id
        self._accepted_at[i] = now
        self.first_due_to_receipt.record(now - self._first_due[i])
        self._move(i, _ACCEPTED)

    def refused(self, i: int, reason: str, written_at: float) -> None:
        """A final no for intent `i`, to a post written at `written_at`."""
        if self.state[i] == State.ACCEPTED:
            # A no that crossed the receipt on its way is not a lie; one asked for later is.
            if written_at > self._accepted_at[i]:
                self._false_noes.add(i)
            return
        if self.state[i] in (State.PLANNED, State.UNSENT):
            self.reasons[i] = reason
            self.refused_by[reason] += 1
            self._move(i, State.REFUSED)

    def unknown(self, i: int) -> None:
        """Nobody could say whether intent `i` was accepted."""
        if self.state[i] != State.ACCEPTED:
            self._move(i, State.UNKNOWN)

    def unsent(self, i: int) -> None:
        """Intent `i` never left."""
        if self.state[i] == State.PLANNED:
            self._move(i, State.UNSENT)

    def cleared(self, i: int, reason: str) -> None:
        """Asked later, the system says that intent `i` was surely not accepted."""
        self._move(i, State.PLANNED)
        self.refused(i, reason, 0.0)

    def forgotten(self, i: int) -> None:
        """The system does not know the receipt of intent `i` any more."""
        self._forgotten.add(i)

    def remembered(self, i: int, intent_id: str) -> None:
        """The system, asked again, names the intent it knows under key `i`."""
        if self.intent_ids[i] == intent_id:
            self._forgotten.discard(i)
        else:
            self._other.add(i)

    def decided(self, i: int, outcome: str, times: Times | None = None) -> None:
        """The outcome of intent `i`: `committed` or the reason of its refusal."""
        known = self.outcomes[i]
        if known is not None:
            if known != outcome:
                self._changed.add(i)
            return
        self.outcomes[i] = outcome
        self.outcomes_by[outcome] += 1
        if times is not None:
            accepted_at, decided_at = times
            self.sojourn.record((decided_at - accepted_at).total_seconds())
            self.first_accepted_at = min(self.first_accepted_at or accepted_at, accepted_at)
            self.last_decided_at = max(self.last_decided_at or decided_at, decided_at)

    def undecided(self) -> list[int]:
        """Receipts whose outcome is not known yet, in the order of their intents."""
        accepted = State.ACCEPTED
        return [
            i
            for i, state in enumerate(self.state)
            if state == accepted and self.outcomes[i] is None
        ]

    def in_state(self, state: State) -> list[int]:
        """Intents that stand there."""
        return [i for i, at in enumerate(self.state) if at == state]

    def tally(self) -> Tally:
        """Add up; cheap enough for every frame of a display."""
        decided = self.outcomes_by.total()
        committed = self.outcomes_by["committed"]
        return Tally(
            intents=len(self.state),
            sent=self._sent,
            posts=self.posts,
            accepted=self._states[State.ACCEPTED],
            refused=self._states[State.REFUSED],
            unknown=self._states[State.UNKNOWN],
            unsent=self._states[State.UNSENT],
            committed=committed,
            refused_later=decided - committed,
            retries=self.retries,
            lost=self.lost,
            repeats_same=self.repeats_same,
            repeats_other=len(self._other),
        )

    def faults(self) -> Faults:
        """Say what was broken, by what is known now."""
        known = [intent_id for intent_id in self.intent_ids if intent_id is not None]
        return Faults(
            receipts_without_outcome=len(self.undecided()),
            receipts_forgotten=len(self._forgotten),
            keys_answered_differently=len(self._other),
            intents_shared=len(known) - len(set(known)),
            outcomes_changed=len(self._changed),
            false_noes=len(self._false_noes),
        )

    def _move(self, i: int, state: int) -> None:
        before = self.state[i]
        if before == _REFUSED:
            self.refused_by[self.reasons.pop(i)] -= 1
        self._states[before] -= 1
        self._states[state] += 1
        self.state[i] = state
