"""What a scenario needs is looked for here, and what is missing is said instead of being run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deploy.chaos import abilities, apart, deadly
from deploy.chaos.harm import KINDS
from deploy.chaos.harm.victims import NotDoneError
from deploy.chaos.plan import Fault
from deploy.chaos.scenario import Variety
from deploy.chaos.scenarios import SCENARIOS
from deploy.chaos.scenarios.disasters import SCENARIOS as DISASTERS
from deploy.chaos.world import World
from deploy.embedded.child import Child

NEEDED = sorted({need for one in SCENARIOS.values() for need in one.needs})
# Faults of what only some clusters have.
SPECIAL = (
    "cable",
    "standby-behind",
    "valkey-failover",
    "postgres-failover",
    "receivers-away",
    "disk-full",
)


def plain_world(folder: Path) -> World:
    """A world of the usual variety, not started."""
    return World(Variety(), folder, lambda _: None)


@pytest.mark.parametrize("need", NEEDED)
def test_every_need_of_a_scenario_can_be_looked_for(need: str) -> None:
    assert isinstance(abilities.lack(need), str)


def test_without_a_memory_cgroup_the_reason_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadly, "_GROUPS", tmp_path / "none")
    assert "memory cgroup" in deadly.lack()


def test_without_the_tools_of_the_network_the_reason_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "iproute2" in apart.lack()


def test_only_workers_are_exposed_to_deadly_intents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in a group of its own, which is gone in the end."""
    monkeypatch.setattr(deadly, "_GROUPS", tmp_path)
    monkeypatch.setattr(deadly, "_removed", lambda group: shutil.rmtree(group) is None)
    api, worker = (
        Child(name=f"{role}-1", role=role, program=("run",), environ={}, folder=tmp_path)
        for role in ("api", "worker")
    )
    with deadly.exposed(api) as same, deadly.exposed(worker) as other:
        assert same is api
        assert other.program[-1] == "run"
        assert "CHAOS_DEADLY" in other.environ
        (group,) = tmp_path.iterdir()
        assert int((group / "memory.limit_in_bytes").read_text()) > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", SPECIAL)
def test_where_there_is_nothing_of_the_kind_the_fault_is_not_done(
    kind: str, tmp_path: Path
) -> None:
    fault = Fault(at_s=0, kind=kind, target="logs")
    with pytest.raises(NotDoneError), KINDS[kind](plain_world(tmp_path), fault):
        pass


def test_no_real_disk_is_ever_filled(tmp_path: Path) -> None:
    """Though the cluster has a disk of that name, nothing is mounted there."""
    world = World(Variety(disks=("valkey",)), tmp_path, lambda _: None)
    (world.data / "valkey").mkdir(parents=True)
    with (
        pytest.raises(NotDoneError),
        KINDS["disk-full"](world, Fault(at_s=0, kind="disk-full", target="valkey")),
    ):
        pass
    assert not list((world.data / "valkey").iterdir())


def test_a_disaster_asks_for_what_its_cluster_needs() -> None:
    for one in DISASTERS:
        needs = set(one.needs)
        assert ("mount" in needs) == bool(one.variety.disks), one.name
        assert ("netns" in needs) == one.variety.apart, one.name
        assert ("cgroup" in needs) == one.variety.deadly, one.name
        assert one.variety.proxied or not one.variety.standby, one.name
