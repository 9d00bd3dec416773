"""Retention: old days go, whole and safely; what anybody may still need stays."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from msgspec.structs import replace

from deploy.cli import main
from producer.answers import Accepted, Replayed
from tests.factories import add_campaign, one, open_shop, owner
from workers.contract.ids import uuid7, uuid7_floor
from workers.store import audit, prune
from workers.store.pool import AUDITOR

NOW = datetime.now(UTC)
AGED = NOW.replace(hour=12) - timedelta(days=40)  # the first of the days that tests write to
MONTH = timedelta(days=30)


@pytest.fixture
def aged(dsn, valkey_url):
    """A shop whose campaign is long over: three orders on each of three days, 40 days ago."""
    with owner(dsn) as connection:
        connection.execute("SELECT ensure_partitions(%s, 3)", (AGED.date(),))
    add_campaign(dsn)
    with open_shop(dsn, valkey_url) as shop:
        for day in range(3):
            sell_on(shop, AGED + timedelta(days=day))
        close_campaign(dsn, days_ago=39)
        yield shop


def sell_on(shop, when, count=3, user="u"):
    """Sell orders with the ids of a day past; their journal rows lie in its partition."""
    posted = [
        replace(shop.order(f"{user}-{n}"), intent_id=UUID(int=uuid7_floor(when).int + n))
        for n in range(count)
    ]
    sell_and_pay(shop, *posted)
    return posted


def sell_and_pay(shop, *posted):
    for order_id in shop.sell(*posted):
        assert shop.pay(order_id, 3_600) == "paid"


def close_campaign(dsn, days_ago, campaign_id="spring"):
    """Let a campaign and its coupons have ended so many days ago."""
    with owner(dsn) as connection:
        connection.execute(
            "UPDATE campaigns SET starts_at = now() - interval '99 days', ends_at = now() - %s, "
            "coupons_valid_from = now() - interval '99 days', coupons_valid_until = now() - %s "
            "WHERE campaign_id = %s",
            (timedelta(days=days_ago), timedelta(days=days_ago), campaign_id),
        )


def counts(dsn):
    """Rows of journal, outcomes, keys, orders."""
    tables = ("intents", "outcomes", "idempotency_keys", "orders")
    return [one(dsn, f"SELECT count(*) FROM {table}") for table in tables]


def assert_clean(dsn):
    assert [check.name for check in audit.run(dsn, AUDITOR).violated] == []


def test_old_days_are_removed_and_their_orders_stay(aged):
    """Journal, outcomes and keys go; orders and the books do not; the audit stays clean."""
    found = prune.plan(aged.dsn, MONTH)
    assert [(day.intents, day.outcomes) for day in found.days] == [(3, 3)] * 3
    assert found.rows == 18
    assert found.bytes > 0
    assert found.kept is None
    done = prune.prune(aged.dsn, MONTH, "tester")
    assert (done.partitions, done.keys, done.default_rows) == (6, 9, 0)
    assert counts(aged.dsn) == [0, 0, 0, 9]
    assert prune.plan(aged.dsn, MONTH).days == []
    assert_clean(aged.dsn)
    assert one(aged.dsn, "SELECT actor FROM operator_actions WHERE action = 'prune'") == "tester"


def test_a_plan_changes_nothing(aged):
    """Looking is free."""
    before = counts(aged.dsn)
    prune.plan(aged.dsn, MONTH)
    assert counts(aged.dsn) == before
    assert one(aged.dsn, "SELECT pruned_before FROM retention") == UUID(int=0)


def test_younger_days_stay_with_their_keys(aged):
    """Only whole days older than asked for are removed; a young key is still known."""
    add_campaign(aged.dsn, "today")
    posted = aged.order(campaign_id="today")
    aged.sell(posted)
    prune.prune(aged.dsn, timedelta(days=39), "tester")
    assert counts(aged.dsn) == [7, 7, 7, 10]
    [again] = aged.intake.submit([replace(posted, intent_id=uuid7())])
    assert isinstance(again, Replayed)
    assert_clean(aged.dsn)


def test_a_day_with_an_open_intent_stays_and_so_do_the_days_after_it(aged):
    """A receipt is a promise, however old."""
    stuck = replace(aged.order(), intent_id=uuid7_floor(AGED + timedelta(days=1, hours=1)))
    aged.accept(stuck)
    found = prune.plan(aged.dsn, MONTH)
    assert [day.day for day in found.days] == [AGED.date()]
    assert found.kept == f"open intent {stuck.intent_id}"
    prune.prune(aged.dsn, MONTH, "tester")
    assert_clean(aged.dsn)
    aged.work([stuck.intent_id])  # by name, as the redispatcher hints at it
    prune.prune(aged.dsn, MONTH, "tester")
    assert counts(aged.dsn)[0] == 0
    assert_clean(aged.dsn)


def test_a_day_with_an_unpaid_order_stays(aged):
    """Payment asks the journal whose order it is."""
    with owner(aged.dsn) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            "UPDATE orders SET status = 'awaiting_payment', payment_deadline = now() + "
            "interval '1 day' WHERE order_id = %s",
            (uuid7_floor(AGED + timedelta(days=2)),),
        )
    found = prune.plan(aged.dsn, MONTH)
    assert len(found.days) == 2
    assert found.kept is not None
    assert found.kept.startswith("unpaid order")


@pytest.mark.parametrize(("days_ago", "removable"), [(6, 1), (8, 3)])
def test_keys_live_seven_days_past_their_campaigns_coupons(aged, days_ago, removable):
    """A day with an intent of a campaign that ended lately stays; one of a campaign past is gone."""
    add_campaign(aged.dsn, "late")
    one_more = replace(
        aged.order(campaign_id="late"),
        intent_id=uuid7_floor(AGED + timedelta(days=1, hours=2)),
    )
    sell_and_pay(aged, one_more)
    close_campaign(aged.dsn, days_ago, "late")
    assert len(prune.plan(aged.dsn, MONTH).days) == removable


def test_an_interrupted_prune_is_clean_and_is_finished_by_the_next(aged):
    """It may stop at any step: the audit stays clean, and nothing is left behind in the end."""
    steps: list[str] = []

    def stop_at(number):
        def progress(step):
            steps.append(step)
            if len(steps) == number:
                raise KeyboardInterrupt

        return progress

    for number in range(
        1, 5
    ):  # before the first keys, the first drop, the second keys, the last drop
        steps.clear()
        with pytest.raises(KeyboardInterrupt):
            prune.prune(aged.dsn, MONTH, "tester", progress=stop_at(number))
        assert_clean(aged.dsn)
    assert counts(aged.dsn) == [3, 3, 0, 9]
    # What was begun is finished even where less is asked for now.
    prune.prune(aged.dsn, timedelta(days=400), "tester")
    assert counts(aged.dsn) == [0, 0, 0, 9]
    assert_clean(aged.dsn)


def test_two_at_once_remove_the_same_once(aged):
    """Neither fails, nothing is left, the audit is clean."""
    errors = []

    def run_one():
        try:
            prune.prune(aged.dsn, MONTH, "tester")
        except Exception as error:
            errors.append(error)

    both = [threading.Thread(target=run_one) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert errors == []
    assert counts(aged.dsn) == [0, 0, 0, 9]
    assert_clean(aged.dsn)


def test_a_key_bound_anew_after_it_was_deleted_is_left_alone(aged):
    """A resumed prune deletes the keys of its own intents, by name and by intent."""
    add_campaign(aged.dsn, "today")
    old = replace(
        aged.order(campaign_id="today"),
        intent_id=uuid7_floor(AGED + timedelta(days=2, hours=1)),
    )
    sell_and_pay(aged, old)
    close_campaign(aged.dsn, 39, "today")
    with pytest.raises(KeyboardInterrupt):
        prune.prune(aged.dsn, MONTH, "tester", progress=_stop_before_the_last_drop)
    [answer] = aged.intake.submit([replace(old, intent_id=uuid7())])
    assert isinstance(answer, Accepted)
    prune.prune(aged.dsn, MONTH, "tester")
    [again] = aged.intake.submit([replace(old, intent_id=uuid7())])
    assert isinstance(again, Replayed)
    assert_clean(aged.dsn)


def _stop_before_the_last_drop(step):
    if step.startswith(str((AGED + timedelta(days=2)).date())) and step.endswith("partitions"):
        raise KeyboardInterrupt


def test_rows_in_the_default_partitions_are_deleted_by_themselves(dsn, valkey_url):
    """Where a day had no partition of its own, its rows go one batch after the other."""
    add_campaign(dsn)
    with open_shop(dsn, valkey_url) as shop:
        sell_on(shop, AGED)
        young = sell_on(shop, NOW - timedelta(days=5), user="young")
        close_campaign(dsn, days_ago=8)
        found = prune.plan(dsn, MONTH)
        assert (found.days, found.default_rows) == ([], 6)
        done = prune.prune(dsn, MONTH, "tester")
        assert (done.partitions, done.keys, done.default_rows) == (0, 3, 6)
        assert counts(dsn) == [3, 3, 3, 6]
        assert one(dsn, "SELECT min(intent_id::text)::uuid FROM intents") == young[0].intent_id
    assert_clean(dsn)


def test_a_long_reader_is_not_waited_for_and_nobody_waits_behind_us(aged, monkeypatch):
    """Dropping gives up its place in the queue of locks at once, and says what is in the way."""
    monkeypatch.setattr(prune, "DROP_ATTEMPTS_MAX", 2)
    add_campaign(aged.dsn, "today")
    waits: list[float] = []
    stop = threading.Event()

    def sell_on_and_on():
        while not stop.is_set():
            began = datetime.now(UTC)
            aged.sell(aged.order(f"w-{len(waits)}", campaign_id="today"))
            waits.append((datetime.now(UTC) - began).total_seconds())

    with owner(aged.dsn) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM intents")
        seller = threading.Thread(target=sell_on_and_on)
        seller.start()
        try:
            with pytest.raises(prune.PruneBusyError):
                prune.prune(aged.dsn, MONTH, "tester")
        finally:
            stop.set()
            seller.join()
        reader.execute("ROLLBACK")
    assert max(waits) < 1.0
    prune.prune(aged.dsn, MONTH, "tester")
    assert_clean(aged.dsn)


def test_the_command_removes_only_with_yes(aged, monkeypatch, capsys):
    """First it says what it would remove; `--json` says the same."""
    monkeypatch.setenv("TIDEGATE_POSTGRES__DSN", aged.dsn)
    assert run(["prune", "--older-than", "30d"]) == 0
    said = capsys.readouterr().out
    assert "6 partitions, 18 rows" in said
    assert "would be removed; add --yes" in said
    assert counts(aged.dsn)[0] == 9
    assert run(["prune", "--older-than", "4w", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"] == {
        "partitions": 6,
        "keys": 9,
        "default_rows": 0,
    }
    assert run(["prune", "--older-than", "30d"]) == 0
    assert capsys.readouterr().out.strip() == "nothing to remove"


@pytest.mark.parametrize("age", ["12h", "0d", "30", "soon", "-3d"])
def test_an_age_of_less_than_a_day_or_of_no_unit_is_refused(age, capsys):
    """Wrong usage, before anything is connected to."""
    assert run(["prune", "--older-than", age]) == 2


def run(arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code
