"""Faults: for each kind a context manager that does it, says what it did, and undoes it.

What cannot be done at the moment (nobody runs under that role, the server is down by another fault)
is said so and counts as not done; a fault never fails the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Final

from deploy.chaos.harm import (
    broker,
    disk,
    namespace,
    network,
    postgres,
    processes,
    rabbitmq,
    receivers,
    standby,
    valkey,
)
from deploy.chaos.plan import Fault
from deploy.chaos.world import World

Harm = Callable[[World, Fault], AbstractContextManager[str]]

KINDS: Final[Mapping[str, Harm]] = {
    "kill": processes.kill,
    "term": processes.term,
    "freeze": processes.freeze,
    "away": processes.away,
    "failpoint": processes.failpoint,
    "skew": processes.skew,
    "valkey-flush": valkey.flush,
    "valkey-unbind": valkey.unbind,
    "valkey-empty": valkey.empty,
    "valkey-pause": valkey.pause,
    "valkey-torn": valkey.torn,
    "valkey-full": valkey.full,
    "rabbitmq-empty": rabbitmq.empty,
    "rabbitmq-delete": rabbitmq.delete,
    "rabbitmq-purge": rabbitmq.purge,
    "rabbitmq-alarm": rabbitmq.alarm,
    "rabbitmq-hints": rabbitmq.hints,
    "rabbitmq-rubbish": rabbitmq.rubbish,
    "postgres-stop": postgres.stop,
    "postgres-terminate": postgres.terminate,
    "postgres-crowd": postgres.crowd,
    "postgres-lock": postgres.lock,
    "postgres-snapshot": postgres.snapshot,
    "lost-reply": network.lost_reply,
    "net-delay": network.delay,
    "net-rate": network.rate,
    "net-slices": network.slices,
    "net-cut": network.cut,
    "net-hole": network.hole,
    "hints": broker.hints,
    "rubbish": broker.rubbish,
    "postponed": broker.postponed,
    "poison": broker.poison,
    "deadly": broker.deadly,
    "disk-full": disk.full,
    "cable": namespace.cable,
    "receivers-away": receivers.away,
    "standby-behind": standby.behind,
    "standby-waits-cancelled": standby.cancel_waits,
    "valkey-failover": standby.valkey_failover,
    "postgres-failover": standby.postgres_failover,
}
