"""RESULTS.md, written from the records and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.benchmarks.aims import AIMS
from tests.benchmarks.charts import CHARTS
from tests.benchmarks.goals import Aim, Bar, Met, Results
from tests.benchmarks.machine import Machine
from tests.benchmarks.measuring import Measured
from tests.benchmarks.records import Bench, Row
from tests.benchmarks.rows import ROWS

_SIGNS = {Met.GOAL: "✓ goal", Met.MUST: "✓ must", Met.MISSED: "✗ missed", Met.UNKNOWN: "–"}
_METHOD = """\
How it is measured:

- Everything runs on this one machine: the sender, PostgreSQL (fsync on, `synchronous_commit` on), \
Valkey, the API and one worker process. What the sender used is in the tables below.
- An order has two lines, a unit each of one hot pair of SKUs, and redeems a coupon of its own that \
was issued to its user before; coupons are dealt in random order.
- *Committed* is read off the tables: units that left the stock, in the commit that made the order. \
After every measurement orders, lines and redemptions are counted row by row and must be as many as \
there were receipts.
- Throughput is measured in a closed loop: each connection sends its next post when the last was \
answered. Rates leave out the first second.
- Latency is measured in an open loop: send times are fixed before the start (a Poisson process), a \
late answer delays no send, and latency counts from the *intended* send time. A closed loop would \
stop asking just while the server stalls and leave those moments out of its percentiles \
("coordinated omission"). The sender's tick of 1 ms is part of the figures; three seconds of the same \
load go before, uncounted.
- Plain Celery gets the same orders over HTTP: one task and one transaction per order, late \
acknowledgement, prefork, the same checks and the same rows, written by the same functions in a \
batch of one. Its figure is the best it did, while it accepted or while it only drained.
- PostgreSQL alone: what our own journal and worker say to it, recorded, and said again to a copy of \
the database made before; no HTTP, no queue, nothing to decide.
- Overload: the workers' way to PostgreSQL is made 12 ms longer and their batches small, so that a \
sender on the same machine can offer twenty times the capacity. Committed *in time* means within 10 s \
of the posting. Sojourn counts from acceptance; plain Celery writes an intent down only when its task \
begins, so there the wait in its queue is not in the sojourn: see who came too late.
- Metrics: what the exporter shows once all that was killed is back and nothing is open, series by \
series, beside what is counted row by row in the audit's views. What they cost: two systems loaded in \
turn, close in time; in one of them whoever counts or logs does nothing \
(`tests/benchmarks/silent/sitecustomize.py`). What a batch counts in its own statement is in both.
"""


def document(bench: Bench, results: Results) -> str:
    """Write RESULTS.md."""
    return "\n".join(
        [
            "# Results",
            "",
            _heading(bench),
            "",
            *_goals(results),
            "",
            *_charts(results),
            _METHOD,
            *_connections(results.rows),
            *_beside(results.rows),
            *_growth(results.rows),
            *_overload(results.rows),
            *_every_measurement(_in_order(bench.rows)),
        ]
    )


def told(aim: Aim, results: Results) -> list[str]:
    """Say an aim in lines for a terminal: each bar with its figure, and both sides of the ratio."""
    lines = [aim.what.replace("`", "")]
    for bar in aim.bars:
        value = bar.value(results)
        lines.append(
            f"  {_SIGNS[bar.met(results)]:9} {bar.text(value):>24}   "
            f"must {bar.wanted(bar.must)}, goal {bar.wanted(bar.goal)}"
        )
    if sides := aim.sides(results):
        lines.append(f"  {'':9} {sides}")
    return lines


def company(row: Row) -> str:
    """Say what the sender used, and what else ran on the machine, at most; empty where unknown."""
    cores = [one.cores for one in row.measured.values() if one.cores]
    if not cores:
        return ""
    sender, others = (max(each.get(name, 0.0) for each in cores) for name in ("sender", "others"))
    return f"sender {sender:.0%} of a core, what else ran on this machine {max(0.0, others):.0%}"


def _heading(bench: Bench) -> str:
    runs = {row.run for row in bench.rows.values()}
    dates = sorted({row.measured_at.date().isoformat() for row in bench.rows.values()})
    when = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "never"
    together = "in one run" if len(runs) == 1 else f"in {len(runs)} runs"
    return f"Written by `make bench`, measured {together}, {when}.\n\n{_machine(bench.machine)}"


def _machine(machine: Machine) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    code = f" Code: {machine.commit}." if machine.commit else ""
    return (
        f"{machine.processor}, {machine.cores} cores, {machine.memory_gib:.0f} GiB, "
        f"{machine.kernel}. {versions}.{code}"
    )


def _goals(results: Results) -> list[str]:
    lines = [
        "| what | measured | must | goal | | both sides |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    for aim in AIMS:
        sides = "; ".join(filter(None, (aim.sides(results), _elsewhere(aim, results))))
        if all(bar.met(results) is Met.UNKNOWN for bar in aim.bars):
            sides = sides or "not measured"
        if not aim.bars:
            lines.append(f"| {aim.what} | | | | | {sides} |")
        for at, bar in enumerate(aim.bars):
            what = aim.what if at == 0 else ""
            lines.append(_goal_line(what, bar, results, sides if at == 0 else ""))
    return lines


def _elsewhere(aim: Aim, results: Results) -> str:
    row = results.rows.get(aim.row)
    if row is None or row.elsewhere is None:
        return ""
    machine, at = row.elsewhere, row.measured_at.date().isoformat()
    return f"on another machine: {machine.processor}, {machine.cores} cores, {at}, {machine.commit}"


def _goal_line(what: str, bar: Bar, results: Results, sides: str) -> str:
    value = bar.text(bar.value(results))
    cells = (what, value, bar.wanted(bar.must), bar.wanted(bar.goal), _SIGNS[bar.met(results)])
    return f"| {' | '.join((*cells, sides))} |"


def _charts(results: Results) -> list[str]:
    lines = []
    for chart in CHARTS:
        if chart.drawable(results):
            lines += [f"![{chart.title}](charts/{chart.name}.svg)", ""]
    return lines


def _connections(rows: dict[str, Row]) -> list[str]:
    measured = _measured_of(rows, "connections") | {
        f"plain Celery, {name}": one for name, one in _measured_of(rows, "plain").items()
    }
    if not measured:
        return []
    return [
        "## By connections, closed loop",
        "",
        *_table(
            (
                "",
                "accepted/s",
                "committed/s",
                "committed / accepted",
                "drained in s",
                "p50 ms",
                "p99 ms",
            ),
            (
                (
                    name,
                    f"{one.rates.accepted_per_s:,.0f}",
                    f"{one.rates.committed_per_s:,.0f}",
                    f"{one.kept_up:.3f}",
                    f"{one.drain_s:.1f}",
                    f"{one.p50_ms:.1f}",
                    f"{one.p99_ms:.1f}",
                )
                for name, one in measured.items()
            ),
        ),
    ]


def _beside(rows: dict[str, Row]) -> list[str]:
    if "postgres" not in rows:
        return []
    row = rows["postgres"]
    return [
        "## PostgreSQL alone, by size of batch",
        "",
        *_table(
            ("orders in a batch", "committed/s", "PostgreSQL, µs of CPU per order", "clients, µs"),
            (
                (
                    f"{point['batch']:,.0f}",
                    f"{point['committed_per_s']:,.0f}",
                    f"{point['postgres_us']:.0f}",
                    f"{point['client_us']:.1f}",
                )
                for point in row.points
            ),
        ),
        (
            "At batches of 500 its own CPU would allow "
            f"{row.figures['of_all_cores_per_s']:,.0f} orders a second if it had every core to itself."
        ),
        "",
    ]


def _overload(rows: dict[str, Row]) -> list[str]:
    lines: list[str] = []
    for name, title in (
        ("overload", "Overload: more than can be done"),
        ("plain_overload", "The same for plain Celery without admission"),
    ):
        if name in rows:
            lines += [f"## {title}", "", *_overload_table(rows[name].points)]
    return lines


def _overload_table(points: list[dict[str, float]]) -> list[str]:
    return _table(
        (
            "times the capacity",
            "offered/s",
            "accepted",
            "committed in time/s",
            "too late",
            "sojourn p50 / p99 ms",
            "refusal p99 ms",
        ),
        (
            (
                f"{point['times']:g}",
                f"{point['offered_per_s']:,.0f}",
                f"{point['accepted']:,.0f}",
                f"{point['goodput_per_s']:,.0f}",
                f"{point['late']:,.0f}",
                f"{point['sojourn_p50_ms']:,.0f} / {point['sojourn_p99_ms']:,.0f}",
                f"{point['refused_p99_ms']:.1f}",
            )
            for point in points
        ),
    )


def _growth(rows: dict[str, Row]) -> list[str]:
    if "growth" not in rows:
        return []
    figures = rows["growth"].figures
    text = (
        f"At the end of the run, with {figures['orders_before']:,.0f} orders in the tables: "
        f"{figures['committed_per_s']:,.0f}/s"
    )
    if "over_empty" in figures:
        text += (
            f", against {figures['empty_per_s']:,.0f}/s at its start: "
            f"{figures['over_empty']:.2f} of it"
        )
    if "audit" in rows:
        audited = rows["audit"].figures
        text += (
            f". The audit of all {audited['orders']:,.0f} orders, {audited['checks']:.0f} checks in "
            f"{audited['took_s']:.0f} s, was clean"
        )
    return ["## With the rows of this run", "", f"{text}.", ""]


def _in_order(rows: dict[str, Row]) -> dict[str, Row]:
    """Put rows into the order in which they are measured, whenever each of them was."""
    return {one.name: rows[one.name] for one in ROWS if one.name in rows}


def _every_measurement(rows: dict[str, Row]) -> list[str]:
    """Who used the processors, in every measurement."""
    measured = {
        f"{name}: {label}" if label != name else name: one
        for name, row in rows.items()
        for label, one in row.measured.items()
    }
    if not measured:
        return []
    roles = list(dict.fromkeys(role for one in measured.values() for role in one.cores))
    lines = [
        (
            name,
            f"{one.rates.accepted_per_s:,.0f}",
            f"{one.rates.committed_per_s:,.0f}",
            *(f"{max(0.0, one.cores[role]):.0%}" if role in one.cores else "" for role in roles),
            f"{sum(one.us_per_order.values()) - one.us_per_order.get('others', 0.0):,.0f}",
        )
        for name, one in measured.items()
    ]
    return [
        "## Who used the processors",
        "",
        (
            "Shares of one core while sending; the last column is all of ours, in µs of CPU per "
            "receipt. `others` is what ran on the machine beside the benchmark."
        ),
        "",
        *_table(("", "accepted/s", "committed/s", *roles, "µs per order"), lines),
    ]


def _measured_of(rows: dict[str, Row], name: str) -> dict[str, Measured]:
    return rows[name].measured if name in rows else {}


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"| --- |{' ---: |' * (len(heads) - 1)}",
        *(f"| {' | '.join(cells)} |" for cells in lines),
        "",
    ]
