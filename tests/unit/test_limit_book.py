"""The rules in force, shaped from rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from domain_builders import CAMPAIGN, a_snapshot, an_order, decide_one
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from producer.limits import ACTIVITY_S_MAX, Limits, Rules, Term, parse, rules_of
from workers.contract.admission import CampaignLimits, RateLimit
from workers.domain.outcome import Refusal
from workers.domain.overload import Level, Policy
from workers.store.limits import CampaignRow, LevelRow, MerchantRow, Rows

NOW = datetime(2026, 2, 6, 10, tzinfo=UTC)
DAY = timedelta(days=1)
LATER = NOW + DAY


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


def rules(now: datetime = NOW, **fields: Any) -> Rules:
    given: dict[str, Any] = {"campaigns": {}, "gateways": {}, "merchants": {}, "ordered": None}
    return rules_of(Rows(**given | fields), {}, now)


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


def test_what_is_over_is_inactive_for_good_and_what_is_to_come_until_it_starts() -> None:
    """Of what is near its start or its end nothing is said; the worker will know."""
    hour, second = timedelta(hours=1), timedelta(seconds=1)
    found = rules(
        campaigns={
            "over": campaign(starts_at=NOW - DAY, ends_at=NOW - hour),
            "just over": campaign(starts_at=NOW - DAY, ends_at=NOW - second),
            "open": campaign(starts_at=NOW - hour),
            "about to begin": campaign(starts_at=NOW + second),
            "to come": campaign(starts_at=NOW + hour),
        }
    )
    assert found.inactive == {"over": None, "to come": NOW + hour}


moments = st.integers(-20_000, 20_000).map(lambda ms: NOW + timedelta(milliseconds=ms))


@given(now=moments, start=moments, length_ms=st.integers(1, 20_000), later_ms=st.integers(0, 2_500))
def test_nobody_is_refused_whom_a_worker_would_serve(
    now: datetime, start: datetime, length_ms: int, later_ms: int
) -> None:
    """Not by a reading that has aged for as long as it counts, nor with a second in the journal."""
    assert ACTIVITY_S_MAX <= 1.0
    row = campaign(starts_at=start, ends_at=start + timedelta(milliseconds=length_ms))
    intent = an_order(campaign_id="a", accepted_at=now + timedelta(milliseconds=later_ms))
    terms = replace(CAMPAIGN, campaign_id="a", starts_at=row.starts_at, ends_at=row.ends_at)
    outcome = decide_one(intent, a_snapshot(campaigns={"a": terms}), intent.accepted_at)
    if outcome.refusal is not Refusal.CAMPAIGN_NOT_ACTIVE:
        assert rules(now, campaigns={"a": row}).inactive == {}


def test_an_order_is_a_policy_that_states_its_level_and_no_rate() -> None:
    found = rules(ordered=LevelRow(Level.CLOSED, NOW, LATER)).limits.ordered
    assert found == Policy(
        level=Level.CLOSED,
        reason="operator",
        since_ms=1_770_372_000_000,
        until_ms=1_770_458_400_000,
    )


def test_a_campaign_that_is_over_throttles_no_gateway() -> None:
    """One that ended a moment ago may be open yet by the worker's clock."""
    hour, second = timedelta(hours=1), timedelta(seconds=1)
    found = {
        ended_ago: rules(
            gateways={"chat": None, "own": (100.0, 100)},
            campaigns={
                "tight": campaign(
                    starts_at=NOW - DAY,
                    ends_at=NOW - ended_ago,
                    rate_limits=b'{"gateway": {"rate": 5, "burst": 50}}',
                ),
                "open": campaign(rate_limits=b'{"gateway": {"rate": 9, "burst": 9}}'),
            },
        ).limits.gateways
        for ended_ago in (hour, second)
    }
    assert found[hour] == {"chat": RateLimit(9, 9), "own": RateLimit(100, 100)}
    assert found[second] == {"chat": RateLimit(5, 50), "own": RateLimit(100, 100)}


def test_a_gateway_has_its_own_limit_or_the_tightest_that_a_campaign_states() -> None:
    texts = {
        "a": b'{"gateway": {"rate": 9, "burst": 9}, "user": {"rate": 1, "burst": 5}}',
        "b": b'{"gateway": {"rate": 5, "burst": 50}}',
    }
    limits = parse(texts, {"own": (100, 100), "other": None})
    assert limits.gateways == {"own": RateLimit(100, 100), "other": RateLimit(5, 50)}
    assert limits.campaigns["a"] == CampaignLimits(user=RateLimit(1, 5))
