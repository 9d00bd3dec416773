"""What a scenario is, and what the invariants say that it attacks."""

from __future__ import annotations

from typing import Any, Final, Literal

from msgspec import Struct

from deploy.chaos.plan import Range, Recurring

ALL: Final = "all"
OURS: Final = (
    "api",
    "api-child",
    "worker",
    "worker-child",
    "redispatcher",
    "governor",
    "relay",
    "exporter",
)

#: What each invariant says, for `--list` and for findings.
INVARIANTS: Final = {
    "I1": "every receipt has exactly one terminal state",
    "I2": "at most one order for each intent and key",
    "I3": "orders only of what was attempted",
    "I4": "sold, reserved and available add up; none below zero; never more than there is",
    "I5": "neither the budget nor a limit of a user's is ever exceeded",
    "I6": "a coupon is redeemed at most once, by its owner",
    "I7": "balances are the sums of the ledger, and each batch of it balances",
    "I8": "a told outcome never changes",
    "I9": "samples taken meanwhile lie within what was attempted and told",
    "I10": "it drains and serves again in bounded time, with nobody's help",
    "I11": "what was told no never commits",
    "I12": "memory, open files, connections and unacknowledged hints stay bounded",
}


Action = Literal["kill", "raise", "sleep:300", "sleep:6000"]
Disk = Literal["logs", "postgres", "valkey"]  # folders of the cluster's data


class Variety(Struct, frozen=True):
    """How the cluster of a scenario differs from the usual one."""

    proxied: bool = False  # a proxy of ours before PostgreSQL and Valkey
    failpoints: Action = "kill"  # what an armed failpoint does
    redispatchers: int = 1
    skewed: bool = False  # each process's wall clock can be moved
    rabbitmq: bool = False  # as the broker, in Valkey's place
    disks: tuple[Disk, ...] = ()  # whose folders lie on small disks of their own
    standby: Literal["", "postgres", "valkey"] = ""  # of which server there is a second one
    apart: bool = False  # the last worker in a network namespace of its own
    deadly: bool = False  # some intents kill the worker child that decides them
    webhooks: bool = False  # the gateway has receivers: a sound one, and bad ones
    without: str = ""  # a role that is not started
    settings: tuple[tuple[str, str], ...] = ()  # TIDEGATE_… for the processes


class Scenario(Struct, frozen=True, kw_only=True):
    """One scenario. `needs` names what the machine must offer; see `abilities`."""

    name: str
    line: str
    anchor: str
    attacks: tuple[str, ...]
    recurring: tuple[Recurring, ...] = ()
    variety: Variety = Variety()
    needs: tuple[str, ...] = ()
    duration_s: float = 10.0
    rate: float = 120.0  # intents a second
    hasty: bool = False  # everybody asks again at once, and the load must be served as before
    workload: Literal["everyday", "sell-out", "plentiful"] = "everyday"
    lull_s: float = (
        0.5  # nobody new comes in the last of the faults: what they leave heals by itself
    )
    mixable: bool = False
    kind: Literal["cluster", "plain-kombu"] = "cluster"


def recur(kind: str, *targets: str, every: Range, **more: Any) -> Recurring:
    """Say a kind of fault that comes again and again; see `Recurring` for what more there is to say."""
    return Recurring(kind=kind, targets=targets or ("",), every_s=every, **more)
