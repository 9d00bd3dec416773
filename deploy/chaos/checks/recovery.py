"""Recovery: it drains and serves again by itself, nothing has grown, and the run proved something."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from deploy.chaos.checks.finding import Finding, Gathered, findings
from deploy.chaos.sampler import ProcessUse

_MEGABYTE: Final = 1024 * 1024
MEMORY_GROWTH_MAX: Final = 150 * _MEGABYTE  # of one process; a batch of a backlog takes some 20 MB
FILES_GROWTH_MAX: Final = 700  # of one process: the driver's own connections come to it
CONNECTIONS_MAX: Final = 97  # of the embedded server's 100 three are its superuser's
UNACKNOWLEDGED_MAX: Final = 1_000
HINTS_MAX: Final = 2_000
_FAULTS_DONE_SHARE_MIN: Final = 0.25  # others may find their victim dead already


def drained_and_serving(gathered: Gathered) -> list[Finding]:
    """After the last fault nothing stays open, everybody is answered, and a new intent is served."""
    late = []
    if gathered.drained_s is None:
        late.append(f"intents are still open {gathered.drain_s_max:.0f} s after the last fault")
    if not gathered.answered_all:
        late.append(f"buyers are still without an answer after {gathered.drain_s_max:.0f} s")
    if gathered.recovered_s is None:
        late.append(f"no new intent was served within {gathered.drain_s_max:.0f} s")
    return findings("drained and serving", "I10", "not recovered by itself", late)


def nothing_grows(gathered: Gathered) -> list[Finding]:
    """Memory and open files of each process, connections and hints stay within bounds."""
    lives: defaultdict[tuple[int, int], list[ProcessUse]] = defaultdict(list)
    for sample in gathered.samples:
        for use in sample.processes:
            lives[use.pid, use.started].append(use)
    grown = []
    for uses in lives.values():
        memory = max(use.memory_bytes for use in uses) - uses[0].memory_bytes
        files = max(use.files for use in uses) - uses[0].files
        name = f"{uses[0].role} {uses[0].pid}"
        if memory > MEMORY_GROWTH_MAX:
            grown.append(f"{name}: {memory // _MEGABYTE} MB of memory more")
        if files > FILES_GROWTH_MAX:
            grown.append(f"{name}: {files} open files more")
    last = [sample for sample in gathered.samples if sample.connections is not None][-1:]
    grown += [
        f"{sample.connections} connections in the end"
        for sample in last
        if (sample.connections or 0) > CONNECTIONS_MAX
    ]
    most = max((sample.unacknowledged or 0 for sample in gathered.samples), default=0)
    if most > UNACKNOWLEDGED_MAX:
        grown.append(f"{most} hints unacknowledged")
    most = max((sample.hints or 0 for sample in gathered.samples), default=0)
    if most > HINTS_MAX:
        grown.append(f"{most} hints in the queue")
    return findings("nothing grows", "I12", "beyond its bound", grown)


def nothing_stays_in_flight(gathered: Gathered) -> list[Finding]:
    """When nothing is open the gate counts nothing: what it went on counting would bar others."""
    left = gathered.in_flight_left
    broken = [] if left == 0 else ["the gate cannot be asked" if left is None else f"{left} ids"]
    return findings("nothing stays in flight", "I12", "in flight for the gate, and decided", broken)


def something_was_proven(gathered: Gathered) -> list[Finding]:
    """A run without receipts, orders or faults proves nothing, and must not look as if it did."""
    receipts = {e.key for e in gathered.history if e.op == "post" and e.phase == "ok"}
    lacking = []
    if len(receipts) < gathered.receipts_min:
        lacking.append(f"{len(receipts)} receipts, {gathered.receipts_min} expected at least")
    if gathered.receipts_min and not gathered.tables.orders:
        lacking.append("no order came about")
    if gathered.faults_done < gathered.faults_planned * _FAULTS_DONE_SHARE_MIN:
        lacking.append(f"{gathered.faults_done} of {gathered.faults_planned} faults could be done")
    if gathered.receipts_min and not any(sample.accounts for sample in gathered.samples):
        lacking.append("no sample could be taken")
    return findings("something was proven", "I1", "too little happened to tell", lacking)


def audit_is_clean(gathered: Gathered) -> list[Finding]:
    """The product's own audit finds nothing either."""
    return findings("audit is clean", "I7", "the audit's rules", gathered.audit_violated)
