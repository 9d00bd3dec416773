"""The scenarios: what each attacks, with which faults, in which variety of cluster.

`anchor` is the number of the failure mode in the list of 36 that the scenarios were drawn from. Goodput
under overload is measured by `make bench-overload`.
"""

from __future__ import annotations

from typing import Final

from deploy.chaos.plan import Fault, mix, plan
from deploy.chaos.scenario import Scenario
from deploy.chaos.scenarios import (
    broker,
    disasters,
    machine,
    network,
    postgres,
    processes,
    rabbitmq,
    valkey,
    whole,
)

#: In the order in which `--list` says them and `all` runs them.
PARTS: Final = (
    processes.SCENARIOS,
    valkey.SCENARIOS,
    postgres.SCENARIOS,
    network.SCENARIOS,
    broker.SCENARIOS,
    rabbitmq.SCENARIOS,
    machine.SCENARIOS,
    disasters.SCENARIOS,
    whole.SCENARIOS,
)

SCENARIOS: Final = {one.name: one for part in PARTS for one in part}


def faults_of(scenario: Scenario, seed: int, duration_s: float) -> list[Fault]:
    """Return the scenario's plan."""
    if scenario.name == "mix":
        parts = [(one.name, one.recurring) for one in SCENARIOS.values() if one.mixable]
        return mix(parts, seed, duration_s)
    return plan(scenario.name, scenario.recurring, seed, duration_s)
