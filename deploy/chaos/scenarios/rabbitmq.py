"""The broker's scenarios with RabbitMQ in Valkey's place: its death, its memory, its silence.

One node, so a quorum of one: what is shown is that no promise rests on the broker, not that a cluster
of RabbitMQ keeps its own. Our queues have no binding but that to the anonymous exchange, which nobody
can delete without the queue: so whole queues are deleted here.
"""

from __future__ import annotations

from typing import Final

from deploy.chaos.scenario import Scenario, Variety, recur

_RABBITMQ: Final = Variety(rabbitmq=True)
_NEEDS: Final = ("rabbitmq-server",)

SCENARIOS: Final = (
    Scenario(
        name="rabbitmq-kills",
        line="kill -9 of the RabbitMQ node, and of workers with hints in hand",
        anchor="C8 C3",
        attacks=("I1", "I2", "I10"),
        recurring=(
            recur("kill", "rabbitmq", every=(4.5, 6), first_s=1.5),
            recur("kill", "worker", "worker-child", every=(0.7, 1.4)),
        ),
        variety=_RABBITMQ,
        needs=_NEEDS,
    ),
    Scenario(
        name="rabbitmq-forgets",
        line="its queues are purged and deleted; it restarts with an empty folder",
        anchor="C9",
        attacks=("I1", "I10"),
        recurring=(
            recur("rabbitmq-purge", every=(0.4, 0.8)),
            recur("rabbitmq-delete", every=(1.2, 2.4), first_s=1.4),
            # Late: until it is back, there is nothing to forget.
            recur("rabbitmq-empty", every=(99, 99), first_s=7),
        ),
        variety=_RABBITMQ,
        needs=_NEEDS,
    ),
    Scenario(
        name="rabbitmq-stalls",
        line="SIGSTOP of the node; its memory alarm, in which it confirms nothing",
        anchor="C10 C24",
        attacks=("I1", "I10"),
        recurring=(
            # Apart: a node that is stopped cannot be told of an alarm, nor of its end.
            recur("freeze", "rabbitmq", every=(8, 8), for_s=(0.5, 1.5)),
            recur("rabbitmq-alarm", every=(8, 8), for_s=(1.5, 2.5), first_s=2.5),
            recur("freeze", "rabbitmq", every=(8, 8), for_s=(0.5, 1.5), first_s=6.5),
        ),
        variety=_RABBITMQ,
        needs=_NEEDS,
    ),
    Scenario(
        name="rabbitmq-messages",
        line="hints are stolen, kept, doubled and handed back in another order; rubbish comes too",
        anchor="C33 C4",
        attacks=("I1", "I2"),
        recurring=(
            recur("rabbitmq-hints", every=(99, 99), for_s=(60, 60), first_s=0.5, amount=(0.5, 0.5)),
            recur("rabbitmq-rubbish", every=(0.3, 0.6)),
        ),
        variety=_RABBITMQ,
        needs=_NEEDS,
        duration_s=8,
    ),
)
