"""Whom the driver of a chaos run plays."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice

from deploy.chaos.checks.finding import Finding
from deploy.chaos.comparison import judge
from deploy.chaos.kills import Kills, add
from deploy.chaos.verdict import Verdict, lines, remark, report, summary
from deploy.chaos.workload import RARE, Wish, everyday, sell_out

COUPONS = [(f"c-{n}", f"CODE{n:012}") for n in range(400)]


def people(count: int = 2_000, seed: int = 1) -> list[Wish]:
    return list(islice(everyday("chaos-1", COUPONS, seed), count))


def body(wish: Wish) -> dict[str, object]:
    return json.loads(wish.body)


def test_the_same_seed_plays_the_same_people() -> None:
    assert people() == people()
    assert people() != people(seed=2)


def test_no_two_wishes_share_a_key() -> None:
    assert len({wish.key for wish in people()}) == 2_000


def test_carts_of_two_name_their_items_in_either_order() -> None:
    """Or no two batches would ever lock the same rows in opposite order."""
    orders = {tuple(wish.units) for wish in people() if len(wish.units) == 2}
    assert orders == {("hot", "warm"), ("warm", "hot")}


def test_a_wish_says_in_its_body_what_the_history_is_told_of_it() -> None:
    for wish in people(300):
        if wish.kind == "order":
            said = {line["sku"]: line["quantity"] for line in body(wish)["lines"]}  # type: ignore[attr-defined]
            assert (said, body(wish)["user_id"]) == (wish.units, wish.user)


def test_some_redeem_a_coupon_twice_some_forge_one_and_some_steal_one() -> None:
    redeeming = [wish for wish in people() if wish.coupon]
    uses = Counter(str(body(wish)["coupon_code"]) for wish in redeeming)
    known = {code for _, code in COUPONS}
    assert any(count > 1 for count in uses.values())
    assert any(code not in known for code in uses)
    assert any(wish.user == "thief" for wish in redeeming)


def test_some_post_twice_at_once_and_some_come_back_with_another_wish() -> None:
    everybody = people()
    assert any(wish.twin for wish in everybody)
    assert any(wish.rebody and wish.rebody != wish.body for wish in everybody)
    assert {wish.ending for wish in everybody} == {"pay", "cancel", "leave"}


def test_in_a_sell_out_everybody_wants_one_of_the_same() -> None:
    crowd = islice(sell_out("chaos-1", (), 1), 100)
    assert all(wish.units == {RARE: 1} for wish in crowd)


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


def test_a_plain_consumer_loses_what_is_neither_done_nor_parked() -> None:
    sent = ["a", "b", "c", "d"]
    lossy = judge(1, 1.0, sent, done=["a", "a"], parked=1, kills=2)
    assert (lossy.figures["lost"], lossy.figures["doubled"], lossy.clean) == (2, 1, True)
    assert not judge(1, 1.0, sent, done=["a", "b"], parked=2, kills=2).clean
