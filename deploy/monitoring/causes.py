"""Alerts on what is behind a symptom, or will be: each has something that a person can do."""

from __future__ import annotations

from deploy.monitoring.alert import Alert

_AWAY = (
    Alert(
        name="TidegateTargetDown",
        expr='up{job=~"tidegate-.+"} == 0',
        severity="ticket",
        role="cause",
        lasting="5m",
        summary="A process does not answer Prometheus.",
        description=(
            "{{ $labels.instance }} of {{ $labels.job }} has not shown its metrics for 5 minutes: it "
            "is dead, cut off, or its metrics_port is not set."
        ),
        dashboard="dependencies",
    ),
    Alert(
        name="TidegatePostgresAway",
        expr="max(tidegate_postgres_up) == 0",
        severity="page",
        role="cause",
        lasting="1m",
        summary="PostgreSQL does not answer.",
        description="Nothing can be accepted or decided. What was accepted is safe in the journal.",
        dashboard="dependencies",
    ),
    Alert(
        name="TidegateValkeyAway",
        expr="max(tidegate_valkey_up) == 0",
        severity="page",
        role="cause",
        lasting="1m",
        summary="Valkey does not answer.",
        description=(
            "Every API process answers closed by itself. What was accepted is safe in PostgreSQL, and "
            "is decided once hints can be sent again."
        ),
        dashboard="dependencies",
    ),
    Alert(
        name="TidegateExporterStale",
        expr=(
            "time() - max(tidegate_exporter_read_timestamp_seconds) > 120\n"
            "or absent(tidegate_exporter_read_timestamp_seconds)"
        ),
        severity="ticket",
        role="cause",
        lasting="2m",
        summary="The exporter does not read PostgreSQL; its alerts are blind.",
        description=(
            "Ledger drift, open intents, quarantine, stock and budget have not been read for two "
            "minutes, so no alert on them can fire."
        ),
        dashboard="dependencies",
    ),
    Alert(
        name="TidegateRestartsOften",
        expr=(
            "sum by (job, instance) (changes(tidegate_process_start_timestamp_seconds[30m])) > 3"
        ),
        severity="ticket",
        role="cause",
        summary="A process is restarted again and again.",
        description=(
            "{{ $labels.instance }} of {{ $labels.job }} was started {{ $value }} times within half "
            "an hour."
        ),
        dashboard="dependencies",
    ),
    Alert(
        name="TidegatePostgresConnectionsHigh",
        expr="max(tidegate_postgres_connections_ratio) > 0.8",
        severity="ticket",
        role="cause",
        lasting="5m",
        summary="PostgreSQL's connections are nearly used up.",
        description=(
            "{{ $value | humanizePercentage }} of those that ordinary logins may open are open. "
            "Beyond all of them a process that restarts cannot come back."
        ),
        dashboard="dependencies",
    ),
    Alert(
        name="TidegateValkeyMemoryHigh",
        expr="max(tidegate_valkey_memory_ratio) > 0.8",
        severity="ticket",
        role="cause",
        lasting="5m",
        summary="Valkey's memory is nearly full.",
        description=(
            "{{ $value | humanizePercentage }} of maxmemory is used. At all of it Valkey refuses "
            "writes (noeviction), and every API process answers closed."
        ),
        dashboard="dependencies",
    ),
)

_LEVEL = (
    Alert(
        name="TidegateNoGovernorLeads",
        expr="(sum(tidegate_governor_leads) or vector(0)) < 1",
        severity="ticket",
        role="cause",
        lasting="2m",
        summary="No governor leads.",
        description=(
            "The level no longer follows the load; rate limits, the in-flight bound and the wait by "
            "the last service rate still hold."
        ),
        dashboard="overload",
    ),
    Alert(
        name="TidegateLevelOrdered",
        expr="max(tidegate_level_ordered) == 1",
        severity="ticket",
        role="cause",
        lasting="4h",
        summary="An operator's order of the level has stood for four hours.",
        description="It outranks the governor until somebody lifts it, wanted or not.",
        dashboard="overload",
    ),
    Alert(
        name="TidegateSheddingLong",
        expr="max(tidegate_level) >= 2\nunless on () max(tidegate_level_ordered) == 1",
        severity="ticket",
        role="cause",
        lasting="30m",
        summary="Orders have been shed for half an hour.",
        description="More is asked for than can be decided, and it does not pass by itself.",
        dashboard="overload",
    ),
)

_PIPELINE = (
    Alert(
        name="TidegateQueueLong",
        # Hints are bounded, a few for each API process and redispatcher; 100 for 20 minutes is also
        # what celery-exporter's own alerts take for much.
        expr="max by (queue_name) (celery_queue_length) > 100",
        severity="ticket",
        role="cause",
        lasting="20m",
        summary="A queue is not worked off.",
        description="{{ $value }} messages wait in {{ $labels.queue_name }}.",
        dashboard="pipeline",
    ),
    Alert(
        name="TidegateRedispatchHigh",
        expr=(
            "sum(rate(tidegate_redispatched_total[15m]))\n"
            "> 0.05 * sum(rate(tidegate_intents_accepted_total[15m])) > 0.1"
        ),
        severity="ticket",
        role="cause",
        lasting="15m",
        summary="Many intents have to be hinted at again.",
        description=(
            "{{ $value | humanize }} intents a second are hinted at again, more than a twentieth of "
            "those accepted: hints are lost, or workers die or fall behind."
        ),
        dashboard="pipeline",
    ),
    Alert(
        name="TidegateQuarantineGrows",
        expr="max(tidegate_quarantined_intents) > max(tidegate_quarantined_intents offset 1h)",
        severity="ticket",
        role="cause",
        summary="Intents were given up after repeated failures.",
        description=(
            "{{ $value }} intents are in quarantine, more than an hour ago. Their users were told "
            "could_not_be_processed."
        ),
        dashboard="pipeline",
    ),
    Alert(
        name="TidegateDutyFails",
        expr=(
            'sum by (duty) (increase(tidegate_duty_runs_total{result="failed"}[15m])) > 0\n'
            "unless\n"
            'sum by (duty) (increase(tidegate_duty_runs_total{result="done"}[15m])) > 0'
        ),
        severity="ticket",
        role="cause",
        lasting="10m",
        summary="A duty of the redispatcher only fails.",
        description=(
            "`{{ $labels.duty }}` has not succeeded for 15 minutes. Until it does, what it releases "
            "or repairs stays as it is."
        ),
        dashboard="pipeline",
    ),
    Alert(
        name="TidegateOutboxOld",
        expr="max(tidegate_outbox_oldest_age_seconds) > 900",
        severity="ticket",
        role="cause",
        lasting="5m",
        summary="A gateway is not told of its outcomes.",
        description=(
            "The event that waits longest was noted {{ $value | humanizeDuration }} ago: an endpoint "
            "does not take what it is sent, or no relay runs."
        ),
        dashboard="pipeline",
    ),
    Alert(
        name="TidegateOutboxDead",
        expr="max(tidegate_outbox_dead) > max(tidegate_outbox_dead offset 1h)",
        severity="ticket",
        role="cause",
        summary="Events to gateways were given up.",
        description=(
            "{{ $value }} events are given up, more than an hour ago. Nobody sends them again unless "
            "told to."
        ),
        dashboard="pipeline",
    ),
)

_CAMPAIGN = (
    Alert(
        name="TidegateBudgetNearlySpent",
        # Only while coupons are given out: an empty budget that nobody draws from is an ended campaign.
        expr=(
            'max by (campaign, currency) (tidegate_budget_minor_units{state="available"})\n'
            '/ max by (campaign, currency) (tidegate_budget_minor_units{state="initial"}) < 0.1\n'
            "and on (campaign) "
            "max by (campaign) (increase(tidegate_coupons_issued_total[1h])) > 0"
        ),
        severity="ticket",
        role="cause",
        lasting="5m",
        summary="A campaign's budget is nearly given away.",
        description=(
            "{{ $value | humanizePercentage }} of the budget of {{ $labels.campaign }} is neither "
            "spent nor held by a coupon. Coupons end with it."
        ),
        dashboard="campaign",
    ),
)

CAUSES = (*_AWAY, *_LEVEL, *_PIPELINE, *_CAMPAIGN)
