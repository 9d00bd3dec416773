"""Records: what was measured, as data. Everything that is printed or drawn is made from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from tests.benchmarks.machine import Machine
from tests.benchmarks.measuring import Measured

RECORDS = Path(__file__).with_name("records")
BENCH = RECORDS / "bench.json"
CAMPAIGN = RECORDS / "campaign.json"


class Row(Struct, frozen=True):
    """One row of the goals as measured once.

    `figures` are what the goals are about; `points` are what the charts draw, a mapping each;
    `measured` are the measurements behind both, by a name that tells them apart.
    """

    run: str  # rows of one run of the benchmark share it
    measured_at: datetime
    took_s: float
    figures: Mapping[str, float]
    points: list[dict[str, float]] = field(default_factory=list)
    measured: dict[str, Measured] = field(default_factory=dict)
    elsewhere: Machine | None = None  # where it was measured, if not on the machine of the rest


class Bench(Struct, frozen=True):
    """The last measurement of each row, by its name, and the machine of most of them."""

    machine: Machine
    rows: dict[str, Row]


def read() -> Bench | None:
    """Read the records; None when nothing was recorded yet."""
    try:
        return msgspec.json.decode(BENCH.read_bytes(), type=Bench)
    except FileNotFoundError:
        return None


def add(machine: Machine, name: str, row: Row) -> Bench:
    """Record a row in place of its last measurement; it says so, if it comes from elsewhere."""
    bench = _settled(machine, read() or Bench(machine, {}), name, row)
    RECORDS.mkdir(exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(rounded(bench)), indent=1)
    BENCH.write_bytes(text + b"\n")
    return bench


def _settled(machine: Machine, before: Bench, name: str, row: Row) -> Bench:
    """Put a row among the others; the machine that has most of them is the one of all."""
    places = {each: one.elsewhere or before.machine for each, one in before.rows.items()}
    places[name] = machine
    counts = Counter(map(hardware, places.values()))
    home = max([before.machine, machine], key=lambda one: counts[hardware(one)])
    rows = {
        each: replace(
            one, elsewhere=None if hardware(places[each]) == hardware(home) else places[each]
        )
        for each, one in {**before.rows, name: row}.items()
    }
    return Bench(machine if hardware(machine) == hardware(home) else home, rows)


def hardware(machine: Machine) -> tuple[str, int, float]:
    """Tell machines apart."""
    return machine.processor, machine.cores, machine.memory_gib


def rounded(records: object) -> object:
    """Return records as plain values with as many digits as mean something."""
    return _rounded(msgspec.to_builtins(records))


def _rounded(value: object) -> object:
    match value:
        case float():
            return float(f"{value:.5g}")
        case dict():
            return {key: _rounded(each) for key, each in value.items()}
        case list():
            return [_rounded(each) for each in value]
        case _:
            return value
