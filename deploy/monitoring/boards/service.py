"""Service: are users served?"""

from __future__ import annotations

from typing import Final

from deploy.monitoring.dashboard import (
    Board,
    Panel,
    Row,
    Target,
    gain,
    largest,
    meaning,
    pick,
    quantiles,
    rate,
    total,
)

_PER_S: Final = "suffix: /s"

_OBJECTIVES = Row(
    "Objectives",
    [
        Panel(
            title="Budget left of thirty days",
            description=(
                "Of what each objective may miss in thirty days, the share that is left; below 0 the "
                "promise is broken. Objectives: deploy/monitoring/objectives.toml."
            ),
            unit="percentunit",
            targets=[
                Target(
                    "1 - max by (objective) (tidegate:objective_error:ratio_rate30d)"
                    " / max by (objective) (1 - tidegate:objective_target:ratio)",
                    "{{objective}}",
                )
            ],
            kind="stat",
            width=24,
        ),
        Panel(
            title="How fast budgets burn",
            description=(
                "Over an hour, in multiples of the rate that would just use up thirty days' budget. "
                "At 14.4 somebody is paged; sheds and receipts never page."
            ),
            unit="none",
            targets=[
                Target(
                    "max by (objective) (tidegate:objective_error:ratio_rate1h)"
                    " / max by (objective) (1 - tidegate:objective_target:ratio)",
                    "{{objective}}",
                )
            ],
            width=12,
            bad_from=14.4,
        ),
        Panel(
            title="Heartbeat",
            description=meaning("tidegate_heartbeat_age_seconds"),
            unit="s",
            targets=[Target(f"min({pick('tidegate_heartbeat_age_seconds')})", "age")],
            kind="stat",
            width=6,
            bad_from=120,
        ),
        Panel(
            title="Heartbeat, post to outcome",
            description=meaning("tidegate_heartbeat_duration_seconds"),
            unit="s",
            targets=[Target(largest("tidegate_heartbeat_duration_seconds"), "took")],
            kind="stat",
            width=6,
            bad_from=3,
        ),
    ],
)

_INTENTS = Row(
    "Intents",
    [
        Panel(
            title="Answers",
            description=(
                "Posted intents by what they were answered. Limited is a 429 or a 503 of shedding; "
                "unanswered ones are asked again with the same key."
            ),
            unit=_PER_S,
            targets=[Target(rate("tidegate_intents_answered_total", "answer"), "{{answer}}")],
            stacked=True,
        ),
        Panel(
            title="Accepted and decided",
            description=(
                "From the tables: what was journalled, and what became of it. Lines that part are a "
                "queue."
            ),
            unit=_PER_S,
            targets=[
                Target(rate("tidegate_intents_accepted_total"), "accepted"),
                Target(rate("tidegate_intents_committed_total", "kind"), "committed: {{kind}}"),
                Target(rate("tidegate_intents_refused_total"), "refused"),
            ],
        ),
        Panel(
            title="From receipt to outcome",
            description=meaning("tidegate_sojourn_seconds") + " Promised: 99 % within 3 s.",
            unit="s",
            targets=quantiles("tidegate_sojourn_seconds"),
            bad_from=3,
        ),
        Panel(
            title="Accepted in the time shown",
            description="Receipts given; equals the audit's count.",
            unit="short",
            targets=[Target(gain("tidegate_intents_accepted_total"), "receipts")],
            kind="stat",
            width=6,
        ),
        Panel(
            title="Became an order",
            description="Orders committed in the time shown; equals the audit's count.",
            unit="short",
            targets=[
                Target(gain("tidegate_intents_committed_total", "", 'kind="order"'), "orders")
            ],
            kind="stat",
            width=6,
        ),
        Panel(
            title="Without an outcome, oldest",
            description=meaning("tidegate_open_oldest_age_seconds"),
            unit="s",
            targets=[Target(largest("tidegate_open_oldest_age_seconds"), "age")],
            kind="stat",
            width=6,
            bad_from=60,
        ),
        Panel(
            title="Could not be processed",
            description="Receipts of the time shown that ended so: promised are 0.001 % at most.",
            unit="short",
            targets=[
                Target(
                    gain("tidegate_intents_refused_total", "", 'reason="could_not_be_processed"')
                    + " or vector(0)",
                    "intents",
                )
            ],
            kind="stat",
            width=6,
            bad_from=1,
        ),
    ],
)

_HTTP = Row(
    "HTTP",
    [
        Panel(
            title="Calls by status",
            description=meaning("tidegate_http_requests_total"),
            unit="reqps",
            targets=[Target(rate("tidegate_http_requests_total", "status"), "{{status}}")],
            stacked=True,
        ),
        Panel(
            title="Calls by route",
            description="Which routes are called, whatever was answered.",
            unit="reqps",
            targets=[Target(rate("tidegate_http_requests_total", "route"), "{{route}}")],
        ),
        Panel(
            title="Answer times, p99 by route",
            description=meaning("tidegate_http_request_duration_seconds")
            + " Promised: 99 % of receipts within 50 ms.",
            unit="s",
            targets=[
                Target(
                    "histogram_quantile(0.99, "
                    + rate("tidegate_http_request_duration_seconds_bucket", "le, route")
                    + ")",
                    "{{route}}",
                )
            ],
        ),
        Panel(
            title="Connections",
            description=meaning("tidegate_http_connections"),
            unit="short",
            targets=[Target(total("tidegate_http_connections", "instance"), "{{instance}}")],
        ),
        Panel(
            title="Event streams",
            description=meaning("tidegate_event_streams"),
            unit="short",
            targets=[Target(total("tidegate_event_streams", "stream"), "{{stream}}")],
        ),
        Panel(
            title="Webhook attempts",
            description=meaning("tidegate_webhook_attempts_total"),
            unit=_PER_S,
            targets=[Target(rate("tidegate_webhook_attempts_total", "fate"), "{{fate}}")],
        ),
    ],
)

BOARD = Board(
    name="service",
    title="Tidegate / Service",
    question="Are users served?",
    rows=[_OBJECTIVES, _INTENTS, _HTTP],
)
