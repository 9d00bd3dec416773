"""Retries: whether and when a sender comes back. Pure.

A lost or unclear reply is asked for again with growing, jittered pauses: the same key makes that
safe, and an unclear reply left alone would be a lie to the user. A no is taken as the profile says.
"""

from __future__ import annotations

from random import Random

from deploy.load.profile import Retry
from deploy.load.wire import Answer, Kind

# A sender who waits as told spreads over this share more, so that a crowd does not return as one.
_SPREAD = 0.1


def pause_s(policy: Retry, said: Answer, attempt: int, random: Random) -> float | None:
    """Return the seconds until attempt `attempt + 1`, or None to go away."""
    if attempt >= policy.attempts_max:
        return None
    told_s = (said.retry_after_ms or 0.0) / 1_000
    match said.kind:
        case Kind.ACCEPTED | Kind.REFUSED:
            return None
        case Kind.UNKNOWN:
            return max(backoff_s(policy, attempt, random), min(told_s, policy.retry_after_max_s))
        case Kind.NO:
            return 0.0 if policy.refused == "at_once" and not said.final else None
        case Kind.LIMITED | Kind.SHED:
            return _after_no(policy, told_s, attempt, random)


def backoff_s(policy: Retry, attempt: int, random: Random) -> float:
    """Double the pause with every attempt, to a bound, and take a random half of it off."""
    return min(policy.backoff_s * 2.0 ** (attempt - 1), policy.backoff_max_s) * (
        1 - random.random() / 2
    )


def _after_no(policy: Retry, told_s: float, attempt: int, random: Random) -> float | None:
    if policy.refused == "never":
        return None
    if policy.refused == "at_once":
        return 0.0
    if told_s > policy.retry_after_max_s:
        return None
    return told_s * (1 + random.random() * _SPREAD) or backoff_s(policy, attempt, random)
