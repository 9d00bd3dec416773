"""The harness: one scenario against a world, from its load to its verdict.

    issue coupons · load, faults and samples · heal · everybody answered · nothing open
    · a new intent is served · ask once more for everything · nothing in flight · read the tables
    · check

Nobody restarts anything by hand. What was gathered stays in the scenario's folder: history.jsonl,
faults.jsonl, samples.jsonl, verdict.json.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import psycopg
import redis
from msgspec import Struct
from msgspec.structs import replace

from deploy import campaigns
from deploy.chaos import history, tables
from deploy.chaos.checks import check, webhooks
from deploy.chaos.checks.finding import Gathered, Storm
from deploy.chaos.driver import Driver
from deploy.chaos.history import History
from deploy.chaos.listener import Listener
from deploy.chaos.nemesis import Done, Nemesis
from deploy.chaos.plan import Fault
from deploy.chaos.sampler import Sample, Sampler
from deploy.chaos.scenario import Scenario
from deploy.chaos.screen import Picture, Screen
from deploy.chaos.verdict import Verdict
from deploy.chaos.workload import PLAYS, RARE, Coupon, probes
from deploy.chaos.world import World
from deploy.load.wire import target
from workers.contract.couponcode import CouponCodes
from workers.contract.names import gate_names
from workers.domain.campaign import CampaignFile, parse, scaled
from workers.store import audit

T = TypeVar("T")

CAMPAIGN: Final = Path(__file__).with_name("campaign.toml")
SIZE_S: Final = 10.0  # the campaign's file is for a run as long: a longer one has more of all
COUPONS: Final = 400  # what the campaign's budget holds, less one
DRAIN_S_MAX: Final = 60.0
_RECEIPTS_SHARE_MIN: Final = (
    0.02  # of the intents that are meant to come; some faults stop nearly all
)
_WARM_S: Final = 15.0
_LOOK_S: Final = 0.1
_PATIENCE_S: Final = 0.3

_encode = msgspec.json.Encoder().encode


class Run(Struct, frozen=True, kw_only=True):
    """One scenario's run: which, with what seed, how long, at what rate, where its evidence goes."""

    scenario: Scenario
    seed: int
    duration_s: float
    campaign_id: str
    folder: Path
    plan: Sequence[Fault]
    drain_s_max: float = DRAIN_S_MAX


def perform(run: Run, world: World, screen: Screen) -> Verdict:
    """Run one scenario and judge it. Ctrl-C ends it at once, and leaves the world to its owner."""
    run.folder.mkdir(parents=True, exist_ok=True)
    world.campaign_id = run.campaign_id
    size = max(1.0, run.duration_s / SIZE_S)
    file = campaign_of(run.campaign_id, size)
    campaigns.apply(world.dsn, file)
    coupons = _coupons(world, run.campaign_id, round(COUPONS * size))
    log = History(run.folder / "history.jsonl")
    to = target(world.cluster.api_url, world.cluster.api_key)
    wishes = PLAYS[run.scenario.workload](run.campaign_id, coupons, run.seed)
    hasty = run.scenario.hasty
    driver = Driver(to, wishes, log, run.scenario.rate, run.seed, hasty=hasty)
    nemesis = Nemesis(world, run.plan, run.folder / "faults.jsonl", screen.event)
    prefix = world.cluster.settings.valkey.key_prefix
    with (
        contextlib.closing(log),
        contextlib.closing(driver),
        Listener(world.valkey_url, prefix, log),
        Sampler(world) as sampler,
    ):
        course = _Course(run, world, driver, nemesis, log, screen)
        try:
            course.go()
        finally:
            nemesis.heal()
            _write_samples(run.folder / "samples.jsonl", sampler.samples)
    return _judge(run, world, course, sampler.samples, file)


class _Course:
    """What happens, step by step, and what it took."""

    def __init__(
        self,
        run: Run,
        world: World,
        driver: Driver,
        nemesis: Nemesis,
        log: History,
        screen: Screen,
    ) -> None:
        self._run, self._world = run, world
        self._driver, self.nemesis, self._log, self._screen = driver, nemesis, log, screen
        self._in_flight_key = gate_names(world.cluster.settings.valkey.key_prefix).in_flight
        self.answered_all = False
        self.last_arrival_at = 0.0
        self.drained_s: float | None = None
        self.recovered_s: float | None = None
        self.in_flight_left: int | None = None

    def go(self) -> None:
        """Load and faults, then recovery by itself, then the last questions."""
        new = probes(self._run.campaign_id)
        self._driver.start()
        self._watch("warming up", _WARM_S, self._has_receipts)
        self.nemesis.start()
        lull_s = min(self._run.scenario.lull_s, self._run.duration_s / 2)
        self._watch("faults", self._run.duration_s - lull_s)
        self._driver.stop_arrivals()
        self.last_arrival_at = history.now()
        self._watch("faults", lull_s)
        self.nemesis.heal()
        self._world.disarm()
        healed_at = history.now()
        self._watch("draining", self._run.drain_s_max, lambda: self._driver.buyers == 0)
        self.answered_all = self._driver.finish(_PATIENCE_S)
        self.drained_s = self._until(healed_at, self._is_drained)
        self.recovered_s = self._until(healed_at, lambda: self._driver.probe(next(new)))
        self._until(healed_at, self._is_drained)
        if self._world.receivers is not None:
            self._until(healed_at, self._is_heard)
        self._show("last questions", 1.0)
        self._driver.ask_for_all()
        self._until(history.now(), self._is_settled)

    def _has_receipts(self) -> bool:
        return self._log.counts["post", "ok"] >= self._run.scenario.rate / 10

    def _watch(self, stage: str, seconds: float, fact: Callable[[], bool] = lambda: False) -> None:
        """Show the run until a fact comes, or the time is over."""
        began = history.now()
        while (share := (history.now() - began) / seconds) < 1 and not fact():
            self._show(stage, share)
            time.sleep(_LOOK_S)

    def _until(self, began: float, fact: Callable[[], bool]) -> float | None:
        """Wait for a fact; return its seconds since `began`, None where it does not come."""
        while not fact():
            took_s = history.now() - began
            if took_s >= self._run.drain_s_max:
                return None
            self._show("draining", took_s / self._run.drain_s_max)
            time.sleep(_LOOK_S)
        return round(history.now() - began, 2)

    def _is_drained(self) -> bool:
        with contextlib.suppress(psycopg.Error):
            with contextlib.closing(tables.open_reader(self._world.dsn)) as connection:
                return tables.open_count(connection) == 0
        return False

    def _is_settled(self) -> bool:
        with contextlib.suppress(redis.RedisError), self._world.valkey() as client:
            self.in_flight_left = int(client.scard(self._in_flight_key))
        return self.in_flight_left == 0

    def _is_heard(self) -> bool:
        """Whether the sound receiver of webhooks was told as much as there is to tell."""
        assert self._world.receivers is not None
        with contextlib.suppress(psycopg.Error):
            final = tables.read(self._world.dsn, self._run.campaign_id)
            return not webhooks.unheard(
                final, self._world.receivers.heard_of(self._run.campaign_id)
            )
        return False

    def _show(self, stage: str, share: float) -> None:
        counts = self._log.counts
        self._screen.show(
            Picture(
                stage=stage,
                share=min(share, 1.0),
                posts=counts["post", "invoke"],
                receipts=len(self._driver.receipts),
                noes=counts["post", "no"],
                unknown=counts["post", "unknown"] + counts["poll", "unknown"],
                told=len(self._driver.outcomes),
                waiting=self._driver.buyers,
                faults=sum(self.nemesis.counts.values()),
                kills=self.nemesis.kills,
                active=tuple(self.nemesis.active),
            )
        )


def _judge(
    run: Run, world: World, course: _Course, samples: Sequence[Sample], file: CampaignFile
) -> Verdict:
    """Read everything back from where it was written, and check it."""
    entries = history.read(run.folder / "history.jsonl")
    if world.receivers is not None:
        world.receivers.write(run.folder / "webhooks.jsonl", run.campaign_id)
    final = _patiently(lambda: tables.read(world.dsn, run.campaign_id))
    audited = _patiently(lambda: audit.run(world.dsn, drained=True))
    done = [one for one in course.nemesis.done if one.done]
    gathered = Gathered(
        history=entries,
        tables=final,
        samples=samples,
        heard=world.receivers.heard_of(run.campaign_id) if world.receivers is not None else None,
        campaign_id=run.campaign_id,
        initial_stock={item.sku: item.stock for item in file.items},
        budget=file.budget,
        orders_per_user_max=file.campaign.orders_per_user_max,
        sells_out=RARE if run.scenario.workload == "sell-out" else "",
        storm=_storm(course, done) if run.scenario.hasty else None,
        faults_planned=len(run.plan),
        faults_done=len(done),
        receipts_min=round(run.scenario.rate * run.duration_s * _RECEIPTS_SHARE_MIN),
        drained_s=course.drained_s,
        recovered_s=course.recovered_s,
        answered_all=course.answered_all,
        in_flight_left=course.in_flight_left,
        drain_s_max=run.drain_s_max,
        audit_violated=[f"{c.name}: {c.violations} ({c.example})" for c in audited.violated],
    )
    found = check(gathered)
    receipts = {entry.key for entry in entries if entry.op == "post" and entry.phase == "ok"}
    verdict = Verdict(
        scenario=run.scenario.name,
        seed=run.seed,
        duration_s=run.duration_s,
        clean=not found,
        findings=found,
        faults=dict(course.nemesis.counts),
        faults_not_done=len(course.nemesis.done) - len(done),
        kills=course.nemesis.kills,
        figures={
            "receipts": len(receipts),
            "orders": len(final.orders),
            "intents": len(final.intents),
            "calls": sum(entry.phase == "invoke" for entry in entries),
            "unknown": sum(entry.phase == "unknown" for entry in entries),
            "samples": len(samples),
            "lost_replies": sum(proxy.lost_replies for proxy in world.proxies.values()),
            "quarantined": sum(row.reason == "could_not_be_processed" for row in final.intents),
            "drained_s": _or_max(course.drained_s, run),
            "recovered_s": _or_max(course.recovered_s, run),
        },
        evidence=str(run.folder),
    )
    text = msgspec.json.format(_encode(verdict), indent=2)
    (run.folder / "verdict.json").write_bytes(text + b"\n")
    return verdict


def _storm(course: _Course, done: Sequence[Done]) -> Storm:
    return Storm(
        began=min((one.began for one in done), default=0.0),
        ended=max((one.ended for one in done), default=0.0),
        last_arrival_at=course.last_arrival_at,
    )


def _or_max(took_s: float | None, run: Run) -> float:
    return run.drain_s_max if took_s is None else took_s


def _patiently(read: Callable[[], T]) -> T:
    """Read; a server that is just coming back gets its time. Raises psycopg.Error."""
    give_up_at = history.now() + DRAIN_S_MAX
    while True:
        try:
            return read()
        except psycopg.OperationalError:
            if history.now() > give_up_at:
                raise
            time.sleep(_PATIENCE_S)


def campaign_of(campaign_id: str, size: float) -> CampaignFile:
    """Return the campaign that chaos sells, so many times its size."""
    file = scaled(parse(CAMPAIGN.read_text("utf-8")), size)
    return replace(file, campaign=replace(file.campaign, campaign_id=campaign_id))


def _coupons(world: World, campaign_id: str, count: int) -> list[Coupon]:
    codes = CouponCodes(world.cluster.settings.secrets.master)
    issued = campaigns.issue(world.dsn, campaign_id, count, codes=codes, user_format="c-{n}")
    return list(issued)


def _write_samples(file: Path, samples: Sequence[Sample]) -> None:
    file.write_bytes(b"".join(_encode(sample) + b"\n" for sample in samples))
