"""The campaign run of the benchmark: what it keeps, how it goes on, what it adds up to."""

from __future__ import annotations

import io
import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from deploy.load import plan
from tests.benchmarks import campaign, campaign_record, campaign_report
from tests.benchmarks.campaign_beside import Beside
from tests.benchmarks.campaign_chunk import GOODS, again, prefix_of, terms
from tests.benchmarks.campaign_log import (
    Beat,
    CampaignLog,
    CampaignLogError,
    Chunk,
    Compared,
    Ended,
    Session,
    Standing,
    Wish,
)
from tests.benchmarks.campaign_screen import CampaignScreen, Pace, clock
from tests.benchmarks.machine import Machine

_WISH = Wish(orders=2_500, chunk=1_000, seed=1, repeats=0.05)
_NOW = datetime(2026, 2, 6, tzinfo=UTC)
_ENDED = Ended(
    at=_NOW,
    session_s=100.0,
    orders_in_tables=2_500,
    receipts=2_500,
    refused_receipts=0,
    audit_clean=True,
    audit_s=3.0,
    audit_checks=22,
    violated=[],
)


def _chunk(number: int, **other: Any) -> Chunk:
    chunk = Chunk(
        number=number,
        orders_before=number * 1_000,
        orders=_WISH.size(number),
        seconds=1.0,
        sending_s=0.9,
        interrupted_s=0.0,
        issuing_s=0.1,
        planning_s=0.1,
        accepted=_WISH.size(number),
        posts=_WISH.size(number),
        repeats_answered_the_same=0,
        retries=0,
        refused={},
        accepted_per_s=1_100.0,
        committed_per_s=1_000.0,
        p50_ms=5.0,
        p99_ms=9.0,
        rss_mib={"api": 80.0},
        cpu_s={"api": 0.1},
        table_bytes={"orders": 1_000_000},
    )
    return replace(chunk, **other)


def _standing(*chunks: Chunk, ended: Ended = _ENDED) -> Standing:
    standing = Standing()
    for entry in (_WISH, Session(at=_NOW), *chunks, ended):
        standing.take(entry)
    return standing


def test_a_run_goes_on_where_its_log_ends(tmp_path: Path) -> None:
    """Finished chunks stay finished; time that a killed session spent counts as spent."""
    path = tmp_path / "run" / "campaign.jsonl"
    with CampaignLog(path, _WISH) as log:
        log.append(Session(at=_NOW))
        log.append(_chunk(0))
        log.append(Beat(session_s=3.0, chunk=1, sending_s=1.5))
    with CampaignLog(path, _WISH) as log:
        log.append(Session(at=_NOW))
        log.append(Beat(session_s=2.0, chunk=1, sending_s=0.5))
    with CampaignLog(path, _WISH) as log:
        log.append(Session(at=_NOW))
        assert (log.standing.orders, log.standing.elapsed_s) == (1_000, 5.0)
        assert log.standing.interrupted_s == 2.0
        log.append(_chunk(1, interrupted_s=2.0))
        assert log.standing.interrupted_s == 0.0


def test_a_line_that_a_crash_tore_is_cut_off(tmp_path: Path) -> None:
    """The file holds whole lines again before the next is added."""
    path = tmp_path / "campaign.jsonl"
    with CampaignLog(path, _WISH) as log:
        log.append(_chunk(0))
    with path.open("ab") as file:
        file.write(b'{"type":"chunk","number":1,"ord')
    with CampaignLog(path, _WISH) as log:
        log.append(Session(at=_NOW))
    assert [json.loads(line)["type"] for line in path.read_text().splitlines()] == [
        "wish",
        "chunk",
        "session",
    ]


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    """Another size or seed would send other orders under the same keys; it is told what to do."""
    path = tmp_path / "campaign.jsonl"
    CampaignLog(path, _WISH).close()
    for other in ({"orders": 3_000}, {"chunk": 500}, {"seed": 2}, {"repeats": 0.0}):
        with pytest.raises(CampaignLogError, match=r"2,500 orders in chunks of 1,000.*--fresh"):
            CampaignLog(path, replace(_WISH, **other))


def test_a_log_that_cannot_be_read_is_named_by_its_line(tmp_path: Path) -> None:
    """Nothing is guessed about a file that somebody edited."""
    path = tmp_path / "campaign.jsonl"
    CampaignLog(path, _WISH).close()
    with path.open("ab") as file:
        file.write(b'{"type":"chunk"}\n')
    with pytest.raises(CampaignLogError, match="line 2"):
        CampaignLog(path, _WISH)


def test_the_last_chunk_may_be_smaller() -> None:
    """The sizes of all chunks are the orders of the run."""
    assert [_WISH.size(n) for n in range(_WISH.chunks)] == [1_000, 1_000, 500]


def test_every_order_of_a_chunk_redeems_a_coupon_and_has_two_lines() -> None:
    """Nothing is planned that must be refused, so that planned orders and orders can be equal."""
    wallet = [(plan.user(n), f"CODE{n:036}") for n in range(500)]
    planned = plan.orders(terms(0.05), GOODS, wallet, count=500, duration_s=0.05, seed=7)
    bodies = [json.loads(body) for body in planned.bodies]
    assert sorted((body["user_id"], body["coupon_code"]) for body in bodies) == sorted(wallet)
    assert {len(body["lines"]) for body in bodies} == {2}
    assert Counter(Counter(planned.index).values()) == {1: 475, 2: 25}


def test_a_refused_order_is_asked_for_anew_under_a_key_of_its_own() -> None:
    """An outcome is for ever, so the same key would only be told it again; the coupon is the same."""
    wallet = [(plan.user(n), f"CODE{n:036}") for n in range(20)]
    planned = plan.orders(terms(0.0), GOODS, wallet, count=20, duration_s=1, seed=7)
    second = again(planned, [3, 5], 2)
    third = again(second, [1], 3)
    assert second.keys == [planned.keys[3] + b"/2", planned.keys[5] + b"/2"]
    assert (third.keys, third.bodies) == ([planned.keys[5] + b"/3"], [planned.bodies[5]])
    assert third.sends == third.intents == 1
    assert all(key.decode().startswith(prefix_of(planned)) for key in planned.keys + third.keys)


def test_a_run_that_adds_up_is_good() -> None:
    """Planned, receipts and orders are the same number, and the audit is clean."""
    summary = campaign_report.summarise(_standing(*(_chunk(n) for n in range(3))))
    assert summary.good
    text = "\n".join(campaign_report.lines(summary))
    assert "they add up" in text
    assert "audit: clean (22 checks" in text


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"orders_in_tables": 2_499}, "do NOT add up"),
        ({"receipts": 2_501}, "do NOT add up"),
        ({"refused_receipts": 1}, "do NOT add up"),
        ({"audit_clean": False, "violated": ["stock_adds_up"]}, "NOT clean: stock_adds_up"),
    ],
)
def test_a_run_that_does_not_add_up_says_where(fault: dict[str, Any], words: str) -> None:
    """One order too few or too many is a failure, however many millions are right."""
    standing = _standing(*(_chunk(n) for n in range(3)), ended=replace(_ENDED, **fault))
    summary = campaign_report.summarise(standing)
    assert not summary.good
    assert words in "\n".join(campaign_report.lines(summary))


def test_the_record_is_read_by_the_results_of_the_benchmark(tmp_path: Path) -> None:
    """One file, written by the run and read by whoever writes tables and charts."""
    machine = Machine("a processor", 2, 4.0, "Linux 6", {"Python": "3.11"}, "abc")
    path = tmp_path / "records" / "campaign.json"
    campaign_report.write(path, _standing(*(_chunk(n) for n in range(3))), machine)
    read = campaign_record.read(path)
    assert read is not None
    assert (read.measured_at, read.audit_clean, len(read.chunks)) == (_NOW, True, 3)
    assert read.summary.good
    assert campaign_record.minutes(read) is None  # of a part of ten million


def test_growth_compares_the_first_orders_with_the_last() -> None:
    """A million each of a long run; an interrupted chunk says nothing of either."""
    slow = {"seconds": 2.0}
    big = [
        replace(_chunk(n, **(slow if n >= 30 else {})), orders=100_000, orders_before=n * 100_000)
        for n in range(40)
    ]
    big[0] = replace(big[0], interrupted_s=50.0, seconds=51.0)
    first, last = campaign_report.stretches(big)
    assert (first.orders_before, first.orders) == (100_000, 1_000_000)
    assert (last.orders_before, last.orders) == (3_000_000, 1_000_000)
    assert last.committed_per_s / first.committed_per_s == pytest.approx(0.5)


def test_full_tables_are_held_against_empty_ones_turn_by_turn() -> None:
    """A machine that slows down by half between two turns slows both sides of each."""
    beside = Beside(orders=10_000_000, full_per_s=[9e3, 4.5e3, 8e3], empty_per_s=[1e4, 5e3, 1e4])
    assert beside.ratio == pytest.approx(0.9)
    standing = _standing(_chunk(0), _chunk(1), _chunk(2))
    assert campaign_report.summarise(standing).beside is None
    standing.take(Compared(at=_NOW, beside=beside))
    summary = campaign_report.summarise(standing)
    assert summary.beside == beside
    assert any("0.900 (9,000 / 10,000" in line for line in campaign_report.lines(summary))


def test_memory_is_flat_when_the_end_is_like_the_warm_start() -> None:
    """The first tenth is warm-up: caches fill, and then nothing may grow with the orders."""
    mib = {"api": [50, 80, 81, 80, 82], "leak": [50, 80, 160, 240, 320]}
    chunks = [
        _chunk(n, rss_mib={name: float(each[n // 4]) for name, each in mib.items()})
        for n in range(20)
    ]
    memory = campaign_report.memory_of(chunks[4:])
    assert (memory["api"].warm, memory["api"].end, memory["api"].flat) == (80.0, 82.0, True)
    assert not memory["leak"].flat


def test_too_little_space_is_told_before_anything_is_started(tmp_path: Path) -> None:
    """A disk that fills up after ten minutes would be a waste of ten minutes."""
    data = tmp_path / "run"
    arguments = ["--orders", "10000000000000", "--data", str(data)]
    assert campaign.main(arguments) == 2
    assert not (data / "cluster").exists()


def test_a_pipe_gets_plain_lines_with_all_that_a_bar_shows() -> None:
    """Orders, both rates, elapsed, to go, in flight."""
    out = io.StringIO()
    with CampaignScreen(1_000, 0, 60.0, out) as screen:
        screen.show(100, 7, "chunk 1")
        screen.show(200, 7, "chunk 1")  # too soon after the last
        screen.say("a sentence")
    first, second = out.getvalue().splitlines()
    assert first.startswith(" 10% 100 of 1,000 orders, 0/s, 0/s overall, 0:01:00 elapsed, ? to go")
    assert first.endswith("7 in flight; chunk 1")
    assert second == "a sentence"


def test_the_pace_of_now_is_that_of_the_last_seconds() -> None:
    """The overall rate remembers the slow start; the present one does not."""
    pace = Pace()
    for second in range(11):
        now, overall = pace.add(float(second), second * 10 if second <= 5 else 50 + second * 100)
    assert now == pytest.approx(100)
    assert overall == pytest.approx(105)
    assert clock(3_725) == "1:02:05"
