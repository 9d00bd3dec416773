"""Blocks: one subject each, as lines under a heading. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct
from rich.text import Text

from deploy.top.figures import Figures, Flow, Number, OutcomeRefusal
from deploy.top.history import History, cell_s
from deploy.top.pen import Pen, heading, row
from deploy.top.words import count, rate, share, span

_LABELLED: Final = 13 + 9 + 2  # what `row` has before its remark


class Canvas(Struct, frozen=True):
    """What a block is drawn on: a width, and what it may be drawn from and with."""

    width: int
    figures: Figures
    history: History
    interval_s: float = 1.0
    pen: Pen = Pen()

    def spark(self, name: str) -> Text:
        """Draw how a figure went, beside its row."""
        cells = self.width - _LABELLED
        values = self.history.cells(name, cells, cell_s(cells, self.interval_s))
        return Text(self.pen.spark(values), "cyan")

    def times(self) -> str:
        """Say how long the sparklines are; nothing where there are none."""
        if self.history.empty:
            return ""
        cells = max(self.width - _LABELLED, 1)
        return f"last {span(cells * cell_s(cells, self.interval_s))}"


Block = Callable[[Canvas], list[Text]]


def rates(on: Canvas) -> list[Text]:
    """Draw what is asked and what becomes of it, a second."""
    intents = on.figures.intents
    committed = row("committed", rate(intents.committed.per_s), on.spark("committed"))
    decided = row("decided", rate(intents.decided.per_s), Text("all outcomes", "dim"))
    unknown = intents.committed.per_s is None
    return [
        heading("INTENTS", f"{'a second':>15}  {on.times()}"),
        row("offered", rate(intents.offered.per_s), on.spark("offered")),
        row("accepted", rate(intents.accepted.per_s), on.spark("accepted"), "green"),
        decided if unknown and intents.decided.per_s is not None else committed,
        row("refused", rate(intents.refused.per_s), on.spark("refused")),
        row("after receipt", rate(intents.refused_later.per_s), Text("refused then", "dim")),
    ]


def waits(on: Canvas) -> list[Text]:
    """Draw waits: predicted, true, and their distribution."""
    at = on.figures.waits
    then = f"told {span(at.predicted_then_s)}" if at.predicted_then_s is not None else ""
    p99_s = at.sojourn.p99_s if at.sojourn.p99_s is not None else at.sojourn_p99_s
    return [
        heading("WAITS", f"{'now':>17}  {on.times()}"),
        row("predicted", span(at.predicted_s), on.spark("predicted")),
        row("came true", span(at.true_s), Text(then, "dim") if then else on.spark("true")),
        row("outcome p50", span(at.sojourn.p50_s), Text("from receipt", "dim")),
        row("outcome p99", span(p99_s), on.spark("sojourn")),
        row("receipt p99", span(at.receipt.p99_s), Text(f"p50 {span(at.receipt.p50_s)}", "dim")),
    ]


def pipeline(on: Canvas) -> list[Text]:
    """Draw what is under way, and how it moves."""
    at = on.figures.pipeline
    up = sum(worker.up for worker in at.workers)
    workers = f"{up} of {len(at.workers)}" if at.workers else "-"
    slowest = max(at.stages_s, key=lambda stage: at.stages_s[stage], default="")
    most = f"most in {slowest}" if slowest else ""
    return [
        heading("PIPELINE"),
        row("in flight", count(at.in_flight), on.spark("in flight")),
        row("open", count(at.open), Text(f"oldest {span(at.oldest_age_s)}", "dim")),
        row("queue", count(_queued(at.queues)), Text(_hints(at.dispatch_lag_s), "dim")),
        row("batches/s", rate(at.batches.per_s), Text(f"of {rate(at.batch_size)} intents", "dim")),
        row("batch", span(sum(at.stages_s.values()) if slowest else None), Text(most, "dim")),
        row("workers up", workers, _serves(on), "" if up == len(at.workers) else "red"),
    ]


def _queued(queues: Mapping[str, float]) -> Number:
    return sum(queues.values()) if queues else None


def _hints(lag_s: Number) -> str:
    return f"hints, {span(lag_s)} overdue" if lag_s else "hints"


def _serves(on: Canvas) -> Text:
    per_s = on.figures.level.service_per_s
    return Text(f"serves {rate(per_s)}/s" if per_s else "", "dim")


def refused(on: Canvas, rows: int) -> list[Text]:
    """Draw who is refused and by what, the most frequent first."""
    at = on.figures.refusals
    lines = [
        _refusal(on, f"{one.class_}: {one.layer}", Flow(one.total, one.per_s)) for one in at.gate
    ]
    if not lines:  # no verdicts are shown: the answers are all there is
        lines = [
            _refusal(on, name.replace("_", " "), at.answers[name])
            for name in ("limited", "not_accepted", "issuance_paused")
            if name in at.answers and at.answers[name].total
        ]
    lines += [
        _refusal(on, f"later: {_reason(one)}", Flow(one.total, one.per_s)) for one in at.outcomes
    ]
    title = heading("REFUSED", f"{'a second':>{max(on.width - 17, 9)}}{'total':>9}")
    if not lines:
        return [title, Text("nobody" if at.answers else "-", "dim")]
    if len(lines) > rows - 1:
        hidden = len(lines) - (rows - 2)
        lines = [*lines[: rows - 2], Text(f"and {hidden} more: press 2", "dim")]
    return [title, *lines]


def _reason(one: OutcomeRefusal) -> str:
    return one.reason.replace("_", " ")


def _refusal(on: Canvas, name: str, flow: Flow) -> Text:
    width = max(on.width - 18, 6)
    style = "yellow" if flow.per_s else "dim"
    return Text.assemble(
        (f"{name[:width]:<{width}}", style),
        f"{rate(flow.per_s):>9}",
        (f"{count(flow.total):>9}", "dim"),
    )


def stages(on: Canvas) -> list[Text]:
    """Draw where a batch's time goes, in the workers and in the intake."""
    at = on.figures.pipeline
    width = max(on.width - _LABELLED, 0)
    longest = max([*at.stages_s.values(), *at.intake_stages_s.values()], default=0.0)

    def drawn(stage: str, mean_s: float) -> Text:
        bar = on.pen.bar(mean_s / longest if longest else 0.0, width)
        return row(stage.replace("_", " "), span(mean_s), Text(bar, "cyan"))

    lines = [drawn(stage, mean_s) for stage, mean_s in at.stages_s.items()]
    intake = [drawn(stage, mean_s) for stage, mean_s in at.intake_stages_s.items()]
    return [
        heading("A BATCH OF THE WORKERS", "  mean" if lines else "  no batches"),
        *lines,
        heading("A BATCH OF THE INTAKE", "  mean" if intake else "  no batches"),
        *intake,
    ]


def dependencies(on: Canvas) -> list[Text]:
    """Draw what the deployment stands on."""
    at, flow = on.figures.dependencies, on.figures.pipeline
    postgres, valkey = at.postgres, at.valkey
    books = postgres.ledger_drift
    drift = "-" if not books else "adds up" if not any(books.values()) else "DRIFTS"
    return [
        heading("DEPENDENCIES"),
        row("PostgreSQL", up(postgres.up), _probe(postgres.probe_s), bad(postgres.up)),
        row("  connections", share(postgres.connections_ratio), Text("of those allowed", "dim")),
        row("Valkey", up(valkey.up), _probe(valkey.probe_s), bad(valkey.up)),
        row("  memory", share(valkey.memory_ratio), Text("of maxmemory", "dim")),
        row("ledger", drift, "", "bold red" if drift == "DRIFTS" else ""),
        row("heartbeat", span(at.heartbeat_s), Text(_ago(at.heartbeat_age_s), "dim")),
        row("webhooks", count(flow.outbox_waiting), Text(_oldest(flow.outbox_oldest_age_s), "dim")),
    ]


def up(answers: bool | None) -> str:
    """Say whether something answers."""
    return "-" if answers is None else "up" if answers else "DOWN"


def bad(answers: bool | None) -> str:
    """Return the style of whether something answers."""
    return "" if answers is None else "green" if answers else "bold red"


def _probe(latency_s: Number) -> Text:
    return Text("" if latency_s is None else f"answers in {span(latency_s)}", "dim")


def _ago(age_s: Number) -> str:
    return "" if age_s is None else f"last order {span(age_s)} ago"


def _oldest(age_s: Number) -> str:
    return "waiting" if not age_s else f"waiting, oldest {span(age_s)}"
