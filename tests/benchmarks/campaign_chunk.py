"""One chunk of a campaign run: its coupons, its plan, its sending, until each order is in the tables.

Everything about a chunk follows from the run's seed and the chunk's coupons, which are in a file. So
a chunk that was interrupted is simply done again: coupons that were issued are known to the file,
and what was sent before is sent again with the same keys and bytes, and answered as the same.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from deploy.campaigns.couponfile import issue_to_file
from deploy.embedded.cluster import Cluster
from deploy.load import coupons, plan, profile
from deploy.load.books import Books, State
from deploy.load.generator import Mode
from deploy.load.goods import Goods
from deploy.load.plan import Plan
from deploy.load.profile import Cart, Mix, Profile, Retry
from deploy.load.run import Moment, send
from deploy.load.wire import target
from tests.benchmarks import processes
from tests.benchmarks.campaign_log import Chunk, Wish
from tests.benchmarks.campaign_memory import memory_mib
from tests.benchmarks.campaign_tables import CampaignTables
from workers.contract.couponcode import CouponCodes

GOODS = Goods("bench", ("hot", "warm"))
# A sender who must place its order: no refusal is final, and nothing is given up.
RETRY = Retry(attempts_max=100, retry_after_max_s=60.0, answer_timeout_s=60.0)
ROUNDS_MAX = 5  # times that a refused order is asked for anew
_PASSES_MAX = 5  # times that what was given up on is sent again, with the same key
_PASS_PAUSE_S = 2.0
_DECIDED_WITHIN_S = 300.0


class ChunkError(Exception):
    """A chunk that could not be completed, or a broken promise; the message says which."""


class Watcher:
    """Who is told how a chunk goes."""

    def issuing(self, done: int, total: int) -> None:
        """So many coupons are issued."""

    def sending(self, accepted: int, sending_s: float) -> None:
        """So many of the chunk's orders are accepted."""


class Way(Struct, frozen=True):
    """Where and how a run's chunks are sent."""

    cluster: Cluster
    tables: CampaignTables
    folder: Path
    connections: int
    watcher: Watcher


def terms(repeats: float) -> Profile:
    """The Qwen profile's day, with carts of two lines, and no coupon that must be refused."""
    return replace(
        profile.load("qwen"),
        mix=Mix(repeated_keys=repeats, repeated_within_s=0.5),
        cart=Cart(lines=(0.0, 1.0), zipf=0.0),
        retry=RETRY,
    )


def perform(wish: Wish, number: int, interrupted_s: float, way: Way) -> Chunk:
    """Do chunk `number`. Raises ChunkError, IssuingError, UndecidedError or psycopg.Error."""
    began = time.monotonic()
    wallet = _coupons(wish, number, way)
    issued_at = time.monotonic()
    planned = _plan(wish, number, wallet)
    cpu_before = processes.cpu_seconds(way.cluster.processes())
    planned_at = time.monotonic()
    sending = Sending(planned, number, way)
    sending.perform(wish.chunk * number + wish.size(number))
    seconds = time.monotonic() - planned_at
    roles = way.cluster.processes()
    cpu = {
        role: round(after - cpu_before.get(role, 0.0), 2)
        for role, after in processes.cpu_seconds(roles).items()
    }
    books, accepted = sending.books, sending.accepted
    return Chunk(
        number=number,
        orders_before=wish.chunk * number,
        orders=planned.intents,
        seconds=seconds + interrupted_s,
        sending_s=sending.seconds,
        interrupted_s=interrupted_s,
        issuing_s=issued_at - began,
        planning_s=planned_at - issued_at,
        accepted=accepted,
        posts=sending.posts,
        repeats_answered_the_same=books.repeats_same,
        retries=sending.retries,
        refused=dict(sending.refused),
        accepted_per_s=planned.intents / (sending.seconds + interrupted_s),
        committed_per_s=planned.intents / (seconds + interrupted_s),
        p50_ms=books.acceptance.at(0.50),
        p99_ms=books.acceptance.at(0.99),
        rss_mib=memory_mib(roles),
        cpu_s=cpu,
        table_bytes=way.tables.sizes(),
    )


def forget_coupons(folder: Path, number: int) -> None:
    """Remove the coupons of a chunk that is in the log: until then they are what it is made of."""
    _coupon_file(folder, number).unlink(missing_ok=True)


class Sending:
    """Sends a chunk until each of its orders is in the tables."""

    def __init__(self, planned: Plan, number: int, way: Way) -> None:
        self._plan = planned
        self._number = number
        self._way = way
        self._to = target(way.cluster.api_url, way.cluster.api_key)
        self.books = Books(planned.intents)  # of the first round, which is nearly always all
        self.refused: Counter[str] = Counter()
        self.seconds = 0.0
        self.posts = self.retries = self.accepted = 0

    def perform(self, committed: int) -> None:
        """Send, wait for the outcomes, and send refused ones anew, until so many are committed."""
        planned, books = self._plan, self.books
        for round_ in range(2, ROUNDS_MAX + 2):
            self._until_accepted(planned, books)
            self._way.tables.await_decided(_DECIDED_WITHIN_S)
            if self._way.tables.committed() == committed:
                return
            planned = self._refused(planned, round_)
            books = Books(planned.intents)
        missing = committed - self._way.tables.committed()
        raise ChunkError(f"chunk {self._number}: {missing:,} orders missing; {dict(self.refused)}")

    def _until_accepted(self, planned: Plan, books: Books) -> None:
        """Send until each intent has its receipt."""
        earlier, part = self.accepted, planned
        for _ in range(_PASSES_MAX):
            generator = send(
                part,
                self._to,
                books,
                RETRY,
                mode=Mode(connections=self._way.connections, closed=True),
                seed=self._number,
                watch=lambda moment: self._watched(moment, earlier),
            )
            self.seconds += generator.elapsed_s
            tally = books.tally()
            if tally.accepted == planned.intents:
                break
            left = [i for i, state in enumerate(books.state) if state != State.ACCEPTED]
            part = _only(planned, left)
            time.sleep(_PASS_PAUSE_S)
        self.accepted = earlier + tally.accepted
        self.posts += tally.posts
        self.retries += tally.retries
        self.refused += books.told
        if tally.accepted < planned.intents:
            raise ChunkError(f"chunk {self._number}: not all were accepted: {tally}")
        faults = replace(books.faults(), receipts_without_outcome=0)  # the tables are asked instead
        if not faults.none:
            raise ChunkError(f"chunk {self._number}: broken promises: {faults}")

    def _watched(self, moment: Moment, earlier: int) -> None:
        accepted = min(earlier + moment.books.tally().accepted, self._plan.intents)
        self._way.watcher.sending(accepted, self.seconds + moment.elapsed_s)

    def _refused(self, planned: Plan, round_: int) -> Plan:
        """Plan what became no order anew, under fresh keys: an outcome is for ever."""
        reasons = self._way.tables.refused(prefix_of(planned))
        members = [i for i, key in enumerate(planned.keys) if key.decode() in reasons]
        self.refused.update(reasons[planned.keys[i].decode()] for i in members)
        if not members:
            raise ChunkError(f"chunk {self._number}: the tables hold other orders than were sent")
        return again(planned, members, round_)


def prefix_of(planned: Plan) -> str:
    """What the keys of a plan, and of no other chunk's, begin with."""
    return planned.keys[0].decode().rpartition("-o-")[0] + "-o-"


def again(planned: Plan, members: Sequence[int], round_: int) -> Plan:
    """Plan some intents anew, under keys of their own."""
    return replace(
        planned,
        keys=[b"%b/%d" % (planned.keys[i].partition(b"/")[0], round_) for i in members],
        bodies=[planned.bodies[i] for i in members],
        users=[planned.users[i] for i in members],
        due=array("d", bytes(8 * len(members))),
        index=array("l", range(len(members))),
    )


def _only(planned: Plan, members: Sequence[int]) -> Plan:
    """Send only these, with the keys they have."""
    return replace(planned, due=array("d", bytes(8 * len(members))), index=array("l", members))


def _coupon_file(folder: Path, number: int) -> Path:
    return folder / f"coupons-{number}.ndjson"


def _coupons(wish: Wish, number: int, way: Way) -> list[plan.Coupon]:
    file = _coupon_file(way.folder, number)
    first, size = 1 + wish.chunk * number, wish.size(number)
    users = [plan.user(n) for n in range(first, first + size)]
    done = 0

    def progress(more: int) -> None:
        nonlocal done
        done += more
        way.watcher.issuing(done, size)

    codes = CouponCodes(way.cluster.settings.secrets.master)
    issue_to_file(
        way.cluster.dsn, GOODS.campaign_id, users, file, codes=codes, resume=True, progress=progress
    )
    return coupons.read(file)


def _plan(wish: Wish, number: int, wallet: Sequence[plan.Coupon]) -> Plan:
    # The curve is gone through as fast as it goes; its times only say which key is repeated when.
    seed, duration_s = wish.seed + number, len(wallet) / 10_000
    return plan.orders(
        terms(wish.repeats), GOODS, wallet, count=len(wallet), duration_s=duration_s, seed=seed
    )
