"""The quarantine and the story of an intent, by the store and by the commands."""

from __future__ import annotations

import json
from uuid import UUID

import pytest

from deploy.cli import main
from producer.answers import Accepted
from tests.factories import add_campaign, one, open_shop, owner
from workers.contract.ids import uuid7
from workers.domain.intent import Line
from workers.service.process_batch import BatchReport
from workers.store import audit, quarantine
from workers.store.pool import AUDITOR


@pytest.fixture
def shop(dsn, valkey_url, monkeypatch):
    """A shop whose database the commands find by the environment."""
    monkeypatch.setenv("TIDEGATE_POSTGRES__DSN", dsn)
    add_campaign(dsn)
    with open_shop(dsn, valkey_url) as opened:
        yield opened


@pytest.fixture
def poison(shop) -> UUID:
    """An intent that was quarantined."""
    [intent_id] = shop.accept(shop.order("u-13"))
    shop.processor._quarantine(intent_id, "KeyError: 'tea'\nat line 9", 3, BatchReport())
    return intent_id


def run(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def test_a_retry_is_a_fresh_intent_and_the_told_outcome_stands(shop, poison):
    """The same wish under a new id is accepted now, and decided like any other."""
    with owner(shop.dsn) as connection:
        done = quarantine.retry(connection, poison, "tester", "fixed in 1.2")
    assert done.fresh
    report = shop.work()
    assert report.outcomes == {"committed": 1}
    assert one(shop.dsn, "SELECT reason FROM outcomes WHERE intent_id = %s", poison) == (
        "could_not_be_processed"
    )
    assert one(shop.dsn, "SELECT user_id FROM orders WHERE order_id = %s", done.retried_as) == (
        "u-13"
    )
    with owner(shop.dsn) as connection:
        assert quarantine.show(connection, poison).retry == "committed"
    assert one(shop.dsn, "SELECT reason FROM operator_actions") == "fixed in 1.2"
    assert audit.run(shop.dsn, AUDITOR, drained=True).violated == []


def test_retrying_twice_is_retrying_once(shop, poison):
    """The key of a retry comes from the quarantined intent: one of those, one fresh intent."""
    with owner(shop.dsn) as connection:
        first = quarantine.retry(connection, poison, "tester")
        again = quarantine.retry(connection, poison, "tester")
    assert (first.fresh, again.fresh) == (True, False)
    assert again.retried_as == first.retried_as
    assert one(shop.dsn, "SELECT count(*) FROM open_intents") == 1


def test_a_retry_is_due_for_the_redispatcher_at_once(shop, poison):
    """Nobody hints at it, so nobody's hint is waited for."""
    with owner(shop.dsn) as connection:
        quarantine.retry(connection, poison, "tester")
    assert one(shop.dsn, "SELECT dispatch_after <= now() FROM open_intents") is True


def test_a_retry_that_is_quarantined_is_retried_by_its_own_id(shop, poison):
    """A wish may fail twice; each failure is told once, each retry is one intent."""
    with owner(shop.dsn) as connection:
        second = quarantine.retry(connection, poison, "tester").retried_as
        shop.processor._quarantine(second, "KeyError", 3, BatchReport())
        third = quarantine.retry(connection, second, "tester").retried_as
    assert shop.work().outcomes == {"committed": 1}
    assert one(shop.dsn, "SELECT count(*) FROM orders WHERE order_id = %s", third) == 1
    assert audit.run(shop.dsn, AUDITOR, drained=True).violated == []


def test_what_is_not_in_quarantine_is_not_retried(shop):
    """A committed intent, an open one and nobody's are all left alone."""
    [committed] = shop.sell(shop.order())
    [still_open] = shop.accept(shop.order())
    with owner(shop.dsn) as connection:
        for intent_id in (committed, still_open, uuid7()):
            with pytest.raises(quarantine.NotQuarantinedError):
                quarantine.retry(connection, intent_id, "tester")
    assert one(shop.dsn, "SELECT count(*) FROM intents") == 2


def test_a_gateway_that_took_the_retrys_key_is_never_answered_for(shop, poison):
    """Its intent is its own: the retry is refused, not merged into it."""
    posted = shop.order("u-13", lines=(Line("bun", 3),))
    [answer] = shop.intake.submit([_with_key(posted, f"retry-of:{poison}")])
    assert isinstance(answer, Accepted)
    with owner(shop.dsn) as connection, pytest.raises(quarantine.NotRetriableError):
        quarantine.retry(connection, poison, "tester")
    assert one(shop.dsn, "SELECT count(*) FROM quarantine WHERE retried_as IS NULL") == 1


def _with_key(posted, key):
    from msgspec.structs import replace

    return replace(posted, idempotency_key=key)


def test_the_wish_of_a_pruned_intent_is_not_guessed(shop, poison):
    """Without its journal row there is nothing to retry, and the list still tells of it."""
    with owner(shop.dsn) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("DELETE FROM intents")
        with pytest.raises(quarantine.NotRetriableError):
            quarantine.retry(connection, poison, "tester")
        [listed] = quarantine.list_many(connection)
    assert (listed.intent_id, listed.kind, listed.attempts) == (poison, None, 3)


def test_the_commands_list_show_and_retry(shop, poison, capsys):
    """For people a line a row, for programs JSON; unknown ids exit 1."""
    assert run("quarantine", "list") == 0
    listed = capsys.readouterr().out
    assert str(poison) in listed
    assert "KeyError: 'tea'" in listed
    assert "1 in quarantine" in listed
    assert run("quarantine", "show", str(poison)) == 0
    assert "at line 9" in capsys.readouterr().out
    assert run("quarantine", "retry", str(poison), "--json") == 0
    [done] = json.loads(capsys.readouterr().out)
    assert done["fresh"] is True
    assert run("quarantine", "retry", str(poison)) == 0
    assert f"had been retried as {done['retried_as']}" in capsys.readouterr().out
    assert run("quarantine", "list", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["retry"] == "accepted"
    assert run("quarantine", "show", str(uuid7())) == 1
    assert run("quarantine", "retry", str(uuid7())) == 1
    assert run("quarantine", "show", "nonsense") == 2


def test_the_story_of_an_order_has_all_its_chapters(shop, capsys):
    """Acceptance, decision, lines, coupon, payment, movements: with times, in one reading."""
    [coupon] = shop.sell(shop.issuance("u-1"))
    [order] = shop.sell(shop.order("u-1", coupon_code=shop.code(coupon)))
    assert shop.pay(order, 1_100) == "paid"
    assert run("intent", "explain", str(order)) == 0
    told = capsys.readouterr().out
    for chapter in (
        f"intent {order}: committed",
        "from gateway chat under key",
        "ms after it was accepted",
        "payment pay-1 of 1100: accepted",
        f"coupon redeemed by order {order}",
        "order confirmed: total 3600, discount 2500, payable 1100 CNY",
        "1 × tea at 1800",
        "stock:spring:tea:reserved",
    ):
        assert chapter in told
    assert run("intent", "explain", str(order), "--json") == 0
    story = json.loads(capsys.readouterr().out)
    assert story["coupon"]["coupon_id"] == str(coupon)
    assert [line["sku"] for line in story["lines"]] == ["bun", "tea"]
    assert story["wish"]["body"]["coupon_id"] == str(coupon)
    assert sum(movement["delta"] for movement in story["batch_movements"]) == 0


def test_the_story_of_an_open_intent_says_why_it_waits(shop, capsys):
    """Its failures so far, and when it is tried again."""
    [intent_id] = shop.accept(shop.order())
    shop.session.record_failure(
        intent_id, "OverflowError: too many", counted=True, pause_ms=60_000, failures_max=3
    )
    assert run("intent", "explain", str(intent_id)) == 0
    told = capsys.readouterr().out
    assert f"intent {intent_id}: accepted" in told
    assert "1 failed attempts, the last: OverflowError: too many" in told


def test_the_story_of_a_quarantined_intent_names_its_retry(shop, poison, capsys):
    """And the retry names what it is a retry of."""
    with owner(shop.dsn) as connection:
        fresh = quarantine.retry(connection, poison, "tester").retried_as
    assert run("intent", "explain", str(poison)) == 0
    told = capsys.readouterr().out
    assert "refused: could_not_be_processed" in told
    assert f"retried as {fresh}" in told
    assert run("intent", "explain", str(fresh)) == 0
    assert f"as the retry of {poison}" in capsys.readouterr().out


def test_the_story_of_nobodys_intent_is_not_told(shop, capsys):
    """Exit 1, and why."""
    assert run("intent", "explain", str(uuid7())) == 1
    assert "nobody knows" in capsys.readouterr().err
