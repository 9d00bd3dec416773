"""`tidegate load`: replay a profile against a deployment, and check that its answers add up."""

from __future__ import annotations

import http.client
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.cli.output import json_option, show
from deploy.cli.target import connection_settings, data_option

if TYPE_CHECKING:
    from deploy.load.job import Job
    from deploy.load.wire import Target

_PROBE_TIMEOUT_S = 5
_NOBODYS_INTENT = "/v1/intents/00000000-0000-7000-8000-000000000000"


class _Rate(click.ParamType[float]):
    """A number, or a number with `/s`."""

    name = "N/s"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it, or fail with what would be right."""
        try:
            rate = float(str(value).removesuffix("/s").replace("_", ""))
        except ValueError:
            rate = 0.0
        if not 0 < rate < 10_000_000:
            self.fail(f"{value!r} is not a rate such as 500 or 500/s", param, ctx)
        return rate


@click.command()
@click.option("--profile", required=True, help="qwen, flash-sale, retry-storm, steady, or a file.")
@click.option("--rate", type=_Rate(), help="Mean rate of intents a second.")
@click.option("--duration", type=click.FloatRange(min=0, min_open=True), help="Seconds of sending.")
@click.option("--orders", type=click.IntRange(min=1), help="Intents to send.")
@click.option("--url", help="The API; else that of --data, or of the settings.")
@click.option("--key", help="The gateway's key; else that of --data.")
@click.option("--campaign", default="qwen-spring-2026", show_default=True, help="Name or file.")
@click.option(
    "--coupons",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Coupons to redeem, as `tidegate campaign issue` writes them.",
)
@click.option("--issue", type=click.IntRange(min=0), default=0, help="First ask for N coupons.")
@click.option(
    "--connections",
    type=click.IntRange(1, 60_000),
    default=1_000,
    show_default=True,
    help="At most; an intent that finds all busy waits, and its wait counts.",
)
@click.option(
    "--closed", is_flag=True, help="Closed loop: on each connection, the next after an answer."
)
@click.option(
    "--batch", type=click.IntRange(1, 500), default=1, show_default=True, help="Intents in a post."
)
@click.option("--seed", type=int, help="The same seed sends the same intents with the same keys.")
@click.option(
    "--drain-max", type=float, default=120, show_default=True, help="Seconds to wait for outcomes."
)
@data_option
@json_option
def load(
    *, as_json: bool, data: Path | None, url: str | None, key: str | None, **given: Any
) -> int:
    """Send a profile's intents at their times, learn what became of each, and check the sums.

    Latency is counted from the moment an intent was due, so that a stall is seen as its users see
    it. Exit 0 only if every receipt has exactly one outcome. Ctrl-C ends the sending and drains; a
    second one ends at once.
    """
    from deploy.load import job, report
    from deploy.load.display import choose

    to = _target(data, url, key)
    wish = _job(to, **given)
    _probe(to)
    screen = choose(wish.steps, sys.stderr if as_json else sys.stdout)
    try:
        made = job.execute(wish, screen)
    finally:
        screen.close()
    show(made, "\n".join(report.lines(made)), as_json=as_json)
    return 0 if made.holds else 1


def _job(
    to: Target,
    *,
    profile: str,
    campaign: str,
    coupons: Path | None,
    issue: int,
    connections: int,
    closed: bool,
    batch: int,
    seed: int | None,
    drain_max: float,
    orders: int | None,
    duration: float | None,
    rate: float | None,
) -> Job:
    """Settle what is to be done; raises click.UsageError for what cannot be."""
    from deploy.load import coupons as wallets
    from deploy.load import goods, scale
    from deploy.load import profile as profiles
    from deploy.load.drain import Patience
    from deploy.load.generator import Mode
    from deploy.load.job import Job

    try:
        terms = profiles.load(profile)
        return Job(
            name=profile,
            profile=terms,
            goods=goods.load(campaign),
            to=to,
            scale=scale.resolve(terms.scale, orders=orders, duration_s=duration, rate=rate),
            mode=Mode(connections, batch, closed=closed, stop_after_s=duration),
            seed=random.getrandbits(32) if seed is None else seed,
            wallet=wallets.read(coupons) if coupons else (),
            issue=issue,
            patience=Patience(drain_max_s=drain_max),
        )
    except (
        profiles.ProfileError,
        goods.GoodsError,
        wallets.CouponsUnreadableError,
        ValueError,
    ) as wrong:
        raise click.UsageError(str(wrong)) from None


def _target(data: Path | None, url: str | None, key: str | None) -> Target:
    """Find the API and a key for it."""
    from deploy.load import wire

    settings = connection_settings(data)
    if data is not None:
        from deploy.embedded import endpoints

        key = key or endpoints.read(data).api_key
    if not key:
        raise click.UsageError("no key: give --key, or --data of a running `tidegate dev`")
    try:
        return wire.target(url or f"http://{settings.api.host}:{settings.api.port}", key)
    except ValueError as wrong:
        raise click.UsageError(str(wrong)) from None


def _probe(to: Target) -> None:
    """Ask once before asking a hundred thousand times.

    Raises click.UsageError when the key is not good, ConnectionError when nobody answers.
    """
    kind = http.client.HTTPSConnection if to.tls else http.client.HTTPConnection
    connection = kind(to.host, to.port, timeout=_PROBE_TIMEOUT_S)
    try:
        headers = {"Authorization": f"Bearer {to.api_key}", "Host": to.authority}
        connection.request("GET", _NOBODYS_INTENT, headers=headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as unreachable:
        msg = f"{to.host}:{to.port}: {unreachable}"
        raise ConnectionError(msg) from unreachable
    finally:
        connection.close()
    if status in (401, 403):
        raise click.UsageError(f"the API at {to.authority} does not take this key ({status})")
