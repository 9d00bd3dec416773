"""All rows of the benchmark, in the order in which they are measured."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from tests.benchmarks import (
    rows_appointments,
    rows_backlog,
    rows_beside,
    rows_exact,
    rows_faults,
    rows_greedy,
    rows_issuance,
    rows_latency,
    rows_observed,
    rows_overload,
    rows_scarce,
    rows_storm,
    rows_throughput,
)
from tests.benchmarks.course import Course, Finding


class Measurable(Struct, frozen=True):
    """One row that can be asked for by name."""

    name: str
    what: str
    measure: Callable[[Course], Finding]
    alone: bool = False  # it has servers of its own, and the shared ones would be in the way
    apart: bool = False  # measured only when it is named


#: The idle system first, and empty tables; then what fills them; at last what has its own servers.
ROWS = (
    Measurable("idle", "one intent at a time", rows_latency.idle),
    Measurable("connections", "8, 32, 128, 1,000 connections", rows_throughput.connections),
    Measurable("single", "one intent per POST, sustained", rows_throughput.single),
    Measurable("batch", "1, 10, 100, 500 intents per call", rows_throughput.batch),
    Measurable("acceptance", "acceptance latency at half load", rows_latency.acceptance),
    Measurable("wait", "intent to outcome at half load", rows_latency.wait),
    Measurable("spread", "a hot pair against 1,000 SKUs", rows_throughput.spread),
    Measurable("load", "latency from idle to beyond saturation", rows_latency.load),
    Measurable("growth", "with all rows of this run", rows_throughput.growth),
    Measurable("audit", "proof that all of it is sound", rows_throughput.audit),
    Measurable(
        "backlog", "drain rate of a large backlog against none", rows_backlog.backlog, alone=True
    ),
    Measurable("plain", "plain Celery", rows_beside.plain, alone=True),
    Measurable("postgres", "PostgreSQL alone", rows_beside.postgres, alone=True),
    Measurable("refused", "CPU of a refused intent", rows_beside.refused, alone=True),
    Measurable("overload", "1 to 20 times the capacity", rows_overload.overload, True, True),
    Measurable(
        "plain_overload", "the same for plain Celery", rows_overload.plain_overload, True, True
    ),
    Measurable("storm", "a retry storm after a pause", rows_storm.storm, True, True),
    Measurable("issuance", "issuance paused and resumed", rows_issuance.issuance, True, True),
    Measurable("greedy", "20 times a quota beside a modest one", rows_greedy.greedy, True, True),
    Measurable("scarce", "forty buyers for each unit", rows_scarce.scarce, True, True),
    Measurable("faults", "kills at ten times the capacity", rows_faults.faults, True, True),
    Measurable(
        "appointments",
        "who comes back when he was told",
        rows_appointments.appointments,
        True,
        True,
    ),
    Measurable("exact", "metrics against the audit, through kills", rows_exact.exact, True, True),
    Measurable("observed", "what metrics and logs cost", rows_observed.observed, True, True),
)
