"""The benchmark's posts, and what its sender makes of answers."""

from __future__ import annotations

import json

import msgspec
import pytest

from deploy.load.wire import Reply, target
from tests.benchmarks.orders import (
    SPREAD_CAMPAIGN,
    SPREAD_SKUS,
    Orders,
    spread_campaign,
    spread_carts,
)
from tests.benchmarks.replay import take_messages
from tests.benchmarks.sender import Tally, count
from workers.domain.campaign import parse
from workers.domain.intent import OrderIntent

TO = target("http://127.0.0.1:8080", "tg_key")
COUPONS = [(f"u-{n}", f"CODE{n}") for n in range(5)]


def _parts(post: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = post.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return first, dict(line.split(": ", 1) for line in lines), body


def test_every_order_has_two_lines_a_coupon_and_a_key_of_its_own() -> None:
    """What is measured is what the goals name."""

    posts = [_parts(post) for post in Orders(TO, COUPONS, "r").posts()]

    intents = [msgspec.json.decode(body, type=OrderIntent) for _, _, body in posts]
    assert [len(intent.lines) for intent in intents] == [2] * 5
    assert [intent.coupon_code for intent in intents] == [code for _, code in COUPONS]
    assert len({headers["Idempotency-Key"] for _, headers, _ in posts}) == 5
    assert all(int(headers["Content-Length"]) == len(body) for _, headers, body in posts)


def test_who_waits_says_so() -> None:
    """`Prefer: wait` is a header of the post."""
    (_, headers, _), *_ = map(_parts, Orders(TO, COUPONS, "r", wait_s=10).posts())

    assert headers["Prefer"] == "wait=10"


def test_a_batch_is_an_array_of_so_many_and_a_rest_is_not_sent() -> None:
    """Every call carries as many intents as its row says."""
    orders = Orders(TO, COUPONS, "r")

    posts = [_parts(post) for post in orders.batches(2)]

    assert [len(json.loads(body)) for _, _, body in posts] == [2, 2]
    assert all(first.startswith("POST /v1/intents/batch ") for first, _, _ in posts)
    assert [item["idempotency_key"] for _, _, body in posts for item in json.loads(body)] == [
        "r-0",
        "r-1",
        "r-2",
        "r-3",
    ]


def test_the_spread_campaign_is_valid_and_its_carts_hold_two_of_its_skus() -> None:
    """A thousand SKUs, two different ones in each cart."""
    file = parse(spread_campaign())
    draw = spread_carts(seed=1)

    skus = {item.sku for item in file.items}
    assert file.campaign.campaign_id == SPREAD_CAMPAIGN
    assert len(skus) == SPREAD_SKUS
    assert all(len(set(cart)) == 2 and set(cart) <= skus for cart in (draw() for _ in range(100)))


@pytest.mark.parametrize(
    ("status", "body", "accepted", "told", "refused"),
    [
        (202, b'{"status":"accepted"}', 1, 0, {}),
        (200, b'{"status":"committed"}', 1, 1, {}),
        (200, b'{"status":"not_accepted"}', 0, 0, {"not_accepted": 1}),
        (200, b'{"status":"refused"}', 0, 0, {"not_accepted": 1}),
        (503, b"{}", 0, 0, {"http_503": 1}),
        (
            200,
            b'[{"status_code":202},{"status_code":202},{"status_code":503}]',
            2,
            0,
            {"in_batch": 1},
        ),
    ],
)
def test_only_receipts_are_counted_as_accepted(
    status: int, body: bytes, accepted: int, told: int, refused: dict[str, int]
) -> None:
    """Everything else is a refusal, and fails a strict measurement."""
    tally = Tally()

    count(tally, Reply(status, body, 0.0, False))

    assert (tally.accepted, tally.told, dict(tally.refused)) == (accepted, told, refused)


def test_messages_are_taken_when_they_are_whole() -> None:
    """TCP knows no messages: a part of one waits for its rest."""
    sync, query = b"S\x00\x00\x00\x04", b"Q\x00\x00\x00\x06;\x00"
    heard = bytearray(sync + query + sync[:3])

    assert take_messages(heard) == [(b"S", sync), (b"Q", query)]
    assert take_messages(heard) == []
    heard += sync[3:]
    assert take_messages(heard) == [(b"S", sync)]
    assert not heard
