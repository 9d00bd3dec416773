"""The system under test: a cluster of its own, coupons issued ahead, and how to measure it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from config.settings import Settings
from deploy import campaigns
from deploy.embedded.cluster import Cluster
from deploy.load.wire import Target, target
from producer.limits import REFRESH_INTERVAL_S
from tests.benchmarks.measuring import Bench, Tables
from tests.benchmarks.orders import (
    HOT_CAMPAIGN,
    SPREAD_CAMPAIGN,
    Cart,
    Coupon,
    Orders,
    spread_campaign,
)
from workers.contract.couponcode import CouponCodes
from workers.domain.campaign import parse

CAMPAIGN = Path(__file__).with_name("bench.toml")
_IN_FORCE_S = 3 * REFRESH_INTERVAL_S  # each process reads by itself, and nothing outside tells when


def in_force() -> None:
    """Wait until what was just changed in PostgreSQL holds at every gate."""
    time.sleep(_IN_FORCE_S)


class World:
    """An embedded cluster with the benchmark's campaigns; a context manager."""

    def __init__(
        self,
        *,
        workers: int = 1,
        api_processes: int = 1,
        settings: Settings | None = None,
        cluster: Cluster | None = None,
        users_from: int = 1,
    ) -> None:
        """Keep the wishes; entering fulfils them.

        `cluster` is one that runs already, and is not entered; users below `users_from` have coupons.
        """
        self.cluster = cluster or Cluster(
            api_processes=api_processes, workers=workers, campaign=CAMPAIGN, settings=settings
        )
        self._users = users_from  # the next that was never given a coupon
        self._runs = 0
        self._last: dict[str, Orders] = {}  # by campaign

    def __enter__(self) -> Self:
        """Start the cluster."""
        self.cluster.start()
        campaigns.apply(self.cluster.dsn, parse(spread_campaign()))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the cluster."""
        self.cluster.__exit__(kind, error, trace)

    @property
    def bench(self) -> Bench:
        """How it is measured."""
        return Bench(self.to, self.cluster.dsn, self.cluster.processes)

    @property
    def to(self) -> Target:
        """Where its API is."""
        return target(self.cluster.api_url, self.cluster.api_key)

    def orders(
        self,
        count: int,
        *,
        carts: Callable[[], Cart] | None = None,
        wait_s: int = 0,
        ttl_ms: int = 60_000,
        to: Target | None = None,
    ) -> Orders:
        """Prepare orders with a fresh coupon each; with `carts` they are of the spread campaign.

        Coupons that the last orders did not use are used first.
        """
        campaign = HOT_CAMPAIGN if carts is None else SPREAD_CAMPAIGN
        self._runs += 1
        orders = Orders(
            to or self.to,
            self._coupons(count, campaign),
            f"run-{self._runs}",
            campaign=campaign,
            cart=carts,
            wait_s=wait_s,
            ttl_ms=ttl_ms,
        )
        self._last[campaign] = orders
        return orders

    def coupons(self, count: int) -> list[Coupon]:
        """Give away coupons of the hot campaign: nobody gets them again."""
        orders = self.orders(count)
        orders.used = count
        return list(orders.coupons[:count])

    def _coupons(self, count: int, campaign: str) -> list[Coupon]:
        """Return coupons of users who have no other, in any order; and let the tables settle."""
        coupons: list[Coupon] = []
        if (last := self._last.get(campaign)) is not None:
            coupons = list(last.coupons[last.used :])
        if (missing := count - len(coupons)) > 0:
            codes = CouponCodes(self.cluster.settings.secrets.master)
            first, self._users = self._users, self._users + missing
            coupons += campaigns.issue(self.cluster.dsn, campaign, missing, first, codes=codes)
            # People do not come in the order in which they were given their coupons.
            Random(first).shuffle(coupons)
        with closing(Tables(self.cluster.dsn)) as tables:
            tables.settle()
        return coupons
