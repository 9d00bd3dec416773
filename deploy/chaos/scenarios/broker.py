"""Scenarios of what the broker carries: hints stolen, doubled, lost; rubbish and poison."""

from __future__ import annotations

from typing import Final

from deploy.chaos.scenario import Scenario, Variety, recur

# Every hint that comes while all batches wait is in some child's hand, and none in the queue.
_IN_HAND: Final = Variety(
    without="redispatcher",
    settings=(
        ("TIDEGATE_WORKER__CONCURRENCY", "6"),
        ("TIDEGATE_BROKER__VISIBILITY_TIMEOUT_S", "5"),
        ("TIDEGATE_POSTGRES__STATEMENT_TIMEOUT_MS", "4000"),  # no longer than the broker's patience
    ),
)

SCENARIOS: Final = (
    Scenario(
        name="broker-messages",
        line="hints are stolen, kept, doubled and handed back in another order",
        anchor="C33",
        attacks=("I1", "I2"),
        recurring=(recur("hints", every=(99, 99), for_s=(60, 60), first_s=0.5, amount=(0.5, 0.5)),),
        mixable=True,
    ),
    Scenario(
        name="lost-hints",
        line="no worker for seconds, and every hint deleted meanwhile",
        anchor="C9",
        attacks=("I1", "I10"),
        recurring=(
            recur("away", "worker", every=(99, 99), for_s=(60, 60), first_s=2.0),
            recur("valkey-unbind", every=(0.1, 0.2), first_s=2.0),
        ),
        duration_s=8,
    ),
    Scenario(
        name="blackout",
        line="no worker, nobody new, then all that remembers dies: only the journal knows",
        anchor="C9 C6",
        attacks=("I1", "I10"),
        recurring=(
            recur("away", "worker", every=(99, 99), for_s=(60, 60), first_s=1.5),
            # What an API process has not hinted at yet dies with it, after its last answer.
            recur("away", "api", every=(99, 99), for_s=(0.6, 0.6), first_s=5.0),
            recur("valkey-flush", every=(0.15, 0.25), first_s=5.7),
        ),
        workload="plentiful",
        duration_s=6.5,
        lull_s=4.0,
    ),
    Scenario(
        name="hints-in-hand",
        line="no redispatcher, nobody new; all workers die with the last hints in mid-batch",
        anchor="C3 C9",
        attacks=("I1", "I10"),
        recurring=(
            # Nothing is committed until they are dead. Hints are sent again ever less often meanwhile.
            recur("postgres-lock", "stock_locked", every=(99, 99), for_s=(3.2, 3.2), first_s=2.0),
            recur("away", "worker", every=(99, 99), for_s=(0.7, 0.7), first_s=4.2),
        ),
        variety=_IN_HAND,
        workload="plentiful",
        duration_s=6.5,
        lull_s=4.2,
    ),
    Scenario(
        name="poison",
        line="unreadable intents in the journal, rubbish in the queue",
        anchor="C4",
        attacks=("I1", "I10"),
        recurring=(
            recur("poison", every=(2, 3), times_max=3),
            recur("rubbish", every=(0.3, 0.6)),
        ),
    ),
)
