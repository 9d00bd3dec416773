"""Storms: once what set it off is over, as much is served as before, though everybody still comes."""

from __future__ import annotations

from typing import Final

from deploy.chaos.checks.finding import Finding, Gathered, findings

CALM_AFTER_S: Final = 4.0  # so long those who were kept waiting may still be in the way
SERVED_SHARE_MIN: Final = (
    0.6  # of what was served before; the machine has other things to do as well
)
WINDOW_S_MIN: Final = 2.0  # of a shorter look nothing follows


def served_as_before(gathered: Gathered) -> list[Finding]:
    """Receipts come again as fast as before the storm, while new buyers come as fast as then."""
    storm = gathered.storm
    if storm is None:
        return []
    first: dict[str, float] = {}
    for entry in gathered.history:
        if entry.op == "post" and entry.phase == "ok":
            first.setdefault(entry.key, entry.at)
    begun = min(first.values(), default=storm.began)
    before_s = storm.began - begun
    after_s = storm.last_arrival_at - storm.ended - CALM_AFTER_S
    check = "served as before"
    if min(before_s, after_s) < WINDOW_S_MIN:
        short = [f"{before_s:.1f} s before, {after_s:.1f} s after the storm"]
        return findings(check, "I10", "too short a look to tell", short)
    before = sum(at < storm.began for at in first.values()) / before_s
    calm_at = storm.ended + CALM_AFTER_S
    after = sum(calm_at <= at <= storm.last_arrival_at for at in first.values()) / after_s
    slow = [f"{before:.0f} receipts/s before the storm, {after:.0f}/s after it"]
    broken = slow if after < before * SERVED_SHARE_MIN else []
    return findings(check, "I10", "the storm feeds itself", broken)
