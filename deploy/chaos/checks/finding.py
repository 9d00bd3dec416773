"""What a check is given, and what it returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct, field

from deploy.chaos.history import Entry
from deploy.chaos.receivers import Heard
from deploy.chaos.sampler import Sample
from deploy.chaos.tables import Tables

EXAMPLES_MAX = 5


class Finding(Struct, frozen=True, kw_only=True):
    """One violation, or several of one kind. `breaks` names the invariant."""

    check: str
    breaks: str
    said: str
    count: int
    examples: list[str]


class Storm(Struct, frozen=True, kw_only=True):
    """What set off a storm of repetitions, and until when new buyers came. Times of the history."""

    began: float
    ended: float
    last_arrival_at: float


class Gathered(Struct, frozen=True, kw_only=True):
    """Everything about one run. Seconds; `recovered_s` is None where it never served again."""

    history: Sequence[Entry] = ()
    tables: Tables = field(default_factory=Tables)
    samples: Sequence[Sample] = ()
    heard: Sequence[Heard] | None = None  # by webhook; None where nobody listens
    campaign_id: str = ""
    initial_stock: dict[str, int] = {}
    budget: int = 0
    orders_per_user_max: int = 0
    sells_out: str = ""  # the SKU that more want than there is
    storm: Storm | None = None
    faults_planned: int = 0
    faults_done: int = 0
    receipts_min: int = 0
    drained_s: float | None = 0.0
    recovered_s: float | None = 0.0
    answered_all: bool = True  # every buyer had a definite answer and an outcome in the end
    in_flight_left: int | None = 0  # at the gate, when it was given its time; None: it cannot say
    drain_s_max: float = 60.0
    audit_violated: list[str] = []


def findings(check: str, breaks: str, said: str, examples: Iterable[str]) -> list[Finding]:
    """Make one finding of all examples; none where there are none."""
    found = list(examples)
    if not found:
        return []
    return [
        Finding(
            check=check, breaks=breaks, said=said, count=len(found), examples=found[:EXAMPLES_MAX]
        )
    ]
