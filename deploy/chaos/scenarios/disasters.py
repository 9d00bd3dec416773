"""The scenarios that need more than the usual cluster: a second server, a small disk, a cable, root.

Each says with `needs` what the machine must offer; where it does not, it is not run, and says why.
"""

from __future__ import annotations

from typing import Final

from deploy.chaos.deadly import HOG, SEGFAULT
from deploy.chaos.plan import Recurring
from deploy.chaos.scenario import Scenario, Variety

# A stop of PostgreSQL of some seconds starts the storm; what comes after it has no reason but itself.
_TRIGGER: Final = Recurring(
    kind="freeze", targets=("postgres",), every_s=(99, 99), for_s=(4, 4), first_s=4.0, times_max=1
)
_ONCE: Final = (99.0, 99.0)
_TO_THE_END: Final = (99.0, 99.0)

# Commits that wait for the standby keep their connections: what asks meanwhile must not queue up
# behind them for longer than the run.
_POSTGRES_PAIR: Final = Variety(proxied=True, standby="postgres")

SCENARIOS: Final = (
    Scenario(
        name="deadly-intents",
        line="intents that kill whoever decides them, by segmentation fault or for its memory",
        anchor="C4",
        attacks=("I1", "I2", "I10"),
        recurring=(
            Recurring(
                kind="deadly",
                targets=(SEGFAULT, HOG),
                every_s=(1.0, 1.5),
                times_max=3,
            ),
        ),
        variety=Variety(deadly=True),
        needs=("cgroup",),
    ),
    Scenario(
        name="full-disk-valkey",
        line="the disk that holds Valkey's append-only file is full",
        anchor="C24",
        attacks=("I1", "I10", "I11"),
        recurring=(
            Recurring(kind="disk-full", targets=("valkey",), every_s=(4, 5), for_s=(2, 3.5)),
            Recurring(kind="kill", targets=("valkey",), every_s=(3.5, 4.5), first_s=2.0),
        ),
        variety=Variety(disks=("valkey",)),
        needs=("mount",),
    ),
    Scenario(
        name="full-disk-postgres",
        line="the disk that holds PostgreSQL's tables and its log is full: it panics, and recovers",
        anchor="C23",
        attacks=("I1", "I8", "I10", "I11"),
        recurring=(
            Recurring(
                kind="disk-full", targets=("postgres",), every_s=(6, 7), for_s=(2, 3), first_s=1.5
            ),
        ),
        variety=Variety(disks=("postgres",)),
        duration_s=12,
        needs=("mount",),
    ),
    Scenario(
        name="valkey-failover",
        line="a replica of Valkey that lags behind takes over, again and again, to and fro",
        anchor="C11",
        attacks=("I1", "I8", "I10"),
        recurring=(
            Recurring(kind="valkey-failover", every_s=(2.5, 3.5), for_s=(0.5, 2.0), first_s=1.5),
        ),
        variety=Variety(proxied=True, standby="valkey"),
    ),
    Scenario(
        name="postgres-failover",
        line="PostgreSQL is killed, and the standby that every commit waited for takes over",
        anchor="C17",
        attacks=("I1", "I2", "I8"),
        recurring=(
            Recurring(kind="kill", targets=("worker-child", "api-child"), every_s=(0.8, 1.4)),
            Recurring(
                kind="postgres-failover", every_s=_ONCE, for_s=_TO_THE_END, first_s=5.0, times_max=1
            ),
        ),
        variety=_POSTGRES_PAIR,
    ),
    Scenario(
        name="standby-behind",
        line="commits wait for a standby that hears nothing; the server restarts, and dies for good",
        anchor="C19",
        attacks=("I1", "I8"),
        recurring=(
            Recurring(
                kind="standby-behind", every_s=_ONCE, for_s=_TO_THE_END, first_s=2.0, times_max=1
            ),
            Recurring(kind="kill", targets=("postgres",), every_s=_ONCE, first_s=3.5, times_max=1),
            Recurring(
                kind="postgres-failover", every_s=_ONCE, for_s=_TO_THE_END, first_s=9.0, times_max=1
            ),
        ),
        variety=_POSTGRES_PAIR,
        duration_s=13,
    ),
    Scenario(
        name="standby-waits-cancelled",
        line="commits of the intake that wait for a standby are cancelled; then the server dies",
        anchor="C18",
        attacks=("I1", "I8"),
        recurring=(
            Recurring(
                kind="standby-behind", every_s=_ONCE, for_s=_TO_THE_END, first_s=2.0, times_max=1
            ),
            Recurring(
                kind="standby-waits-cancelled",
                targets=("api%",),
                every_s=(0.1, 0.2),
                first_s=2.5,
                times_max=12,
            ),
            Recurring(
                kind="postgres-failover", every_s=_ONCE, for_s=_TO_THE_END, first_s=6.0, times_max=1
            ),
        ),
        variety=_POSTGRES_PAIR,
        duration_s=10,
    ),
    Scenario(
        name="webhooks",
        line="receivers that are slow, silent, failing, dying, endless; the sound one away at times",
        anchor="C32",
        attacks=("I1", "I8", "I10"),
        recurring=(
            Recurring(
                kind="receivers-away", every_s=_ONCE, for_s=(1.5, 3.0), first_s=3.0, times_max=1
            ),
            Recurring(kind="kill", targets=("worker-child",), every_s=(0.8, 1.5)),
        ),
        variety=Variety(webhooks=True),
    ),
    Scenario(
        name="postponed-hints",
        line="the queue is full of hints that ask to be taken, and kept for an hour",
        anchor="C27",
        attacks=("I10", "I12"),
        recurring=(
            Recurring(kind="postponed", every_s=(2.0, 2.5), amount=(500, 500), times_max=3),
        ),
    ),
    Scenario(
        name="retry-storm",
        line="PostgreSQL stops for some seconds, and everybody asks again without a pause",
        anchor="C26",
        attacks=("I10", "I11"),
        recurring=(_TRIGGER,),
        duration_s=16,
        rate=200,
        hasty=True,
    ),
    Scenario(
        name="cable",
        line="the network between one worker and both servers: unplugged, one-way, 64 kbit/s",
        anchor="C7 C31",
        attacks=("I1", "I2", "I10"),
        recurring=(
            Recurring(
                kind="cable",
                targets=("unplugged", "mute", "narrow"),
                every_s=(3.0, 3.5),
                for_s=(1.0, 2.8),
            ),
        ),
        variety=Variety(apart=True),
        duration_s=14,
        needs=("netns",),
    ),
)
