"""Draws the dashboards as they look in a rush, from real data.

    python -m tests.dashboards [--out DIR] [--quick]

Starts a `tidegate dev` and a real Prometheus that scrapes it once a second, with the shipped rules.
Then two minutes and a half: a calm stream of buyers, several times what can be served, calm again.
Every picture is drawn from what Prometheus answers to the shipped panels' own expressions; its
figures are of this machine. Writes deploy/monitoring/pictures/*.svg. Needs `prometheus` on the PATH.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from msgspec import Struct

from deploy.embedded.ports import free_port
from deploy.monitoring.writing import HERE
from tests.dashboards import boards, drawing
from tests.dashboards.drawing import Shown, Times
from tests.dashboards.pace import hurried
from tests.dashboards.prometheus import Prometheus, running
from tests.dashboards.shop import CAMPAIGN, DATA, Shop, opened

PICTURES: Final = HERE / "pictures"
# What fits one picture, by rows; what needs days to mean something is left out.
CHOSEN: Final[Mapping[str, Sequence[Sequence[str]]]] = {
    "service": (
        (
            "Accepted in the time shown",
            "Became an order",
            "Could not be processed",
            "Heartbeat, post to outcome",
        ),
        ("Answers", "Accepted and decided", "From receipt to outcome"),
        ("Calls by status", "Answer times, p99 by route", "Connections"),
    ),
    "overload": (
        ("Level",),
        ("Offered, let in, served", "In flight"),
        ("Admitted by class", "Refused by what bound"),
        ("Predicted and true wait", "Windows given, kept, missed"),
        ("Came back in time", "Returning, admitted", "Governors that lead"),
    ),
    "pipeline": (
        ("Intents in a batch of the intake", "Stages of the intake, p99", "Batches"),
        ("Intents in a batch", "Stages of a batch, p99", "Where the workers' time goes"),
        ("Open intents", "Oldest open intent", "Hints"),
    ),
    "campaign": (
        (
            "Orders",
            "Orders released, unpaid",
            "Budget left to give",
            "Books that do not add up",
        ),
        ("Left of each item", "Units by state"),
        ("Budget by state", "Coupons"),
        ("Refused after acceptance, by reason", "Told no before acceptance"),
    ),
    "dependencies": (
        ("Answering", "Outcomes heard"),
        ("Latency of the governor's probes", "PostgreSQL's connections"),
        ("Scraped",),
        ("CPU", "Memory"),
    ),
}
STEP_S: Final = 2
RATE_S: Final = 8
# Each order takes PostgreSQL so much longer: some 200 a second are served.
SLOW_MS: Final = 4.0
CALM_PER_S, CROWD_PER_S = 70.0, 330.0
BATCH_MAX: Final = 20


class Story(Struct, frozen=True):
    """How long each part takes, in seconds. The first is not shown."""

    before: float = 15.0
    calm: float = 40.0
    rush: float = 50.0
    calm_again: float = 50.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the story, and draw it."""
    given = _parser().parse_args(arguments)
    program = shutil.which("prometheus")
    if program is None:
        print("needs prometheus on the PATH (Debian: apt-get install prometheus)", file=sys.stderr)
        return 2
    story = Story(5, 8, 15, 15) if given.quick else Story()
    with TemporaryDirectory(prefix="tidegate-pictures-") as name:
        for path in _draw(program, Path(name), story, given.out):
            print(f"{path} ({path.stat().st_size / 1_000:.0f} kB)")
    return 0


def _draw(program: str, folder: Path, story: Story, out: Path) -> Iterator[Path]:
    pace = {
        "TIDEGATE_WORKER__BATCH_MAX": str(BATCH_MAX),
        "TIDEGATE_EXPORTER__INTERVAL_MS": "1000",
    }
    _say("starting a `tidegate dev`, and a Prometheus beside it")
    with opened(folder, **pace) as shop, _watched(program, shop) as prometheus:
        times = _told(shop, story)
        out.mkdir(exist_ok=True)
        for name in CHOSEN:
            path = out / f"{name}.svg"
            path.write_text(_picture(prometheus, name, times, story), encoding="utf-8")
            yield path


def _watched(program: str, shop: Shop) -> AbstractContextManager[Prometheus]:
    shop.tidegate("scrape-targets", "--data", DATA)
    config = hurried(1, shop.folder, shop.folder / DATA / "scrape-targets.json")
    return running(
        (
            program,
            f"--config.file={config}",
            f"--storage.tsdb.path={shop.folder / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{free_port()}",
            "--log.level=warn",
        ),
        shop.folder,
    )


def _told(shop: Shop, story: Story) -> Times:
    """Let the story happen; return when it did."""
    shop.issue(30_000)
    with shop.slow(SLOW_MS), shop.visited(CALM_PER_S, "calm", 11_500, at_fault=True):
        time.sleep(story.before)
        start = time.time()
        _say(f"calm: {CALM_PER_S:g} buyers a second for {story.calm:g} s")
        time.sleep(story.calm)
        began = time.time()
        _say(f"rush: {CROWD_PER_S:g} more for {story.rush:g} s")
        with shop.visited(CROWD_PER_S, "rush", 17_000, at_fault=True):
            time.sleep(story.rush)
            over = time.time()
        _say(f"calm again for {story.calm_again:g} s")
        time.sleep(max(0.0, over + story.calm_again - time.time()))
        end = time.time()
    return Times(start, end, (began, over))


def _picture(prometheus: Prometheus, name: str, times: Times, story: Story) -> str:
    board = boards.read(name)
    panels = {panel.title: panel for panel in board.panels}
    rows = [[_asked(prometheus, panels[title], times) for title in row] for row in CHOSEN[name]]
    told = (
        f"Prometheus beside tidegate dev, {os.cpu_count()} cores; each order takes PostgreSQL "
        f"{SLOW_MS:g} ms longer. Shaded: {story.rush:g} s with {CROWD_PER_S + CALM_PER_S:g} new "
        f"buyers a second instead of {CALM_PER_S:g}; who is refused comes back as told."
    )
    return drawing.picture(board.title, board.question, told, rows, times)


def _asked(prometheus: Prometheus, panel: boards.Panel, times: Times) -> Shown:
    """Ask Prometheus what Grafana would ask for a panel."""
    range_s = round(times.end - times.start)
    lines = []
    for query in panel.queries:
        expr = boards.filled(query.expr, rate_s=RATE_S, range_s=range_s, campaign=CAMPAIGN)
        found = (
            prometheus.now(expr, times.end)
            if panel.kind == "stat"
            else prometheus.lines(expr, times.start, times.end, STEP_S)
        )
        lines += drawing.lines_of(query.legend, found)
    return Shown(panel, lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Draw the dashboards from real data.")
    parser.add_argument("--out", type=Path, default=PICTURES, help="folder of the pictures")
    parser.add_argument("--quick", action="store_true", help="a shorter story, to try it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
