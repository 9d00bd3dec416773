"""The stage budget as a document: a table by stage and process, a chart, and a record to compare."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from matplotlib.axes import Axes
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from tests.benchmarks import charts
from tests.benchmarks.attribution import DECIDING, PROCESSES, SENDER, STAGES
from tests.benchmarks.machine import Machine

FOLDER = Path(__file__).parent
DOCUMENT = FOLDER / "BUDGET.md"
RECORD = FOLDER / "records" / "profile.json"
CHART = FOLDER / "charts" / "stages.svg"

_COLOURS = dict(
    zip(
        PROCESSES[:-1],
        ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#6e7781", "#bf3989"),
        strict=True,
    )
)
_SHOWN_US = 0.05  # less than this is not worth a line


class Stage(Struct, frozen=True):
    """A stage's CPU, in microseconds per order, by process."""

    name: str
    us: dict[str, float]

    @property
    def total_us(self) -> float:
        """In all processes."""
        return sum(self.us.values())


class Process(Struct, frozen=True):
    """A process's CPU, in microseconds per order, as the kernel splits it."""

    name: str
    user_us: float
    system_us: float

    @property
    def total_us(self) -> float:
        """Both together."""
        return self.user_us + self.system_us


class Function(Struct, frozen=True):
    """What one function costs itself, in microseconds per order, while at one stage."""

    process: str
    stage: str
    name: str
    us: float


class Budget(Struct, frozen=True):
    """One profile. `samples` tells how many samples the shares of a process rest on."""

    machine: Machine
    date: str
    connections: int
    seconds: float
    accepted_per_s: float
    committed_per_s: float
    stages: list[Stage]
    processes: list[Process]
    samples: dict[str, int]
    seen: dict[str, float]  # how much of its CPU the samples stand for: 1 is all, no more
    functions: list[Function]  # of the Python processes, the dearest first
    refused: str = ""

    @property
    def total_us(self) -> float:
        """Everything that an order costs, the sender's part included."""
        return sum(process.total_us for process in self.processes)


def write(budget: Budget) -> None:
    """Write the document, the chart and the record."""
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_bytes(msgspec.json.format(msgspec.json.encode(budget)) + b"\n")
    CHART.parent.mkdir(exist_ok=True)
    CHART.write_text(chart(budget))
    DOCUMENT.write_text(document(budget))


def show(budget: Budget, console: Console | None = None) -> None:
    """Print the table."""
    columns = [name for name in PROCESSES if name != SENDER]
    table = Table(title=_headline(budget), title_justify="left", caption=budget.refused or None)
    table.add_column("stage")
    for name in (*columns, "all"):
        table.add_column(name, justify="right")
    for stage in _worth_a_line(budget):
        table.add_row(*_cells(stage, columns))
    table.add_section()
    for label, cells in _sums(budget, columns):
        table.add_row(label, *cells)
    (console or Console()).print(table)


def document(budget: Budget) -> str:
    """Write the budget as Markdown."""
    columns = [name for name in PROCESSES if name != SENDER]
    head = ["stage", *columns, "all", ""]
    rows = [
        [*_cells(stage, columns), STAGES.get(stage.name, "")] for stage in _worth_a_line(budget)
    ]
    rows += [[f"*{label}*", *cells, ""] for label, cells in _sums(budget, columns)]
    lines = [_line(head), "| --- |" + " ---: |" * (len(columns) + 1) + " --- |", *map(_line, rows)]
    on = budget.machine
    versions = ", ".join(f"{name} {number}" for name, number in on.versions.items())
    return f"""# Where the CPU of one order goes

Written by `make bench-profile` on {budget.date}: {on.processor}, {on.cores} cores, \
{on.memory_gib:.0f} GiB, {on.kernel}; {versions}; code at {on.commit}. Everything ran on this machine.

{_headline(budget)} Two lines and a coupon each, one intent per POST, closed loop, \
{budget.committed_per_s:,.0f} committed a second meanwhile. Microseconds of CPU per order; the stages \
from {DECIDING[0]} to {DECIDING[-1]} per committed one, the others per accepted one. \
Metrics were scraped every second:

{chr(10).join(lines)}

The sender took {_us(_of(budget, SENDER).total_us)} µs more per order.

![CPU of one order by stage](charts/{CHART.name})

How it is measured: the kernel counted each thread and each backend for {budget.seconds:.0f} s, while \
nothing else watched. In a second window of the same load py-spy sampled the Python processes \
({_sampled(budget)}; a thread that waits for a core is sampled as if it ran), and each thread's CPU \
is shared out by its own samples, each to the deepest function that `tests/benchmarks/attribution.py` \
knows. A backend of PostgreSQL counts for whom it serves, the worker's by the time of its \
statements; Valkey's time goes by its commands.
{_caveats(budget)}
## The dearest functions

Of the API and the worker. What C code does for a function is its own: a decoder, a system call.

{_dearest(budget)}
"""


def chart(budget: Budget) -> str:
    """Draw the stages as bars, parted by process."""
    return charts.drawn("CPU of one order by stage, µs", lambda axes: _draw(axes, budget))


def _draw(axes: Axes, budget: Budget) -> None:
    stages = list(_worth_a_line(budget))
    names = [stage.name for stage in stages]
    ends = [0.0] * len(stages)
    for process, colour in _COLOURS.items():
        us = [stage.us.get(process, 0.0) for stage in stages]
        axes.barh(names, us, left=ends, label=process, color=colour)
        ends = [end + more for end, more in zip(ends, us, strict=True)]
    for at, end in enumerate(ends):
        axes.text(end, at, f" {end:.1f}", va="center", fontsize=9)
    axes.margins(x=0.08)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower right")


def _headline(budget: Budget) -> str:
    return (
        f"{budget.accepted_per_s:,.0f} orders a second at {budget.connections:,} connections; "
        f"{budget.total_us - _of(budget, SENDER).total_us:.0f} µs of CPU each without the sender."
    )


def _worth_a_line(budget: Budget) -> Iterator[Stage]:
    return (stage for stage in budget.stages if stage.total_us >= _SHOWN_US)


def _cells(stage: Stage, columns: list[str]) -> list[str]:
    return [stage.name, *[_us(stage.us.get(name, 0.0)) for name in columns], _us(stage.total_us)]


def _sums(budget: Budget, columns: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the lines below the stages: what the kernel counted by process."""
    processes = [_of(budget, name) for name in columns]
    for label in ("user", "system", "total"):
        values = [getattr(process, f"{label}_us") for process in processes]
        yield label, [_us(value) for value in (*values, sum(values))]


def _of(budget: Budget, name: str) -> Process:
    return next(process for process in budget.processes if process.name == name)


def _us(value: float) -> str:
    return f"{value:.1f}" if value >= _SHOWN_US else ""


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _sampled(budget: Budget) -> str:
    told = [
        f"{name}: {count:,} samples for {budget.seen.get(name, 0.0):.1f} times its CPU"
        for name, count in budget.samples.items()
    ]
    return "; ".join(told)


def _caveats(budget: Budget) -> str:
    return f"\n**Not known: {budget.refused}.**\n" if budget.refused else ""


def _dearest(budget: Budget) -> str:
    """Write the table of functions."""
    rows = [[one.name, one.stage, one.process, _us(one.us)] for one in budget.functions]
    head = ["function, without what it calls in Python", "stage", "process", "µs"]
    return "\n".join([_line(head), "| --- | --- | --- | ---: |", *map(_line, rows)])
