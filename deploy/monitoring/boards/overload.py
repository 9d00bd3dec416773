"""Overload: how far is the system closed, and for whom?"""

from __future__ import annotations

from typing import Final

from deploy.monitoring.dashboard import (
    LEVELS,
    Board,
    Panel,
    Row,
    Target,
    gain,
    largest,
    meaning,
    rate,
    total,
)

_PER_S: Final = "suffix: /s"
_RETURNING: Final = 'class="appointment"'

_LEVEL = Row(
    "Level",
    [
        Panel(
            title="Level",
            description=(
                "How far the system has closed. Throttled: no new coupons. Shedding: a bounded rate "
                "of orders. Closed: nothing is let in."
            ),
            unit="none",
            targets=[Target(largest("tidegate_level"), "level")],
            kind="state-timeline",
            width=12,
            words=LEVELS,
        ),
        Panel(
            title="Since",
            description=meaning("tidegate_level_since_timestamp_seconds"),
            unit="s",
            targets=[
                Target(f"time() - {largest('tidegate_level_since_timestamp_seconds')}", "at level")
            ],
            kind="stat",
            width=4,
        ),
        Panel(
            title="Ordered by an operator",
            description=meaning("tidegate_level_ordered"),
            unit="none",
            targets=[Target(largest("tidegate_level_ordered"), "order")],
            kind="stat",
            width=4,
            words={0: ("no", "green"), 1: ("yes", "orange")},
        ),
        Panel(
            title="Governors that lead",
            description="One leads; none for longer than its lease, and the level follows no load.",
            unit="none",
            targets=[Target(f"{total('tidegate_governor_leads')} or vector(0)", "lead")],
            kind="stat",
            width=4,
        ),
    ],
)

_ADMISSION = Row(
    "Admitted and shed",
    [
        Panel(
            title="Admitted by class",
            description="Who is let in. With a coupon, orders go before others; who was promised a "
            "window goes before all.",
            unit=_PER_S,
            targets=[
                Target(rate("tidegate_verdicts_total", "class", 'verdict="admitted"'), "{{class}}")
            ],
            stacked=True,
        ),
        Panel(
            title="Refused by what bound",
            description=(
                "User, conversation and gateway are the caller's own limits (429); the others are "
                "ours (503), or a business no (stock, budget, merchant)."
            ),
            unit=_PER_S,
            targets=[
                Target(
                    rate("tidegate_verdicts_total", "verdict", 'verdict!="admitted"'),
                    "{{verdict}}",
                )
            ],
            stacked=True,
        ),
        Panel(
            title="Shed, share of what was asked",
            description="Refused for load or a limit of ours, without the callers' own limits. "
            "Promised: 1 % at most over thirty days.",
            unit="percentunit",
            targets=[
                Target(
                    f'max(tidegate:objective_error:ratio_rate{window}{{objective="sheds"}})', window
                )
                for window in ("5m", "1h", "1d")
            ],
        ),
        Panel(
            title="Offered, let in, served",
            description="While shedding, the rate let in is a bound; goodput should stay at the "
            "service rate, however much is offered.",
            unit=_PER_S,
            targets=[
                Target(rate("tidegate_intents_answered_total"), "offered"),
                Target(
                    rate("tidegate_intents_answered_total", "", 'answer="accepted"'), "accepted"
                ),
                Target(largest("tidegate_admitted_per_second"), "bound while shedding"),
                Target(largest("tidegate_service_per_second"), "service rate"),
                Target(rate("tidegate_decided_heard_total"), "decided"),
            ],
            width=16,
        ),
        Panel(
            title="In flight",
            description=meaning("tidegate_in_flight"),
            unit="short",
            targets=[Target(largest("tidegate_in_flight"), "in flight")],
        ),
    ],
)

_WAITS = Row(
    "Waits",
    [
        Panel(
            title="Predicted and true wait",
            description=(
                "What was predicted when the intents decided now were accepted, beside what they have "
                "waited. The nearer the lines, the truer what users are told."
            ),
            unit="s",
            targets=[
                Target(largest("tidegate_predicted_wait_then_seconds"), "predicted then"),
                Target(largest("tidegate_true_wait_seconds"), "true (median)"),
                Target(largest("tidegate_sojourn_p99_seconds"), "true (p99)"),
            ],
            width=12,
            bad_from=3,
        ),
        Panel(
            title="Predicted now",
            description=meaning("tidegate_predicted_wait_seconds"),
            unit="s",
            targets=[Target(largest("tidegate_predicted_wait_seconds"), "wait")],
            width=12,
        ),
    ],
)

_APPOINTMENTS = Row(
    "Appointments",
    [
        Panel(
            title="Windows given, kept, missed",
            description=meaning("tidegate_appointments_total"),
            unit=_PER_S,
            targets=[Target(rate("tidegate_appointments_total", "fate"), "{{fate}}")],
            width=12,
        ),
        Panel(
            title="Came back in time",
            description="Of those who came back with a ticket in the time shown, the share that came "
            "in its window.",
            unit="percentunit",
            targets=[
                Target(
                    gain("tidegate_appointments_total", "", 'fate="kept"')
                    + " / "
                    + gain("tidegate_appointments_total", "", 'fate=~"kept|missed"'),
                    "kept",
                )
            ],
            kind="stat",
            width=6,
        ),
        Panel(
            title="Returning, admitted",
            description="Of those who came back in their window within the time shown, the share that "
            "was let in at once.",
            unit="percentunit",
            targets=[
                Target(
                    gain("tidegate_verdicts_total", "", f'{_RETURNING}, verdict="admitted"')
                    + " / "
                    + gain("tidegate_verdicts_total", "", _RETURNING),
                    "admitted",
                )
            ],
            kind="stat",
            width=6,
        ),
    ],
)

BOARD = Board(
    name="overload",
    title="Tidegate / Overload",
    question="How far is the system closed, and for whom?",
    rows=[_LEVEL, _ADMISSION, _WAITS, _APPOINTMENTS],
)
