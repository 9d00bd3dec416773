"""The audit: clean on a sound database, and blind to no kind of corruption it claims to see."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from deploy.cli import main
from tests.factories import add_campaign, copy_database, give_coupons, one, open_shop, owner
from workers.domain.intent import Line
from workers.store import audit
from workers.store.pool import AUDITOR, Connection

TEA = (Line("tea", 1),)  # with a coupon there is nothing left to pay
GHOST = "'0192f0c1-2345-7000-8000-000000000000'"  # the id of nobody's intent


@pytest.fixture(scope="module")
def busy(servers, migrated_template) -> Iterator[str]:
    """A database in which everything that can happen to an intent has happened once."""
    name = "audit_busy"
    dsn = copy_database(f"{servers.dsn.rpartition('/')[0]}/{migrated_template}", name)
    add_campaign(dsn, stock={"tea": 100, "bun": 100, "rare": 1}, orders_per_user_max=3)
    add_campaign(dsn, "plain", stock={"tea": 5}, coupon=None)
    with open_shop(dsn, servers.valkey_url) as shop:
        _fill(shop)
    yield dsn
    drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
    with psycopg.connect(servers.dsn, autocommit=True) as connection:
        connection.execute(drop)


def _fill(shop) -> None:
    issued = shop.sell(*[shop.issuance(f"u-{n}") for n in range(5)])
    bulk = give_coupons(shop.dsn, ["b-0", "b-1"])
    codes = [shop.code(coupon_id) for coupon_id in (*issued, *bulk)]
    # One batch each, so that one can be spoilt without its neighbours.
    shop.sell(shop.order("u-0", lines=TEA, coupon_code=codes[0]))  # confirmed, nothing to pay
    shop.sell(shop.order("b-0", lines=TEA, coupon_code=codes[5]))  # with a coupon of a bulk issue
    shop.sell(shop.order("u-1", coupon_code=codes[1]))  # awaiting payment
    [paid] = shop.sell(shop.order("u-2", coupon_code=codes[2]))
    assert shop.pay(paid, 1_100) == "paid"
    [plain] = shop.sell(shop.order("u-9", campaign_id="plain", lines=TEA))
    assert shop.pay(plain, 1_800) == "paid"
    [undone] = shop.sell(shop.order("u-3", coupon_code=codes[3]))
    assert shop.pay(undone, 1_100) == "paid"
    assert shop.cancel(undone) == "cancelled"
    [left] = shop.sell(shop.order("u-5"))
    assert shop.cancel(left) == "cancelled"
    [late] = shop.sell(shop.order("u-4", coupon_code=codes[4]))
    with owner(shop.dsn) as connection:
        connection.execute(
            "UPDATE orders SET payment_deadline = now() - interval '1 second' WHERE order_id = %s",
            (late,),
        )
    assert shop.expire() == 1
    assert shop.pay(late, 1_100) == "payment_too_late"
    shop.sell(*[shop.order("u-6") for _ in range(3)])
    refused = shop.accept(
        shop.order("u-6"),
        shop.order("u-7", lines=(Line("rare", 2),)),
        shop.order("u-8", coupon_code=codes[0]),
    )
    assert sorted(shop.work(refused).outcomes) == [
        "coupon_unknown",
        "sold_out",
        "user_limit_reached",
    ]
    [poison] = shop.accept(shop.order("u-13"))
    shop.processor._quarantine(poison, "it raised", 3, audit_report := _report())
    assert audit_report.quarantined == 1
    shop.accept(shop.order("u-14"))  # open


def _report():
    from workers.service.process_batch import BatchReport

    return BatchReport()


@pytest.fixture
def spoiling(busy) -> Iterator[Connection]:
    """A transaction of a superuser without triggers, rolled back in the end."""
    with owner(busy) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("BEGIN")
        yield connection
        connection.execute("ROLLBACK")


def _order(user: str) -> str:
    return f"(SELECT order_id FROM orders WHERE user_id = '{user}')"


def _batch(user: str) -> str:
    return f"(SELECT batch_id FROM orders WHERE user_id = '{user}')"


def _enter(*entries: tuple[str, int]) -> str:
    rows = ", ".join(f"({GHOST}, '{account}', {delta})" for account, delta in entries)
    return f"INSERT INTO ledger (batch_id, account, delta) VALUES {rows}"


# What was done to the tables: (statements, the checks that must see it, and no others)
CORRUPTIONS: dict[str, tuple[str, str]] = {
    "a retention that hides what is younger than a day": (
        "UPDATE retention SET pruned_before = uuid7_floor(now())",
        "retention_is_past",
    ),
    "a retention without its line": ("DELETE FROM retention", "retention_is_past"),
    "a receipt that is neither open nor decided": (
        "DELETE FROM open_intents",
        "intents_accounted_for",
    ),
    "an outcome that was lost": (
        "DELETE FROM outcomes WHERE reason = 'sold_out'",
        "intents_accounted_for",
    ),
    "a second outcome": (
        """ALTER TABLE outcomes DROP CONSTRAINT outcomes_pkey;
           INSERT INTO outcomes SELECT intent_id, 'price_changed', now()
           FROM outcomes WHERE reason = 'sold_out'""",
        "outcomes_at_most_one",
    ),
    "an outcome nobody asked for": (
        f"INSERT INTO outcomes VALUES ({GHOST}, 'sold_out', now())",
        "outcomes_at_most_one",
    ),
    "an intent that was journalled twice": (
        """ALTER TABLE intents DROP CONSTRAINT intents_pkey;
           INSERT INTO intents SELECT i.* FROM intents i JOIN outcomes USING (intent_id)
           WHERE reason = 'sold_out'""",
        "ids_are_unique",
    ),
    "a cancelled order that stands there twice": (
        """ALTER TABLE orders DROP CONSTRAINT orders_pkey;
           INSERT INTO orders SELECT * FROM orders WHERE user_id = 'u-5'""",
        "ids_are_unique orders_in_ledger",
    ),
    "a coupon that stands there twice": (
        """ALTER TABLE coupons DROP CONSTRAINT coupons_pkey;
           INSERT INTO coupons SELECT * FROM coupons WHERE user_id = 'b-1'""",
        "ids_are_unique budgets_hold user_limits_hold",
    ),
    "a decided intent that is open again": (
        """INSERT INTO open_intents SELECT intent_id, now(), now() FROM outcomes
           WHERE reason = 'sold_out'""",
        "open_intents_undecided",
    ),
    "an open intent without a journal row": (
        f"INSERT INTO open_intents VALUES ({GHOST}, now(), now())",
        "open_intents_undecided",
    ),
    "a key that was bound anew": (
        f"UPDATE idempotency_keys SET intent_id = {GHOST} WHERE intent_id = {_order('u-0')}",
        "keys_bind_one_intent",
    ),
    "a key that was forgotten": (
        f"DELETE FROM idempotency_keys WHERE intent_id = {_order('u-0')}",
        "keys_bind_one_intent",
    ),
    "a key that is bound to nothing": (
        f"INSERT INTO idempotency_keys VALUES (gen_random_uuid(), {GHOST}, gen_random_uuid())",
        "keys_bind_one_intent",
    ),
    "an intent whose user was changed after its key was bound": (
        (
            "UPDATE intents SET user_id = 'u-99' WHERE intent_id = (SELECT intent_id FROM outcomes "
            "WHERE reason = 'sold_out')"
        ),
        "keys_bind_one_intent",
    ),
    "an order of a refused intent": (
        f"UPDATE outcomes SET reason = 'sold_out' WHERE intent_id = {_order('u-0')}",
        "orders_from_intents",
    ),
    "a committed intent whose order was lost": (
        f"""DELETE FROM order_lines WHERE order_id = {_order("u-5")};
            DELETE FROM orders WHERE user_id = 'u-5'""",
        "orders_from_intents orders_in_ledger",
    ),
    "an order in another user's name": (
        "UPDATE orders SET user_id = 'u-99' WHERE user_id = 'u-5'",
        "orders_from_intents",
    ),
    "an order of other goods than were wished for": (
        f"""UPDATE intents SET body = replace(body::text, '"tea"', '"rare"')::json
            WHERE intent_id = {_order("u-0")}""",
        "orders_as_wished",
    ),
    "an order of another quantity than was wished for": (
        f"""UPDATE intents SET body = replace(body::text, '"quantity":1', '"quantity":2')::json
            WHERE intent_id = {_order("u-0")}""",
        "orders_as_wished",
    ),
    "an order with another coupon than was given": (
        f"""UPDATE intents SET body = (body::jsonb || '{{"coupon_id": "{GHOST[1:-1]}"}}')::json
            WHERE intent_id = {_order("u-0")}""",
        "orders_as_wished",
    ),
    "a line at another price than the order's total says": (
        f"UPDATE order_lines SET unit_price = 1 WHERE order_id = {_order('u-0')}",
        "orders_match_lines",
    ),
    "lines without an order": (
        f"INSERT INTO order_lines VALUES ({GHOST}, 'tea', 1, 1800)",
        "orders_match_lines",
    ),
    "a discount without a coupon": (
        "UPDATE orders SET discount = 100, payable = total - 100 WHERE user_id = 'u-5'",
        "orders_match_lines",
    ),
    "an order that awaits a payment of nothing": (
        "UPDATE orders SET discount = total, payable = 0 WHERE user_id = 'u-1'",
        "orders_match_lines coupons_redeemed_once_by_owner",
    ),
    "a refused issuance with a coupon": (
        """UPDATE outcomes SET reason = 'budget_exhausted' WHERE intent_id =
           (SELECT coupon_id FROM coupons WHERE user_id = 'u-0')""",
        "coupons_from_issuances",
    ),
    "an issued coupon that was lost": (
        "DELETE FROM coupons WHERE user_id = 'u-4'",
        "coupons_from_issuances budgets_hold user_limits_hold",
    ),
    "an issued coupon in another user's hands": (
        "UPDATE coupons SET user_id = 'u-99' WHERE user_id = 'u-4'",
        "coupons_from_issuances user_limits_hold",
    ),
    "units from nowhere": (
        """ALTER TABLE stock DROP CONSTRAINT stock_adds_up;
           UPDATE stock SET available = available + 1 WHERE campaign_id = 'plain'""",
        "stock_adds_up ledger_equals_balances",
    ),
    "fewer than no units": (
        """ALTER TABLE stock DROP CONSTRAINT stock_not_oversold;
           UPDATE stock SET available = -1, initial = reserved + sold - 1 WHERE sku = 'rare'""",
        "stock_adds_up ledger_equals_balances",
    ),
    "a unit sold without an order": (
        "UPDATE stock SET sold = sold + 1, available = available - 1 WHERE sku = 'rare'",
        "stock_matches_orders ledger_equals_balances",
    ),
    "a unit sold without an order, and neatly entered": (
        "UPDATE stock SET sold = sold + 1, available = available - 1 WHERE sku = 'rare';"
        + _enter(("stock:spring:rare:sold", 1), ("stock:spring:rare:available", -1)),
        "stock_matches_orders orders_in_ledger",
    ),
    "a unit stranded in a reservation": (
        "UPDATE stock SET reserved = reserved + 1, available = available - 1 WHERE sku = 'rare'",
        "stock_matches_orders ledger_equals_balances",
    ),
    "an order that was confirmed behind the stock's back": (
        f"""UPDATE orders SET status = 'confirmed' WHERE user_id = 'u-1';
            INSERT INTO payments VALUES ({_order("u-1")}, 'p', 1100, 'accepted')""",
        "stock_matches_orders budgets_hold",
    ),
    "money spent that no order took": (
        "UPDATE budgets SET spent = spent + 1;"
        + _enter(("budget:spring:spent", 1), ("budget:spring:available", -1)),
        "budgets_hold",
    ),
    "money reserved that no coupon holds": (
        "UPDATE budgets SET reserved = reserved + 1;"
        + _enter(("budget:spring:reserved", 1), ("budget:spring:available", -1)),
        "budgets_hold",
    ),
    "a budget that is exceeded": (
        """ALTER TABLE budgets DROP CONSTRAINT budget_not_exceeded;
           UPDATE budgets SET budget = 1;"""
        + _enter(("budget:spring:supply", 99_999_999), ("budget:spring:available", -99_999_999)),
        "budgets_hold",
    ),
    "a budget that was lost": (
        "DELETE FROM budgets",
        "budgets_hold ledger_equals_balances",
    ),
    "a coupon in an order of another user": (
        "UPDATE coupons SET user_id = 'b-9' WHERE user_id = 'b-0'",
        "coupons_redeemed_once_by_owner user_limits_hold",
    ),
    "a coupon that expired in a living order": (
        "UPDATE coupons SET expired_at = now() WHERE user_id = 'b-0'",
        "coupons_redeemed_once_by_owner",
    ),
    "a coupon that gave more than it held": (
        "UPDATE coupons SET value = 1 WHERE user_id = 'b-0'",
        "coupons_redeemed_once_by_owner",
    ),
    "a coupon in two orders": (
        """UPDATE orders SET coupon_id = (SELECT coupon_id FROM coupons WHERE user_id = 'b-0')
           WHERE user_id = 'u-9'""",
        "coupons_redeemed_once_by_owner redemptions_match_orders orders_as_wished budgets_hold",
    ),
    "a redemption by an order that is over": (
        f"""UPDATE redemptions SET order_id = {_order("u-5")}
            WHERE order_id = {_order("u-0")}""",
        "redemptions_match_orders",
    ),
    "a redemption that was lost, so that the coupon can be used again": (
        f"DELETE FROM redemptions WHERE order_id = {_order('u-0')}",
        "redemptions_match_orders budgets_hold",
    ),
    "a counter that forgot an order": (
        "UPDATE user_counters SET used = used - 1 WHERE user_id = 'u-6' AND kind = 'order'",
        "user_limits_hold",
    ),
    "a counter that was lost": (
        "DELETE FROM user_counters WHERE user_id = 'u-6'",
        "user_limits_hold",
    ),
    "a user above his maximum": (
        """ALTER TABLE user_counters DROP CONSTRAINT user_limit_not_exceeded;
           UPDATE user_counters SET max = 2 WHERE user_id = 'u-6'""",
        "user_limits_hold",
    ),
    "a movement that never moved anything": (
        _enter(("stock:spring:rare:supply", 1), ("stock:spring:rare:available", -1)),
        "ledger_equals_balances",
    ),
    "a movement of an account nobody has": (
        _enter(("stock:spring:ghost:supply", -1), ("stock:spring:ghost:available", 1)),
        "ledger_equals_balances",
    ),
    "a ledger entry that was removed": (
        "DELETE FROM ledger WHERE account = 'stock:spring:rare:available'",
        "ledger_equals_balances ledger_batches_balance",
    ),
    "a ledger entry that was moved to another batch": (
        f"UPDATE ledger SET batch_id = {GHOST} WHERE account = 'stock:spring:rare:available'",
        "ledger_batches_balance",
    ),
    "a batch that is not the one its orders name": (
        f"UPDATE ledger SET batch_id = {GHOST} WHERE batch_id = {_batch('u-0')}",
        "orders_in_ledger",
    ),
    "a payment that was lost": (
        "DELETE FROM payments WHERE status = 'accepted' AND amount = 1800",
        "payments_match_orders",
    ),
    "a payment of another amount": (
        "UPDATE payments SET amount = 1 WHERE status = 'accepted' AND amount = 1800",
        "payments_match_orders",
    ),
    "an order that was paid twice": (
        f"""DROP INDEX payments_accepted_once;
            INSERT INTO payments VALUES ({_order("u-9")}, 'again', 0, 'accepted')""",
        "payments_match_orders",
    ),
    "a cancelled order that keeps its payment": (
        f"INSERT INTO payments VALUES ({_order('u-5')}, 'p', 3600, 'accepted')",
        "payments_match_orders",
    ),
    "a payment for an order that does not exist": (
        f"INSERT INTO payments VALUES ({GHOST}, 'p', 3600, 'refund_due')",
        "payments_match_orders",
    ),
    "an intent that could not be processed and is not in quarantine": (
        "DELETE FROM quarantine",
        "quarantined_were_told",
    ),
    "a quarantined intent that was told something else": (
        "UPDATE outcomes SET reason = 'sold_out' WHERE reason = 'could_not_be_processed'",
        "quarantined_were_told",
    ),
    "a retry that was never journalled": (
        f"UPDATE quarantine SET retried_as = {GHOST}",
        "quarantined_were_told",
    ),
}


def test_a_database_in_which_everything_has_happened_is_clean(busy):
    """Every rule holds after orders, issuance, refusals, payments, cancel, expiry, quarantine."""
    report = audit.run(busy, AUDITOR)
    assert report.violated == []
    assert report.in_flight == 1
    examined_nothing = [check.name for check in report.checks if check.examined == 0]
    assert examined_nothing == []


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_the_audit_sees(corruption, spoiling):
    """A corruption fails the checks whose rules it breaks, and no others."""
    statements, seen_by = CORRUPTIONS[corruption]
    spoiling.execute(statements.encode())
    report = audit.check_all(spoiling)
    assert sorted(check.name for check in report.violated) == sorted(seen_by.split())
    assert all(check.example or check.name == "retention_is_past" for check in report.violated)


def test_every_check_is_seen_to_fail_by_a_corruption():
    """A check that never failed in a test proves nothing."""
    seen = {check for _, checks in CORRUPTIONS.values() for check in checks.split()}
    assert seen | {"drained"} == set(audit.rules())


def test_drained_is_asked_only_when_the_system_should_be_at_rest(busy):
    """An open intent is no fault in a running system, and one in a drained system."""
    report = audit.run(busy, AUDITOR, drained=True)
    assert [check.name for check in report.violated] == ["drained"]


def test_an_audit_amid_commits_sees_one_moment(dsn, valkey_url):
    """REPEATABLE READ: what commits between two checks is seen by neither."""
    add_campaign(dsn)
    with open_shop(dsn, valkey_url) as shop:
        shop.sell(*shop.orders(3))

        def go_on(check: str) -> None:
            """Between each two checks one order is committed, and another accepted."""
            shop.work()
            shop.accept(shop.order(f"u-{check}"))

        report = audit.run(dsn, AUDITOR, progress=go_on)
        assert report.violated == []
        assert {check.name: check.examined for check in report.checks}["intents_accounted_for"] == 4
        assert report.in_flight == 1
        assert one(dsn, "SELECT count(*) FROM orders") > 20
        assert audit.run(dsn, AUDITOR).violated == []


def test_an_auditor_needs_no_other_right(busy, servers):
    """A login that has the role of auditor, and nothing else, can prove the promises."""
    login = sql.SQL("CREATE ROLE an_auditor LOGIN PASSWORD 'p' IN ROLE tidegate_auditor")
    with psycopg.connect(servers.dsn, autocommit=True) as connection:
        connection.execute(login)
    try:
        assert audit.run(f"{busy}?user=an_auditor&password=p").clean
    finally:
        with psycopg.connect(servers.dsn, autocommit=True) as connection:
            connection.execute("DROP ROLE an_auditor")


def test_the_command_prints_every_check_and_its_figures(busy, capsys):
    """In a pipe: one line a check, the verdict at the end, exit 0."""
    assert _run(["audit", "--dsn", busy]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:-1]] == [n for n in audit.rules() if n != "drained"]
    assert all(line.startswith("ok") for line in lines[:-1])
    assert lines[-1].startswith("clean: ")


def test_the_command_exits_1_on_a_violation_and_names_an_example(busy, capsys):
    """An open intent where none should be is shown by its id."""
    assert _run(["audit", "--dsn", busy, "--drained"]) == 1
    intent_id = one(busy, "SELECT intent_id::text FROM open_intents")
    assert f"for example {intent_id}" in capsys.readouterr().out


def test_the_command_speaks_json(busy, capsys):
    """`--json` gives the report and its verdict."""
    assert _run(["audit", "--dsn", busy, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["clean"] is True
    assert report["in_flight"] == 1
    assert {check["name"] for check in report["checks"]} == set(audit.rules()) - {"drained"}


def test_the_command_exits_3_where_no_database_answers(capsys):
    """Not to be reached is not the same as not clean."""
    assert _run(["audit", "--dsn", "postgresql://nobody@127.0.0.1:1/none"]) == 3
    assert "cannot reach PostgreSQL" in capsys.readouterr().err


def _run(arguments: list[str]) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code
