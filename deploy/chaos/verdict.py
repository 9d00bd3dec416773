"""The verdict on one scenario, and how it is printed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from deploy.chaos.checks.finding import Finding


class Verdict(Struct, frozen=True, kw_only=True):
    """How a scenario ended. `not_run` says why it could not run here; then nothing else counts."""

    scenario: str
    seed: int
    duration_s: float
    clean: bool
    not_run: str = ""
    findings: list[Finding] = []
    faults: dict[str, int] = {}  # done, by kind
    faults_not_done: int = 0
    kills: int = 0
    figures: dict[str, float] = {}
    evidence: str = ""
    said: str = ""  # of a scenario that is not judged by findings


class Report(Struct, frozen=True, kw_only=True):
    """All verdicts of one command, and what they took. `complete`: all that was asked for ran."""

    clean: bool
    complete: bool
    verdicts: list[Verdict]
    took_s: float = 0.0


def report(verdicts: Sequence[Verdict], took_s: float = 0.0) -> Report:
    """Add verdicts up."""
    return Report(
        clean=all(one.clean for one in verdicts if not one.not_run),
        complete=not any(one.not_run for one in verdicts),
        verdicts=list(verdicts),
        took_s=round(took_s, 1),
    )


def remark(verdict: Verdict) -> str:
    """Say a verdict in one line."""
    if verdict.not_run:
        return f"not run here: {verdict.not_run}"
    if verdict.said:
        return verdict.said
    figures = verdict.figures
    counts = (
        f"{sum(verdict.faults.values())} faults, {figures.get('receipts', 0):,.0f} receipts, "
        f"{figures.get('orders', 0):,.0f} orders, drained in {figures.get('drained_s', 0):.1f} s"
    )
    if verdict.clean:
        return f"clean: {counts}"
    broken = ", ".join(sorted({one.breaks for one in verdict.findings}))
    return f"VIOLATED {broken}: {counts}"


def lines(verdict: Verdict) -> Iterator[str]:
    """Say a verdict in full."""
    yield f"{verdict.scenario}, seed {verdict.seed}: {remark(verdict)}"
    if verdict.not_run:
        return
    done = ", ".join(f"{kind} {count}" for kind, count in sorted(verdict.faults.items()))
    if done:
        left_out = (
            f"; {verdict.faults_not_done} could not be done" if verdict.faults_not_done else ""
        )
        yield f"    faults: {done}{left_out}"
    for finding in verdict.findings:
        yield f"    {finding.breaks} {finding.check}: {finding.count} {finding.said}"
        yield from (f"        {example}" for example in finding.examples)
    if verdict.evidence:
        yield f"    evidence: {verdict.evidence}"


def summary(of: Report) -> Iterator[str]:
    """Say what it all came to."""
    ran = [one for one in of.verdicts if not one.not_run]
    faults = sum(sum(one.faults.values()) for one in ran)
    receipts = sum(one.figures.get("receipts", 0) for one in ran)
    violated = [one.scenario for one in ran if not one.clean]
    word = "clean" if of.clean else f"VIOLATED in {', '.join(violated)}"
    longest = max((one.figures.get("recovered_s", 0) for one in ran), default=0)
    yield (
        f"{word}: {len(ran)} scenarios in {of.took_s / 60:.1f} minutes, {faults:,} faults, "
        f"{receipts:,.0f} receipts, longest recovery {longest:.1f} s"
    )
    for one in of.verdicts:
        if one.not_run:
            yield f"not complete: {one.scenario} was not run here: {one.not_run}"
