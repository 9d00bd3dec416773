"""Scenarios of the machine: its clocks, its disks."""

from __future__ import annotations

from typing import Final

from deploy.chaos.scenario import Scenario, Variety, recur

SCENARIOS: Final = (
    Scenario(
        name="clocks",
        line="the wall clock of one process jumps by up to two hours, and back",
        anchor="C20",
        attacks=("I2", "I8", "I10"),
        recurring=(
            recur(
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
            recur("disk-full", "logs", every=(4, 5), for_s=(2, 3.5)),
            recur("kill", "worker", "worker-child", "api-child", every=(1.5, 2.5), first_s=1.5),
        ),
        variety=Variety(disks=("logs",)),
        needs=("mount",),
    ),
)
