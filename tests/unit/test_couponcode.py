"""Coupon codes: only we can make one, and anyone can type one."""

from __future__ import annotations

import hmac
from base64 import b32decode
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workers.contract.couponcode import CODE_CHARS, CouponCodes
from workers.contract.ids import uuid7_many
from workers.contract.signing import derive_key

MASTER = "a master secret of a deployment"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
CODES = CouponCodes(MASTER)

ids = st.binary(min_size=16, max_size=16).map(lambda raw: UUID(bytes=raw))


@given(ids)
@example(UUID(int=0))
@example(UUID(int=2**128 - 1))
def test_a_code_proves_its_coupon(coupon_id: UUID) -> None:
    """What was issued is recognized, without being stored."""
    code = CODES.code_of(coupon_id)
    assert len(code) == CODE_CHARS
    assert set(code) <= set(ALPHABET)
    assert CODES.coupon_id_of(code) == coupon_id


def test_a_code_is_the_same_whenever_it_is_shown() -> None:
    """It is derived, so a user who asks again sees the same; the form is a promise to wallets."""
    coupon_id = UUID("019c0000-0000-7000-8000-000000000001")
    assert CODES.code_of(coupon_id) == CouponCodes(MASTER).code_of(coupon_id)
    assert CODES.code_of(coupon_id) == "WYAZYAAAAAAHAAEAAAAAAAAAAAA5E734K5T5QRFYADSA"


@given(ids, st.integers(1, 20), st.sampled_from(["-", " ", " - ", "\t", "\n"]), st.booleans())
def test_codes_are_read_as_people_write_them(
    coupon_id: UUID, group: int, separator: str, lower: bool
) -> None:
    """Lower case, hyphens and white space change nothing, within the length that is read."""
    code = CODES.code_of(coupon_id)
    written = separator.join(code[i : i + group] for i in range(0, len(code), group))
    written = written.lower() if lower else written
    expected = coupon_id if len(written) <= 128 else None
    assert CODES.coupon_id_of(written) == expected


def test_no_changed_character_is_accepted() -> None:
    """Each code has one spelling: every other character in any place makes it a forgery."""
    code = CODES.code_of(UUID(int=42))
    for place in range(CODE_CHARS):
        for character in ALPHABET.replace(code[place], "") + "0189=_.Ｏé":
            assert CODES.coupon_id_of(code[:place] + character + code[place + 1 :]) is None


@pytest.mark.parametrize(
    "code",
    [
        *("", "-", "A", "A" * 43, "A" * 44, "A" * 45, "A" * 10**6, "A" * 40 + "===="),
        *("=" * 44, "_" * 44, "１" * 44, "ſ" * 44, "é", "\x00" * 44, "\ud800" * 44),
    ],
)
def test_what_is_no_code_is_refused_without_a_fault(code: str) -> None:
    """Whatever a chat sends, the answer is a plain no."""
    assert CODES.coupon_id_of(code) is None


@given(st.text(max_size=140))
def test_no_text_is_a_code_by_chance(text: str) -> None:
    """Any text is answered, and none of it is proven."""
    assert CODES.coupon_id_of(text) is None


def test_codes_of_another_master_are_forgeries() -> None:
    """Two deployments do not accept each other's coupons."""
    foreign = CouponCodes("the master secret of another one")
    for coupon_id in uuid7_many(300):
        assert CODES.coupon_id_of(foreign.code_of(coupon_id)) is None


def test_codes_survive_the_rotation_of_the_master() -> None:
    """Codes in users' hands stay valid while their master is listed, in any order."""
    masters = tuple(f"master secret number {number}" for number in range(600))
    rotated = CouponCodes(MASTER, masters)
    reordered = CouponCodes(MASTER, masters[::-1])
    dropped = CouponCodes(MASTER, masters[300:])
    for number, coupon_id in enumerate(uuid7_many(600)):
        code = CouponCodes(masters[number]).code_of(coupon_id)
        assert rotated.coupon_id_of(code) == coupon_id
        assert reordered.coupon_id_of(code) == coupon_id
        assert dropped.coupon_id_of(code) == (coupon_id if number >= 300 else None)
    assert rotated.code_of(coupon_id) == CODES.code_of(coupon_id)


@given(ids)
def test_the_proof_is_the_standard_one(coupon_id: UUID) -> None:
    """RFC 2104, as the standard library computes it: only computed without letting go of the lock."""
    raw = b32decode(CODES.code_of(coupon_id) + "====")
    key = derive_key(MASTER, "coupon-code")
    assert raw[17:] == hmac.digest(key, raw[:17], "sha256")[:10]


def test_the_proof_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forger learns nothing from how long a no takes."""
    compared = []

    def _compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", _compare)
    code = CODES.code_of(UUID(int=7))
    forged = code[:-2] + ("A" if code[-2] != "A" else "B") + code[-1]
    assert CODES.coupon_id_of(forged) is None
    assert [len(one) for one, _ in compared] == [10]


def test_a_master_that_somebody_typed_is_refused() -> None:
    """Codes are worth money: a short secret is no secret."""
    with pytest.raises(ValueError, match="at least 16"):
        CouponCodes("changeme")
    with pytest.raises(ValueError, match="at least 16"):
        CouponCodes(MASTER, ("old",))
