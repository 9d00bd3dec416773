"""The operator's levers: durable, audited, dry first, and in force at every gate within a second."""

from __future__ import annotations

import json
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kit import comes_true

from deploy.cli import faults, main
from producer import limits
from producer.limits import LimitBook, Rules
from tests.factories import (
    MASTER,
    add_campaign,
    give_coupons,
    one,
    open_gate,
    open_shop,
    owner,
)
from workers.contract.admission import RateLimit
from workers.contract.couponcode import CouponCodes
from workers.domain.intent import Line
from workers.domain.overload import Level, Policy
from workers.store import levels, levers, lifecycle
from workers.store.levers import Until
from workers.store.limits import Rows, read_goods, read_rows
from workers.store.pool import AUDITOR, PRODUCER, WORKER, Bounds, Connection, connect
from workers.store.pulling import LeverError, Pull

Captured = pytest.CaptureFixture[str]
HOUR = timedelta(hours=1)
ME = Pull(actor="sre@host", reason="the gateway asked us to")


@pytest.fixture(autouse=True)
def aimed(dsn: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A campaign of two items, and commands aimed at it by the environment."""
    monkeypatch.setenv("TIDEGATE_POSTGRES__DSN", dsn)
    monkeypatch.setenv("TIDEGATE_VALKEY__URL", valkey_url)
    monkeypatch.setenv("TIDEGATE_VALKEY__KEY_PREFIX", "tidegate:")
    monkeypatch.setenv("TIDEGATE_SECRETS__MASTER", MASTER)
    monkeypatch.chdir(tmp_path)
    add_campaign(dsn)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    code = ended.value.code
    return code if isinstance(code, int) else 0


def told(capsys: Captured, *arguments: str) -> Any:
    capsys.readouterr()
    assert run(*arguments, "--json") == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def actions(dsn: str, subject: str) -> list[tuple[str, str, str | None]]:
    with owner(dsn) as connection:
        return connection.execute(
            "SELECT actor, action, reason FROM operator_actions WHERE subject = %s ORDER BY action_id",
            (subject,),
        ).fetchall()


@contextmanager
def booked(dsn: str) -> Iterator[LimitBook]:
    """The rules of one process that admits."""
    book = LimitBook(lambda: connect(dsn, PRODUCER, Bounds(), name="test-limits"))
    book.start()
    try:
        assert book.loaded.wait(10)
        yield book
    finally:
        book.close()


def refreshes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function that returns when the books of this process hold what is committed now."""
    read: list[object] = []
    read_rows = limits.read_rows

    def counted(connection: Connection) -> Rows:
        rows = read_rows(connection)
        read.append(rows)
        return rows

    monkeypatch.setattr(limits, "read_rows", counted)

    def refreshed() -> None:
        # One may have looked before, one looks now, and its word is in force when the next has looked.
        goal = len(read) + 3
        assert comes_true(lambda: len(read) >= goal)

    return refreshed


def seconds_until(book: LimitBook, holds: Callable[[Rules], bool]) -> float:
    """How long it takes until the book's rules are so; at most 5 seconds."""
    began = time.monotonic()
    while not holds(book.current()):
        assert time.monotonic() - began < 5, book.current()
        time.sleep(0.01)
    return time.monotonic() - began


# In force within a second --------------------------------------------------------------------------


def test_every_lever_holds_at_a_gate_within_a_second_of_its_commit(dsn: str) -> None:
    with booked(dsn) as book, owner(dsn) as connection:
        assert book.current().issuance_pauses == {}
        levers.pause_issuance(connection, "spring", Until(), ME)
        taken_s = [seconds_until(book, lambda rules: rules.issuance_pauses == {"spring": None})]
        levers.pause_merchant(connection, "tea-house", Until(), ME)
        taken_s.append(
            seconds_until(book, lambda rules: rules.limits.merchants == {"tea-house": None})
        )
        levels.order_level(connection, Level.CLOSED, None, ME)
        taken_s.append(seconds_until(book, lambda rules: rules.limits.ordered is not None))
        until = datetime.now(UTC) + timedelta(days=9)
        levers.extend(connection, "spring", until, ME)
        taken_s.append(seconds_until(book, lambda rules: rules.windows["spring"].ends_at == until))
        levers.resume_issuance(connection, "spring", ME)
        taken_s.append(seconds_until(book, lambda rules: not rules.issuance_pauses))
        levers.resume_merchant(connection, "tea-house", ME)
        taken_s.append(seconds_until(book, lambda rules: not rules.limits.merchants))
        levels.lift_level(connection, ME)
        taken_s.append(seconds_until(book, lambda rules: rules.limits.ordered is None))
    assert max(taken_s) < 1


def test_a_process_that_starts_later_finds_every_lever_as_it_stands(dsn: str) -> None:
    """A restart forgets nothing: neither the paused, nor until when."""
    with owner(dsn) as connection:
        paused = levers.pause_issuance(connection, "spring", Until(after=HOUR), ME)
        levers.pause_merchant(connection, "tea-house", Until(after=HOUR), ME)
        order = levels.order_level(connection, Level.THROTTLED, HOUR, ME).order
    assert order is not None
    assert order.until is not None
    for _ in range(2):
        with booked(dsn) as book:
            rules = book.current()
        assert rules.issuance_pauses == {"spring": paused.until}
        assert rules.limits.merchants == {"tea-house": None}
        assert rules.limits.ordered == Policy(
            level=Level.THROTTLED,
            reason="operator",
            since_ms=round(order.ordered_at.timestamp() * 1000),
            until_ms=round(order.until.timestamp() * 1000),
        )


def test_a_pause_ends_by_itself_by_the_databases_clock(dsn: str) -> None:
    soon = Until(after=timedelta(milliseconds=700))
    with booked(dsn) as book, owner(dsn) as connection:
        levers.pause_issuance(connection, "spring", soon, ME)
        levers.pause_merchant(connection, "tea-house", soon, ME)
        levels.order_level(connection, Level.CLOSED, soon.after, ME)
        seconds_until(book, lambda r: bool(r.issuance_pauses and r.limits.merchants))
        seconds_until(book, lambda r: not r.issuance_pauses and not r.limits.merchants)
        seconds_until(book, lambda r: r.limits.ordered is None)
        assert levels.read_level(connection) is None
        assert [(m.paused, m.until) for m in levers.list_merchants(connection)] == [(False, None)]


def test_the_rules_stay_in_force_while_postgresql_is_away(dsn: str) -> None:
    lent: list[Connection] = []
    asked: list[bool] = []

    def lend() -> Connection:
        asked.append(bool(lent))
        if lent:
            raise OSError("no server") from None
        lent.append(connect(dsn, PRODUCER, Bounds(), name="test-limits"))
        return lent[0]

    with owner(dsn) as connection:
        levers.pause_merchant(connection, "tea-house", Until(), ME)
    book = LimitBook(lend)
    book.start()
    try:
        assert book.loaded.wait(10)
        lent[0].close()
        assert comes_true(lambda: asked.count(True) == 2)
        assert book.current().limits.merchants == {"tea-house": None}
    finally:
        book.close()


def test_rules_that_do_not_change_stay_the_same_object(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who keeps something by the rules may compare them by identity."""
    refreshed = refreshes(monkeypatch)
    with booked(dsn) as book, owner(dsn) as connection:
        before = book.current()
        refreshed()
        assert book.current() is before
        levers.pause_issuance(connection, "spring", Until(), ME)
        seconds_until(book, lambda rules: rules is not before)


def test_the_rules_say_whose_each_item_is_and_what_a_coupon_holds(dsn: str) -> None:
    with booked(dsn) as book:
        rules = book.current()
        assert rules.items_merchant == {
            ("spring", "bun"): "tea-house",
            ("spring", "tea"): "tea-house",
        }
        assert rules.coupon_values == {"spring": 2_500}
        assert set(rules.windows) == {"spring"}
        add_campaign(dsn, "summer", coupon=None, stock={"ice": 1})
        seconds_until(book, lambda r: ("summer", "ice") in r.items_merchant)
        assert book.current().coupon_values == {"spring": 2_500}


def test_a_merchants_kitchen_bounds_its_orders_with_ten_seconds_at_once(dsn: str) -> None:
    with owner(dsn) as connection:
        for name, most in (("few", 3), ("many", 600), ("huge", 2_000_000_000)):
            connection.execute("INSERT INTO merchants VALUES (%s, %s)", (name, most))
    with booked(dsn) as book:
        assert book.current().limits.merchants == {
            "few": RateLimit(0.05, 1),
            "many": RateLimit(10, 100),
            "huge": RateLimit(1_000_000, 333_333_333),
        }


def test_reading_the_rules_takes_two_milliseconds(dsn: str) -> None:
    """Four statements in one round trip, in every process, twice a second."""
    with connect(dsn, PRODUCER, Bounds(), name="test") as connection:
        for _ in range(6):
            read_rows(connection)
        began = time.process_time()
        for _ in range(50):
            read_rows(connection)
        assert (time.process_time() - began) / 50 < 0.002
        assert len(read_goods(connection)) == 2


# The decision honours a merchant's pause -------------------------------------------------------------


def test_a_paused_merchant_sells_nothing_until_its_pause_is_over(dsn: str, valkey_url: str) -> None:
    with open_shop(dsn, valkey_url) as shop, owner(dsn) as connection:
        shop.accept(shop.order("u-1"))
        levers.pause_merchant(connection, "tea-house", Until(after=HOUR), ME)
        assert shop.work().outcomes == {"merchant_unavailable": 1}
        levers.pause_merchant(connection, "tea-house", Until(after=timedelta(milliseconds=50)), ME)
        assert comes_true(lambda: not levers.list_merchants(connection)[0].paused)
        shop.sell(shop.order("u-2"))
        levers.pause_merchant(connection, "tea-house", Until(), ME)
        shop.accept(shop.order("u-3"))
        assert shop.work().outcomes == {"merchant_unavailable": 1}
        levers.resume_merchant(connection, "tea-house", ME)
        shop.sell(shop.order("u-4"))


def test_a_pause_of_issuance_breaks_no_receipt(dsn: str, valkey_url: str) -> None:
    """It binds at the gate; a wish that was accepted is served."""
    with open_shop(dsn, valkey_url) as shop, owner(dsn) as connection:
        shop.accept(shop.issuance("u-1"))
        levers.pause_issuance(connection, "spring", Until(), ME)
        assert shop.work().outcomes == {"committed": 1}


# Dry first, audited ----------------------------------------------------------------------------------


def test_a_dry_run_counts_whom_it_touches_and_does_nothing(
    dsn: str, valkey_url: str, capsys: Captured
) -> None:
    give_coupons(dsn, ["u-1", "u-2", "u-3"])
    ends_at = one(dsn, "SELECT ends_at FROM campaigns")
    with open_shop(dsn, valkey_url) as shop:
        shop.accept(shop.order("u-9"), shop.order("u-9"), shop.issuance("u-8"))
        shop.accept(shop.order("u-8", lines=(Line("tea", 1),)))
        with owner(dsn) as connection:
            connection.execute("INSERT INTO merchants VALUES ('bakery')")
            connection.execute("UPDATE items SET merchant_id = 'bakery' WHERE sku = 'bun'")
        dry = ("--dry-run", "--reason", "to see")
        paused = told(capsys, "campaign", "pause-issuance", "spring", *dry)
        assert paused["touched"] == {"users": 3, "coupons": 3, "in_flight": 1}
        assert (paused["dry_run"], paused["paused"]) == (True, True)
        extended = told(
            capsys, "campaign", "extend", "spring", "--valid-until", "2099-01-01T00:00Z", *dry
        )
        assert extended["touched"] == {"users": 3, "coupons": 3}
        capsys.readouterr()
        assert run("campaign", "extend", "spring", "--valid-until", "2099-01-01T00:00Z", *dry) == 0
        said = capsys.readouterr().out
        assert "touches 3 users" in said
        assert "in flight" not in said, "nobody counted them: an extension touches none"
        merchant = told(capsys, "merchant", "pause", "bakery", *dry)
        assert merchant["touched"] == {"users": 1, "coupons": 3, "in_flight": 2}
        assert (merchant["items"], merchant["units"]) == (1, 1_000)
        closed = told(capsys, "level", "close", *dry)
        assert closed["touched"] == {"users": 3, "coupons": 3, "in_flight": 4}
        assert closed["campaigns"] == 1
        shop.work()  # the database's own word: nobody is paused
        assert one(dsn, "SELECT count(*) FROM outcomes WHERE reason IS NULL") == 4
    with booked(dsn) as book:
        assert book.current().issuance_pauses == {}
        assert book.current().limits.merchants == {}
        assert book.current().limits.ordered is None
    assert one(dsn, "SELECT ends_at FROM campaigns") == ends_at
    assert one(dsn, "SELECT count(*) FROM operator_actions") == 0


def test_each_lever_is_recorded_with_who_and_why(dsn: str, capsys: Captured) -> None:
    from deploy.actor import whoami

    me = whoami()
    why = ("--reason", "kitchen on fire")
    told(capsys, "campaign", "pause-issuance", "spring", "--for", "2h", *why)
    told(capsys, "campaign", "resume-issuance", "spring", "--reason", "put out")
    told(capsys, "campaign", "extend", "spring", "--valid-until", "2099-02-28T23:59:59", *why)
    told(capsys, "merchant", "pause", "tea-house", *why)
    told(capsys, "merchant", "resume", "tea-house")
    told(capsys, "level", "force", "shedding", "--for", "10m", *why)
    told(capsys, "level", "open")
    assert actions(dsn, "campaign:spring") == [
        (me, "campaign pause-issuance", "kitchen on fire"),
        (me, "campaign resume-issuance", "put out"),
        (me, "campaign extend", "kitchen on fire"),
    ]
    assert actions(dsn, "merchant:tea-house") == [
        (me, "merchant pause", "kitchen on fire"),
        (me, "merchant resume", None),
    ]
    assert actions(dsn, "level") == [
        (me, "level shedding", "kitchen on fire"),
        (me, "level open", None),
    ]
    detail = one(dsn, "SELECT detail FROM operator_actions WHERE action = 'campaign extend'")
    assert detail["valid_until"].startswith("2099-02-28T15:59:59")


def test_a_lever_that_changes_nothing_is_not_recorded(dsn: str, capsys: Captured) -> None:
    for arguments in (
        ("campaign", "resume-issuance", "spring"),
        ("merchant", "resume", "tea-house"),
        ("level", "open"),
    ):
        assert told(capsys, *arguments)["changed"] is False
    ends_at = one(dsn, "SELECT coupons_valid_until FROM campaigns").isoformat()
    again = told(capsys, "campaign", "extend", "spring", "--valid-until", ends_at)
    assert again["changed"] is False
    assert one(dsn, "SELECT count(*) FROM operator_actions") == 0


# Times ---------------------------------------------------------------------------------------------


def test_a_time_without_an_offset_is_the_campaigns_own(dsn: str, capsys: Captured) -> None:
    paused = told(
        capsys,
        "campaign",
        "pause-issuance",
        "spring",
        "--until",
        "2099-01-01T08:00",
        "--reason",
        "x",
    )
    assert paused["until"] == "2099-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("campaign pause-issuance spring", 2, "--reason"),
        ("campaign pause-issuance none --reason x", 1, "there is no campaign none"),
        ("campaign pause-issuance spring --reason ' '", 2, "say why"),
        ("campaign pause-issuance spring --reason x --until 2020-01-01T00:00Z", 1, "is past"),
        ("campaign pause-issuance spring --reason x --until soon", 2, "is no time"),
        ("campaign pause-issuance spring --reason x --for '2 hours'", 2, "30m"),
        ("campaign pause-issuance spring --reason x --for 1h --until 2099-01-01", 2, "not both"),
        ("campaign resume-issuance none", 1, "there is no campaign none"),
        ("campaign extend spring --valid-until 2020-01-01T00:00", 1, "that time or a later one"),
        ("campaign extend none --valid-until 2099-01-01T00:00", 1, "there is no campaign none"),
        ("merchant pause none --reason x", 1, "merchant list"),
        ("merchant pause tea-house --reason x --until 2099-01-01", 2, "has no time zone"),
        ("merchant resume none", 1, "there is no merchant none"),
        ("level force off --reason x", 2, "closed"),
        ("level close", 2, "--reason"),
        ("level force closed --reason x --for 0s", 2, "not between"),
    ],
)
def test_a_command_that_cannot_be_obeyed_says_what_to_do_instead(
    capsys: Captured, command: str, code: int, said: str
) -> None:
    assert run(*shlex.split(command)) == code
    assert said in " ".join(capsys.readouterr().err.split())


def test_without_a_database_levers_exit_with_3(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("TIDEGATE_POSTGRES__DSN", "postgresql://127.0.0.1:1/none")
    for arguments in (
        ("campaign", "pause-issuance", "spring", "--reason", "x"),
        ("merchant", "resume", "tea-house"),
        ("level", "close", "--reason", "x"),
    ):
        assert run(*arguments) == faults.UNREACHABLE
        assert "cannot reach PostgreSQL" in capsys.readouterr().err


# Extending -----------------------------------------------------------------------------------------


def test_extended_coupons_are_redeemed_after_the_campaign_would_have_ended(
    dsn: str, valkey_url: str
) -> None:
    """The campaign goes on as long as its coupons: a coupon is redeemed by an order."""
    with open_shop(dsn, valkey_url) as shop, owner(dsn) as connection:
        [coupon] = give_coupons(dsn, ["u-1"])
        connection.execute(
            "UPDATE campaigns SET ends_at = now() - interval '1 s', coupons_valid_until = ends_at"
        )
        connection.execute("UPDATE campaigns SET coupons_valid_until = ends_at")
        code = CouponCodes(MASTER).code_of(coupon)
        shop.accept(shop.order("u-1", coupon_code=code))
        assert shop.work().outcomes == {"campaign_not_active": 1}
        levers.extend(connection, "spring", datetime.now(UTC) + HOUR, ME)
        shop.sell(shop.order("u-1", coupon_code=code))


def test_an_extension_never_shortens_and_leaves_a_later_end_as_it_is(dsn: str) -> None:
    later = datetime.now(UTC) + timedelta(days=30)
    with owner(dsn) as connection:
        connection.execute("UPDATE campaigns SET ends_at = %s", (later,))
        before = one(dsn, "SELECT coupons_valid_until FROM campaigns")
        with pytest.raises(LeverError, match="later one"):
            levers.extend(connection, "spring", before - HOUR, ME)
        done = levers.extend(connection, "spring", before + HOUR, ME)
    assert (done.valid_until, done.ends_at) == (before + HOUR, later)
    assert one(dsn, "SELECT coupons_valid_until FROM campaigns") == before + HOUR


def test_what_has_expired_stays_so_and_is_told(dsn: str) -> None:
    with owner(dsn) as connection, connect(dsn, WORKER, Bounds(), name="test") as worker:
        give_coupons(dsn, ["u-1", "u-2"])
        connection.execute("UPDATE campaigns SET coupons_valid_until = now() - interval '1 s'")
        lifecycle.expire_coupons(worker, lifecycle_after(), 500)
        give_coupons(dsn, ["u-3"])
        dry = Pull(actor="me", dry_run=True)
        done = levers.extend(connection, "spring", datetime.now(UTC) + HOUR, dry)
    assert done.expired == 2
    assert done.touched is not None
    assert done.touched.coupons == 1


def lifecycle_after() -> Any:
    from workers.service.redispatch import NO_COUPON

    return NO_COUPON


def test_a_campaign_file_that_is_applied_meanwhile_waits_for_the_extension(dsn: str) -> None:
    """Both write the window: the later one must have seen the earlier."""
    done = threading.Event()

    def extend() -> None:
        with owner(dsn) as connection:
            levers.extend(connection, "spring", datetime.now(UTC) + timedelta(days=9), ME)
        done.set()

    with owner(dsn) as applying, applying.transaction():
        applying.execute(
            "SELECT pg_advisory_xact_lock(hashtext('tidegate.campaign'), hashtext('spring'))"
        )
        thread = threading.Thread(target=extend)
        thread.start()
        assert not done.wait(0.3)
    thread.join(10)
    assert done.is_set()


# The level -----------------------------------------------------------------------------------------


def test_level_show_says_which_word_holds(dsn: str, valkey_url: str, capsys: Captured) -> None:
    gate = open_gate(valkey_url)
    shown = told(capsys, "level", "show")
    assert (shown["holds"], shown["ordered"], shown["published"]["policy"]) == (
        "normal",
        None,
        None,
    )
    epoch = gate.take_lead("g-1", 60_000)
    assert epoch is not None
    policy = Policy(level=Level.SHEDDING, reason="wait", service_per_s=900, admitted_per_s=850)
    assert gate.publish(policy, epoch=epoch, lease_ms=60_000)
    assert told(capsys, "level", "show")["holds"] == "shedding"
    assert run("level", "show") == 0
    assert "lets in 850/s" in capsys.readouterr().out
    told(capsys, "level", "force", "normal", "--reason", "a drill")
    shown = told(capsys, "level", "show")
    assert (shown["holds"], shown["ordered"]["reason"]) == ("normal", "a drill")
    assert told(capsys, "level", "open")["before"]["level"] == "normal"
    assert told(capsys, "level", "show")["holds"] == "shedding"


def test_without_valkey_level_show_tells_the_order_and_exits_with_3(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert run("level", "force", "throttled", "--reason", "x") == 0
    monkeypatch.setenv("TIDEGATE_VALKEY__URL", "redis://127.0.0.1:1/0")
    capsys.readouterr()
    assert run("level", "show", "--json") == faults.UNREACHABLE
    printed = capsys.readouterr()
    shown = json.loads(printed.out)
    assert (shown["holds"], shown["ordered"]["level"]) == ("closed", "throttled")
    assert "TIDEGATE_VALKEY__URL" in printed.err


def test_an_order_replaces_the_one_before(dsn: str, capsys: Captured) -> None:
    told(capsys, "level", "close", "--reason", "first", "--for", "1h")
    second = told(capsys, "level", "force", "throttled", "--reason", "second")
    assert (second["before"]["level"], second["order"]["until"]) == ("closed", None)
    assert one(dsn, "SELECT count(*) FROM level_orders") == 1


def test_the_same_is_told_to_people(capsys: Captured) -> None:
    for command, words in (
        ("merchant list", ["tea-house", "2 items", "no limit"]),
        (
            "merchant pause tea-house --reason oven --dry-run",
            ["would be paused", "touches 0 users", "sells 2 items"],
        ),
        ("merchant pause tea-house --reason oven", ["until it is resumed", "within a second"]),
        ("merchant list", ["paused until it is resumed: oven"]),
        ("merchant resume tea-house", ["resumed"]),
        ("merchant resume tea-house", ["was not paused"]),
        ("campaign pause-issuance spring --reason x --for 30m", ["issuance paused until 2"]),
        (
            "campaign extend spring --valid-until 2099-01-01T00:00",
            ["good until 2098-12-31 16:00:00 UTC", "ends 2098"],
        ),
        ("level open", ["no order stands"]),
        ("level close --reason x --dry-run", ["ordered until it is lifted", "nothing was done"]),
        ("level close --reason x --for 5m", ["closed ordered until 2"]),
        ("level show", ["closed: nothing is let in", "governor     none alive"]),
    ):
        capsys.readouterr()
        assert run(*command.split()) == 0, command
        printed = capsys.readouterr().out
        assert [word for word in words if word not in printed] == [], (command, printed)


# Who may look ---------------------------------------------------------------------------------------


def test_an_auditor_reads_what_was_ordered_and_how_far_calendars_go(dsn: str) -> None:
    """Who proves the promises may see what operators and governors did."""
    with owner(dsn) as connection:
        order = levels.order_level(connection, Level.CLOSED, None, ME).order
    with connect(dsn, AUDITOR, Bounds(), name="test") as connection:
        assert levels.read_level(connection) == order
        assert connection.execute("SELECT count(*) FROM calendars").fetchone() == (0,)


def test_campaign_show_tells_a_pause_of_issuance_for_as_long_as_it_holds(
    capsys: Captured, dsn: str
) -> None:
    """Since when, until when, and why."""
    assert told(capsys, "campaign", "show", "spring")["issuance_pause"] is None
    told(capsys, "campaign", "pause-issuance", "spring", "--for", "1h", "--reason", "too many")
    pause = told(capsys, "campaign", "show", "spring")["issuance_pause"]
    since, until = (datetime.fromisoformat(pause[name]) for name in ("since", "until"))
    assert until - since == pytest.approx(HOUR, abs=timedelta(minutes=1))
    assert pause["reason"] == "too many"
    capsys.readouterr()
    assert run("campaign", "show", "spring") == 0
    assert "  issuance paused since 2" in (printed := capsys.readouterr().out)
    assert ": too many\n" in printed
    with owner(dsn) as connection:
        connection.execute("UPDATE campaigns SET issuance_resume_at = now() - interval '1 s'")
    assert told(capsys, "campaign", "show", "spring")["issuance_pause"] is None
