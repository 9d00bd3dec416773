"""The demo: the Qwen campaign, scaled, through the real API of a cluster that lives as long as it.

What the demo needs of the rest of Tidegate is handed to it as `Means`, so that this module holds
only its course: issue coupons, replay the day, ask what became of each receipt, audit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic

from msgspec import Struct

from deploy.load import coupons, goods, job, plan, profile, report, wire
from deploy.load.display import Screen
from deploy.load.frame import Frame, Pace, of_books
from deploy.load.goods import Goods
from deploy.load.observer import Look, Observer
from deploy.load.plan import Coupon
from deploy.load.profile import Profile
from deploy.load.run import Moment, Played, play
from deploy.load.wire import Target
from workers.store.audit import AuditReport

PROFILE = "qwen"
#: Orders of the published nine hours: what the campaign file's stock is made for.
DAY_ORDERS = 10_000_000
STEPS = 7
_SHOWN_EVERY = 2_000  # coupons between two pictures


class Wish(Struct, frozen=True, kw_only=True):
    """The demo's size. The same seed sends the same intents."""

    orders: int
    duration_s: float
    seed: int


class Running(Struct, frozen=True):
    """A cluster that runs: where its API and its database are."""

    api_url: str
    api_key: str
    dsn: str


class Means(Struct, frozen=True):
    """What the demo takes from the rest of Tidegate.

    `start` starts the cluster. `apply` applies the campaign, open from now, with its stock times
    the factor. `issue` issues so many coupons in one go, to users numbered from 1.
    """

    start: Callable[[], Running]
    apply: Callable[[float], None]
    issue: Callable[[int], Iterable[Coupon]]
    look: Look
    audit: Callable[[Callable[[str], None]], AuditReport]
    checks: int  # how many the audit has


class Result(Struct, frozen=True, kw_only=True):
    """How the demo ended. `clean` is what its exit code says."""

    took_s: float
    coupons_in_bulk: int
    coupons_in_bulk_s: float
    coupons_live: int
    coupons_live_hold: bool  # each receipt for a coupon has one outcome
    load: report.Report
    stock: dict[str, tuple[int, int]]  # units available and initial
    books_agree: bool  # orders by the sender's books are the orders in the tables
    audit: AuditReport
    clean: bool


def perform(wish: Wish, means: Means, screen: Screen) -> Result:
    """Run the demo from its beginning to the audit; stopping the cluster is the caller's."""
    began = monotonic()
    terms, offered = profile.load(PROFILE), goods.load(goods.DEFAULT)
    running = _start(wish, means, screen)
    to = wire.target(running.api_url, running.api_key)
    bulk, bulk_s = _issue_in_bulk(
        wish.orders - round(wish.orders * terms.issuance.live_share), means, screen
    )
    live = _issue_live(wish, terms, offered, to, len(bulk), screen)
    wallet = [*bulk, *live.coupons]
    with Observer(running.dsn, means.look) as observer:
        played = _replay(wish, terms, offered, wallet, to, observer, screen)
        seen = observer.now()
    made = _report(wish, played)
    screen.done(report.verdict(made))
    audit = _audit(means, screen)
    held = live.played.books.faults().none
    agree = made.committed == seen.committed
    return Result(
        took_s=round(monotonic() - began, 1),
        coupons_in_bulk=len(bulk),
        coupons_in_bulk_s=round(bulk_s, 2),
        coupons_live=len(live.coupons),
        coupons_live_hold=held,
        load=made,
        stock=dict(seen.stock),
        books_agree=agree,
        audit=audit,
        clean=audit.clean and made.holds and held and agree,
    )


def _report(wish: Wish, played: Played) -> report.Report:
    run = report.Run(
        PROFILE, "open", wish.seed, played.sending_s, played.drain_s, played.connections
    )
    return report.make(run, played.books)


def _start(wish: Wish, means: Means, screen: Screen) -> Running:
    screen.begin("Starting PostgreSQL, Valkey, the API and the workers")
    running = means.start()
    screen.done(f"API at {running.api_url}")
    screen.begin("Opening the campaign, now")
    factor = wish.orders / DAY_ORDERS
    means.apply(factor)
    screen.done(f"stock for {wish.orders:,} orders: {factor:.2%} of the day's")
    return running


def _issue_in_bulk(count: int, means: Means, screen: Screen) -> tuple[list[Coupon], float]:
    screen.begin(f"Issuing {count:,} coupons in one go, ahead of the day")
    began = monotonic()
    issued: list[Coupon] = []
    for coupon in means.issue(count):
        issued.append(coupon)
        if len(issued) % _SHOWN_EVERY == 0:
            screen.show(Frame(done=len(issued), total=count, elapsed_s=monotonic() - began))
    took_s = monotonic() - began
    screen.done(f"{len(issued):,} coupons, {len(issued) / max(took_s, 0.001):,.0f} a second")
    return issued, took_s


def _issue_live(
    wish: Wish, terms: Profile, offered: Goods, to: Target, bulk: int, screen: Screen
) -> coupons.Issued:
    count = wish.orders - bulk
    users = [plan.user(bulk + n) for n in range(1, count + 1)]
    screen.begin(f"Issuing {count:,} coupons one by one, through the API")
    pace = Pace()

    def show(moment: Moment) -> None:
        done = moment.books.tally().accepted
        screen.show(of_books(moment.books, pace, moment.elapsed_s, done=done, total=count))

    issued = coupons.ask(users, terms, offered, to, seed=wish.seed, watch=show)
    refused = count - len(issued.coupons)
    screen.done(f"{len(issued.coupons):,} coupons, {refused:,} refused")
    return issued


def _replay(
    wish: Wish,
    terms: Profile,
    offered: Goods,
    wallet: list[Coupon],
    to: Target,
    observer: Observer,
    screen: Screen,
) -> Played:
    screen.begin(f"{terms.clock} of 6 February 2026 in {wish.duration_s:g} seconds")
    planned = plan.orders(
        terms, offered, wallet, count=wish.orders, duration_s=wish.duration_s, seed=wish.seed
    )
    watch = job.watch(screen, planned, terms, observer.latest)
    return play(planned, to, terms.retry, seed=wish.seed, watch=watch)


def _audit(means: Means, screen: Screen) -> AuditReport:
    screen.begin("Audit: the promises, proven from the tables alone")
    began = monotonic()
    checked = 0

    def show(name: str) -> None:
        nonlocal checked
        checked += 1
        frame = Frame(done=checked, total=means.checks, elapsed_s=monotonic() - began, clock=name)
        screen.show(frame)

    audit = means.audit(show)
    screen.done("clean" if audit.clean else "NOT clean")
    return audit
