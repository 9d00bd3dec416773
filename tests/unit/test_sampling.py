"""Sampling: a share of the ids, decided by each id alone."""

from __future__ import annotations

import random

import pytest

from config.sampling import Sample

_random = random.Random(7)
IDS = [_random.getrandbits(128) for _ in range(20_000)]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 1.0])
def test_a_share_of_all_ids_is_held(share: float) -> None:
    """All of them at 1, none at 0."""
    held = sum(Sample(share).holds(one) for one in IDS)
    assert held == pytest.approx(share * len(IDS), abs=200 if 0 < share < 1 else 0)


def test_a_larger_share_holds_what_a_smaller_one_holds() -> None:
    """So what one process tells at 1 %, another that is asked for more tells as well."""
    small, large = Sample(0.01), Sample(0.1)
    assert all(large.holds(one) for one in IDS if small.holds(one))


def test_the_same_ids_are_held_as_by_opentelemetry() -> None:
    """Consistent probability sampling: kept are those whose last 56 bits reach (1 - share) * 2**56."""
    half = Sample(0.5)
    assert half.holds(0x80_0000_0000_0000)
    assert not half.holds(0x7F_FFFF_FFFF_FFFF)
    assert not half.holds(1 << 100)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 1.0])
def test_the_digits_alone_say_the_same(share: float) -> None:
    """What a header says is not read further than that takes."""
    sample = Sample(share)
    assert all(
        sample.may_hold(b"%014x" % (one & (1 << 56) - 1)) == sample.holds(one) for one in IDS
    )
