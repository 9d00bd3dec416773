"""What a no costs: the CPU of a refused intent beyond that of an HTTP echo of the same body.

    python -m tests.benchmarks.refused [--seconds S] [--connections N] [--json]

A system that is cheap to ask and dear to refuse is brought down by those it refuses. Two refusals are
measured: a gateway over its quota (429) and too many in flight (503). Each is weighed with all that
it costs: the API, PostgreSQL (a refused key is looked up in the journal, since whoever was accepted
before is never told no) and Valkey. What is taken off is what any server pays that reads this body
over HTTP and answers it: a bare ASGI application that sends the body back, served by the same
uvicorn, loop, parser and collector settings, to as many connections, right after each refusal.

For `make bench`: `measure(seconds=…, connections=…, rounds=…) -> Refused`; its `rows()` are the
lines of a table, its `beyond_us` the figure to hold against `MUST_US` and `GOAL_US`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec
import uvloop
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from config.settings import Secrets, Settings
from deploy.embedded.cluster import Cluster
from deploy.embedded.seeding import GATEWAY
from deploy.load.wire import Target, read, target
from tests.benchmarks import kernel
from tests.benchmarks.attribution import API, POSTGRES, VALKEY
from tests.benchmarks.echo import echoing
from tests.benchmarks.measuring import MeasurementError
from tests.benchmarks.orders import Orders
from tests.benchmarks.world import CAMPAIGN, in_force
from workers.contract.couponcode import CouponCodes
from workers.contract.ids import uuid7
from workers.store import gateways, pool

SECONDS = 5.0
ROUNDS = 5
CONNECTIONS = 1_000
WARM_UP_S = 0.8
DIFFERENT = 20_000  # intents, sent over and over: a refused one is as new the second time
QUOTA = (10.0, 10)  # a second, and at once: far below what is offered
MUST_US, GOAL_US = 40.0, 20.0
_MASTER = "refused-" * 4  # of clusters that live for seconds


class Cost(Struct, frozen=True):
    """What one post cost, in microseconds of CPU by process; `statuses` counts the answers."""

    posts_per_s: float
    statuses: dict[int, int]
    us: dict[str, float]

    @property
    def total_us(self) -> float:
        """All processes together, the sender apart."""
        return sum(self.us.values())


class Pair(Struct, frozen=True):
    """A refusal and the echo, measured one right after the other."""

    refused: Cost
    echo: Cost

    @property
    def beyond_us(self) -> float:
        """CPU of a refusal beyond the echo's, in microseconds."""
        return self.refused.total_us - self.echo.total_us


class Refusal(Struct, frozen=True):
    """A way to be refused, measured several times: machines change their pace within seconds."""

    name: str
    pairs: list[Pair]

    @property
    def median(self) -> Pair:
        """The pair with the median difference."""
        return sorted(self.pairs, key=lambda pair: pair.beyond_us)[len(self.pairs) // 2]


class Refused(Struct, frozen=True):
    """All ways, beside the echo."""

    connections: int
    body_bytes: int
    refusals: list[Refusal]

    def rows(self) -> Iterator[tuple[str, float, float, float]]:
        """Yield each refusal's name, its CPU, the echo's beside it, and the difference, in µs."""
        for refusal in self.refusals:
            pair = refusal.median
            yield refusal.name, pair.refused.total_us, pair.echo.total_us, pair.beyond_us

    @property
    def beyond_us(self) -> float:
        """The figure of the row: the dearer refusal, beyond the echo, in microseconds of CPU."""
        return max(refusal.median.beyond_us for refusal in self.refusals)


def measure(
    *, seconds: float = SECONDS, connections: int = CONNECTIONS, rounds: int = ROUNDS
) -> Refused:
    """Measure both refusals, each for `seconds` in all, in `rounds` pairs with the echo.

    Raises MeasurementError where something else was answered than what is to be measured.
    """
    each_s = seconds / rounds
    with echoing() as (url, pid):

        def refusal(name: str, status: int, cluster: Cluster) -> Refusal:
            to, beside = target(cluster.api_url, cluster.api_key), target(url, cluster.api_key)
            noes, echoes = _posts(to), _posts(beside)

            def pair() -> Pair:
                no = uvloop.run(_cost(to, noes, _pids(cluster), connections, each_s))
                echo = uvloop.run(_cost(beside, echoes, {API: [pid]}, connections, each_s))
                return Pair(_checked(no, status), _checked(echo, 200))

            return Refusal(name, [pair() for _ in range(rounds)])

        with _cluster(workers=1) as cluster:  # what the quota lets in gets stuck without: 503
            _limit(cluster)
            limited = refusal("gateway's quota (429)", 429, cluster)
        with _cluster(workers=0, TIDEGATE_ADMISSION__IN_FLIGHT_MAX="1") as cluster:
            full = refusal("in-flight bound (503)", 503, cluster)
            post = _posts(target(cluster.api_url, cluster.api_key))[0]
    return Refused(connections, len(post.partition(b"\r\n\r\n")[2]), [limited, full])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.refused", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(seconds=given.seconds, connections=given.connections, rounds=given.rounds)
    if given.json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        Console().print(_table(found))
    return 0


def _cluster(*, workers: int, **env: str) -> Cluster:
    master = Settings(secrets=Secrets(master=_MASTER))
    return Cluster(workers=workers, campaign=CAMPAIGN, settings=master, extra_env=env)


def _limit(cluster: Cluster) -> None:
    rate, burst = QUOTA
    with pool.connect(cluster.dsn, pool.OWNER, pool.Bounds(), name="bench") as connection:
        gateways.set_quota(
            connection, GATEWAY, rate=rate, burst=burst, actor="bench", reason="measuring"
        )
    in_force()


def _posts(to: Target) -> list[bytes]:
    """Make posts of orders with coupons whose signatures are good, though nobody issued them."""
    codes = CouponCodes(_MASTER)
    coupons = [(f"u-{at}", codes.code_of(uuid7())) for at in range(DIFFERENT)]
    return list(Orders(to, coupons, "refused").posts())


def _pids(cluster: Cluster) -> dict[str, list[int]]:
    found = cluster.processes()
    return {API: found["api"], POSTGRES: found["postgres"], VALKEY: found["valkey"]}


def _checked(cost: Cost, expected: int) -> Cost:
    """Refuse to report what was not measured: nearly every answer must be the expected one."""
    share = cost.statuses.get(expected, 0) / max(1, sum(cost.statuses.values()))
    if share < 0.99:
        msg = f"{share:.1%} of the answers were {expected}: {cost.statuses}"
        raise MeasurementError(msg)
    return cost


# ---- the sender


class _Load:
    """Posts in a closed loop, each new; counts the answers by status."""

    def __init__(self, posts: Sequence[bytes]) -> None:
        self._posts = posts
        self._next = 0
        self.statuses: Counter[int] = Counter()
        self.stopped = False

    def next(self) -> bytes:
        """Return the next post."""
        self._next = (self._next + 1) % len(self._posts)
        return self._posts[self._next]


class _Poster(asyncio.Protocol):
    """One connection with one post under way."""

    transport: asyncio.Transport

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first."""
        self.transport = transport  # type: ignore[assignment]  # uvloop's is none by inheritance
        self.transport.write(self._load.next())

    def data_received(self, data: bytes) -> None:
        """Count a whole answer and send the next post."""
        self._buffer += data
        reply = read(self._buffer)
        if reply is not None:
            self._buffer = b""
            self._load.statuses[reply.status] += 1
            if not self._load.stopped:
                self.transport.write(self._load.next())


async def _cost(
    to: Target,
    posts: Sequence[bytes],
    pids: dict[str, list[int]],
    connections: int,
    seconds: float,
) -> Cost:
    """Keep `connections` posts under way, and weigh what is spent on them after the warm-up."""
    loop = asyncio.get_running_loop()
    load = _Load(posts)
    open_ = [
        (await loop.create_connection(lambda: _Poster(load), to.host, to.port))[0]
        for _ in range(connections)
    ]
    await asyncio.sleep(WARM_UP_S)
    load.statuses.clear()
    before, began = _spent(pids), loop.time()
    await asyncio.sleep(seconds)
    after, took = _spent(pids), loop.time() - began
    statuses = dict(load.statuses)
    load.stopped = True
    for transport in open_:
        transport.abort()
    answered = max(1, sum(statuses.values()))
    return Cost(
        posts_per_s=round(answered / took, 1),
        statuses=statuses,
        us={
            process: round(1e6 * (spent_s - before[process]) / answered, 2)
            for process, spent_s in after.items()
        },
    )


def _spent(pids: dict[str, list[int]]) -> dict[str, float]:
    """Return CPU seconds by process, with all that each has started by now."""
    return {
        name: sum(cpu.total_s for pid in kernel.tree(roots) if (cpu := kernel.of_process(pid)))
        for name, roots in pids.items()
    }


# ---- the report


def _table(found: Refused) -> Table:
    title = (
        f"CPU of a refused intent beyond an echo of its {found.body_bytes} bytes, µs; "
        f"{found.connections:,} connections, closed loop"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("refused by")
    for name in ("a second", API, POSTGRES, VALKEY, "all", "echo", "beyond"):
        table.add_column(name, justify="right")
    for refusal in found.refusals:
        for pair in refusal.pairs:
            cost = pair.refused
            parts = [f"{cost.us[name]:.1f}" for name in (API, POSTGRES, VALKEY)]
            sums = [f"{us:.1f}" for us in (cost.total_us, pair.echo.total_us, pair.beyond_us)]
            table.add_row(refusal.name, f"{cost.posts_per_s:,.0f}", *parts, *sums)
        table.add_section()
    medians = "; ".join(f"{name} {beyond:.1f}" for name, _, _, beyond in found.rows())
    table.caption = f"medians: {medians} µs; must be at most {MUST_US:.0f}, goal {GOAL_US:.0f}"
    return table


if __name__ == "__main__":
    sys.exit(main())
