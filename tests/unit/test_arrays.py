"""Packed arrays: the same bytes that psycopg would send, made faster."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.adapt import PyFormat, Transformer

from workers.store.arrays import bigints, texts, times, uuids, uuids_or_nulls

_moments = st.datetimes(
    datetime(1900, 1, 1),  # noqa: DTZ001 - bounds are given without the zone
    datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


def _by_psycopg(values: list) -> bytes:
    """What psycopg makes of a list, in binary."""
    dumper = Transformer().get_dumper(values, PyFormat.BINARY)
    return bytes(dumper.dump(values) or b"")


def _elements(packed: bytes) -> bytes:
    """An array without its head: whether it may hold nulls is said there, in psycopg's own way."""
    return packed[20:]


@given(st.lists(st.uuids(), min_size=1))
def test_ids_are_packed_as_psycopg_packs_them(ids: list[UUID]) -> None:
    """Head and elements alike."""
    assert uuids(ids) == _by_psycopg(ids)


@given(st.lists(st.none() | st.uuids(), min_size=1).filter(any))
def test_missing_ids_are_nulls(ids: list[UUID | None]) -> None:
    """An order without a coupon has none."""
    assert _elements(uuids_or_nulls(ids)) == _elements(_by_psycopg(ids))


@given(st.lists(st.none() | st.text(st.characters(exclude_characters="\0", codec="utf-8"))))
def test_texts_are_packed_as_psycopg_packs_them(values: list[str | None]) -> None:
    """In UTF-8, each with its own length, missing ones as nulls."""
    if any(value is not None for value in values):
        assert _elements(texts(values)) == _elements(_by_psycopg(values))
        assert struct.unpack_from(">i", texts(values), 4) == (None in values,)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_numbers_are_packed_as_eight_bytes_each(values: list[int]) -> None:
    """Whatever their size: psycopg would choose a smaller type for small ones."""
    packed = bigints(values)
    assert struct.unpack_from(">iiiii", packed) == (1, 0, 20, len(values), 1)
    assert list(struct.unpack(f">{'iq' * len(values)}", packed[20:]))[1::2] == values


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_a_number_of_more_than_64_bits_is_refused(number: int) -> None:
    """It would be another number there."""
    with pytest.raises(struct.error):
        bigints([number])


@given(st.lists(st.none() | _moments, min_size=1).filter(any))
def test_moments_are_packed_as_psycopg_packs_them(values: list[datetime | None]) -> None:
    """To the microsecond, before 2000 as after."""
    assert _elements(times(values)) == _elements(_by_psycopg(values))


def test_a_moment_of_another_zone_is_the_same_moment() -> None:
    """The zone is not sent."""
    noon = datetime(2026, 2, 17, 12, tzinfo=UTC)
    there = noon.astimezone(timezone(timedelta(hours=8)))
    assert times([there]) == times([noon])


@pytest.mark.parametrize("pack", [uuids, uuids_or_nulls, texts, bigints, times])
def test_nothing_is_an_empty_array(pack) -> None:
    """One dimension of no elements, which PostgreSQL reads as empty."""
    assert struct.unpack_from(">iiiii", pack([]))[3] == 0
    assert len(pack([])) == 20
