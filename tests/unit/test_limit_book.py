"""The rules in force, shaped from rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from producer.limits import Limits, Rules, Term, parse, rules_of
from workers.contract.admission import CampaignLimits, RateLimit
from workers.domain.overload import Level, Policy
from workers.store.limits import CampaignRow, LevelRow, MerchantRow, Rows

NOW = datetime(2026, 2, 6, 10, tzinfo=UTC)
LATER = NOW + timedelta(days=1)


def campaign(**fields: Any) -> CampaignRow:
    given: dict[str, Any] = {
        "rate_limits": b"{}",
        "starts_at": NOW,
        "ends_at": LATER,
        "coupon_value": None,
        "issuance_paused": False,
        "issuance_resume_at": None,
        "applied_at": NOW,
    }
    return CampaignRow(**given | fields)


def rules(**fields: Any) -> Rules:
    given: dict[str, Any] = {"campaigns": {}, "gateways": {}, "merchants": {}, "ordered": None}
    return rules_of(Rows(**given | fields), {})


def test_nothing_is_ruled_where_nothing_was_set() -> None:
    assert rules() == Rules(limits=Limits())


@pytest.mark.parametrize(
    ("row", "limits"),
    [
        (MerchantRow(None, True), {"m": None}),
        (MerchantRow(600, True), {"m": None}),
        (MerchantRow(600, False), {"m": RateLimit(10, 100)}),
        (MerchantRow(1, False), {"m": RateLimit(1 / 60, 1)}),
        (MerchantRow(None, False), {}),  # its pause is over, and nothing else bounds it
    ],
)
def test_a_merchant_is_paused_limited_or_free(
    row: MerchantRow, limits: dict[str, RateLimit | None]
) -> None:
    assert rules(merchants={"m": row}).limits.merchants == limits


def test_a_pause_that_is_over_leaves_its_time_behind_and_counts_no_longer() -> None:
    over = campaign(issuance_paused=False, issuance_resume_at=NOW)
    paused = campaign(issuance_paused=True, issuance_resume_at=LATER)
    for_good = campaign(issuance_paused=True)
    found = rules(campaigns={"over": over, "paused": paused, "for-good": for_good})
    assert found.issuance_pauses == {"paused": LATER, "for-good": None}


def test_windows_are_of_all_campaigns_and_values_of_those_with_coupons() -> None:
    found = rules(campaigns={"a": campaign(coupon_value=2_500), "b": campaign()})
    assert found.coupon_values == {"a": 2_500}
    assert found.windows == {"a": Term(NOW, LATER), "b": Term(NOW, LATER)}


def test_an_order_is_a_policy_that_states_its_level_and_no_rate() -> None:
    found = rules(ordered=LevelRow(Level.CLOSED, NOW, LATER)).limits.ordered
    assert found == Policy(
        level=Level.CLOSED,
        reason="operator",
        since_ms=1_770_372_000_000,
        until_ms=1_770_458_400_000,
    )


def test_a_gateway_has_its_own_limit_or_the_tightest_that_a_campaign_states() -> None:
    texts = {
        "a": b'{"gateway": {"rate": 9, "burst": 9}, "user": {"rate": 1, "burst": 5}}',
        "b": b'{"gateway": {"rate": 5, "burst": 50}}',
    }
    limits = parse(texts, {"own": (100, 100), "other": None})
    assert limits.gateways == {"own": RateLimit(100, 100), "other": RateLimit(5, 50)}
    assert limits.campaigns["a"] == CampaignLimits(user=RateLimit(1, 5))
