"""How suspects are grouped: pure, and true for any company."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from workers.service.suspects import DEATHS_ALONE_MAX, TOGETHER_MAX, Groups, by_suspicion
from workers.store.batch import Deaths

_IDS = [UUID(int=n) for n in range(100)]
_deaths = st.builds(
    lambda alone, others: Deaths(batches=alone + others, alone=alone),
    st.integers(0, 5),
    st.integers(0, 3),
).filter(lambda deaths: deaths.batches > 0)
_cases = st.tuples(
    st.lists(st.sampled_from(_IDS), unique=True),
    st.dictionaries(st.sampled_from(_IDS), _deaths),
)


def _place(groups: Groups, intent_id: UUID) -> tuple[int, int]:
    """Which group an intent is in, and how large that is."""
    for place, group in enumerate(groups.together):
        if intent_id in group:
            return place, len(group)
    return len(groups.together), 0


@given(_cases)
def test_everybody_is_in_exactly_one_group(case: tuple[list[UUID], dict[UUID, Deaths]]) -> None:
    """Nobody is tried twice, and nobody is forgotten."""
    ids, deaths = case
    groups = by_suspicion(ids, deaths)
    everybody = [i for group in groups.together for i in group] + groups.hopeless
    assert sorted(everybody) == sorted(ids)
    assert all(groups.together)


@given(_cases)
def test_company_shrinks_with_every_death(case: tuple[list[UUID], dict[UUID, Deaths]]) -> None:
    """None: together. Once, in company: with a few like it. More: alone. Thrice alone: not again."""
    ids, deaths = case
    groups = by_suspicion(ids, deaths)
    innocent = [i for i in ids if i not in deaths]
    for intent_id in ids:
        place, company = _place(groups, intent_id)
        known = deaths.get(intent_id)
        if known is None:
            assert (place, company) == (0, len(innocent))
        elif known.alone >= DEATHS_ALONE_MAX:
            assert intent_id in groups.hopeless
        elif known.alone or known.batches > 1:
            assert company == 1
        else:
            assert 1 <= company <= TOGETHER_MAX


@given(_cases)
def test_the_less_suspected_are_tried_first(case: tuple[list[UUID], dict[UUID, Deaths]]) -> None:
    """A killer takes down only those who come after it, and they are no less suspect."""
    ids, deaths = case
    groups = by_suspicion(ids, deaths)

    def suspicion(intent_id: UUID) -> int:
        known = deaths.get(intent_id)
        return 0 if known is None else 1 if known.batches == 1 and not known.alone else 2

    ranks = [max(map(suspicion, group)) for group in groups.together]
    assert ranks == sorted(ranks)
    assert all(len({suspicion(i) for i in group}) == 1 for group in groups.together)


def test_the_order_of_arrival_is_kept_within_a_group() -> None:
    """Who came first is decided first, suspect or not."""
    ids = _IDS[:70]
    groups = by_suspicion(ids, {i: Deaths(batches=1, alone=0) for i in ids})
    assert [i for group in groups.together for i in group] == ids
    assert [len(group) for group in groups.together] == [31, 31, 8]
