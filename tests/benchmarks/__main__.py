"""Measures Tidegate on this machine: every goal of speed, with both sides of its ratio.

    python -m tests.benchmarks [--seconds S] [--backlog N] [--rows NAME,NAME] [--quick] [--json]

Writes what it measured to `records/bench.json`, and from all records `RESULTS.md` and `charts/`.
Rows that are not measured now keep their last figures. Exits 0 when everything could be measured,
also where a goal or a must was missed: it reports, and does not judge. Exits 1 when a measurement
failed, 130 on Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime

import msgspec
import psycopg

from deploy.embedded.errors import EmbeddedError
from tests.benchmarks import campaign_record, charts, records, results
from tests.benchmarks.aims import AIMS
from tests.benchmarks.course import Course, Given
from tests.benchmarks.goals import Results
from tests.benchmarks.machine import Machine
from tests.benchmarks.measuring import MeasurementError
from tests.benchmarks.records import Bench, Row
from tests.benchmarks.replay import ReplayError
from tests.benchmarks.rows import ROWS, Measurable

RESULTS = records.RECORDS.with_name("RESULTS.md")
_FAILURES = (MeasurementError, ReplayError, EmbeddedError, psycopg.Error, OSError, RuntimeError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, tell, and write."""
    given = _parser().parse_args(arguments)
    chosen = [
        row for row in ROWS if (not row.apart if given.rows is None else row.name in given.rows)
    ]
    wanted = Given(seconds=given.seconds, backlog=given.backlog, quick=given.quick)
    failed = False
    try:
        with closing(Course(wanted, {})) as course:
            machine = course.machine()
            for at, row in enumerate(chosen, 1):
                _say(f"[{at}/{len(chosen)}] {row.name}: {row.what}")
                failed |= not _measure(row, course, machine, recorded=not given.quick)
    except KeyboardInterrupt:
        _say("stopped; the rows before are recorded")
        return 130
    if given.json:
        print(msgspec.json.format(msgspec.json.encode(records.rounded(course.rows))).decode())
    else:
        _summarise(course.rows)
    if not given.quick:
        _write()
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(
        prog="tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def rows(text: str) -> list[str]:
        if unknown := set(text.split(",")) - set(names):
            known = ", ".join(names)
            raise argparse.ArgumentTypeError(
                f"no such row: {', '.join(unknown)}; there are {known}"
            )
        return text.split(",")

    add = parser.add_argument
    add("--seconds", type=float, default=60.0, help="of the sustained row; no other takes longer")
    add("--backlog", type=int, default=500_000, help="intents in flight in the backlog row")
    add("--rows", type=rows, help=f"some of: {', '.join(names)}")
    add("--quick", action="store_true", help="a smoke of a few seconds each; nothing is recorded")
    add("--json", action="store_true", help="print what was measured as JSON")
    return parser


def _measure(row: Measurable, course: Course, machine: Machine, *, recorded: bool) -> bool:
    """Measure one row, tell it, and record it; tell whether that could be done."""
    if row.alone:
        course.close()
    began = time.monotonic()
    try:
        finding = row.measure(course)
    except _FAILURES as failure:
        notes = "\n".join(getattr(failure, "__notes__", ()))
        _say(f"  could not be measured: {type(failure).__name__}: {failure}\n{notes}".rstrip())
        return False
    found = Row(
        run=course.run,
        measured_at=datetime.now(UTC).replace(microsecond=0),
        took_s=time.monotonic() - began,
        figures=finding.figures,
        points=finding.points,
        measured=finding.measured,
    )
    course.rows[row.name] = found
    if recorded:
        records.add(machine, row.name, found)
    for line in _told(row.name, course.rows):
        _say(f"  {line}")
    _say("  " + "; ".join(filter(None, (results.company(found), f"took {found.took_s:.0f} s"))))
    return True


def _told(name: str, rows: dict[str, Row]) -> Iterator[str]:
    """Say the aims of a row; a row without one says its figures."""
    aims = [aim for aim in AIMS if aim.row == name]
    for aim in aims:
        yield from results.told(aim, Results(rows))
    if not aims:
        for figure, value in rows[name].figures.items():
            yield f"{figure} {value:,.1f}"


def _summarise(rows: dict[str, Row]) -> None:
    """Print all aims with what this run measured, and the campaign's record if there is one."""
    found = Results(rows, campaign_record.read(records.CAMPAIGN))
    for aim in AIMS:
        if aim.row in rows or (aim.row == "campaign" and found.campaign is not None):
            print("\n".join(results.told(aim, found)))


def _write() -> None:
    """Write RESULTS.md and the charts from everything that was ever recorded here."""
    bench: Bench | None = records.read()
    if bench is None:
        return
    found = Results(bench.rows, campaign_record.read(records.CAMPAIGN))
    drawn = charts.write(found)
    RESULTS.write_text(results.document(bench, found))
    print(f"\nwritten: {RESULTS}, {records.BENCH}, {len(drawn)} charts in {charts.FOLDER}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
