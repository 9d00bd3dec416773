"""Scenarios of the network between our processes and the servers."""

from __future__ import annotations

from typing import Final

from deploy.chaos.scenario import Scenario, Variety, recur

_PROXIED = Variety(proxied=True)

SCENARIOS: Final = (
    Scenario(
        name="lost-commits",
        line="the reply to COMMIT is swallowed, and the connection cut",
        anchor="C14",
        attacks=("I1", "I2", "I8", "I11"),
        recurring=(recur("lost-reply", "journal", "worker", every=(0.25, 0.5)),),
        variety=_PROXIED,
        mixable=True,
    ),
    Scenario(
        name="slow-network",
        line="300 ms of delay with jitter to PostgreSQL or Valkey, 64 kbit/s, single bytes",
        anchor="C31",
        attacks=("I10",),
        recurring=(
            recur(
                "net-delay", "valkey", "postgres", every=(2, 3), for_s=(1, 2.5), amount=(0.1, 0.3)
            ),
            recur(
                "net-rate", "postgres", "valkey", every=(3, 4), for_s=(1, 2), amount=(8_000, 8_000)
            ),
            recur("net-slices", "valkey", "postgres", every=(3, 4), for_s=(1, 2), first_s=1.5),
        ),
        variety=_PROXIED,
        mixable=True,
    ),
    Scenario(
        name="cut-network",
        line="connections to PostgreSQL and Valkey are cut in the middle of a frame",
        anchor="C31",
        attacks=("I1", "I2"),
        recurring=(recur("net-cut", "postgres", "valkey", every=(0.3, 0.7)),),
        variety=_PROXIED,
        mixable=True,
    ),
    Scenario(
        name="partition",
        line="packets to PostgreSQL or Valkey vanish: both ways, or one way only",
        anchor="C7",
        attacks=("I1", "I10"),
        recurring=(
            recur(
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
)
