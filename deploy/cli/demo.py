"""`tidegate demo`: the Qwen campaign on this machine, from nothing to the audit."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from deploy.cli.output import json_option, show

if TYPE_CHECKING:
    from deploy.embedded.cluster import Cluster
    from deploy.load.demo import Means

# A terminal that was closed, and a caller that gave up, stop the demo as Ctrl-C does.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_OPEN_SINCE = timedelta(minutes=1)  # no clock that lags a little finds the campaign closed


@click.command()
@click.option(
    "--orders", type=click.IntRange(min=100), default=100_000, show_default=True, help="Intents."
)
@click.option(
    "--duration",
    type=click.FloatRange(min=1),
    default=30,
    show_default=True,
    help="Seconds in which the nine hours are replayed.",
)
@click.option("--seed", type=int, help="The same seed sends the same intents.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the servers' data and logs, kept; without it a temporary one.",
)
@click.option("--keep", is_flag=True, help="Leave all running at the end, until Ctrl-C.")
@json_option
def demo(
    *, orders: int, duration: float, seed: int | None, data: Path | None, keep: bool, as_json: bool
) -> int:
    """Start everything, replay nine hours of the Qwen campaign, and prove that it adds up.

    Needs neither Docker nor root, and stops all it started. Exit 0 only if the audit is clean and
    every receipt has exactly one outcome. Ctrl-C stops at any time.
    """
    from deploy.embedded.cluster import Cluster
    from deploy.load import demo as play
    from deploy.load import display, summary

    seed = random.getrandbits(32) if seed is None else seed
    wish = play.Wish(orders=orders, duration_s=duration, seed=seed)
    cluster = Cluster(data, campaign=None)
    with _stopped(cluster) as interrupts:
        screen = display.choose(play.STEPS, sys.stderr if as_json else sys.stdout)
        with contextlib.closing(screen):
            result = play.perform(wish, _means(cluster), screen)
        show(result, "\n".join(summary.lines(result)), as_json=as_json)
        if keep:
            click.echo(_kept(cluster), err=True)
            interrupts.wait()
    return 0 if result.clean else 1


def _means(cluster: Cluster) -> Means:
    """Hand the demo what it needs of the rest of Tidegate."""
    from deploy import campaigns
    from deploy.load import goods
    from deploy.load.demo import Means, Running
    from deploy.load.plan import Coupon
    from workers.contract.couponcode import CouponCodes
    from workers.domain.campaign import parse, scaled, shifted
    from workers.store import audit
    from workers.store.observe import ProgressReader
    from workers.store.pool import AUDITOR

    def start() -> Running:
        cluster.start()
        return Running(cluster.api_url, cluster.api_key, cluster.dsn)

    def apply(factor: float) -> None:
        file = parse(goods.path_of(goods.DEFAULT).read_text("utf-8"))
        campaigns.apply(cluster.dsn, scaled(shifted(file, datetime.now(UTC) - _OPEN_SINCE), factor))

    def issue(count: int) -> Iterator[Coupon]:
        codes = CouponCodes(cluster.settings.secrets.master)
        return campaigns.issue(cluster.dsn, goods.DEFAULT, count, first_user=1, codes=codes)

    return Means(
        start=start,
        apply=apply,
        issue=issue,
        look=ProgressReader(goods.DEFAULT).read,
        audit=lambda tell: audit.run(cluster.dsn, AUDITOR, drained=True, progress=tell),
        checks=len(audit.rules()),
    )


class _Interrupts:
    """What a stop signal means: first the end of the demo, then haste in stopping."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._asked = threading.Event()
        self.stopping = False

    def wait(self) -> None:
        """Go on until a signal comes."""
        with contextlib.suppress(KeyboardInterrupt):
            self._asked.wait()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._cluster.hasten()  # what is asked to end need not first finish its work
        if not self._asked.is_set() and not self.stopping:
            self._asked.set()
            raise KeyboardInterrupt


@contextlib.contextmanager
def _stopped(cluster: Cluster) -> Iterator[_Interrupts]:
    """Stop the cluster in the end, whatever happens, and let signals bring that end."""
    interrupts = _Interrupts(cluster)
    earlier = {number: signal.signal(number, interrupts) for number in _SIGNALS}
    try:
        yield interrupts
    finally:
        interrupts.stopping = True
        cluster.stop()
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _kept(cluster: Cluster) -> str:
    where = cluster.endpoints()
    return (
        f"\nStill running: {where.api}, PostgreSQL {where.postgres}, data {cluster.data}\n"
        f"key {where.api_key}\nCtrl-C stops everything."
    )
