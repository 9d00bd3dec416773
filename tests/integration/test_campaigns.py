"""Campaigns on the real database: applied, changed while they sell, their coupons issued in bulk."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

import deploy
from deploy.campaigns import CampaignFileError, IssuingError, apply, couponfile, issue, issuing
from deploy.campaigns.couponfile import CouponFileError, issue_to_file
from deploy.campaigns.looking import look, look_all
from tests.factories import MASTER, Shop, one, open_gate, owner
from workers.contract.couponcode import CouponCodes
from workers.domain.campaign import parse, shifted
from workers.domain.intent import Line
from workers.store import audit
from workers.store.pool import AUDITOR

CODES = CouponCodes(MASTER)
OTHERS_CODES = CouponCodes("of-another-deployment")
QWEN = Path(deploy.__file__).parent / "campaigns" / "qwen-spring-2026.toml"
FILE = """
[campaign]
id = "spring"
currency = "CNY"
time_zone = "Asia/Shanghai"
starts_at = 2020-01-01T00:00:00
ends_at = 2099-01-01T00:00:00
coupons_valid_until = 2099-01-01T00:00:00
budget = 50_000_000
coupons_per_user_max = 2
orders_per_user_max = 5
[coupon]
kind = "amount_off"
amount = 2500
[rate_limits]
user = { rate = 1, burst = 5 }
[[merchants]]
id = "tea-house"
[[merchants]]
id = "bakery"
orders_per_minute_max = 100
[[items]]
sku = "tea"
merchant = "tea-house"
price = 1800
stock = 1_000
[[items]]
sku = "bun"
merchant = "bakery"
price = 700
stock = 0
"""


def altered(*changes: tuple[str, str]) -> str:
    """Return the file with each first text replaced by the second."""
    text = FILE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return text


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    """Return what the database's owner sees."""
    with owner(dsn) as connection:
        return connection.execute(query.encode()).fetchall()


def assert_clean(dsn: str) -> None:
    """Every promise holds, from the tables alone."""
    report = audit.run(dsn, AUDITOR, drained=True)
    assert report.clean, report.violated


def everything(dsn: str) -> list[Any]:
    """Return all rows that an application may write."""
    tables = ("campaigns", "budgets", "merchants", "items", "stock", "stock_changes", "ledger")
    return [sorted(map(repr, rows(dsn, f"SELECT * FROM {table}"))) for table in tables]


# Applying ----------------------------------------------------------------------------------------


def test_a_new_campaign_is_there_with_its_books_open(dsn: str) -> None:
    """Stock and budget come from supply, and the ledger says so."""
    report = apply(dsn, FILE)
    assert (report.campaign_id, report.created, report.dry_run) == ("spring", True, False)
    assert rows(dsn, "SELECT sku, initial, available FROM stock ORDER BY sku") == [
        ("bun", 0, 0),
        ("tea", 1000, 1000),
    ]
    assert rows(dsn, "SELECT account, delta FROM ledger ORDER BY account") == [
        ("budget:spring:available", 50_000_000),
        ("budget:spring:supply", -50_000_000),
        ("stock:spring:tea:available", 1000),
        ("stock:spring:tea:supply", -1000),
    ]
    assert_clean(dsn)


@pytest.mark.parametrize("times", [2, 3])
def test_the_same_file_again_changes_nothing(dsn: str, times: int) -> None:
    """Not a row, and no line in the operators' record."""
    apply(dsn, FILE)
    before = everything(dsn)
    for _ in range(times - 1):
        assert apply(dsn, FILE).changes == ()
    assert everything(dsn) == before
    assert one(dsn, "SELECT count(*) FROM operator_actions") == 1


def test_the_campaign_of_the_seed_event_is_applied(dsn: str) -> None:
    """From its path, and shown whole."""
    apply(dsn, QWEN)
    view = look(dsn, "qwen-spring-2026", 5)
    assert view is not None
    file = parse(QWEN.read_text())
    assert (view.terms, view.rate_limits) == (file.campaign, file.rate_limits)
    assert len(view.items) == len(file.items)
    assert [summary.campaign_id for summary in look_all(dsn)] == ["qwen-spring-2026"]
    assert view.actions[0].action == "campaign apply"


def test_a_dry_run_changes_nothing_and_says_what_would(dsn: str) -> None:
    """And whom it would touch."""
    list(apply_and_issue(dsn, 3))
    before = everything(dsn)
    report = apply(dsn, altered(("50_000_000", "60_000_000")), dry_run=True)
    assert report.changes == ("campaign.budget: 50000000 -> 60000000",)
    assert (report.dry_run, report.users, report.coupons) == (True, 3, 3)
    assert everything(dsn) == before


def test_a_dry_run_of_a_new_campaign_leaves_nothing(dsn: str) -> None:
    """It touches nobody."""
    report = apply(dsn, FILE, dry_run=True)
    assert (report.created, report.users, report.coupons) == (True, 0, 0)
    assert one(dsn, "SELECT count(*) FROM campaigns") == 0


def test_a_refused_file_changes_nothing(dsn: str) -> None:
    """One fault, and its other changes are not made either."""
    apply(dsn, FILE)
    before = everything(dsn)
    with pytest.raises(CampaignFileError, match=r"items\[0\].stock"):
        apply(dsn, altered(("price = 1800", "price = 1900"), ("stock = 1_000", "stock = 2_000")))
    assert everything(dsn) == before


def test_a_file_that_is_no_text_is_a_fault(dsn: str, tmp_path: Path) -> None:
    """Named like any other."""
    path = tmp_path / "bad.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CampaignFileError, match="UTF-8"):
        apply(dsn, path)


def test_every_change_is_recorded_with_who_and_why(dsn: str) -> None:
    """An operator's change can be explained a year later."""
    apply(dsn, FILE, actor="eva", reason="opening")
    apply(dsn, altered(("price = 1800", "price = 1900")), actor="max", reason="milk is dear")
    view = look(dsn, "spring", 5)
    assert view is not None
    last, first = view.actions
    assert (first.actor, first.reason) == ("eva", "opening")
    assert (last.actor, last.reason) == ("max", "milk is dear")
    assert json.loads(bytes(last.detail)) == {"changes": ["item tea: price 1800 -> 1900"]}


def test_a_stock_delta_is_added_once(dsn: str) -> None:
    """The same file twice adds once; another id adds again; units can be taken too."""
    apply(dsn, FILE)
    more = ("stock = 1_000", "stock = 1_000\nstock_delta = 50")
    for _ in range(2):
        report = apply(dsn, altered(more))
    assert "was applied before" in report.notes[0]
    assert one(dsn, "SELECT available FROM stock WHERE sku = 'tea'") == 1050
    tuesday = ("stock = 1_000", 'stock = 1_000\nstock_delta = 50\nstock_delta_id = "tuesday"')
    apply(dsn, altered(tuesday))
    apply(dsn, altered(("stock = 1_000", "stock = 1_000\nstock_delta = -600")))
    assert rows(dsn, "SELECT initial, available FROM stock WHERE sku = 'tea'") == [(500, 500)]
    with pytest.raises(CampaignFileError, match="only 500 are available"):
        apply(dsn, altered(("stock = 1_000", "stock = 1_000\nstock_delta = -501")))
    assert apply(dsn, FILE).changes == ()
    assert_clean(dsn)


def test_a_budget_rises_and_falls_in_the_ledger(dsn: str) -> None:
    """Down to what is promised, and not further."""
    list(apply_and_issue(dsn, 4))
    for budget in (60_000_000, 10_000, 50_000_000):
        apply(dsn, altered(("50_000_000", str(budget))))
        assert one(dsn, "SELECT budget FROM budgets") == budget
        assert_clean(dsn)
    with pytest.raises(CampaignFileError, match="10000 are reserved"):
        apply(dsn, altered(("50_000_000", "9_999")))


def test_a_campaign_without_coupons_has_no_budget_until_it_has_them(dsn: str) -> None:
    """Adding a coupon later opens one."""
    plain = FILE[: FILE.index("[coupon]")] + FILE[FILE.index("[rate_limits]") :]
    for key in ("coupons_valid_until", "budget", "coupons_per_user_max"):
        start = plain.index(f"{key} =")
        plain = plain[:start] + plain[plain.index("\n", start) + 1 :]
    apply(dsn, plain)
    assert rows(dsn, "SELECT * FROM budgets") == []
    apply(dsn, FILE)
    assert rows(dsn, "SELECT budget FROM budgets") == [(50_000_000,)]
    assert_clean(dsn)


def test_a_shifted_campaign_starts_now_and_keeps_its_start(dsn: str) -> None:
    """Replaying a campaign of another day, on the same data again."""
    apply(dsn, QWEN, shift_to_now=True, scale=0.001)
    starts = rows(dsn, "SELECT starts_at, starts_at <= now() FROM campaigns")
    assert starts[0][1]
    assert one(dsn, "SELECT initial FROM stock WHERE sku = 'milk-tea-large'") == 12_000
    assert apply(dsn, QWEN, shift_to_now=True, scale=0.001).changes == ()
    assert rows(dsn, "SELECT starts_at, starts_at <= now() FROM campaigns") == starts


def test_what_was_read_can_be_applied_as_it_is(dsn: str) -> None:
    """Callers may change a file before they apply it."""
    file = parse(FILE)
    apply(dsn, shifted(file, file.campaign.starts_at))
    assert apply(dsn, file).changes == ()


def test_files_applied_at_once_take_turns(dsn: str) -> None:
    """Eight appliers of one new campaign and delta: it is there once, the delta added once."""
    text = altered(("stock = 1_000", "stock = 1_000\nstock_delta = 7"))
    together(8, lambda _: apply(dsn, text))
    assert rows(dsn, "SELECT initial, available FROM stock WHERE sku = 'tea'") == [(1007, 1007)]
    assert one(dsn, "SELECT count(*) FROM operator_actions") == 1
    assert_clean(dsn)


def together(count: int, work: Any) -> list[BaseException]:
    """Run `work` in threads at the same moment; return what was raised."""
    raised: list[BaseException] = []
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        try:
            work(number)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_a_campaign_can_be_changed_while_it_sells(dsn: str, valkey_url: str) -> None:
    """Prices, stock and budget move under running orders; nothing is lost and all adds up."""
    coupons = dict(apply_and_issue(dsn, 200))
    shop = Shop(dsn, open_gate(valkey_url), batch_max=20)
    stop = threading.Event()
    changed: list[int] = []

    def change() -> None:
        while not stop.is_set():
            n = len(changed) + 1
            apply(
                dsn,
                altered(
                    ("50_000_000", str(50_000_000 + n)),
                    ("price = 1800", f"price = {1800 + n % 50}"),
                    ("1_000", f'1_000\nstock_delta = {n}\nstock_delta_id = "d-{n}"'),
                ),
            )
            changed.append(n)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        posted = [
            shop.order(user, lines=(Line("tea", 1),), coupon_code=code)
            for user, code in coupons.items()
        ]
        shop.sell(*posted)
    finally:
        stop.set()
        changing.join()
        shop.close()
    assert rows(dsn, "SELECT sold, initial FROM stock WHERE sku = 'tea'") == [
        (200, 1000 + sum(changed))
    ]
    assert len(changed) > 1
    assert_clean(dsn)


# Issuing -----------------------------------------------------------------------------------------


def apply_and_issue(dsn: str, count: int, **given: Any) -> Any:
    """Apply the file and issue coupons of it."""
    apply(dsn, FILE)
    return issue(dsn, "spring", count, codes=CODES, **given)


def test_coupons_issued_in_bulk_are_held_counted_and_verifiable(dsn: str) -> None:
    """Each user has one; its code proves its id; the budget holds all of them."""
    issued = list(apply_and_issue(dsn, 7, first_user=3, user_format="anna-{n}"))
    assert [user for user, _ in issued] == [f"anna-{n}" for n in range(3, 10)]
    known = dict(rows(dsn, "SELECT user_id, coupon_id FROM coupons"))
    assert {user: CODES.coupon_id_of(code) for user, code in issued} == known
    assert one(dsn, "SELECT reserved FROM budgets") == 7 * 2500
    assert rows(dsn, "SELECT DISTINCT used, max FROM user_counters") == [(1, 2)]
    assert_clean(dsn)


def test_an_issued_coupon_buys(dsn: str, valkey_url: str) -> None:
    """From the file to the confirmed order."""
    ((user, code),) = apply_and_issue(dsn, 1)
    shop = Shop(dsn, open_gate(valkey_url))
    try:
        shop.sell(shop.order(user, lines=(Line("tea", 1),), coupon_code=code))
    finally:
        shop.close()
    assert rows(dsn, "SELECT reserved, spent FROM budgets") == [(0, 1800)]
    assert_clean(dsn)


@pytest.mark.parametrize(
    ("campaign_id", "count", "says"),
    [
        ("spring", 20_001, "enough for 20000 coupons of 2500, not for 20001"),
        ("autumn", 1, "there is no campaign 'autumn'"),
    ],
)
def test_what_cannot_be_issued_whole_is_not_begun(
    dsn: str, campaign_id: str, count: int, says: str
) -> None:
    """The budget is asked for all of it before the first."""
    apply(dsn, FILE)
    with pytest.raises(IssuingError, match=says):
        list(issue(dsn, campaign_id, count, codes=CODES))
    assert one(dsn, "SELECT count(*) FROM coupons") == 0


def test_coupons_past_their_window_or_unknown_to_the_campaign_are_not_issued(dsn: str) -> None:
    """Nobody is given what cannot be redeemed."""
    apply(dsn, altered(("until = 2099-01-01", "until = 2021-01-01")))
    with pytest.raises(IssuingError, match="not valid any more"):
        list(issue(dsn, "spring", 1, codes=CODES))


def test_no_user_is_given_more_than_his_maximum(dsn: str) -> None:
    """Two each; the third time names who has them, and gives none of the batch."""
    for _ in range(2):
        list(apply_and_issue(dsn, 3))
    with pytest.raises(IssuingError, match=r"2 of these users have their 2 coupons.*u-1, u-2"):
        list(issue(dsn, "spring", 3, first_user=1, codes=CODES))
    assert one(dsn, "SELECT count(*) FROM coupons") == 6
    assert_clean(dsn)


def test_issuers_at_once_share_the_budget_exactly(dsn: str) -> None:
    """Of a budget for 100 coupons eight issuers of 20 each give exactly 100."""
    apply(dsn, altered(("50_000_000", str(100 * 2500))))
    raised = together(8, lambda n: list(issue(dsn, "spring", 20, first_user=1000 * n, codes=CODES)))
    assert len(raised) == 3
    assert all(isinstance(error, IssuingError) for error in raised)
    assert rows(dsn, "SELECT budget, reserved FROM budgets") == [(250_000, 250_000)]
    assert_clean(dsn)


# The file of coupons -----------------------------------------------------------------------------

USERS = [f"u-{n}" for n in range(25)]


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten coupons to a transaction, to have several."""
    monkeypatch.setattr(couponfile, "BATCH", 10)


def write(dsn: str, path: Path, users: list[str] = USERS, **given: Any) -> int:
    """Issue coupons to a file."""
    return issue_to_file(dsn, "spring", users, path, **{"codes": CODES} | given)


def assert_agree(dsn: str, path: Path, count: int = 25) -> None:
    """File and database hold the same coupons of the same users."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    in_file = {line["user_id"]: CODES.coupon_id_of(line["coupon_code"]) for line in lines}
    assert [line["user_id"] for line in lines] == USERS[:count]
    assert in_file == dict(rows(dsn, "SELECT user_id, coupon_id FROM coupons"))
    assert_clean(dsn)


@pytest.mark.usefixtures("small_batches")
def test_the_file_holds_what_was_issued(dsn: str, tmp_path: Path) -> None:
    """For its owner only: codes are as good as money."""
    apply(dsn, FILE)
    path, done = tmp_path / "coupons.ndjson", []
    assert write(dsn, path, progress=done.append) == 25
    assert done == [10, 10, 5]
    assert path.stat().st_mode & 0o777 == 0o600
    assert_agree(dsn, path)


@pytest.mark.usefixtures("small_batches")
def test_a_file_with_coupons_is_not_overwritten(dsn: str, tmp_path: Path) -> None:
    """A second run needs `--resume`, and then does nothing more."""
    apply(dsn, FILE)
    path = tmp_path / "coupons.ndjson"
    write(dsn, path)
    with pytest.raises(CouponFileError, match="--resume"):
        write(dsn, path)
    assert write(dsn, path, resume=True) == 0
    assert_agree(dsn, path)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("committed", [True, False])
def test_a_run_whose_commit_is_unknown_is_completed(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """The connection dies at the second commit: whether it took or not, no coupon is lost."""
    apply(dsn, FILE)
    path = tmp_path / "coupons.ndjson"
    batches = []

    def dying(connection: Any, *arguments: Any, before_commit: Any = None, **given: Any) -> int:
        batches.append(1)
        if len(batches) != 2:
            return issuing.issue_batch(connection, *arguments, before_commit=before_commit, **given)

        def lost() -> None:
            before_commit()
            connection.close()

        if not committed:
            return issuing.issue_batch(connection, *arguments, before_commit=lost, **given)
        issuing.issue_batch(connection, *arguments, before_commit=before_commit, **given)
        raise psycopg.OperationalError("the reply of the commit was lost")

    with monkeypatch.context() as patched:
        patched.setattr(couponfile, "issue_batch", dying)
        with pytest.raises(psycopg.OperationalError):
            write(dsn, path)
    assert one(dsn, "SELECT count(*) FROM coupons") == (20 if committed else 10)
    assert len(path.read_text().splitlines()) == 20
    assert write(dsn, path, resume=True) == (5 if committed else 15)
    assert_agree(dsn, path)


@pytest.mark.usefixtures("small_batches")
def test_a_line_torn_by_a_crash_is_written_again(dsn: str, tmp_path: Path) -> None:
    """Its batch was not committed: the file comes first."""
    apply(dsn, FILE)
    path = tmp_path / "coupons.ndjson"
    write(dsn, path, USERS[:10])
    with path.open("a") as file:
        file.write('{"user_id": "u-10", "coupon_c')
    assert write(dsn, path, resume=True) == 15
    assert_agree(dsn, path)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"user_id": "u-0", "coupon_code": "AAAA"}', "line 1: a code of another deployment"),
        ('{"user_id": "u-0"}', "line 1: Object missing required field"),
        ("notes", "line 1:"),
    ],
)
def test_another_file_is_not_completed(dsn: str, tmp_path: Path, line: str, says: str) -> None:
    """What was not written by us is left alone."""
    apply(dsn, FILE)
    path = tmp_path / "notes.txt"
    path.write_text(line + "\n")
    with pytest.raises(CouponFileError, match=says):
        write(dsn, path, resume=True)
    assert path.read_text() == line + "\n"


def test_a_file_is_completed_for_its_users_only(dsn: str, tmp_path: Path) -> None:
    """Other arguments are another run."""
    apply(dsn, FILE)
    path = tmp_path / "coupons.ndjson"
    write(dsn, path, USERS[:3])
    with pytest.raises(CouponFileError, match="other users"):
        write(dsn, path, USERS[1:], resume=True)
    with pytest.raises(CouponFileError, match="other users"):
        write(dsn, path, USERS[:2], resume=True)
    with pytest.raises(CouponFileError, match="another deployment"):
        write(dsn, path, resume=True, codes=OTHERS_CODES)


def test_two_runs_do_not_write_one_file(dsn: str, tmp_path: Path) -> None:
    """The second is told so."""
    path = tmp_path / "coupons.ndjson"
    with (
        couponfile.CouponFile(path, resume=False),
        pytest.raises(CouponFileError, match="another run"),
    ):
        couponfile.CouponFile(path, resume=False)


def test_a_run_refused_by_the_budget_leaves_an_empty_file(dsn: str, tmp_path: Path) -> None:
    """Which the next run may use."""
    apply(dsn, altered(("50_000_000", "2_500")))
    path = tmp_path / "coupons.ndjson"
    with pytest.raises(IssuingError):
        write(dsn, path)
    assert os.path.getsize(path) == 0
    assert write(dsn, path, USERS[:1]) == 1
