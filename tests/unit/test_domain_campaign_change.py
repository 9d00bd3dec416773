"""How a campaign file changes what stands: what may change, what must not, and what is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from test_domain_campaign import WHOLE, WITHOUT_COUPON, altered

from workers.domain.campaign import CampaignFile, CampaignFileError, parse, scaled
from workers.domain.campaign_change import Plan, Standing, StandingItem, StockChange, plan
from workers.domain.snapshot import Budget

NOW = datetime(2026, 2, 10, tzinfo=UTC)
FILE = parse(WHOLE)


def standing(file: CampaignFile = FILE, **changes: Any) -> Standing:
    """Return what stands after `file` was applied to nothing, with changes."""
    whole = Standing(
        now=NOW,
        campaign=file.campaign,
        time_zone=file.time_zone,
        rate_limits=file.rate_limits,
        budget=Budget(budget=file.budget, reserved=0, spent=0),
        merchants={m.id: m.orders_per_minute_max for m in file.merchants},
        items={
            item.sku: StandingItem(
                price=item.price,
                merchant_id=item.merchant,
                opening=item.stock,
                available=item.stock,
            )
            for item in file.items
        },
    )
    return replace(whole, **changes)


COUPONS_OUT = standing(budget=Budget(budget=300_000, reserved=5_000, spent=2_500))
SOLD = standing(
    items={
        "tea": StandingItem(price=1800, merchant_id="tea-house", opening=500, available=100),
    }
)


def planned(*changes: tuple[str, str], onto: Standing | None = None) -> Plan:
    """Plan the whole file with changes."""
    return plan(parse(altered(*changes)), standing() if onto is None else onto)


def refused(*changes: tuple[str, str], onto: Standing) -> list[str]:
    """Return the faults that forbid it."""
    with pytest.raises(CampaignFileError) as caught:
        planned(*changes, onto=onto)
    return [str(fault) for fault in caught.value.faults]


def test_a_new_campaign_is_planned_whole() -> None:
    """Everything in the file is written, and said."""
    made = plan(FILE, Standing(now=NOW))
    assert (made.created, made.terms_changed, made.budget_opened) == (True, True, True)
    assert made.budget_change == 300_000
    assert made.merchants == FILE.merchants
    assert made.items == made.openings == FILE.items
    assert made.changes == (
        "campaign spring: new",
        "merchant tea-house: 600 orders a minute",
        "item tea: new, 500 at 1800",
    )


def test_the_same_file_again_plans_nothing() -> None:
    """However much was sold meanwhile."""
    for onto in (standing(), COUPONS_OUT, SOLD):
        made = planned(onto=onto)
        assert made.changes == made.notes == ()
        written = (made.merchants, made.items, made.openings, made.stock_changes)
        assert written == ((), (), (), ())
        assert (made.created, made.terms_changed, made.budget_opened) == (False, False, False)
        assert made.budget_change == 0


def test_what_may_change_is_planned_and_said() -> None:
    """Windows, limits, prices, budget, merchants: also while coupons are out."""
    made = planned(
        ("ends_at = 2026-02-28T23:59:59", "ends_at = 2026-03-31T23:59:59"),
        ("coupons_valid_until = 2026-02-28", "coupons_valid_until = 2026-03-28"),
        ("300_000", "400_000"),
        ("orders_per_user_max = 20", "orders_per_user_max = 30"),
        ("rate = 0.5", "rate = 2"),
        ("price = 1800", "price = 1900"),
        ("600", "700"),
        onto=COUPONS_OUT,
    )
    assert made.changes == (
        "campaign.ends_at: 2026-02-28T15:59:59+00:00 -> 2026-03-31T15:59:59+00:00",
        "campaign.orders_per_user_max: 20 -> 30",
        "campaign.budget: 300000 -> 400000",
        "campaign.coupons_valid_until: 2026-02-28T15:59:59+00:00 -> 2026-03-28T15:59:59+00:00",
        "rate_limits.user: 0.5/s, burst 5 -> 2/s, burst 5",
        "merchant tea-house: 700 orders a minute",
        "item tea: price 1800 -> 1900",
    )
    assert (made.budget_change, made.openings, made.stock_changes) == (100_000, (), ())


def test_a_changed_stock_is_refused_and_told_of_stock_delta() -> None:
    """Stock written again while it sells would undo sales."""
    (fault,) = refused(("stock = 500", "stock = 600"), onto=SOLD)
    assert fault.startswith("items[0].stock: is 600, the opening stock was 500")
    assert "`stock_delta`" in fault


def test_a_stock_delta_is_applied_once_for_each_id() -> None:
    """Known by its id, or without one by its own number."""
    more = ("stock = 500", "stock = 500\nstock_delta = 50")
    named = ("stock = 500", 'stock = 500\nstock_delta = 50\nstock_delta_id = "monday"')
    assert planned(more).stock_changes == (StockChange("tea", "+50", 50),)
    assert planned(named).stock_changes == (StockChange("tea", "monday", 50),)

    once = standing(deltas={("tea", "+50"): 50})
    again = planned(more, onto=once)
    assert (again.stock_changes, again.changes) == ((), ())
    assert "`+50` was applied before" in again.notes[0]
    assert planned(named, onto=once).stock_changes == (StockChange("tea", "monday", 50),)


def test_a_known_id_with_another_number_is_refused() -> None:
    """An id names one change."""
    named = ("stock = 500", 'stock = 500\nstock_delta = 60\nstock_delta_id = "monday"')
    (fault,) = refused(named, onto=standing(deltas={("tea", "monday"): 50}))
    assert fault.startswith("items[0].stock_delta_id: 'monday' was applied as +50")


def test_no_more_is_taken_than_is_available() -> None:
    """Units reserved or sold are others'."""
    assert planned(("stock = 500", "stock = 500\nstock_delta = -100"), onto=SOLD).stock_changes
    (fault,) = refused(("stock = 500", "stock = 500\nstock_delta = -101"), onto=SOLD)
    assert "only 100 are available" in fault


def test_a_new_item_may_open_with_a_delta() -> None:
    """A file with its history is applied to an empty database too."""
    file = parse(altered(("stock = 500", "stock = 500\nstock_delta = -200")))
    made = plan(file, Standing(now=NOW))
    assert (made.openings[0].stock, made.stock_changes[0].delta) == (500, -200)


def test_a_budget_is_never_below_what_is_promised() -> None:
    """7,500 are reserved and spent."""
    assert planned(("300_000", "7_500"), onto=COUPONS_OUT).budget_change == -292_500
    (fault,) = refused(("300_000", "7_499"), onto=COUPONS_OUT)
    assert fault.startswith("campaign.budget: is 7499, but 5000 are reserved and 2500 spent")


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("amount = 2500", "amount = 3000", "coupon.amount"),
        ('"amount_off"\namount', '"percent_off"\npercent = 5\namount_max', "coupon.kind"),
        ("minimum_total = 100", "minimum_total = 200", "coupon.minimum_total"),
        ('skus = ["tea"]', "skus = []", "coupon.skus"),
        ("until = 2026-02-28", "until = 2026-02-27", "campaign.coupons_valid_until"),
        ("ends_at", "coupons_valid_from = 2026-02-20T00:00:00\nends_at", "campaign.coupons_valid_"),
    ],
)
def test_coupons_that_are_out_keep_what_they_were_promised(old: str, new: str, key: str) -> None:
    """Before the first is out their terms may change; afterwards they may only last longer."""
    assert planned((old, new)).terms_changed
    assert any(fault.startswith(key) for fault in refused((old, new), onto=COUPONS_OUT))


def test_a_later_start_of_coupons_that_is_past_takes_nothing() -> None:
    """As when a campaign is moved to now on every start of a demonstration."""
    later = ("ends_at", "coupons_valid_from = 2026-02-08T00:00:00\nends_at")
    assert planned(later, onto=COUPONS_OUT).terms_changed


def test_a_currency_never_changes() -> None:
    """Amounts that were told would mean something else."""
    (fault,) = refused(('"CNY"', '"EUR"'), onto=standing())
    assert fault.startswith("campaign.currency: is EUR, was CNY")


def test_what_is_left_out_stays_and_is_noted() -> None:
    """Orders refer to it."""
    cake = StandingItem(price=1, merchant_id="tea-house", opening=5, available=5)
    onto = standing(items={**standing().items, "cake": cake})
    made = planned(onto=onto)
    assert made.changes == ()
    assert made.notes[0].startswith("item cake: not in the file, and stays on sale")


def test_a_coupon_may_be_added_later() -> None:
    """With it comes the budget."""
    plain = parse(WITHOUT_COUPON)
    onto = standing(plain, budget=None)
    windows = "budget = 500\ncoupons_per_user_max = 1\ncoupons_valid_until = 2026-06-02T09:00:00\n"
    text = altered(("orders_per", f"{windows}orders_per"), text=WITHOUT_COUPON)
    made = plan(parse(text + '[coupon]\nkind = "amount_off"\namount = 100\n'), onto)
    assert (made.budget_opened, made.budget_change, made.terms_changed) == (True, 500, True)


def test_every_reason_is_told_at_once() -> None:
    """One attempt, all faults."""
    faults = refused(
        ("stock = 500", "stock = 600"),
        ("300_000", "7_000"),
        ("amount = 2500", "amount = 2600"),
        ('"CNY"', '"EUR"'),
        onto=COUPONS_OUT,
    )
    assert [fault.partition(":")[0] for fault in faults] == [
        "campaign.currency",
        "campaign.budget",
        "coupon.amount",
        "items[0].stock",
    ]


def test_a_scaled_file_again_plans_nothing() -> None:
    """The same scale, the same opening stock."""
    small = scaled(FILE, 0.1)
    assert plan(small, standing(small, now=NOW + timedelta(days=1))).changes == ()
