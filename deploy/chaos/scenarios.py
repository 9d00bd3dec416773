"""The scenarios: what each attacks, with which faults, in which variety of cluster.

`anchor` is the number of the failure mode in the list of 36 that the scenarios were drawn from. Those
that need more than the usual cluster are in `disasters`. RabbitMQ's are not among them: the embedded
cluster has none. Goodput under overload is measured by `make bench-overload`.
"""

from __future__ import annotations

from typing import Final

from config.failpoints import NAMES
from deploy.chaos.disasters import DISASTERS
from deploy.chaos.plan import Fault, Recurring, mix, plan
from deploy.chaos.scenario import INVARIANTS, OURS, Action, Scenario, Variety

_FROZEN = Variety(
    settings=(
        ("TIDEGATE_BROKER__VISIBILITY_TIMEOUT_S", "5"),
        ("TIDEGATE_POSTGRES__STATEMENT_TIMEOUT_MS", "4000"),  # no longer than the broker's patience
        ("TIDEGATE_POSTGRES__IDLE_IN_TRANSACTION_TIMEOUT_MS", "2000"),
    )
)
_PROXIED = Variety(proxied=True)
_ACTIONS: Final[tuple[tuple[Action, str], ...]] = (
    ("kill", "the process dies there"),
    ("raise", "an error is raised there"),
    ("sleep:300", "0.3 s pass there"),
)


def _recur(kind: str, *targets: str, every: tuple[float, float], **more: object) -> Recurring:
    return Recurring(kind=kind, targets=targets or ("",), every_s=every, **more)  # type: ignore[arg-type]


_SCENARIOS: Final = (
    Scenario(
        name="kills",
        line="kill -9 any process of ours, again and again",
        anchor="C1 C6",
        attacks=("I1", "I2", "I10"),
        recurring=(
            _recur("kill", "worker-child", "api-child", every=(0.4, 0.9)),
            _recur("kill", *OURS, every=(0.8, 1.6), first_s=1.1),
        ),
        mixable=True,
    ),
    Scenario(
        name="children",
        line="kill -9 of worker children only: acknowledged late, or not at all",
        anchor="C3",
        attacks=("I1", "I2"),
        recurring=(_recur("kill", "worker-child", every=(0.5, 1.0)),),
        duration_s=8,
    ),
    Scenario(
        name="rolling-restart",
        line="SIGTERM to one process after another; kill -9 for who is not gone after 1 s",
        anchor="C2",
        attacks=("I1", "I8", "I10"),
        recurring=(_recur("term", "worker", "api", *OURS[4:], every=(1.0, 1.6), for_s=(1.0, 1.0)),),
    ),
    Scenario(
        name="freeze",
        line="SIGSTOP any process of ours for a while, then SIGCONT",
        anchor="C5",
        attacks=("I1", "I8", "I10"),
        recurring=(_recur("freeze", *OURS, every=(0.6, 1.2), for_s=(0.5, 2.5)),),
        mixable=True,
    ),
    Scenario(
        name="zombie",
        line="SIGSTOP a worker child beyond the broker's and the transaction's patience",
        anchor="C5 C21",
        attacks=("I1", "I2"),
        recurring=(_recur("freeze", "worker-child", every=(1.5, 2.5), for_s=(5.5, 7.0)),),
        variety=_FROZEN,
        duration_s=12,
    ),
    Scenario(
        name="swizzle",
        line="stop all parts one by one, resume them in random order",
        anchor="C34",
        attacks=("I1", "I10"),
        recurring=tuple(
            _recur("freeze", role, every=(99, 99), for_s=(2.5, 6.0), first_s=0.8 + 0.4 * n)
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
            _recur("away", role, every=(99, 99), for_s=(20, 20), first_s=0.5)
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
            recurring=(_recur("failpoint", *sorted(NAMES), every=(0.45, 0.75)),),
            variety=Variety(failpoints=action),
            duration_s=11,
            mixable=action == "kill",
        )
        for action, says in _ACTIONS
    ),
    Scenario(
        name="valkey-kills",
        line="kill -9 of Valkey, again and again; it comes back with what it synced",
        anchor="C8",
        attacks=("I1", "I10"),
        recurring=(_recur("kill", "valkey", every=(0.8, 2.5)),),
        mixable=True,
    ),
    Scenario(
        name="valkey-forgets",
        line="FLUSHALL, deleted bindings and queues, a restart with an empty folder",
        anchor="C9",
        attacks=("I1", "I8"),
        recurring=(
            _recur("valkey-flush", every=(1.5, 3)),
            _recur("valkey-unbind", every=(0.5, 1)),
            _recur("valkey-empty", every=(3, 5), first_s=2),
        ),
        mixable=True,
    ),
    Scenario(
        name="valkey-stalls",
        line="CLIENT PAUSE and SIGSTOP of Valkey: it takes connections and answers nobody",
        anchor="C10",
        attacks=("I1", "I10"),
        recurring=(
            _recur("valkey-pause", every=(2.5, 4), for_s=(0.5, 2.5)),
            _recur("freeze", "valkey", every=(3, 5), for_s=(0.5, 3), first_s=2),
        ),
        mixable=True,
    ),
    Scenario(
        name="valkey-torn",
        line="the end of Valkey's append-only file is lost, and it restarts from the rest",
        anchor="C12",
        attacks=("I1", "I8"),
        recurring=(_recur("valkey-torn", every=(1.8, 3), amount=(1, 4_000)),),
    ),
    Scenario(
        name="valkey-full",
        line="Valkey reaches its memory's end and refuses every write",
        anchor="C24",
        attacks=("I1", "I11"),
        recurring=(_recur("valkey-full", every=(3, 4.5), for_s=(1, 2.5)),),
        mixable=True,
    ),
    Scenario(
        name="postgres-kills",
        line="kill -9 of the postmaster, and immediate stops",
        anchor="C29",
        attacks=("I1", "I7", "I8"),
        recurring=(
            _recur("kill", "postgres", every=(3.5, 5)),
            _recur("postgres-stop", every=(4, 6), first_s=3),
        ),
        duration_s=12,
        mixable=True,
    ),
    Scenario(
        name="postgres-cuts",
        line="pg_terminate_backend of a random connection of ours every 0.1 s",
        anchor="C13",
        attacks=("I1", "I2"),
        recurring=(_recur("postgres-terminate", every=(0.07, 0.15)),),
        mixable=True,
    ),
    Scenario(
        name="postgres-crowded",
        line="strangers hold every connection that PostgreSQL has",
        anchor="C15",
        attacks=("I10", "I11"),
        recurring=(
            _recur("postgres-crowd", every=(3.5, 5), for_s=(1.5, 3)),
            _recur("postgres-terminate", every=(0.1, 0.2), first_s=1),
        ),
        mixable=True,
    ),
    Scenario(
        name="postgres-locks",
        line="a stranger holds the locks that every batch needs, and carts come in either order",
        anchor="C16",
        attacks=("I1", "I10"),
        recurring=(
            _recur(
                "postgres-lock",
                "stock_locked",
                "budgets_locked",
                "open_intents_locked",
                "keys_locked",
                every=(1.5, 2.5),
                for_s=(0.5, 3),
            ),
        ),
        mixable=True,
    ),
    Scenario(
        name="postgres-stalls",
        line="SIGSTOP of PostgreSQL, whole or one backend with its locks",
        anchor="C10 C21",
        attacks=("I1", "I8", "I10"),
        recurring=(
            _recur("freeze", "postgres", every=(4, 6), for_s=(0.5, 2.5), first_s=2),
            _recur("freeze", "postgres-backend", every=(0.5, 1), for_s=(0.3, 2)),
        ),
        mixable=True,
    ),
    Scenario(
        name="long-transaction",
        line="an idle REPEATABLE READ transaction holds back vacuum all the time",
        anchor="C28",
        attacks=("I10", "I12"),
        recurring=(_recur("postgres-snapshot", every=(99, 99), for_s=(60, 60), first_s=0.3),),
    ),
    Scenario(
        name="lost-commits",
        line="the reply to COMMIT is swallowed, and the connection cut",
        anchor="C14",
        attacks=("I1", "I2", "I8", "I11"),
        recurring=(_recur("lost-reply", "journal", "worker", every=(0.25, 0.5)),),
        variety=_PROXIED,
        mixable=True,
    ),
    Scenario(
        name="slow-network",
        line="300 ms of delay with jitter to PostgreSQL or Valkey, 64 kbit/s, single bytes",
        anchor="C31",
        attacks=("I10",),
        recurring=(
            _recur(
                "net-delay", "valkey", "postgres", every=(2, 3), for_s=(1, 2.5), amount=(0.1, 0.3)
            ),
            _recur(
                "net-rate", "postgres", "valkey", every=(3, 4), for_s=(1, 2), amount=(8_000, 8_000)
            ),
            _recur("net-slices", "valkey", "postgres", every=(3, 4), for_s=(1, 2), first_s=1.5),
        ),
        variety=_PROXIED,
        mixable=True,
    ),
    Scenario(
        name="cut-network",
        line="connections to PostgreSQL and Valkey are cut in the middle of a frame",
        anchor="C31",
        attacks=("I1", "I2"),
        recurring=(_recur("net-cut", "postgres", "valkey", every=(0.3, 0.7)),),
        variety=_PROXIED,
        mixable=True,
    ),
    Scenario(
        name="partition",
        line="packets to PostgreSQL or Valkey vanish: both ways, or one way only",
        anchor="C7",
        attacks=("I1", "I10"),
        recurring=(
            _recur(
                "net-hole",
                "valkey both",
                "postgres both",
                "valkey there",
                "postgres back",
                "valkey back",
                "postgres there",
                every=(2.5, 3.5),
                for_s=(1.0, 3.0),
            ),
        ),
        variety=_PROXIED,
        duration_s=14,
        mixable=True,
    ),
    Scenario(
        name="broker-messages",
        line="hints are stolen, kept, doubled and handed back in another order",
        anchor="C33",
        attacks=("I1", "I2"),
        recurring=(
            _recur("hints", every=(99, 99), for_s=(60, 60), first_s=0.5, amount=(0.5, 0.5)),
        ),
        mixable=True,
    ),
    Scenario(
        name="lost-hints",
        line="no worker for seconds, and every hint deleted meanwhile",
        anchor="C9",
        attacks=("I1", "I10"),
        recurring=(
            _recur("away", "worker", every=(99, 99), for_s=(60, 60), first_s=2.0),
            _recur("valkey-unbind", every=(0.1, 0.2), first_s=2.0),
        ),
        duration_s=8,
    ),
    Scenario(
        name="poison",
        line="unreadable intents in the journal, rubbish in the queue",
        anchor="C4",
        attacks=("I1", "I10"),
        recurring=(
            _recur("poison", every=(2, 3), times_max=3),
            _recur("rubbish", every=(0.3, 0.6)),
        ),
    ),
    Scenario(
        name="two-redispatchers",
        line="two redispatchers at work, one of them paused again and again",
        anchor="C22",
        attacks=("I2", "I8"),
        recurring=(
            _recur("freeze", "redispatcher", every=(0.8, 1.5), for_s=(0.5, 1.5)),
            _recur("kill", "worker-child", every=(1, 2)),
            _recur("valkey-flush", every=(2, 3)),
        ),
        variety=Variety(redispatchers=2),
    ),
    Scenario(
        name="clocks",
        line="the wall clock of one process jumps by up to two hours, and back",
        anchor="C20",
        attacks=("I2", "I8", "I10"),
        recurring=(
            _recur(
                "skew",
                "worker-1",
                "api",
                "redispatcher",
                "governor",
                "worker-2",
                "exporter",
                every=(1, 1.8),
                for_s=(1.5, 4),
                amount=(-7_200, 7_200),
            ),
        ),
        variety=Variety(skewed=True),
        needs=("cc",),
    ),
    Scenario(
        name="full-disk",
        line="the disk that holds the logs is full",
        anchor="C24",
        attacks=("I1", "I10"),
        recurring=(
            _recur("disk-full", "logs", every=(4, 5), for_s=(2, 3.5)),
            _recur("kill", "worker", "worker-child", "api-child", every=(1.5, 2.5), first_s=1.5),
        ),
        variety=Variety(disks=("logs",)),
        needs=("mount",),
    ),
    Scenario(
        name="sell-out",
        line="far more buyers than units, kills throughout: exactly as many are sold as there were",
        anchor="C36",
        attacks=("I4", "I11"),
        recurring=(
            _recur(
                "kill",
                "worker-child",
                "api-child",
                "worker",
                "governor",
                every=(0.3, 0.7),
                first_s=0.3,
            ),
            _recur("valkey-flush", every=(3, 5), first_s=2.5),
        ),
        workload="sell-out",
        rate=350,
        duration_s=8,
    ),
    *DISASTERS,
    Scenario(
        name="mix",
        line="three other scenarios at a time, overlapping; others every 15 s",
        anchor="C35",
        attacks=tuple(INVARIANTS),
        variety=Variety(proxied=True, redispatchers=2),
        duration_s=15,
    ),
    Scenario(
        name="plain-kombu",
        line="the comparison: a kombu consumer without a journal, under kills; expected to lose",
        anchor="C1",
        attacks=("I1",),
        kind="plain-kombu",
        duration_s=10,
    ),
)

SCENARIOS: Final = {one.name: one for one in _SCENARIOS}


def faults_of(scenario: Scenario, seed: int, duration_s: float) -> list[Fault]:
    """Return the scenario's plan."""
    if scenario.name == "mix":
        parts = [(one.name, one.recurring) for one in _SCENARIOS if one.mixable]
        return mix(parts, seed, duration_s)
    return plan(scenario.name, scenario.recurring, seed, duration_s)
