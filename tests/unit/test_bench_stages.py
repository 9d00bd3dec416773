"""The stage budget: samples find their stages, shares add up, and the table names what is there."""

from __future__ import annotations

import ast
import os
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks import attribution, budget, kernel
from tests.benchmarks.attribution import STAGES, by_function, samples, stage_of
from tests.benchmarks.kernel import Cpu
from tests.benchmarks.machine import Machine
from workers.store.sql import queries

RAW = """\
thread (7): intake-0;Thread.run (threading.py);Intake.submit (producer/intake.py);\
Intake._admit (producer/intake.py);Gate.admit (workers/contract/gate.py);\
Redis.execute_command (redis/client.py) 30
thread (7): intake-0;Thread.run (threading.py);Intake.submit (producer/intake.py);\
Intake.submit.<locals>.<listcomp> (producer/intake.py);UUID.__hash__ (uuid.py) 10
thread (9): MainThread;main (deploy/cli/root.py);Runner.run (asyncio/runners.py) 5
"""


@cache
def names_in(file: str) -> set[str]:
    spec = find_spec(file.removesuffix(".py").replace("/", "."))
    assert spec is not None, file
    assert spec.origin is not None, file
    tree = ast.parse(Path(spec.origin).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


@pytest.mark.parametrize(("file", "function"), attribution.known_places())
def test_whatever_the_table_names_is_there(file: str, function: str) -> None:
    """A function that was renamed would take its microseconds to another stage, in silence."""
    assert not function or function in names_in(file)


@pytest.mark.parametrize("place", attribution.known_places())
def test_every_stage_of_the_table_is_explained(place: tuple[str, str]) -> None:
    """The report has a line for each stage, in the order of an order's life."""
    file, function = place
    frame = attribution.Frame((function,), file)
    assert stage_of([frame], "nowhere") in STAGES


def test_a_sample_belongs_to_the_deepest_function_that_is_known() -> None:
    """What a library does belongs to whoever of ours called it."""
    taken = samples(RAW)
    assert [(one.thread, one.times) for one in taken] == [(7, 30), (7, 10), (9, 5)]
    assert [stage_of(one.stack, "other") for one in taken] == ["gate", "journal", "event loop"]
    assert stage_of(samples("thread (1): x;f (lib.py) 1")[0].stack, "other") == "other"


@pytest.mark.parametrize(
    "stack",
    [
        "App.hot (producer/http/app.py);_note (producer/http/app.py)",
        "_note (producer/http/app.py);count_call (producer/http/metering.py)",
        "AccessLog.note (producer/http/access.py);Call.is_in (producer/http/calls.py)",
        "Call.trace (producer/http/calls.py);trace_of (workers/contract/trace.py)",
        "Intake.submit (producer/intake.py);Watch.lap (producer/metering.py)",
        "Admitting.ask (producer/admitting.py);count_verdicts (producer/metering.py)",
        "Processor.run (workers/service/process_batch.py);Counter.inc (config/meters.py)",
        "_Child.process (workers/runtime/worker.py);tell_batch (workers/runtime/telemetry.py)",
        "tell_batch (workers/runtime/telemetry.py);msg (structlog/_base.py)",
        "process_request_thread (socketserver.py);generate_latest (prometheus_client/exposition.py)",
    ],
)
def test_what_counts_and_tells_is_told_apart_from_what_it_tells_of(stack: str) -> None:
    """Whoever calls it: so the profile says what observing costs."""
    assert stage_of(samples(f"thread (1): x;{stack} 1")[0].stack, "other") == "observe"


def test_each_threads_cpu_is_shared_out_by_its_own_samples() -> None:
    """A thread that is sampled often while it waits gets no more than the kernel counted for it."""
    assert by_function(samples(RAW), {7: 2.0, 9: 3.0, 11: 0.5}, "other") == {
        "gate": {"Redis.execute_command (redis/client.py)": 1.5},
        "journal": {"UUID.__hash__ (uuid.py)": 0.5},
        "event loop": {"Runner.run (asyncio/runners.py)": 3.0},
        "other": {"not sampled": 0.5},
    }


@given(st.dictionaries(st.sampled_from([7, 9, 11]), st.floats(0, 1e3), min_size=1))
def test_nothing_is_lost_in_sharing_out(cpu: dict[int, float]) -> None:
    """The stages of a process add up to its CPU, with samples or without."""
    found = by_function(samples(RAW), cpu, "other").values()
    assert sum(sum(one.values()) for one in found) == pytest.approx(sum(cpu.values()))
    assert attribution.share_out(5.0, {}, "other") == {"other": 5.0}
    assert sum(attribution.share_out(5.0, {"a": 1, "b": 3}, "other").values()) == pytest.approx(5)


@pytest.mark.parametrize("name", queries("batch"))
def test_a_query_is_recognised_as_postgresql_shows_it(name: str) -> None:
    """pg_stat_statements puts numbers in place of parameters and constants, and drops nothing else."""
    text = queries("batch")[name]
    shown = re.sub(r"'[^']*'|%\(\w+\)[sbt]|\b\d+\b", "$12", text)
    assert attribution.shape(shown) == attribution.shape(text)
    assert attribution.stage_of_query(name, text) in ("claim", "gather", "apply")


@pytest.mark.parametrize(
    ("name", "backend_type", "stage"),
    [
        ("tidegate-api-intake", "client backend", "journal"),
        ("tidegate-api-reads", "client backend", "other"),
        ("tidegate-redispatcher", "client backend", "redispatch"),
        ("tidegate-exporter", "client backend", "observe"),
        ("tidegate-worker", "client backend", None),
        ("", "autovacuum worker", "vacuum"),
        ("", "walwriter", "log and checkpoints"),
    ],
)
def test_a_backend_counts_for_whom_it_serves(
    name: str, backend_type: str, stage: str | None
) -> None:
    """Only the worker's backend serves several stages; its statements tell them apart."""
    assert attribution.stage_of_application(name, backend_type) == stage


def test_what_runs_inside_a_function_of_valkey_is_counted_with_it() -> None:
    """Else the gate's time would be counted twice."""
    assert attribution.stage_of_command("FCALL tidegate_admit 3 {tidegate}:in_flight") == "gate"
    assert attribution.stage_of_command("FCALL tidegate_settle 1 x") == "announce"
    assert attribution.stage_of_command("SADD {tidegate}:in_flight x") is None


def test_the_kernel_counts_what_this_process_costs() -> None:
    """User and system time, of the process and of its threads; nobody costs nothing."""
    own = kernel.of_process(os.getpid())
    assert own is not None
    assert own.total_s == own.user_s + own.system_s
    assert kernel.spent(None, own) == Cpu()
    assert kernel.spent(Cpu(1.0, 0.5), Cpu(3.0, 0.75)) == Cpu(2.0, 0.25)
    assert os.getpid() in kernel.of_threads(os.getpid())
    assert kernel.of_process(2**30) is None


def a_budget(**changed: object) -> budget.Budget:
    machine = Machine("A processor", 2, 8.0, "Linux 6", {"Python": "3"}, "abc")
    fields: dict[str, object] = {
        "machine": machine,
        "date": "2026-11-23",
        "connections": 1_000,
        "seconds": 10.0,
        "accepted_per_s": 5_000.0,
        "committed_per_s": 4_990.0,
        "stages": [
            budget.Stage("gate", {"API": 4.0, "Valkey": 3.5}),
            budget.Stage("decide", {"worker": 6.25}),
            budget.Stage("hear", {"API": 0.01}),
        ],
        "processes": [budget.Process(name, 5.0, 1.0) for name in attribution.PROCESSES],
        "samples": {"API": 1_000},
        "seen": {"API": 2.0},
        "functions": [budget.Function("API", "gate", "Gate.admit (workers/contract/gate.py)", 4.0)],
    }
    return budget.Budget(**(fields | changed))  # type: ignore[arg-type]


def test_the_document_shows_each_stage_that_costs_anything() -> None:
    """One line for a stage, a column for a process; what is next to nothing is left out."""
    text = budget.document(a_budget())
    assert "| gate | 4.0 |  |  | 3.5 |  |  | 7.5 |" in text
    assert "| decide |  | 6.2 |" in text
    assert "| hear |" not in text
    assert "36 µs of CPU each without the sender" in text
    assert "| Gate.admit (workers/contract/gate.py) | gate | API | 4.0 |" in text
    assert "Not known" not in text


def test_the_document_says_where_nothing_could_be_sampled() -> None:
    """Without the right to read other processes, the stages of Python are not known, and it says so."""
    assert "**Not known: no ptrace.**" in budget.document(a_budget(refused="no ptrace"))
