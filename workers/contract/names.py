"""Names that processes agree on: queues, tasks, Valkey keys and channels.

All keys and channels of a deployment stand under its prefix, in braces. The braces put them in one
slot of a Valkey cluster, and one access rule (`~{tidegate}:*`) covers them.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

ORDERS_QUEUE: Final = "tidegate.orders"
INTAKE_QUEUE: Final = "tidegate.intake"
PROCESS_BATCH_TASK: Final = "tidegate.process_batch"
SUBMIT_INTENT_TASK: Final = "tidegate.submit_intent"

KEY_PREFIX: Final = "tidegate"


def messaging_system(broker_url: str) -> str:
    """Name what carries messages, as OpenTelemetry names it, or as it would."""
    return "rabbitmq" if broker_url.startswith("amqp") else "redis"


_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class GateNames(Struct, frozen=True):
    """The gate's keys and channel in one deployment; gate.lua says what each key holds."""

    in_flight: str
    epoch: str
    unreconciled: str
    reconciling: str
    lead: str
    policy: str
    level: str
    balances: str
    units: str
    ahead: str
    limits: str
    outcome_channel: str

    def reconciling_key(self, token: str) -> str:
        """Return the key that marks one reconciliation as begun."""
        return f"{self.reconciling}:{token}"


def gate_names(key_prefix: str = KEY_PREFIX) -> GateNames:
    """Return the names under a deployment's prefix: 1 to 64 letters, digits or any of `_.:-`."""
    if not _PREFIX.fullmatch(key_prefix):
        raise ValueError(
            f"expected a key prefix of 1 to 64 letters, digits or _.:- and got {key_prefix!r}"
        )
    root = f"{{{key_prefix}}}"
    return GateNames(
        in_flight=f"{root}:in_flight",
        epoch=f"{root}:epoch",
        unreconciled=f"{root}:unreconciled",
        reconciling=f"{root}:reconciling",
        lead=f"{root}:lead",
        policy=f"{root}:policy",
        level=f"{root}:level",
        balances=f"{root}:balances",
        units=f"{root}:units",
        ahead=f"{root}:ahead",
        limits=root,
        outcome_channel=f"{root}:outcomes",
    )
