"""Which stage of an order a moment of CPU belongs to. Pure: text in, shares out.

A Python process is sampled (py-spy), and a sample belongs to the deepest frame of its stack that the
table below knows: what a library does belongs to whoever of ours called it. A file stands for all
its functions but those that are named apart. PostgreSQL's time goes by who is connected and by
statement, Valkey's by command.

The table names files and functions of ours; a test looks that each is there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

# In the order of an order's life; the last five belong to no single order.
STAGES: Final[Mapping[str, str]] = {
    "event loop": "the API's uvloop itself: epoll, reading sockets, waking up for its threads",
    "HTTP parse": "bytes to header fields and body",
    "validate": "who calls, the body's shape, the idempotency key, the id",
    "batch": "handing posts to a lane of the intake, and answers back",
    "gate": "limits and the in-flight bound: packing the question, Valkey, reading the answer",
    "journal": "digests, the coupon code's signature, the append and its commit",
    "answer": "the receipt: making and writing it",
    "publish": "the hint, through Celery to the broker",
    "consume": "Celery's worker and its pool: the hint's way to the batch",
    "claim": "locking open intents, and recording who has them in hand",
    "gather": "locking and reading what the batch touches",
    "decide": "the rules, and what they move",
    "apply": "writing orders, lines, redemptions, balances, ledger and outcomes",
    "announce": "out of flight, and telling the outcomes",
    "hear": "the API listens to the outcomes for whoever waits",
    "observe": "counting, logging and following calls and batches; being scraped; the exporter",
    "log and checkpoints": "PostgreSQL's own processes: WAL writer, checkpointer, background writer",
    "vacuum": "PostgreSQL's own processes: autovacuum",
    "redispatch": "the redispatcher's looks, and its statements",
    "other": "whatever the table does not know",
}

# Of an order that is being decided; the others are of one that is being accepted. Under a load that
# makes a queue grow there are fewer of the first.
DECIDING: Final = ("consume", "claim", "gather", "decide", "apply", "announce", "hear")

API: Final = "API"
WORKER: Final = "worker"
POSTGRES: Final = "PostgreSQL"
VALKEY: Final = "Valkey"
REDISPATCHER: Final = "redispatcher"
EXPORTER: Final = "exporter"
SENDER: Final = "sender"
PROCESSES: Final = (API, WORKER, POSTGRES, VALKEY, REDISPATCHER, EXPORTER, SENDER)

# Of a Python process, what no frame of the table is part of.
UNKNOWN_OF: Final[Mapping[str, str]] = {
    API: "other",
    WORKER: "consume",
    REDISPATCHER: "redispatch",
    EXPORTER: "observe",
}

_FILES: Final[Mapping[str, str]] = {
    # The API's event loop.
    "asyncio/runners.py": "event loop",
    "uvicorn/protocols/http/httptools_impl.py": "HTTP parse",
    "producer/http/app.py": "HTTP parse",
    "producer/http/calls.py": "HTTP parse",
    "producer/http/connections.py": "HTTP parse",
    "producer/http/auth.py": "validate",
    "producer/http/decoding.py": "validate",
    "producer/http/headers.py": "validate",
    "producer/http/intents.py": "validate",
    "producer/batcher.py": "batch",
    "producer/http/bootstrap.py": "batch",
    "producer/http/render.py": "answer",
    "producer/http/replies.py": "answer",
    # Its threads.
    "producer/admitting.py": "gate",
    "producer/intake.py": "journal",
    "producer/publisher.py": "publish",
    "producer/waiters.py": "hear",
    "workers/contract/hints.py": "publish",
    "workers/store/journal.py": "journal",
    # The worker's child.
    "workers/service/process_batch.py": "decide",
    "workers/store/applying.py": "apply",
    "workers/store/batch.py": "apply",
    "workers/store/session.py": "apply",
    "workers/domain/coupon.py": "decide",
    "workers/domain/decide.py": "decide",
    "workers/domain/pricing.py": "decide",
    "workers/domain/movements.py": "decide",
    "workers/contract/announce.py": "announce",
    "workers/contract/resource.py": "announce",
    "workers/runtime/bootstrap.py": "announce",
    "workers/runtime/worker.py": "consume",
    # What all of them count and tell.
    "config/exceptions.py": "observe",
    "config/exposition.py": "observe",
    "config/logging.py": "observe",
    "config/meters.py": "observe",
    "config/redaction.py": "observe",
    "config/repetition.py": "observe",
    "config/sampling.py": "observe",
    "config/tracing/tracer.py": "observe",
    "producer/metering.py": "observe",
    "producer/tracing.py": "observe",
    "producer/http/access.py": "observe",
    "producer/http/health.py": "observe",
    "producer/http/metering.py": "observe",
    "producer/http/tracing.py": "observe",
    "prometheus_client/exposition.py": "observe",
    "workers/contract/trace.py": "observe",
    "workers/runtime/metering.py": "observe",
    "workers/runtime/telemetry.py": "observe",
    "workers/runtime/tracing.py": "observe",
}

_FUNCTIONS: Final[Mapping[tuple[str, str], str]] = {
    ("uvicorn/protocols/http/httptools_impl.py", "send"): "answer",
    ("uvicorn/protocols/http/httptools_impl.py", "on_response_complete"): "answer",
    ("producer/http/app.py", "_note"): "observe",
    ("producer/http/app.py", "_send"): "answer",
    ("producer/http/calls.py", "answer"): "answer",
    ("producer/http/calls.py", "authorise"): "validate",
    ("producer/http/calls.py", "idempotency_key"): "validate",
    ("producer/http/calls.py", "is_in"): "observe",
    ("producer/http/calls.py", "known_gateway"): "validate",
    ("producer/http/calls.py", "render"): "answer",
    ("producer/http/calls.py", "trace"): "observe",
    ("producer/http/connections.py", "_written"): "answer",
    ("producer/http/connections.py", "answered"): "answer",
    ("producer/http/connections.py", "tell"): "answer",
    ("producer/http/intents.py", "_tell"): "answer",
    ("producer/intake.py", "_admit"): "gate",
    ("workers/contract/announce.py", "decode"): "hear",
    ("workers/contract/gate.py", "admit"): "gate",
    ("workers/contract/gate.py", "release"): "gate",
    ("workers/contract/gate.py", "settle"): "announce",
    ("workers/contract/packing.py", "Batch"): "gate",
    ("workers/domain/movements.py", "ledger_entries"): "apply",
    ("workers/service/process_batch.py", "_tell"): "announce",
    ("workers/store/batch.py", "begin_and_claim"): "claim",
    ("workers/store/batch.py", "_intent"): "claim",
    ("workers/store/batch.py", "record_claim"): "claim",
    ("workers/store/batch.py", "gather"): "gather",
    ("workers/store/batch.py", "_snapshot"): "gather",
    ("workers/store/session.py", "claim"): "claim",
    ("workers/store/session.py", "record_claim"): "claim",
    ("workers/store/session.py", "gather"): "gather",
}

_COMMANDS: Final = (
    ("FCALL tidegate_admit", "gate"),
    ("FCALL tidegate_release", "gate"),
    ("FCALL tidegate_settle", "announce"),
    ("FCALL tidegate_", "redispatch"),
    ("LPUSH", "publish"),
    ("BRPOP", "consume"),
    ("HSET", "consume"),
    ("HDEL", "consume"),
    ("ZADD", "consume"),
    ("ZREM", "consume"),
    ("EXEC", "consume"),
    ("LLEN", "redispatch"),
)  # what runs inside a function is counted with it

_APPLICATIONS: Final = (
    ("tidegate-api-intake", "journal"),
    ("tidegate-redispatcher", "redispatch"),
    ("tidegate-exporter", "observe"),
    ("tidegate-api", "other"),
)
BATCH_APPLICATION: Final = "tidegate-worker"  # its statements tell the stages apart

_THREAD = re.compile(r"thread \((\d+)\)")
_SAID = re.compile(r"--[^\n]*|'[^']*'|%\(\w+\)[sbt]|\$\d+|\b\d+\b|\s+")


class Frame(NamedTuple):
    """One frame of a stack: the parts of its function's name, and its file."""

    names: tuple[str, ...]
    file: str


class Sample(NamedTuple):
    """A stack, outermost first, in a thread, and how many times it was seen."""

    thread: int
    stack: tuple[Frame, ...]
    times: int


def samples(raw: str) -> list[Sample]:
    """Read what `py-spy record --format raw --threads --nolineno` wrote."""
    found = []
    for line in raw.splitlines():
        text, _, count = line.rpartition(" ")
        frames = text.split(";")
        thread = _THREAD.search(frames[0])
        if thread is not None and count.isdigit():
            stack = tuple([_frame(frame) for frame in frames[1:]])
            found.append(Sample(int(thread[1]), stack, int(count)))
    return found


def _frame(text: str) -> Frame:
    name, _, file = text.rpartition(" (")
    return Frame(tuple([part for part in name.split(".") if part[:1] != "<"]), file.rstrip(")"))


def stage_of(stack: Iterable[Frame], unknown: str) -> str:
    """Return the stage of the deepest frame that the table knows."""
    for frame in reversed(tuple(stack)):
        for name in reversed(frame.names):
            stage = _FUNCTIONS.get((frame.file, name))
            if stage is not None:
                return stage
        stage = _FILES.get(frame.file)
        if stage is not None:
            return stage
    return unknown


def by_function(
    taken: Iterable[Sample], cpu_of_thread: Mapping[int, float], unknown: str
) -> dict[str, Counter[str]]:
    """Share out each thread's CPU seconds by its samples: by stage, and by innermost function.

    Samples weigh within their thread only, whose CPU the kernel counted: a thread that the sampler
    takes for busy while it waits gains nothing by it. A thread without samples is `unknown`.
    """
    times: dict[int, Counter[tuple[str, str]]] = {}
    for sample in taken:
        place = stage_of(sample.stack, unknown), _innermost(sample.stack)
        times.setdefault(sample.thread, Counter())[place] += sample.times
    found: dict[str, Counter[str]] = {}
    for thread, cpu_s in cpu_of_thread.items():
        places = times.get(thread) or Counter({(unknown, "not sampled"): 1})
        for (stage, function), count in places.items():
            seconds = cpu_s * count / places.total()
            found.setdefault(stage, Counter())[function] += seconds  # type: ignore[assignment]
    return found


def _innermost(stack: tuple[Frame, ...]) -> str:
    return f"{'.'.join(stack[-1].names)} ({stack[-1].file})" if stack else "nothing"


def stage_of_application(name: str, backend_type: str) -> str | None:
    """Return what a backend of PostgreSQL works for; None: its statements must tell."""
    if backend_type != "client backend":
        return "vacuum" if backend_type.startswith("autovacuum") else "log and checkpoints"
    if name == BATCH_APPLICATION:
        return None
    return next((stage for prefix, stage in _APPLICATIONS if name.startswith(prefix)), "other")


def stage_of_command(command: str) -> str | None:
    """Return what a command of Valkey's slow log serves; None for what runs inside another."""
    return next((stage for prefix, stage in _COMMANDS if command.startswith(prefix)), None)


def stage_of_query(name: str, text: str) -> str:
    """Return the stage of a query of the worker's batch."""
    if name.startswith("claim_") and name != "claim_forget":
        return "claim"
    reads = name.endswith(("_lock", "_read")) or shape(text).startswith("SELECT")
    return "gather" if reads else "apply"


def shape(statement: str) -> str:
    """Return a statement without comments, constants and parameters, to recognise it by."""
    return " ".join(_SAID.sub(lambda said: "" if said[0][:2] == "--" else " ", statement).split())


def share_out(amount: float, weights: Mapping[str, float], unknown: str) -> dict[str, float]:
    """Divide an amount by weights; all of it is `unknown` where there are none."""
    total = sum(weights.values())
    if total <= 0:
        return {unknown: amount}
    return {name: amount * weight / total for name, weight in weights.items()}


def known_places() -> list[tuple[str, str]]:
    """List the (file, function) pairs of the table; the function is empty for a whole file."""
    return [*((file, "") for file in _FILES), *_FUNCTIONS]
