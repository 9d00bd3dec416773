"""Reads (Jepsen's set): an intent that was promised before a question began is found by it."""

from __future__ import annotations

from deploy.chaos.checks.finding import Finding, Gathered, findings
from deploy.chaos.history import Entry


def no_receipt_is_lost(gathered: Gathered) -> list[Finding]:
    """Not found after its receipt: lost if it was never found again, stale if it was."""
    promised_at: dict[str, float] = {}
    began: dict[int, float] = {}
    last: dict[str, Entry] = {}
    unseen: dict[str, Entry] = {}
    for entry in gathered.history:
        if entry.op == "post" and entry.phase == "ok":
            promised_at.setdefault(entry.key, entry.at)
        elif entry.op in ("poll", "find"):
            if entry.phase == "invoke":
                began[entry.call] = entry.at
            elif entry.phase in ("ok", "missing"):
                asked_at = began.get(entry.call, entry.at)
                if entry.phase == "missing" and asked_at > promised_at.get(entry.key, float("inf")):
                    unseen[entry.key] = entry
                last[entry.key] = entry
    lost = [name for name in unseen if last[name].phase == "missing"]
    stale = [name for name in unseen if last[name].phase == "ok"]
    rebodied = [
        f"{entry.key}: {entry.reason or entry.http}"
        for entry in gathered.history
        if entry.op == "rebody" and entry.phase == "missing"
    ]
    check = "no receipt is lost"
    return [
        *findings(check, "I1", "promised, and not found any more", lost),
        *findings(check, "I8", "promised, not found, and found again later", stale),
        *findings(check, "I8", "promised, and their key was refused as if it were new", rebodied),
    ]
