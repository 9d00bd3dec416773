"""A load job: one profile against one deployment, from coupons to report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from deploy.load import coupons, frame, plan, report
from deploy.load.display import Screen
from deploy.load.drain import Patience
from deploy.load.generator import Mode
from deploy.load.goods import Goods
from deploy.load.plan import Coupon, Plan
from deploy.load.profile import Profile, Scale
from deploy.load.run import Moment, Watch, play
from deploy.load.wire import Target


class Job(Struct, frozen=True, kw_only=True):
    """What to send, where to, and how. `issue` coupons are asked for over the API beforehand."""

    name: str
    profile: Profile
    goods: Goods
    to: Target
    scale: Scale
    mode: Mode
    seed: int
    wallet: Sequence[Coupon] = ()
    issue: int = 0
    patience: Patience = Patience()

    @property
    def steps(self) -> int:
        """How many steps a screen will be told of."""
        return 3 if self.issue else 2


def execute(job: Job, screen: Screen) -> report.Report:
    """Do the job, showing it. Blocks; Ctrl-C ends the sending early, a second one everything."""
    wallet = [*job.wallet, *_issued(job, screen)] if job.issue else job.wallet
    planned = plan.orders(
        job.profile,
        job.goods,
        wallet,
        count=job.scale.orders,
        duration_s=job.scale.duration_s,
        seed=job.seed,
    )
    how = f"{job.scale.orders:,} intents over {job.scale.duration_s:g} s"
    if job.mode.closed:
        how = f"{job.scale.orders:,} intents, {job.mode.connections} posts at once"
    screen.begin(f"{job.profile.title}: {how}")
    played = play(
        planned,
        job.to,
        job.profile.retry,
        mode=job.mode,
        seed=job.seed,
        patience=job.patience,
        watch=watch(screen, planned, job.profile),
        stop_early=True,
    )
    made = report.make(
        report.Run(
            profile=job.name,
            loop="closed" if job.mode.closed else "open",
            seed=job.seed,
            sending_s=played.sending_s,
            drain_s=played.drain_s,
            connections=played.connections,
        ),
        played.books,
    )
    screen.done(report.verdict(made))
    return made


def watch(
    screen: Screen,
    planned: Plan,
    profile: Profile,
    observe: Callable[[], frame.Observed | None] = lambda: None,
) -> Watch:
    """Show a run's moments: first its sending, then, as a step of its own, its drain."""
    pace = frame.Pace()
    stage = "sending"

    def show(moment: Moment) -> None:
        nonlocal stage
        if moment.stage != stage:
            stage = moment.stage
            screen.done(sent(moment))
            screen.begin("Asking, with the same keys, what became of every receipt")
        screen.show(picture(moment, pace, planned, profile, observe()))

    return show


def picture(
    moment: Moment,
    pace: frame.Pace,
    planned: Plan,
    profile: Profile,
    observed: frame.Observed | None = None,
) -> frame.Frame:
    """Draw one moment of a run."""
    tally = moment.books.tally()
    if moment.stage == "sending":
        done, total = moment.sends_done, planned.sends
    else:
        done, total = tally.committed + tally.refused_later, tally.accepted
    sending = moment.stage == "sending" and profile.clock
    return frame.of_books(
        moment.books,
        pace,
        moment.elapsed_s,
        done=done,
        total=total,
        clock=_clock(profile.clock, moment, planned) if sending else "",
        observed=observed,
        knows_outcomes=observed is not None or moment.stage == "draining",
    )


def sent(moment: Moment) -> str:
    """Say what came of the sending."""
    tally = moment.books.tally()
    return (
        f"{tally.sent:,} intents sent in {tally.posts:,} posts, {tally.accepted:,} accepted, "
        f"{tally.refused:,} refused at once"
    )


def _issued(job: Job, screen: Screen) -> list[Coupon]:
    users = [plan.user(n) for n in range(1, job.issue + 1)]
    screen.begin(f"Asking for {job.issue:,} coupons")
    got = coupons.ask(users, job.profile, job.goods, job.to, seed=job.seed)
    screen.done(f"{len(got.coupons):,} coupons came")
    return got.coupons


def _clock(length: str, moment: Moment, planned: Plan) -> str:
    """Say where the profile's own clock stands, such as `4.2 of 9 hours`."""
    whole, _, unit = length.partition(" ")
    last = planned.due[-1] if planned.sends else 0.0
    share = min(moment.elapsed_s / last, 1.0) if last else 1.0
    return f"{share * float(whole):.1f} of {whole} {unit}"
