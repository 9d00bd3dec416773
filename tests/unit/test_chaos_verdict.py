"""What findings come to: verdicts, reports, kills over many runs, mutations noticed or not."""

from __future__ import annotations

from pathlib import Path

from deploy.chaos import comparison, suite
from deploy.chaos.checks.finding import Finding
from deploy.chaos.kills import Kills, add, add_beside, read, write
from deploy.chaos.kills import lines as kills_lines
from deploy.chaos.mutations import MUTATIONS
from deploy.chaos.scenario import INVARIANTS
from deploy.chaos.scenarios import SCENARIOS
from deploy.chaos.verdict import Verdict, lines, remark, report, summary

BROKEN = Finding(check="told", breaks="I8", said="changed", count=1, examples=["i-1"])


def verdict(clean: bool, *, kills: int = 3, not_run: str = "") -> Verdict:
    return Verdict(
        scenario="s",
        seed=1,
        duration_s=1.0,
        clean=clean,
        findings=[] if clean or not_run else [BROKEN],
        kills=kills,
        figures={"receipts": 10.0},
        not_run=not_run,
    )


def test_a_report_is_clean_if_all_that_ran_was_and_complete_if_all_ran() -> None:
    assert (report([verdict(True)]).clean, report([verdict(True)]).complete) == (True, True)
    partly = report([verdict(True), verdict(False, not_run="no root")])
    assert (partly.clean, partly.complete) == (True, False)
    assert any("not complete" in line for line in summary(partly))
    assert not report([verdict(True), verdict(False)]).clean


def test_a_violated_verdict_names_the_invariant_and_an_example() -> None:
    assert "VIOLATED I8" in remark(verdict(False))
    assert any("i-1" in line for line in lines(verdict(False)))


def test_kills_add_up_over_runs_and_a_violation_is_never_forgotten() -> None:
    kills = add(add(add(Kills(), verdict(True)), verdict(False)), verdict(True))
    assert (kills.kills, kills.receipts, kills.violations, len(kills.runs)) == (9, 30, 1, 3)
    assert not kills.clean


def test_what_kills_do_to_others_stands_beside_and_is_kept_by_later_runs() -> None:
    beside = comparison.judge(1, 1.0, ["a", "b", "c"], done=["a", "a"], parked=1, kills=2)
    kills = add(add_beside(add(Kills(), verdict(True)), beside), verdict(True))
    assert [(run.kills, run.sent, run.lost, run.parked, run.doubled) for run in kills.beside] == [
        (2, 3, 1, 1, 1)
    ]
    ours, so, others = kills_lines(kills)
    assert "6 kills in 2 runs" in ours
    assert "no violation" in ours
    assert "less than 50.00%" in so
    assert "3 messages, 1 lost" in others


def test_kills_begin_at_none_and_are_read_back_from_their_file(tmp_path: Path) -> None:
    assert read(tmp_path) == Kills()
    kills = add(Kills(), verdict(False))
    write(tmp_path, kills)
    assert read(tmp_path) == kills


def test_a_plain_consumer_loses_what_is_neither_done_nor_parked() -> None:
    sent = ["a", "b", "c", "d"]
    lossy = comparison.judge(1, 1.0, sent, done=["a", "a"], parked=1, kills=2)
    assert (lossy.figures["lost"], lossy.figures["doubled"], lossy.clean) == (2, 1, True)
    assert not comparison.judge(1, 1.0, sent, done=["a", "b"], parked=2, kills=2).clean


def test_a_mutation_is_noticed_only_by_what_it_breaks() -> None:
    """That something else went red shows nothing."""
    by_name = {
        breaks: next(m for m in MUTATIONS.values() if m.breaks == breaks)
        for breaks in (("I8",), ("I2",))
    }
    assert suite.judge(by_name["I8",], verdict(False)).noticed
    assert not suite.judge(by_name["I2",], verdict(False)).noticed
    assert not suite.judge(by_name["I8",], verdict(True)).noticed


def test_every_mutation_breaks_an_invariant_in_a_scenario_that_there_is() -> None:
    for mutation in MUTATIONS.values():
        assert set(mutation.breaks) <= set(INVARIANTS)
        assert mutation.scenario in SCENARIOS


def test_scenarios_of_one_variety_come_together_in_the_order_of_their_first() -> None:
    chosen = suite.chosen("kills,lost-commits,poison,cut-network")
    ordered = [one.name for one in suite.by_variety(chosen)]
    assert ordered == ["kills", "poison", "lost-commits", "cut-network"]


def test_all_is_every_scenario() -> None:
    assert {one.name for one in suite.chosen("all")} == set(SCENARIOS)
