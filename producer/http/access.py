"""The access log: one wide event for a call.

Told are a share of all calls, by the id of their trace or of their intent, so that what a trace or
an intent went through is told by every process or by none; and every refusal of our making, the
first few of each kind, and how many more there were. Whoever is not to be told of costs a
comparison: the decision comes before anything is made.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import structlog

from config import exceptions, logging
from config.repetition import Key
from config.sampling import Sample
from producer.answers import Accepted, Answer, Conflict, Replayed
from producer.metering import word_of
from workers.domain.overload import Level

if TYPE_CHECKING:
    from producer.http.calls import Call

_log = structlog.get_logger()

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Well beyond a share that somebody reads; whoever chooses his traces' ids writes no more than this.
SAMPLED_MAX: Final = 1_000
_SAMPLED_KEY: Final = ("info", "request", "sampled")
IDS_MAX: Final = 5  # of intents named for one batch


class AccessLog:
    """Tells of calls, as `sample_share` and what became of them want it."""

    def __init__(self, sample_share: float = 0.0) -> None:
        self._sample = Sample(sample_share)

    def note(self, call: Call, status: int) -> None:
        """Note that a call was answered."""
        if status >= 500 or (call.items is not None and max(call.items, default=0) >= 500):
            level = "error" if call.fault is not None else "warning"
            if logging.repetition.admit(_kind_of(call, level, status)):
                self._tell(call, status, level)
        elif self._is_sampled(call) and logging.repetition.admit(_SAMPLED_KEY, SAMPLED_MAX):
            self._tell(call, status, "info")
        call.fault = None  # it holds the frames that hold the call

    def _is_sampled(self, call: Call) -> bool:
        sample, given = self._sample, call.given
        if type(given) is Accepted:  # a trace that nobody brought is known by its spans alone
            told = sample.holds(given.intent_id.int)
            followed = b"traceparent" in call.headers or bool(call.context)
            return told or (followed and call.is_in(sample))
        return call.is_in(sample) or any(sample.holds(one.int) for one in call.accepted)

    def _tell(self, call: Call, status: int, level: str) -> None:
        fields: dict[str, Any] = {
            "method": call.method if call.method in METHODS else "other",
            "route": call.route or "none",
            "status": status,
            "duration_ms": round((time.perf_counter() - call.began) * 1_000, 2),
            "trace_id": call.trace_id,
            "gateway": call.gateway,
            **self._of_intents(call),
            "code": call.code,
            "limit": call.limit,
            "overload_level": max(call.level, call.api.levels.standing.level, key=_rank),
            "exc_info": call.fault,
        }
        told = {name: value for name, value in fields.items() if value is not None}
        getattr(_log, level)("request", wide=True, **told)

    def _of_intents(self, call: Call) -> dict[str, Any]:
        """Say what was posted and what became of it: of one intent, or of a batch."""
        if call.items is not None:
            sampled = [one for one in call.accepted if self._sample.holds(one.int)]
            named = sampled[:IDS_MAX]
            return {"intents": call.items.total(), "statuses": call.items, "intent_ids": named}
        if call.posted is None:
            return {}
        posted, given = call.posted, call.given
        campaign = posted.intent.campaign_id
        known = campaign in call.api.levels.standing.campaigns
        return {
            "kind": posted.kind,
            "user_id": posted.intent.user_id,
            "campaign": campaign if known else None,  # else it is only what somebody wrote
            "answer": None if given is None else word_of(given),
            "intent_id": None if given is None else intent_of(given),
        }


def _rank(level: Level) -> int:
    return level.rank


def _kind_of(call: Call, level: str, status: int) -> Key:
    kind = exceptions.kind_of(call.fault) if call.fault is not None else ""
    return (level, "request", call.route, call.code or str(status), call.limit or kind)


def intent_of(answer: Answer) -> UUID | None:
    """Return the intent that an answer is about, where it is about one."""
    match answer:
        case Accepted(intent_id=intent_id) | Conflict(intent_id=intent_id):
            return intent_id
        case Replayed(resource=resource):
            return resource.intent_id
        case _:
            return None
