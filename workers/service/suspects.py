"""Suspects: intents that were in the hands of a batch that died.

An intent that kills its process leaves no exception behind, only the record of its batch. Whoever is
named in such records is tried in ever smaller company, so that a killer takes fewer along each time
and the innocent get through: all together, then a few, then alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from msgspec import Struct

from workers.store.batch import Deaths

TOGETHER_MAX = 31  # after one death; after two each is tried alone
DEATHS_ALONE_MAX = 3  # then it is the intent, not the weather


class Groups(Struct, frozen=True):
    """Each of `together` is tried in one transaction, in this order; `hopeless` not once more."""

    together: list[list[UUID]]
    hopeless: list[UUID]


def by_suspicion(ids: Sequence[UUID], deaths: Mapping[UUID, Deaths]) -> Groups:
    """Group intents by how often a batch died with them in hand; each is in exactly one group.

    The unsuspected come first and the hopeless last: a process that dies anyway, whatever it
    has in hand, never comes to judge anybody.
    """
    innocent = [i for i in ids if i not in deaths]
    once = [i for i in ids if i in deaths and deaths[i].batches == 1 and not deaths[i].alone]
    chunks = [once[start : start + TOGETHER_MAX] for start in range(0, len(once), TOGETHER_MAX)]
    often = [i for i in ids if i in deaths and (deaths[i].batches > 1 or deaths[i].alone)]
    alone = [[i] for i in often if deaths[i].alone < DEATHS_ALONE_MAX]
    return Groups(
        together=[group for group in (innocent, *chunks, *alone) if group],
        hopeless=[i for i in often if deaths[i].alone >= DEATHS_ALONE_MAX],
    )
