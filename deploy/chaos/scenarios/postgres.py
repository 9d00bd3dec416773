"""Scenarios of PostgreSQL: it dies, cuts its clients, is crowded, locked, stalled, held back."""

from __future__ import annotations

from typing import Final

from deploy.chaos.scenario import Scenario, recur

SCENARIOS: Final = (
    Scenario(
        name="postgres-kills",
        line="kill -9 of the postmaster, and immediate stops",
        anchor="C29",
        attacks=("I1", "I7", "I8"),
        recurring=(
            recur("kill", "postgres", every=(3.5, 5)),
            recur("postgres-stop", every=(4, 6), first_s=3),
        ),
        duration_s=12,
        mixable=True,
    ),
    Scenario(
        name="postgres-cuts",
        line="pg_terminate_backend of a random connection of ours every 0.1 s",
        anchor="C13",
        attacks=("I1", "I2"),
        recurring=(recur("postgres-terminate", every=(0.07, 0.15)),),
        mixable=True,
    ),
    Scenario(
        name="postgres-crowded",
        line="strangers hold every connection that PostgreSQL has",
        anchor="C15",
        attacks=("I10", "I11"),
        recurring=(
            recur("postgres-crowd", every=(3.5, 5), for_s=(1.5, 3)),
            recur("postgres-terminate", every=(0.1, 0.2), first_s=1),
        ),
        mixable=True,
    ),
    Scenario(
        name="postgres-locks",
        line="a stranger holds the locks that every batch needs, and carts come in either order",
        anchor="C16",
        attacks=("I1", "I10"),
        recurring=(
            recur(
                "postgres-lock",
                "stock_locked",
                "budgets_locked",
                "open_intents_locked",
                "keys_locked",
                every=(1.5, 2.5),
                for_s=(0.5, 3),
            ),
        ),
        mixable=True,
    ),
    Scenario(
        name="postgres-stalls",
        line="SIGSTOP of PostgreSQL, whole or one backend with its locks",
        anchor="C10 C21",
        attacks=("I1", "I8", "I10"),
        recurring=(
            recur("freeze", "postgres", every=(4, 6), for_s=(0.5, 2.5), first_s=2),
            recur("freeze", "postgres-backend", every=(0.5, 1), for_s=(0.3, 2)),
        ),
        mixable=True,
    ),
    Scenario(
        name="long-transaction",
        line="an idle REPEATABLE READ transaction holds back vacuum all the time",
        anchor="C28",
        attacks=("I10", "I12"),
        recurring=(recur("postgres-snapshot", every=(99, 99), for_s=(60, 60), first_s=0.3),),
    ),
)
