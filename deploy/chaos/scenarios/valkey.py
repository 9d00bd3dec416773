"""Scenarios of Valkey: it dies, forgets, stalls, is torn, is full."""

from __future__ import annotations

from typing import Final

from deploy.chaos.scenario import Scenario, recur

SCENARIOS: Final = (
    Scenario(
        name="valkey-kills",
        line="kill -9 of Valkey, again and again; it comes back with what it synced",
        anchor="C8",
        attacks=("I1", "I10"),
        recurring=(recur("kill", "valkey", every=(0.8, 2.5)),),
        mixable=True,
    ),
    Scenario(
        name="valkey-forgets",
        line="FLUSHALL, deleted bindings and queues, a restart with an empty folder",
        anchor="C9",
        attacks=("I1", "I8"),
        recurring=(
            recur("valkey-flush", every=(1.5, 3)),
            recur("valkey-unbind", every=(0.5, 1)),
            recur("valkey-empty", every=(3, 5), first_s=2),
        ),
        mixable=True,
    ),
    Scenario(
        name="valkey-stalls",
        line="CLIENT PAUSE and SIGSTOP of Valkey: it takes connections and answers nobody",
        anchor="C10",
        attacks=("I1", "I10"),
        recurring=(
            recur("valkey-pause", every=(2.5, 4), for_s=(0.5, 2.5)),
            recur("freeze", "valkey", every=(3, 5), for_s=(0.5, 3), first_s=2),
        ),
        mixable=True,
    ),
    Scenario(
        name="valkey-torn",
        line="the end of Valkey's append-only file is lost, and it restarts from the rest",
        anchor="C12",
        attacks=("I1", "I8"),
        recurring=(recur("valkey-torn", every=(1.8, 3), amount=(1, 4_000)),),
    ),
    Scenario(
        name="valkey-full",
        line="Valkey reaches its memory's end and refuses every write",
        anchor="C24",
        attacks=("I1", "I11"),
        recurring=(recur("valkey-full", every=(3, 4.5), for_s=(1, 2.5)),),
        mixable=True,
    ),
)
