"""The row of the greedy gateway: what one gateway loses while another sends twenty times its quota.

Twice: with quotas that leave room for both, so that the quota alone has to hold; and with a greedy one
whose quota is all that can be served, so that load refuses as well, and what there is has to be shared.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from config.settings import Settings, Worker
from deploy.load.wire import Target
from tests.benchmarks import fates
from tests.benchmarks.course import Course, Finding
from tests.benchmarks.fates import Fate
from tests.benchmarks.orders import Orders
from tests.benchmarks.overloading import (
    BATCH_MAX,
    TTL_MS,
    Stream,
    capacity_per_s,
    far_worker,
    operate,
    send,
    settled,
)
from tests.benchmarks.sender import Tally, arrivals
from tests.benchmarks.world import World, in_force
from workers.contract.ids import uuid7

# Shares of the capacity.
MODEST = 0.3  # what the modest gateway sends
QUOTA = 0.4  # what either may send at first
WIDE = 1.0  # what the greedy one may send then
TIMES = 20  # the greedy one's quota: what it sends
_SECONDS = 40.0


class Served(Struct, frozen=True):
    """What came of a load. `share` is of the modest gateway's orders: those served in time."""

    share: float
    modest_refused: int
    greedy_per_s: float  # receipts of the greedy gateway
    refused: dict[str, int]  # answers to both


def greedy(course: Course) -> Finding:
    """A modest gateway alone, then beside a greedy one."""
    course.say("starting a Tidegate whose workers are far from their database")
    settings = Settings(worker=Worker(batch_max=BATCH_MAX))
    with World(workers=0, settings=settings) as world, far_worker(world):
        capacity = capacity_per_s(course, world, world.bench)
        to = {name: _gateway(world, name, QUOTA * capacity) for name in ("modest", "greedy")}
        alone = _load(course, world, to, capacity, 0.0)
        beside = _load(course, world, to, capacity, TIMES * QUOTA)
        operate(world, "gateway", "quota", "greedy", *_limit(WIDE * capacity))
        wide = _load(course, world, to, capacity, TIMES * WIDE)
    return Finding(
        {
            "capacity_per_s": capacity,
            "alone": alone.share,
            "beside": beside.share,
            "wide": wide.share,
            "kept": beside.share / max(alone.share, 1e-9),
            "wide_kept": wide.share / max(alone.share, 1e-9),
            "alone_refused": float(alone.modest_refused),
            "beside_refused": float(beside.modest_refused),
            "wide_refused": float(wide.modest_refused),
            "greedy_per_s": beside.greedy_per_s,
            "wide_greedy_per_s": wide.greedy_per_s,
        }
    )


def served(found: Sequence[Fate], run: str, sent: int, seconds: float, tally: Tally) -> Served:
    """Tell the gateways apart by their keys: `modest-{run}-{n}`, `greedy-{run}-{n}`."""
    modest = [one for one in found if one.run == f"modest-{run}"]
    others = sum(one.run == f"greedy-{run}" for one in found)
    timely = sum(one.is_told("committed", TTL_MS / 1_000) for one in modest)
    return Served(timely / sent, sent - len(modest), others / seconds, dict(tally.refused))


def _gateway(world: World, name: str, per_s: float) -> Target:
    made = operate(world, "gateway", "create", name, *_limit(per_s))
    return replace(world.to, api_key=str(made["key"]))


def _limit(per_s: float) -> tuple[str, ...]:
    return ("--rate", f"{per_s:.3f}", "--burst", str(max(1, round(per_s))))


def _load(
    course: Course, world: World, to: dict[str, Target], capacity: float, times: float
) -> Served:
    """Send the modest load, the same each time, and `times` the capacity beside it."""
    seconds = course.given.at_most(_SECONDS)
    run = f"{times:g}"
    dues = {"modest": arrivals(MODEST * capacity, seconds, seed=7)}
    if times:
        dues["greedy"] = arrivals(times * capacity, seconds, seed=8)
    coupons = iter(world.coupons(sum(map(len, dues.values()))))
    streams = [
        Stream(
            due,
            Orders(to[name], [next(coupons) for _ in due], f"{name}-{run}", ttl_ms=TTL_MS).posts(),
        )
        for name, due in dues.items()
    ]
    in_force()
    course.say(f"{MODEST:g} times the capacity from one, {times:g} times from another")
    since = uuid7()
    _, tally = send(world, streams)
    settled(world, since)
    found = served(fates.read(world.cluster.dsn, since), run, len(dues["modest"]), seconds, tally)
    course.say(
        f"{found.share:.3f} of the modest one's in time, {found.modest_refused} refused; "
        f"answers {found.refused}"
    )
    return found
