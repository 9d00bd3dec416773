"""Dependencies: PostgreSQL, Valkey, the broker, and the processes themselves."""

from __future__ import annotations

from typing import Final

from deploy.monitoring.dashboard import Board, Panel, Row, Target, largest, meaning, pick, rate

_PER_S: Final = "suffix: /s"
_AWAY: Final = {0: ("away", "red"), 1: ("up", "green")}

_SERVERS = Row(
    "PostgreSQL, Valkey, broker",
    [
        Panel(
            title="Answering",
            description="Whether the exporter reaches PostgreSQL and Valkey.",
            unit="none",
            targets=[
                Target(largest("tidegate_postgres_up"), "PostgreSQL"),
                Target(largest("tidegate_valkey_up"), "Valkey"),
            ],
            kind="state-timeline",
            width=12,
            words=_AWAY,
        ),
        Panel(
            title="Outcomes heard",
            description=meaning("tidegate_outcomes_heard")
            + " Without it callers that wait read the journal.",
            unit="none",
            targets=[Target(largest("tidegate_outcomes_heard", "instance"), "{{instance}}")],
            kind="state-timeline",
            width=12,
            words={0: ("deaf", "red"), 1: ("hears", "green")},
        ),
        Panel(
            title="Latency of the governor's probes",
            description=meaning("tidegate_probe_seconds"),
            unit="s",
            targets=[Target(largest("tidegate_probe_seconds", "dependency"), "{{dependency}}")],
        ),
        Panel(
            title="PostgreSQL's connections",
            description=meaning("tidegate_postgres_connections_ratio"),
            unit="percentunit",
            targets=[Target(largest("tidegate_postgres_connections_ratio"), "open")],
            bad_from=0.8,
        ),
        Panel(
            title="Valkey's memory",
            description=meaning("tidegate_valkey_memory_ratio"),
            unit="percentunit",
            targets=[Target(largest("tidegate_valkey_memory_ratio"), "used")],
            bad_from=0.8,
        ),
        Panel(
            title="Hints the broker did not take",
            description=meaning("tidegate_hints_published_total")
            + " What is not taken is hinted at again.",
            unit=_PER_S,
            targets=[
                Target(rate("tidegate_hints_published_total", "", 'result="failed"'), "failed")
            ],
        ),
        Panel(
            title="Batches put off",
            description=meaning("tidegate_batch_faults_total"),
            unit=_PER_S,
            targets=[Target(rate("tidegate_batch_faults_total", "instance"), "{{instance}}")],
        ),
        Panel(
            title="Spans",
            description=meaning("tidegate_spans_total") + " None while tracing is off.",
            unit=_PER_S,
            targets=[Target(rate("tidegate_spans_total", "fate"), "{{fate}}")],
        ),
        Panel(
            title="Exporter's readings",
            description="How long a reading of PostgreSQL takes, and how old the last one is.",
            unit="s",
            targets=[
                Target(largest("tidegate_exporter_read_seconds"), "took"),
                Target(f"time() - {largest('tidegate_exporter_read_timestamp_seconds')}", "age"),
            ],
            bad_from=120,
        ),
    ],
)

_PROCESSES = Row(
    "Processes",
    [
        Panel(
            title="Scraped",
            description="Whether each process answers Prometheus.",
            unit="none",
            targets=[Target('up{job=~"$job", instance=~"$instance"}', "{{job}} {{instance}}")],
            kind="state-timeline",
            width=12,
            words=_AWAY,
        ),
        Panel(
            title="Versions",
            description=meaning("tidegate_build_info"),
            unit="short",
            targets=[
                Target(
                    f"count by (version, process) ({pick('tidegate_build_info')})",
                    "{{process}} {{version}}",
                )
            ],
            width=12,
        ),
        Panel(
            title="Starts within an hour",
            description="How often each process was started; more than deployments explain are "
            "crashes.",
            unit="short",
            targets=[
                Target(
                    "sum by (job, instance) "
                    f"(changes({pick('tidegate_process_start_timestamp_seconds')}[1h]))",
                    "{{job}} {{instance}}",
                )
            ],
        ),
        Panel(
            title="CPU",
            description="Processor seconds a second: 1 is a whole core. Not of prefork children.",
            unit="none",
            targets=[
                Target(
                    "sum by (job, instance) (rate(process_cpu_seconds_total"
                    '{job=~"$job", instance=~"$instance"}[$__rate_interval]))',
                    "{{job}} {{instance}}",
                )
            ],
        ),
        Panel(
            title="Memory",
            description="Resident memory. Not of prefork children.",
            unit="bytes",
            targets=[
                Target(
                    'process_resident_memory_bytes{job=~"$job", instance=~"$instance"}',
                    "{{job}} {{instance}}",
                )
            ],
        ),
    ],
)

BOARD = Board(
    name="dependencies",
    title="Tidegate / Dependencies",
    question="Do PostgreSQL, Valkey, the broker and our own processes do their part?",
    rows=[_SERVERS, _PROCESSES],
)
