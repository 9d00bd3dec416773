"""Scenarios of our own processes: they die, sleep, stay away, at any moment or at a named step."""

from __future__ import annotations

from typing import Final

from config.failpoints import NAMES
from deploy.chaos.scenario import OURS, Action, Scenario, Variety, recur

_FROZEN = Variety(
    failpoints="sleep:6000",
    settings=(
        ("TIDEGATE_BROKER__VISIBILITY_TIMEOUT_S", "5"),
        ("TIDEGATE_POSTGRES__STATEMENT_TIMEOUT_MS", "4000"),  # no longer than the broker's patience
        ("TIDEGATE_POSTGRES__IDLE_IN_TRANSACTION_TIMEOUT_MS", "2000"),
    ),
)
_ACTIONS: Final[tuple[tuple[Action, str], ...]] = (
    ("kill", "the process dies there"),
    ("raise", "an error is raised there"),
    ("sleep:300", "0.3 s pass there"),
)


SCENARIOS: Final = (
    Scenario(
        name="kills",
        line="kill -9 any process of ours, again and again",
        anchor="C1 C6",
        attacks=("I1", "I2", "I10"),
        recurring=(
            recur("kill", "worker-child", "api-child", every=(0.4, 0.9)),
            recur("kill", *OURS, every=(0.8, 1.6), first_s=1.1),
        ),
        mixable=True,
    ),
    Scenario(
        name="children",
        line="kill -9 of worker children only: acknowledged late, or not at all",
        anchor="C3",
        attacks=("I1", "I2"),
        recurring=(recur("kill", "worker-child", every=(0.5, 1.0)),),
        duration_s=8,
    ),
    Scenario(
        name="rolling-restart",
        line="SIGTERM to one process after another; kill -9 for who is not gone after 1 s",
        anchor="C2",
        attacks=("I1", "I8", "I10"),
        recurring=(recur("term", "worker", "api", *OURS[4:], every=(1.0, 1.6), for_s=(1.0, 1.0)),),
    ),
    Scenario(
        name="freeze",
        line="SIGSTOP any process of ours for a while, then SIGCONT",
        anchor="C5",
        attacks=("I1", "I8", "I10"),
        recurring=(recur("freeze", *OURS, every=(0.6, 1.2), for_s=(0.5, 2.5)),),
        mixable=True,
    ),
    Scenario(
        name="zombie",
        line="a worker child stops, or sleeps in mid-batch, beyond everybody's patience",
        anchor="C5 C21",
        attacks=("I1", "I2"),
        recurring=(
            recur("freeze", "worker-child", every=(4.5, 6), for_s=(5.5, 7.0), first_s=3),
            # Asleep with the locks in hand, and with the commit done but nothing told.
            recur(
                "failpoint",
                "worker.after_claim",
                "worker.before_commit",
                "worker.after_commit",
                "worker.before_ack",
                every=(2.5, 3.5),
            ),
        ),
        variety=_FROZEN,
        duration_s=12,
    ),
    Scenario(
        name="swizzle",
        line="stop all parts one by one, resume them in random order",
        anchor="C34",
        attacks=("I1", "I10"),
        recurring=tuple(
            recur("freeze", role, every=(99, 99), for_s=(2.5, 6.0), first_s=0.8 + 0.4 * n)
            for n, role in enumerate(
                (
                    "worker",
                    "redispatcher",
                    "governor",
                    "valkey",
                    "worker-child",
                    "api-child",
                    "postgres",
                )
            )
        ),
    ),
    Scenario(
        name="absent",
        line="governor, redispatcher, relay and exporter are away all the time",
        anchor="C32",
        attacks=("I1", "I10"),
        recurring=tuple(
            recur("away", role, every=(99, 99), for_s=(20, 20), first_s=0.5)
            for role in ("governor", "redispatcher", "relay", "exporter")
        ),
        duration_s=8,
    ),
    *(
        Scenario(
            name=f"failpoints-{action.partition(':')[0]}",
            line=f"every named step of the code, in turn: {says}",
            anchor="C6 C13",
            attacks=("I1", "I2", "I8", "I11"),
            recurring=(recur("failpoint", *sorted(NAMES), every=(0.45, 0.75)),),
            variety=Variety(failpoints=action),
            duration_s=11,
            mixable=action == "kill",
        )
        for action, says in _ACTIONS
    ),
    Scenario(
        name="two-redispatchers",
        line="two redispatchers at work, one of them paused again and again",
        anchor="C22",
        attacks=("I2", "I8"),
        recurring=(
            recur("freeze", "redispatcher", every=(0.8, 1.5), for_s=(0.5, 1.5)),
            recur("kill", "worker-child", every=(1, 2)),
            recur("valkey-flush", every=(2, 3)),
        ),
        variety=Variety(redispatchers=2),
    ),
)
