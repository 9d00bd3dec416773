"""The campaign file: strict, and every fault named at once with its key and its mend."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import deploy
from workers.domain.campaign import CampaignFile, CampaignFileError, parse, scaled, shifted

WHOLE = """
[campaign]
id = "spring"
currency = "CNY"
time_zone = "Asia/Shanghai"
starts_at = 2026-02-06T10:00:00
ends_at = 2026-02-28T23:59:59
coupons_valid_until = 2026-02-28T23:59:59
budget = 300_000
coupons_per_user_max = 21
orders_per_user_max = 20
[coupon]
kind = "amount_off"
amount = 2500
minimum_total = 100
skus = ["tea"]
[rate_limits]
user = { rate = 0.5, burst = 5 }
[[merchants]]
id = "tea-house"
orders_per_minute_max = 600
[[items]]
sku = "tea"
merchant = "tea-house"
price = 1800
stock = 500
"""
WITHOUT_COUPON = """
[campaign]
id = "plain"
currency = "EUR"
time_zone = "Europe/Athens"
starts_at = 2026-06-01T09:00:00
ends_at = 2026-06-02T09:00:00
orders_per_user_max = 1
[[merchants]]
id = "m"
[[items]]
sku = "s"
merchant = "m"
price = 1
stock = 0
"""


def altered(*changes: tuple[str, str], text: str = WHOLE) -> str:
    """Return the file with each first text replaced by the second."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def faults_of(text: str) -> list[str]:
    """Return the faults' lines."""
    with pytest.raises(CampaignFileError) as caught:
        parse(text)
    assert all(str(fault) in str(caught.value) for fault in caught.value.faults)
    return [str(fault) for fault in caught.value.faults]


def keys_of(text: str) -> list[str]:
    """Return the faults' keys."""
    return [line.partition(": ")[0] for line in faults_of(text)]


def test_a_whole_file_is_read() -> None:
    """Terms as deciding takes them, and what stands beside them."""
    file = parse(WHOLE)
    terms = file.campaign
    assert (terms.campaign_id, terms.currency, file.time_zone) == (
        "spring",
        "CNY",
        "Asia/Shanghai",
    )
    assert (terms.orders_per_user_max, terms.coupons_per_user_max) == (20, 21)
    assert (file.budget, file.merchants[0].orders_per_minute_max) == (300_000, 600)
    item = file.items[0]
    assert (item.sku, item.merchant, item.price, item.stock) == ("tea", "tea-house", 1800, 500)
    assert file.rate_limits.user is not None
    assert (file.rate_limits.user.rate, file.rate_limits.user.burst) == (0.5, 5)
    assert file.rate_limits.sku is None
    coupon = terms.coupon
    assert coupon is not None
    assert (coupon.kind, coupon.amount, coupon.minimum_total) == ("amount_off", 2500, 100)
    assert coupon.skus == {"tea"}


def test_local_times_are_kept_as_utc() -> None:
    """Ten in the morning in Shanghai is two in UTC."""
    terms = parse(WHOLE).campaign
    assert terms.starts_at == datetime(2026, 2, 6, 2, tzinfo=UTC)
    assert terms.starts_at.tzinfo is UTC
    assert terms.ends_at == datetime(2026, 2, 28, 15, 59, 59, tzinfo=UTC)


def test_what_may_be_left_out_has_its_default() -> None:
    """Coupons are valid from the start; a payment may take a quarter of an hour."""
    terms = parse(WHOLE).campaign
    assert terms.coupon is not None
    assert terms.coupon.valid_from == terms.starts_at
    assert terms.payment_window_ms == 900_000
    later = (
        "ends_at",
        "coupons_valid_from = 2026-02-07T00:00:00\npayment_window_minutes = 5\nends_at",
    )
    terms = parse(altered(later)).campaign
    assert terms.coupon is not None
    assert terms.coupon.valid_from == datetime(2026, 2, 6, 16, tzinfo=UTC)
    assert terms.payment_window_ms == 300_000


def test_percent_off_keeps_its_greatest_value_as_amount() -> None:
    """What issuance holds in the budget."""
    file = parse(altered(('"amount_off"\namount', '"percent_off"\npercent = 20\namount_max')))
    coupon = file.campaign.coupon
    assert coupon is not None
    assert (coupon.kind, coupon.percent, coupon.amount) == ("percent_off", 20, 2500)


def test_a_campaign_needs_no_coupon() -> None:
    """Then it has neither budget nor coupon windows."""
    file = parse(WITHOUT_COUPON)
    assert (file.campaign.coupon, file.budget, file.campaign.coupons_per_user_max) == (None, 0, 0)


@pytest.mark.parametrize("path", sorted(Path(deploy.__file__).parent.glob("campaigns/*.toml")))
def test_the_campaigns_we_ship_are_whole(path: Path) -> None:
    """Each is named like its file."""
    assert parse(path.read_text("utf-8")).campaign.campaign_id == path.stem


ALTERATIONS = [
    ('"spring"', '"a:b"', "campaign.id"),
    ('id = "spring"\n', "", "campaign.id"),
    ('"CNY"', '"yuan"', "campaign.currency"),
    ("Asia/Shanghai", "Asia/Shangai", "campaign.time_zone"),
    ("Asia/Shanghai", "../etc/passwd", "campaign.time_zone"),
    ("2026-02-06T10:00:00", '"2026-02-06T10:00:00"', "campaign.starts_at"),
    ("2026-02-06T10:00:00", "2026-02-06", "campaign.starts_at"),
    ("ends_at = 2026-02-28T23:59:59", "ends_at = 2026-02-06T10:00:00", "campaign.ends_at"),
    ("coupons_valid_until = 2026-02-28T23:59:59\n", "", "campaign.coupons_valid_until"),
    ("valid_until = 2026-02-28", "valid_until = 2026-02-01", "campaign.coupons_valid_until"),
    ("300_000", "2499", "campaign.budget"),
    ("300_000", "-1", "campaign.budget"),
    ("300_000", "1e6", "campaign.budget"),
    ("300_000", '"300000"', "campaign.budget"),
    ("coupons_per_user_max = 21\n", "", "campaign.coupons_per_user_max"),
    ("orders_per_user_max = 20", "orders_per_user_max = 0", "campaign.orders_per_user_max"),
    ("orders_per_user_max = 20", "orders_per_user_max = true", "campaign.orders_per_user_max"),
    ("budget", "budjet", "campaign.budjet"),
    ("amount_off", "amountoff", "coupon.kind"),
    ("amount = 2500\n", "", "coupon.amount"),
    ("amount = 2500", "amount = 0", "coupon.amount"),
    ("amount = 2500", "amount = 2500\npercent = 5", "coupon.percent"),
    ('"amount_off"\namount', '"percent_off"\namount_max', "coupon.percent"),
    ('["tea"]', '["tee"]', "coupon.skus"),
    ('["tea"]', '["tea", "tea"]', "coupon.skus"),
    ("rate = 0.5", "rate = nan", "rate_limits.user.rate"),
    ("rate = 0.5", "rate = 0", "rate_limits.user.rate"),
    (", burst = 5", "", "rate_limits.user.burst"),
    ("burst = 5", "burst = 2_000_000", "rate_limits.user.burst"),
    ("user =", "usr =", "rate_limits.usr"),
    ("600", "0", "merchants[0].orders_per_minute_max"),
    ("stock = 500", "stock = -1", "items[0].stock"),
    ("1800", "18.0", "items[0].price"),
    ('merchant = "tea-house"', 'merchant = "teahouse"', "items[0].merchant"),
    ("stock = 500", "stock = 500\nstock_delta = 0", "items[0].stock_delta"),
    ("stock = 500", 'stock = 500\nstock_delta_id = "x"', "items[0].stock_delta_id"),
    ("[coupon]", "[cupon]", "cupon"),
    ("[campaign]", "[campaign", "file"),
]


@pytest.mark.parametrize(("old", "new", "key"), ALTERATIONS)
def test_a_fault_is_named_by_its_key(old: str, new: str, key: str) -> None:
    """Nothing in a campaign file is guessed or ignored."""
    assert key in keys_of(altered((old, new)))


def test_a_misspelt_name_is_told_what_was_meant() -> None:
    """The mend stands beside the fault."""
    assert "did you mean `budget`?" in faults_of(altered(("budget", "budjet")))[0]
    assert "did you mean `tea`?" in faults_of(altered(('["tea"]', '["tee"]')))[0]
    zone = faults_of(altered(("Asia/Shanghai", "Asia/Shangai")))[0]
    assert "did you mean `Asia/Shanghai`?" in zone


def test_every_fault_is_named_at_once() -> None:
    """Ten mistakes are ten lines, not ten attempts."""
    text = altered(
        ('"spring"', '"a b"'),
        ("300_000", "2_000"),
        ("ends_at = 2026-02-28T23:59:59", "ends_at = 2026-02-05T00:00:00"),
        ("orders_per_user_max = 20", "orders_per_user_max = 0"),
        ('["tea"]', '["tee"]'),
        ("burst = 5", "brst = 5"),
        ('id = "tea-house"', 'id = "tea house"'),
        ("price = 1800", "price = 1800\nprise = 1"),
        ("stock = 500", 'stock = "500"'),
    )
    assert sorted(keys_of(text)) == [
        "campaign.budget",
        "campaign.ends_at",
        "campaign.id",
        "campaign.orders_per_user_max",
        "coupon.skus",
        "items[0].merchant",
        "items[0].prise",
        "items[0].stock",
        "merchants[0].id",
        "rate_limits.user.brst",
        "rate_limits.user.burst",
    ]


def test_doubled_names_are_faults() -> None:
    """A second item of the same SKU would silently win or lose."""
    text = WHOLE + WHOLE[WHOLE.index("[[merchants]]") :]
    assert keys_of(text) == ["merchants[1].id", "items[1].sku"]


@pytest.mark.parametrize("text", ["", "campaign = 3", "items = 4", "items = [3]\n[campaign]"])
def test_a_file_of_another_shape_is_faults_not_a_crash(text: str) -> None:
    """Whatever stands there."""
    assert faults_of(text)


def test_coupon_keys_without_a_coupon_are_faults() -> None:
    """A budget that nothing can spend is a mistake somewhere."""
    text = altered(("orders_per_user_max", "budget = 5\norders_per_user_max"), text=WITHOUT_COUPON)
    assert keys_of(text) == ["campaign.budget"]


def test_a_time_that_the_clocks_skip_is_refused() -> None:
    """In Athens 29 March 2026 has no half past three."""
    text = altered(("2026-06-01T09:00:00", "2026-03-29T03:30:00"), text=WITHOUT_COUPON)
    (fault,) = faults_of(text)
    assert fault.startswith("campaign.starts_at: 2026-03-29T03:30:00 is skipped")
    assert "2026-03-29T02:30:00+02:00 or 2026-03-29T04:30:00+03:00" in fault


def test_a_time_that_the_clocks_show_twice_is_refused_without_its_offset() -> None:
    """On 26 October 2025 it is half past three twice; the file says which one is meant."""
    twice = ("2026-06-01T09:00:00", "2025-10-26T03:30:00")
    (fault,) = faults_of(altered(twice, text=WITHOUT_COUPON))
    for offset, hour in (("+03:00", 0), ("+02:00", 1)):
        assert f"2025-10-26T03:30:00{offset}" in fault
        once = (twice[0], twice[1] + offset)
        starts_at = parse(altered(once, text=WITHOUT_COUPON)).campaign.starts_at
        assert starts_at == datetime(2025, 10, 26, hour, 30, tzinfo=UTC)


def test_a_shifted_campaign_keeps_the_length_of_its_windows() -> None:
    """All windows move by the same time."""
    file, now = parse(WHOLE), datetime(2027, 1, 1, tzinfo=UTC)
    moved = shifted(file, now).campaign
    by = now - file.campaign.starts_at
    assert moved.starts_at == now
    assert moved.ends_at == file.campaign.ends_at + by
    assert moved.coupon is not None
    assert moved.coupon.valid_from == now
    assert moved.coupon.valid_until - moved.starts_at == timedelta(
        days=22, hours=13, minutes=59, seconds=59
    )


@pytest.mark.parametrize(
    ("factor", "stock", "budget"), [(0.1, 50, 30_000), (2, 1000, 600_000), (0.0001, 1, 2500)]
)
def test_a_scaled_campaign_has_other_stock_and_budget(
    factor: float, stock: int, budget: int
) -> None:
    """At least one unit, and one coupon."""
    file: CampaignFile = scaled(parse(WHOLE), factor)
    assert (file.items[0].stock, file.budget) == (stock, budget)
    assert file.items[0].price == 1800
