"""Pipeline: does work flow from the intake to the outbox?"""

from __future__ import annotations

from typing import Final

from deploy.monitoring.dashboard import (
    Board,
    Panel,
    Row,
    Target,
    largest,
    meaning,
    quantiles,
    rate,
    total,
)

_PER_S: Final = "suffix: /s"


def _busy(name: str) -> Target:
    """Seconds a second: how much of one thread each stage takes."""
    return Target(rate(f"{name}_sum", "stage"), "{{stage}}")


_INTAKE = Row(
    "Intake and journal",
    [
        Panel(
            title="Intents that wait for a lane",
            description=meaning("tidegate_intake_waiting")
            + " A queue that stays says that the intake is at its end.",
            unit="short",
            targets=[Target(total("tidegate_intake_waiting", "instance"), "{{instance}}")],
        ),
        Panel(
            title="Intents in a batch of the intake",
            description=meaning("tidegate_intake_batch_intents"),
            unit="short",
            targets=quantiles("tidegate_intake_batch_intents"),
        ),
        Panel(
            title="Stages of the intake, p99",
            description=meaning("tidegate_intake_stage_seconds"),
            unit="s",
            targets=[quantiles("tidegate_intake_stage_seconds", "stage")[-1]],
        ),
    ],
)

_WORKERS = Row(
    "Batches",
    [
        Panel(
            title="Batches",
            description="Batches committed a second, begun again because another was in the way, and "
            "put off by a fault of the system.",
            unit=_PER_S,
            targets=[
                Target(rate("tidegate_batches_total"), "committed"),
                Target(rate("tidegate_batch_contentions_total"), "begun again"),
                Target(rate("tidegate_batch_faults_total"), "put off"),
            ],
        ),
        Panel(
            title="Intents in a batch",
            description=meaning("tidegate_batch_intents")
            + " Batches grow by themselves with the backlog.",
            unit="short",
            targets=quantiles("tidegate_batch_intents"),
        ),
        Panel(
            title="Stages of a batch, p99",
            description=meaning("tidegate_batch_stage_seconds"),
            unit="s",
            targets=[quantiles("tidegate_batch_stage_seconds", "stage")[-1]],
        ),
        Panel(
            title="Where the workers' time goes",
            description="Seconds a second over all workers, by stage: 1 is a worker that does nothing "
            "else.",
            unit="none",
            targets=[_busy("tidegate_batch_stage_seconds")],
            stacked=True,
        ),
        Panel(
            title="Failures of single intents",
            description=meaning("tidegate_batch_failures_total"),
            unit=_PER_S,
            targets=[
                Target(rate("tidegate_batch_failures_total"), "failed"),
                Target(rate("tidegate_intents_quarantined_total"), "given up"),
            ],
        ),
        Panel(
            title="In quarantine",
            description=meaning("tidegate_quarantined_intents"),
            unit="short",
            targets=[Target(largest("tidegate_quarantined_intents"), "intents")],
        ),
    ],
)

_QUEUE = Row(
    "Queue and hints",
    [
        Panel(
            title="Open intents",
            description=meaning("tidegate_open_intents"),
            unit="short",
            targets=[
                Target(largest("tidegate_open_intents"), "journal"),
                Target(largest("tidegate_in_flight"), "gate"),
            ],
        ),
        Panel(
            title="Oldest open intent",
            description=meaning("tidegate_open_oldest_age_seconds"),
            unit="s",
            targets=[Target(largest("tidegate_open_oldest_age_seconds"), "age")],
            bad_from=60,
        ),
        Panel(
            title="Hints in the queue",
            description=meaning("celery_queue_length")
            + " Each is a hint or a batch from a gateway, not an intent.",
            unit="short",
            targets=[Target(largest("celery_queue_length", "queue_name"), "{{queue_name}}")],
        ),
        Panel(
            title="Hints",
            description="Sent by the API, failed to be sent, and intents hinted at again by the "
            "redispatcher.",
            unit=_PER_S,
            targets=[
                Target(rate("tidegate_hints_published_total", "result"), "{{result}}"),
                Target(rate("tidegate_redispatched_total"), "intents hinted at again"),
            ],
        ),
        Panel(
            title="Dispatch lag",
            description=meaning("tidegate_dispatch_lag_seconds"),
            unit="s",
            targets=[Target(largest("tidegate_dispatch_lag_seconds"), "lag")],
        ),
        Panel(
            title="Duties of the redispatcher that failed",
            description=meaning("tidegate_duty_runs_total"),
            unit=_PER_S,
            targets=[
                Target(rate("tidegate_duty_runs_total", "duty", 'result="failed"'), "{{duty}}")
            ],
        ),
        Panel(
            title="Gate put right",
            description=meaning("tidegate_gate_reconciled_ids_total")
            + " Many at once follow a flush or a kill.",
            unit=_PER_S,
            targets=[Target(rate("tidegate_gate_reconciled_ids_total", "change"), "{{change}}")],
        ),
        Panel(
            title="Tasks at work",
            description=meaning("celery_worker_tasks_active"),
            unit="short",
            targets=[Target(total("celery_worker_tasks_active", "hostname"), "{{hostname}}")],
        ),
        Panel(
            title="Tasks",
            description="Hints and gateways' batches received, returned and raised, by task.",
            unit=_PER_S,
            targets=[
                Target(rate("celery_task_received_total", "name"), "{{name}} received"),
                Target(rate("celery_task_succeeded_total", "name"), "{{name}} returned"),
                Target(rate("celery_task_failed_total", "name"), "{{name}} raised"),
            ],
        ),
    ],
)

_OUTBOX = Row(
    "Outbox",
    [
        Panel(
            title="Events that wait",
            description=meaning("tidegate_outbox_waiting"),
            unit="short",
            targets=[Target(largest("tidegate_outbox_waiting"), "events")],
        ),
        Panel(
            title="Oldest event",
            description=meaning("tidegate_outbox_oldest_age_seconds"),
            unit="s",
            targets=[Target(largest("tidegate_outbox_oldest_age_seconds"), "age")],
            bad_from=900,
        ),
        Panel(
            title="Events given up",
            description=meaning("tidegate_outbox_dead"),
            unit="short",
            targets=[Target(largest("tidegate_outbox_dead"), "events")],
        ),
    ],
)

BOARD = Board(
    name="pipeline",
    title="Tidegate / Pipeline",
    question="Does work flow from the intake to the outbox?",
    rows=[_INTAKE, _WORKERS, _QUEUE, _OUTBOX],
)
