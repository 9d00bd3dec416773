"""What users, and gateways in their name, may try: limits at once, hoards, other people's coupons."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from kit import CODES, World, at_once, ids_of, issuance, order, working
from postgres_proxy import PostgresProxy

from producer.answers import Accepted, Answer, Posted
from tests.factories import GATEWAY, give_coupons
from workers.contract.couponcode import CouponCodes
from workers.contract.ids import uuid7
from workers.domain.intent import QUANTITY_MAX
from workers.store import lifecycle, resources
from workers.store.pool import PRODUCER

ROUNDS = 200
CLIENTS = 50


# Limits, by everybody at once ----------------------------------------------------------------------


@pytest.mark.slow
def test_fifty_who_ask_at_once_get_what_one_may_have(world: World) -> None:
    """One coupon and one order a user, asked for fifty times by each of 200 users, all at once."""
    world.admin.execute("UPDATE campaigns SET (coupons_per_user_max, orders_per_user_max) = (1, 1)")
    intakes = [world.intake() for _ in range(CLIENTS)]

    def ask(place: int) -> Counter[type[Answer]]:
        answers: Counter[type[Answer]] = Counter()
        for number in range(ROUNDS):
            wish = (issuance if number % 2 else order)(f"u-{number}")
            answers.update(type(answer) for answer in intakes[place].submit([wish]))
        return answers

    with working(world, 3, batch_max=7):  # small, so that one user's wishes meet in several batches
        asked = at_once([lambda place=place: ask(place) for place in range(CLIENTS)], timeout_s=120)
    assert sum(asked, Counter()) == {Accepted: ROUNDS * CLIENTS}
    assert world.reasons() == {
        "committed": ROUNDS,
        "user_limit_reached": ROUNDS * (CLIENTS - 1),
    }
    for table in ("orders", "coupons"):
        most = f"SELECT max(count) FROM (SELECT count(*) FROM {table} GROUP BY user_id) AS t"
        assert world.value(most) == 1, table
    world.assert_clean()


# Hoards ------------------------------------------------------------------------------------------


def test_a_hoarder_holds_no_more_than_his_orders_and_no_longer_than_their_deadline(
    world: World,
) -> None:
    """Orders that nobody pays hold stock: so many, so large, so long; then others buy it."""
    world.admin.execute("UPDATE campaigns SET orders_per_user_max = 2, payment_window_ms = 1")
    hoard = [order("u-bot", lines=[("tea", QUANTITY_MAX)]) for _ in range(20)]
    world.intake().submit(hoard)
    world.processor().run(ids_of(hoard))
    assert world.reasons() == {"committed": 2, "user_limit_reached": 18}
    assert world.stock_of() == (1_000 - 2 * QUANTITY_MAX, 2 * QUANTITY_MAX, 0)
    again = [order("u-bot") for _ in range(5)]
    with world.connection() as connection:
        assert lifecycle.expire_due(connection, 500) == 2
    assert world.stock_of() == (1_000, 0, 0)
    others = [order(f"u-{n}", lines=[("tea", 10)]) for n in range(100)]
    world.intake().submit([*again, *others])
    world.processor().run(ids_of([*again, *others]))
    assert world.stock_of()[0] >= 0
    assert world.value("SELECT count(*) FROM orders WHERE user_id = 'u-bot'") <= 4
    assert world.value("SELECT count(*) FROM orders WHERE user_id <> 'u-bot'") >= 98
    world.assert_clean(drained=False)


# Coupon codes ------------------------------------------------------------------------------------


def _kinds(world: World) -> dict[str, str]:
    """Codes that are not this user's to redeem, for each reason there can be."""
    unused, used, expired = give_coupons(world.dsn, ["u-owner"] * 3)
    redeeming = order("u-owner", coupon_code=CODES.code_of(used))
    world.intake().submit([redeeming])
    world.processor().run(ids_of([redeeming]))
    world.admin.execute("UPDATE coupons SET expired_at = now() WHERE coupon_id = %s", (expired,))
    genuine = CODES.code_of(unused)
    return {
        "forged": CouponCodes("the master of somebody else " * 2).code_of(unused),
        "one character off": genuine[:-2] + ("A" if genuine[-2] != "A" else "B") + genuine[-1],
        "no code": "FREE-100-PERCENT",
        "genuine, of no coupon": CODES.code_of(uuid7()),
        "another's": genuine,
        "another's, redeemed": CODES.code_of(used),
        "another's, expired": CODES.code_of(expired),
    }


def test_a_code_that_is_not_ones_own_tells_nothing(world: World) -> None:
    """Whatever is wrong with it: one receipt, one outcome, and the same statements to find it."""
    kinds = _kinds(world)
    for warm in range(5):  # statements are prepared at their third use
        _try_code(world, world.dsn, f"u-warm-{warm}", next(iter(kinds.values())))
    told, costs = {}, {}
    with PostgresProxy(world.dsn) as proxy:
        intake = world.intake(dsn=proxy.dsn)
        processor = world.processor(dsn=proxy.dsn)
        for number, code in enumerate([*list(kinds.values())[:1] * 5, *kinds.values()]):
            posted = order(f"u-guess-{number}", coupon_code=code)
            proxy.messages.clear()
            (answer,) = intake.submit([posted])
            of_intake = proxy.statements
            processor.run(ids_of([posted]))
            kind = list(kinds)[max(0, number - 5)]
            costs[kind] = (of_intake, proxy.statements - of_intake)
            told[kind] = (type(answer), _outcome(world, posted))
    assert set(told.values()) == {(Accepted, ("refused", "coupon_unknown", None))}
    assert len(set(costs.values())) == 1, costs


def _try_code(world: World, dsn: str, user: str, code: str) -> None:
    posted = order(user, coupon_code=code)
    world.intake(dsn=dsn).submit([posted])
    world.processor(dsn=dsn).run(ids_of([posted]))


def _outcome(world: World, posted: Posted) -> tuple[Any, ...]:
    with world.connection(PRODUCER) as connection:
        found = resources.read_many(connection, [posted.intent_id])[posted.intent_id]
    return found.status, found.refusal and found.refusal.value, found.order


def test_guessing_codes_takes_nothing_and_is_bounded_like_any_order(world: World) -> None:
    """Ten thousand guesses around a genuine code: none is one. What stops a guesser is 80 bits."""
    (coupon,) = give_coupons(world.dsn, ["u-1"])
    genuine = CODES.code_of(coupon)
    other = CouponCodes("the master of somebody else " * 2)
    guesses = [other.code_of(uuid7())[:18] + genuine[18:] for _ in range(5_000)]
    guesses += [genuine[:27] + other.code_of(uuid7())[27:] for _ in range(5_000)]
    assert [guess for guess in guesses if CODES.coupon_id_of(guess) is not None] == []
    tries = [order(f"u-{n}", coupon_code=guess) for n, guess in enumerate(guesses[::100])]
    world.intake().submit(tries)
    world.processor().run(ids_of(tries))
    assert world.reasons() == {"coupon_unknown": len(tries)}
    assert world.value("SELECT count(*) FROM redemptions") == 0
    assert world.value("SELECT spent FROM budgets") == 0


def test_a_gateway_is_told_the_codes_it_had_issued_and_those_of_nobodys_wish(world: World) -> None:
    """A code is money; that another gateway's user has one is not even told."""
    mine = issuance("u-1")
    others = Posted(
        intent_id=uuid7(), gateway_id="other", idempotency_key="k", intent=issuance("u-1").intent
    )
    world.intake().submit([mine, others])
    world.processor().run(ids_of([mine, others]))
    assert world.reasons() == {"committed": 2}
    (bulk,) = give_coupons(world.dsn, ["u-1"])
    with world.connection(PRODUCER) as connection:
        listed = {
            gateway_id: {
                one.coupon_id for one in resources.coupons_of_user(connection, gateway_id, "u-1")
            }
            for gateway_id in (GATEWAY, "other", "third")
        }
    assert listed == {
        GATEWAY: {mine.intent_id, bulk},
        "other": {others.intent_id, bulk},
        "third": {bulk},
    }


def test_once_keys_live_no_longer_only_a_coupons_own_gateway_is_told(world: World) -> None:
    """Then an issuance may have been pruned, and looks like one of bulk."""
    mine = issuance("u-1")
    world.intake().submit([mine])
    world.processor().run(ids_of([mine]))
    give_coupons(world.dsn, ["u-1"])
    world.admin.execute(
        "UPDATE campaigns SET starts_at = now() - interval '30 d', ends_at = now() - interval '8 d',"
        " coupons_valid_from = now() - interval '30 d',"
        " coupons_valid_until = now() - interval '8 d'"
    )
    with world.connection(PRODUCER) as connection:
        for gateway_id, known in ((GATEWAY, [mine.intent_id]), ("other", [])):
            told = resources.coupons_of_user(connection, gateway_id, "u-1")
            assert [one.coupon_id for one in told] == known
