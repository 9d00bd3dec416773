"""What the rows of overload make of send times, receipts and outcomes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from array import array
from collections import Counter
from itertools import islice

import pytest

from deploy.load.wire import target
from tests.benchmarks import fates
from tests.benchmarks.fates import Fate
from tests.benchmarks.orders import Orders, wishes
from tests.benchmarks.overloading import TTL_MS, steps
from tests.benchmarks.rows_greedy import served
from tests.benchmarks.rows_issuance import told
from tests.benchmarks.rows_storm import strangers
from tests.benchmarks.sender import Sender, Tally
from workers.contract.couponcode import CouponCodes

TO = target("http://127.0.0.1:8080", "tg_key")
TTL_S = TTL_MS / 1_000
EVERY_TENTH = [n / 10 for n in range(100)]  # ten seconds, ten a second


def _fate(
    run: str, n: int, accepted_at: float = 0.0, took_s: float | None = 0.1, **more: str
) -> Fate:
    decided_at = None if took_s is None else accepted_at + took_s
    return Fate(run, n, more.get("outcome", "committed"), accepted_at, decided_at, took_s)


# Cohorts ------------------------------------------------------------------------------------------


def test_a_share_is_of_those_due_in_the_span_alone() -> None:
    """Others may be served or not."""
    served = {n for n in range(100) if not 30 <= n < 35}

    assert fates.share(EVERY_TENTH, served, 3.0, 4.0) == 0.5
    assert fates.share(EVERY_TENTH, served, 0.0, 3.0) == 1.0
    assert fates.share(EVERY_TENTH, served, 20.0, 30.0) == 1.0


def test_goodput_is_back_after_the_last_second_that_lacks_it() -> None:
    """A good second between two bad ones is no recovery."""
    served = {n for n in range(100) if not (50 <= n < 60 or 70 <= n < 80)}

    assert fates.back_after_s(EVERY_TENTH, served, 5.0, 10.0, 0.95) == 3.0


def test_where_nothing_was_lost_nothing_has_to_come_back() -> None:
    """What went before the moment does not count."""
    served = set(range(50, 100))

    assert fates.back_after_s(EVERY_TENTH, served, 5.0, 10.0, 0.95) == 0.0


def test_what_never_comes_back_takes_the_whole_rest() -> None:
    """It cannot look like a recovery."""
    assert fates.back_after_s(EVERY_TENTH, set(), 4.5, 10.0, 0.95) == 5.5


@pytest.mark.parametrize(
    ("times", "least"),
    [
        (EVERY_TENTH, 10.0),
        ([at for at in EVERY_TENTH if not 4.0 <= at < 6.0], 0.0),
        ([at for at in EVERY_TENTH if not 4.0 <= at < 5.0], 5.0),
        ([], 0.0),
    ],
)
def test_the_least_rate_is_that_of_the_worst_window(times: list[float], least: float) -> None:
    """However the window lies."""
    assert fates.least_per_s(times, 0.0, 10.0, 2.0) == pytest.approx(least, abs=0.51)


def test_a_lack_outside_the_span_does_not_count() -> None:
    """The span is what the row is about."""
    assert fates.least_per_s(EVERY_TENTH[50:], 5.0, 9.9, 2.0) == pytest.approx(10.0, abs=0.51)


def test_who_is_told_late_or_otherwise_is_not_served() -> None:
    """A refusal is no order, and an order nobody waits for any more serves nobody."""
    assert _fate("r", 1).is_told("committed", TTL_S)
    assert not _fate("r", 1, took_s=TTL_S + 0.1).is_told("committed", TTL_S)
    assert not _fate("r", 1, took_s=None).is_told("committed", TTL_S)
    assert not _fate("r", 1, outcome="sold_out").is_told("committed", TTL_S)


# Loads --------------------------------------------------------------------------------------------


def test_a_load_of_steps_has_each_rate_in_its_time() -> None:
    """In order, and within a tenth over thousands of arrivals."""
    due = steps([(100.0, 50.0), (1_000.0, 10.0), (100.0, 50.0)], seed=1)

    assert list(due) == sorted(due)
    counts = Counter("before" if at < 50 else "rush" if at < 60 else "after" for at in due)
    assert counts == {
        "before": pytest.approx(5_000, rel=0.1),
        "rush": pytest.approx(10_000, rel=0.1),
        "after": pytest.approx(5_000, rel=0.1),
    }


def test_an_order_without_a_coupon_names_none() -> None:
    """Not even an empty one."""
    post = next(Orders(TO, [("u-1", "")], "r").posts())

    assert "coupon_code" not in json.loads(post.partition(b"\r\n\r\n")[2])


def test_every_wish_is_a_user_s_first() -> None:
    """Or the limit of coupons for each user would refuse it."""
    posts = list(islice(wishes(TO, "w"), 3))

    bodies = [json.loads(post.partition(b"\r\n\r\n")[2]) for post in posts]
    assert len({body["user_id"] for body in bodies}) == 3
    assert all(b"Idempotency-Key: w-%d\r\n" % n in post for n, post in enumerate(posts))
    assert all(
        int(post.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
        == len(post.split(b"\r\n\r\n")[1])
        for post in posts
    )


def test_forged_codes_look_like_codes_and_verify_nowhere() -> None:
    """The worker, not the shape, has to refuse them."""
    ours = CouponCodes("the master of the cluster")

    codes = [code for _, code in strangers("forged", 3)]
    assert [len(code) for code in codes] == [44] * 3
    assert [ours.coupon_id_of(code) for code in codes] == [None] * 3
    assert [code for _, code in strangers("bare", 2)] == ["", ""]


# Rows ---------------------------------------------------------------------------------------------


def test_issuance_is_paused_after_the_last_receipt_of_the_rush_and_open_at_the_next() -> None:
    """Orders have no say in it."""
    found = [_fate("wish", n, at) for n, at in enumerate((95.0, 101.5, 138.0, 139.0))]
    found += [_fate("redeem", n, 100.0 + n / 10) for n in range(400)]

    pause = told(found, rush_at=100.0, calm_at=130.0, ended_at=160.0)

    assert (pause.paused_after_s, pause.resumed_after_s) == (1.5, 8.0)
    assert pause.redeemed_least == pytest.approx(10.0, abs=0.21)


def test_issuance_that_flaps_in_the_rush_was_paused_late() -> None:
    """And what is never resumed is told so."""
    found = [_fate("wish", n, at) for n, at in enumerate((101.0, 125.0))]

    pause = told(found, rush_at=100.0, calm_at=130.0, ended_at=160.0)

    assert (pause.paused_after_s, pause.resumed_after_s) == (25.0, 30.0)


def test_redemption_that_stops_in_the_pause_is_seen() -> None:
    """Ten seconds of nothing are a window of nothing."""
    found = [_fate("wish", 0, 101.0)]
    found += [_fate("redeem", n, 100.0 + n / 10) for n in range(300) if not 100 <= n < 200]

    assert told(found, rush_at=100.0, calm_at=130.0, ended_at=160.0).redeemed_least == 0.0


def test_gateways_are_told_apart_by_their_keys() -> None:
    """The other one's orders are no merit, and no fault, of the modest one."""
    found = [_fate("modest-8", n) for n in range(7)] + [_fate("modest-8", 7, took_s=TTL_S + 1)]
    found += [_fate("greedy-8", n) for n in range(50)] + [_fate("modest-0", n) for n in range(9)]

    result = served(found, "8", sent=10, seconds=5.0, tally=Tally())

    assert (result.share, result.modest_refused, result.greedy_per_s) == (0.7, 2, 10.0)


# The storm's sender -------------------------------------------------------------------------------


class _Server:
    """Answers each key from its own list of statuses, and 202 after them."""

    def __init__(self, statuses: dict[str, list[int]]) -> None:
        self.heard: list[str] = []
        self._statuses = statuses

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._answer(reader, writer)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            key = head.split(b": ")[1].split(b"\r\n")[0].decode()
            self.heard.append(key)
            left = self._statuses.get(key, [])
            status = left.pop(0) if left else 202
            if status == 0:
                return  # no answer at all
            writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 2\r\n\r\n{}" % status)


def _sent(statuses: dict[str, list[int]], keys: str, retries_max: int) -> tuple[Tally, list[str]]:
    async def run() -> tuple[Tally, list[str]]:
        server = _Server(statuses)
        listening = await asyncio.start_server(server, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        posts = (f"POST / HTTP/1.1\r\nKey: {key}\r\n\r\n".encode() for key in keys)
        due = array("d", [0.0] * len(keys))
        sender = Sender(
            target(f"http://127.0.0.1:{port}", "k"),
            posts,
            3,
            seconds=0.0,
            due=due,
            retries_max=retries_max,
        )
        tally = await sender.run(lambda: None, lambda: None)
        listening.close()
        return tally, server.heard

    return asyncio.run(run())


def test_who_is_refused_for_now_comes_back_with_the_same_post_until_he_has_a_receipt() -> None:
    """429 and 503 alike; the others are left alone."""
    tally, heard = _sent({"a": [503, 429], "b": [422]}, "abc", retries_max=5)

    assert Counter(heard) == {"a": 3, "b": 1, "c": 1}
    assert (tally.accepted, tally.retries, tally.posts) == (2, 2, 5)


def test_who_hears_nothing_comes_back_as_well() -> None:
    """A lost answer may have been a receipt: the same key finds it."""
    tally, heard = _sent({"a": [0, 503]}, "a", retries_max=5)

    assert heard == ["a"] * 3
    assert (tally.accepted, tally.lost, tally.retries) == (1, 1, 2)


def test_patience_ends() -> None:
    """So that a storm is bounded."""
    tally, heard = _sent({"a": [503] * 100}, "a", retries_max=5)

    assert heard == ["a"] * 6
    assert (tally.accepted, tally.retries) == (0, 5)


def test_who_does_not_storm_comes_once() -> None:
    """Every other measurement counts refusals, and causes none."""
    _, heard = _sent({"a": [503] * 100}, "a", retries_max=0)

    assert heard == ["a"]
