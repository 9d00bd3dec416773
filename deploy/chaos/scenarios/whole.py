"""Scenarios of the whole: a sell-out under kills, mixed faults, and the comparison."""

from __future__ import annotations

from typing import Final

from deploy.chaos.scenario import INVARIANTS, Scenario, Variety, recur

SCENARIOS: Final = (
    Scenario(
        name="sell-out",
        line="far more buyers than units, kills throughout: exactly as many are sold as there were",
        anchor="C36",
        attacks=("I4", "I11"),
        recurring=(
            recur(
                "kill",
                "worker-child",
                "api-child",
                "worker",
                "governor",
                every=(0.3, 0.7),
                first_s=0.3,
            ),
            recur("valkey-flush", every=(3, 5), first_s=2.5),
        ),
        workload="sell-out",
        rate=350,
        duration_s=8,
    ),
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
