"""Derived keys and the signatures of gateways that speak Celery."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.contract.signing import derive_key, sign, signing_key, verify

MASTER = "a master secret of a deployment"


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_only_the_signed_body_is_verified(body: bytes, other: bytes) -> None:
    """A signature is of one body and one key."""
    key = signing_key(MASTER, "key-1")
    signature = sign(body, key)
    assert verify(body, key, signature)
    assert verify(other, key, signature) is (body == other)
    assert not verify(body, signing_key(MASTER, "key-2"), signature)


@pytest.mark.parametrize("signature", ["", "00", "é" * 64, "\ud800", "0" * 64, "0" * 10**5])
def test_what_is_no_signature_is_refused_without_a_fault(signature: str) -> None:
    """The broker is untrusted: anything may stand where a signature should."""
    assert not verify(b"body", signing_key(MASTER, "key-1"), signature)


def test_each_purpose_has_a_key_of_its_own() -> None:
    """What one purpose's key opens, no other opens; nor does another master's."""
    keys = {derive_key(MASTER, p) for p in ("coupon-code", "celery-intake:a", "celery-intake:b")}
    assert len(keys | {derive_key(MASTER + "!", "coupon-code")}) == 4
    assert {len(key) for key in keys} == {32}


def test_a_key_is_the_same_whenever_it_is_shown() -> None:
    """Gateways keep their key over releases, so its derivation is a promise."""
    assert (
        signing_key(MASTER, "key-1")
        == "89e3e85e7714406b0718e994f1db7876a22982d4943f49e0739aa0c3ad1f6be6"
    )
