"""The row of issuance: paused by load, resumed by calm, and held by an operator against both.

People ask for coupons and redeem coupons, at half of what can be served; then at three times of it,
and at half again. Load has to pause issuance, so that what there is goes to those who hold coupons,
and calm has to resume it, with nobody looking on. Then an operator pauses it in calm: that outranks
the governor, and outlives both their processes and whatever Valkey knew.

When issuance was open is told by who got a receipt, not by what a status page says.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from itertools import count

import redis
from msgspec import Struct

from config.settings import Settings, Worker
from tests.benchmarks import fates
from tests.benchmarks.course import Course, Finding
from tests.benchmarks.fates import Fate
from tests.benchmarks.measuring import SLOWEST_S
from tests.benchmarks.orders import HOT, HOT_CAMPAIGN, Orders, wishes
from tests.benchmarks.overloading import (
    BATCH_MAX,
    TTL_MS,
    Stream,
    capacity_per_s,
    far_worker,
    operate,
    send,
    settled,
    steps,
    wait_until,
)
from tests.benchmarks.world import World
from workers.contract.ids import uuid7

CALM, RUSH = 0.5, 3.0  # times the capacity
WISHES = 0.2  # of all that come, those who ask for a coupon
_BEFORE_S, _RUSH_S, _AFTER_S = 15.0, 30.0, 45.0
_HELD_S = 4.0  # how long an operator's pause is tried after each trouble
_RESTART_MAX_S = 30.0
_PAUSED = "issuance_paused"
_RECEIPT = "receipt"


class Pause(Struct, frozen=True):
    """Issuance in a rush, from its beginning and from its end; `redeemed_least` is orders a second."""

    paused_after_s: float
    resumed_after_s: float
    redeemed_least: float


def issuance(course: Course) -> Finding:
    """Issuance through a rush, and under an operator's pause."""
    course.say("starting a Tidegate whose workers are far from their database")
    settings = Settings(worker=Worker(batch_max=BATCH_MAX))
    with World(workers=0, settings=settings) as world, far_worker(world):
        capacity = capacity_per_s(course, world, world.bench)
        pause = _rush(course, world, capacity)
        held = _hold(course, world)
    return Finding(
        {
            "capacity_per_s": capacity,
            "paused_after_s": pause.paused_after_s,
            "resumed_after_s": pause.resumed_after_s,
            "redeemed_least_per_s": pause.redeemed_least,
            "redemption_least": pause.redeemed_least / capacity,
            "operator_held": float(held),
        }
    )


# By load ------------------------------------------------------------------------------------------


def _rush(course: Course, world: World, capacity: float) -> Pause:
    at_most = course.given.at_most
    spans = [(CALM, at_most(_BEFORE_S)), (RUSH, at_most(_RUSH_S)), (CALM, at_most(_AFTER_S))]
    loads = [(times * capacity, seconds) for times, seconds in spans]
    orders_due = steps([((1 - WISHES) * per_s, seconds) for per_s, seconds in loads], seed=4)
    wishes_due = steps([(WISHES * per_s, seconds) for per_s, seconds in loads], seed=5)
    coupons = world.coupons(len(orders_due))
    streams = [
        Stream(orders_due, Orders(world.to, coupons, "redeem", ttl_ms=TTL_MS).posts()),
        Stream(wishes_due, wishes(world.to, "wish", ttl_ms=TTL_MS)),
    ]
    settled(world, since := uuid7())
    course.say(f"{RUSH:g} times the capacity for {spans[1][1]:.0f} s, a fifth of it for coupons")
    began, tally = send(world, streams)
    settled(world, since)
    rush_at = began + spans[0][1]
    calm_at = rush_at + spans[1][1]
    pause = told(fates.read(world.cluster.dsn, since), rush_at, calm_at, calm_at + spans[2][1])
    course.say(
        f"paused after {pause.paused_after_s:.1f} s, resumed {pause.resumed_after_s:.1f} s after "
        f"the rush; at least {pause.redeemed_least:,.0f} a second of {capacity:,.0f} redeemed "
        f"meanwhile; answers {dict(tally.refused)}"
    )
    return pause


def told(found: Sequence[Fate], rush_at: float, calm_at: float, ended_at: float) -> Pause:
    """Tell by the receipts when issuance was paused, and how fast coupons were redeemed then.

    Issuance that was never paused in the rush counts as paused at its end, and one that was never
    resumed as resumed at the end of all.
    """
    receipts = [one.accepted_at for one in found if one.run == "wish"]
    paused_at = max((at for at in receipts if rush_at <= at < calm_at), default=rush_at)
    resumed_at = min((at for at in receipts if at >= calm_at), default=ended_at)
    redeemed = sorted(
        one.decided_at
        for one in found
        if one.run == "redeem"
        and one.decided_at is not None
        and one.is_told("committed", TTL_MS / 1_000)
    )
    least = fates.least_per_s(redeemed, paused_at, calm_at, SLOWEST_S)
    return Pause(paused_at - rush_at, resumed_at - calm_at, least)


# By an operator -----------------------------------------------------------------------------------


def _hold(course: Course, world: World) -> bool:
    """Pause by an operator's command, in calm, and try to undo it; then resume by his command."""
    desk = _Desk(world)
    if not desk.wait_for_coupon():
        course.say("no coupon is to be had in calm")
        return False
    operate(world, "campaign", "pause-issuance", HOT_CAMPAIGN, "--reason", "benchmark")
    wait_until(lambda: desk.ask_for_coupon() == _PAUSED, _RESTART_MAX_S)
    for what, trouble in _TROUBLES:
        trouble(world)
        answers = desk.insist(course.given.at_most(_HELD_S))
        course.say(f"{what}: {', '.join(sorted(answers))}")
        if _RECEIPT in answers or _PAUSED not in answers or not desk.order():
            return False
    operate(world, "campaign", "resume-issuance", HOT_CAMPAIGN, "--reason", "benchmark")
    return desk.wait_for_coupon()


def _kill(role: str) -> Callable[[World], None]:
    def kill(world: World) -> None:
        for pid in world.cluster.processes().get(role, []):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    return kill


def _flush(world: World) -> None:
    with closing(redis.Redis.from_url(world.cluster.valkey_url)) as client:
        client.flushall()


_TROUBLES: tuple[tuple[str, Callable[[World], None]], ...] = (
    ("paused in calm", lambda _: None),
    ("the API is killed", _kill("api")),
    ("the governor is killed", _kill("governor")),
    ("Valkey is emptied", _flush),
)


class _Desk:
    """Asks for one thing at a time, each with a key of its own."""

    def __init__(self, world: World) -> None:
        self._to = world.to
        self._numbers = count()
        self._coupons = iter(world.coupons(len(_TROUBLES)))

    def ask_for_coupon(self) -> str:
        """Ask for a coupon; return what was said: `receipt`, a problem's code, or "" if nothing."""
        return self._post("/v1/coupons", {"user_id": f"desk-{next(self._numbers)}"})

    def insist(self, seconds: float) -> set[str]:
        """Ask for coupons, one after another, from the first answer on; return what was said."""
        heard: set[str] = set()
        until = time.monotonic() + _RESTART_MAX_S
        while time.monotonic() < until:
            said = self.ask_for_coupon()
            if said and not heard:
                until = time.monotonic() + seconds
            if said:
                heard.add(said)
            time.sleep(0.05)
        return heard

    def wait_for_coupon(self) -> bool:
        """Ask until there is a receipt; tell whether there was one in time."""
        return self._wait_for_receipt(self.ask_for_coupon)

    def order(self) -> bool:
        """Order with a coupon until there is a receipt; tell whether there was one in time."""
        user, code = next(self._coupons)
        lines = [{"sku": sku, "quantity": 1} for sku in HOT]
        body = {"user_id": user, "coupon_code": code, "lines": lines}
        return self._wait_for_receipt(lambda: self._post("/v1/intents", body))

    def _wait_for_receipt(self, ask: Callable[[], str]) -> bool:
        heard: list[str] = []

        def accepted() -> bool:
            heard.append(ask())
            return heard[-1] == _RECEIPT

        wait_until(accepted, _RESTART_MAX_S)
        return heard[-1] == _RECEIPT

    def _post(self, path: str, body: Mapping[str, object]) -> str:
        headers = {
            "Authorization": f"Bearer {self._to.api_key}",
            "Content-Type": "application/json",
            "Idempotency-Key": f"desk-{next(self._numbers)}",
        }
        with closing(http.client.HTTPConnection(self._to.host, self._to.port, timeout=10)) as api:
            try:
                api.request(
                    "POST", path, json.dumps({"campaign_id": HOT_CAMPAIGN, **body}), headers
                )
                said = json.loads(api.getresponse().read())
            except (OSError, http.client.HTTPException):
                return ""
        return _RECEIPT if said["status"] in ("accepted", "committed") else str(said.get("code"))
