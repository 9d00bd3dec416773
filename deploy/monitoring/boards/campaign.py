"""Campaign: what is left to sell and to give, and why are users refused?"""

from __future__ import annotations

from typing import Final

from deploy.monitoring.dashboard import Board, Panel, Row, Target, gain, largest, meaning, rate

_PER_S: Final = "suffix: /s"
_OF: Final = 'campaign=~"$campaign"'


def _stock(state: str) -> str:
    return largest("tidegate_stock_units", "campaign, sku", f'{_OF}, state="{state}"')


def _budget(state: str) -> str:
    by = "campaign, currency"
    return largest("tidegate_budget_minor_units", by, f'{_OF}, state="{state}"')


_SALES = Row(
    "Stock",
    [
        Panel(
            title="Left of each item",
            description="Units available, of those there were at the opening. Sold out is no fault.",
            unit="percentunit",
            targets=[Target(f"{_stock('available')} / {_stock('initial')}", "{{sku}}")],
            width=12,
        ),
        Panel(
            title="Units by state",
            description=meaning("tidegate_stock_units")
            + " Reserved units are in orders that wait for payment.",
            unit="short",
            targets=[
                Target(f"sum by (campaign) ({_stock(state)})", f"{{{{campaign}}}} {state}")
                for state in ("available", "reserved", "sold")
            ],
            width=12,
            stacked=True,
        ),
        Panel(
            title="Items sold out",
            description="Items of which nothing is available and nothing reserved.",
            unit="short",
            targets=[
                Target(
                    f"count(({_stock('available')} + {_stock('reserved')}) == 0) or vector(0)",
                    "items",
                )
            ],
            kind="stat",
            width=6,
        ),
        Panel(
            title="Orders",
            description="Orders committed in the time shown.",
            unit="short",
            targets=[
                Target(
                    gain("tidegate_intents_committed_total", "", f'{_OF}, kind="order"'), "orders"
                )
            ],
            kind="stat",
            width=6,
        ),
        Panel(
            title="Orders released, unpaid",
            description=meaning("tidegate_orders_expired_total") + " In the time shown.",
            unit="short",
            targets=[Target(gain("tidegate_orders_expired_total"), "orders")],
            kind="stat",
            width=6,
        ),
        Panel(
            title="Books that do not add up",
            description=meaning("tidegate_ledger_drift"),
            unit="short",
            targets=[Target(f"sum({largest('tidegate_ledger_drift', 'check')})", "found")],
            kind="stat",
            width=6,
            bad_from=1,
        ),
    ],
)

_COUPONS = Row(
    "Budget and coupons",
    [
        Panel(
            title="Budget by state",
            description=meaning("tidegate_budget_minor_units")
            + " Reserved is what coupons hold that are out.",
            unit="short",
            targets=[
                Target(_budget(state), f"{{{{campaign}}}} {{{{currency}}}} {state}")
                for state in ("available", "reserved", "spent")
            ],
            width=12,
            stacked=True,
        ),
        Panel(
            title="Budget left to give",
            description="Neither spent nor held by a coupon.",
            unit="percentunit",
            targets=[Target(f"{_budget('available')} / {_budget('initial')}", "{{campaign}}")],
            kind="stat",
            width=6,
        ),
        Panel(
            title="Issuance paused",
            description=meaning("tidegate_issuance_paused"),
            unit="none",
            targets=[Target(largest("tidegate_issuance_paused", "campaign", _OF), "{{campaign}}")],
            kind="stat",
            width=6,
            words={0: ("open", "green"), 1: ("paused", "orange")},
        ),
        Panel(
            title="Coupons",
            description="Issued (in bulk included), redeemed and expired, a second.",
            unit=_PER_S,
            targets=[
                Target(rate("tidegate_coupons_issued_total", "", _OF), "issued"),
                Target(rate("tidegate_coupons_redeemed_total", "", _OF), "redeemed"),
                Target(rate("tidegate_coupons_expired_total"), "expired, of all campaigns"),
            ],
            width=12,
        ),
    ],
)

_REFUSALS = Row(
    "Refusals",
    [
        Panel(
            title="Refused after acceptance, by reason",
            description=meaning("tidegate_intents_refused_total"),
            unit=_PER_S,
            targets=[Target(rate("tidegate_intents_refused_total", "reason", _OF), "{{reason}}")],
            width=12,
            stacked=True,
        ),
        Panel(
            title="Told no before acceptance",
            description="Business answers of the gate: sold out or likely so, budget given away, a "
            "merchant paused or at its limit. Of all campaigns.",
            unit=_PER_S,
            targets=[
                Target(
                    rate("tidegate_verdicts_total", "verdict", 'verdict=~"stock|budget|merchant"'),
                    "{{verdict}}",
                )
            ],
            width=12,
            stacked=True,
        ),
    ],
)

BOARD = Board(
    name="campaign",
    title="Tidegate / Campaign",
    question="What is left to sell and to give, and why are users refused?",
    rows=[_SALES, _COUPONS, _REFUSALS],
    by_campaign=True,
)
