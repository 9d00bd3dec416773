"""Bodies that somebody made up: read strictly or refused with the field's name, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.http import decoding
from producer.http.problems import Code, Problem
from workers.domain.intent import LINES_MAX, QUANTITY_MAX
from workers.domain.money import AMOUNT_MAX

LINE = {"sku": "tea", "quantity": 1}
ORDER = {"user_id": "u-1", "campaign_id": "spring", "lines": [LINE]}
PAYMENT = {"payment_reference": "p-1", "amount": 1}
# What is ours to say: of a price, of an owner, of what became of it.
OURS = (
    *("price", "unit_price", "discount", "discount_percent", "total", "payable", "currency"),
    *("gateway_id", "intent_id", "order_id", "coupon_id", "coupon_forged", "accepted_at"),
    *("status", "reason", "class", "intent_class", "priority", "traceparent", "is_admin"),
    *("__class__", "__proto__", "constructor", "user", "User_id", "user_id ", ""),
)
NUMBERS = (
    *("-1", "0", "1.0", "1e0", "0.5", "true", "false", "null", '"1"', "[1]", "{}", "NaN"),
    *("Infinity", "-Infinity", "9223372036854775808", "18446744073709551616", "1e999", "-0.0"),
    *("0x1", "01", "1_0", "9" * 4_000),
)


def refusal(decoder: Any, body: bytes | str) -> Problem | None:
    try:
        decoding.decode(decoder, body.encode() if isinstance(body, str) else body)
    except Problem as problem:
        return problem
    return None


@pytest.mark.parametrize("field", OURS)
def test_no_field_of_ours_is_taken_from_a_caller(field: str) -> None:
    """In an order, in its line, in an issuance, in a payment, in an item of a batch."""
    forged: Any
    for forged in (1, "x", None, {"amount": 0, "currency": "CNY"}):
        keyed = {**ORDER, "idempotency_key": "k"}
        issuance = {"user_id": "u-1", "campaign_id": "spring"}
        for decoder, body in (
            (decoding.ORDER, {**ORDER, field: forged}),
            (decoding.ORDER, {**ORDER, "lines": [{**LINE, field: forged}]}),
            (decoding.ISSUANCE, {**issuance, field: forged}),
            (decoding.PAYMENT, {**PAYMENT, field: forged}),
            (decoding.KEYED_ORDER, {**keyed, field: forged}),
            (decoding.CANCEL, {field: forged}),
        ):
            problem = refusal(decoder, json.dumps(body))
            assert problem is not None, body
            assert problem.code is Code.INVALID_FIELD


@pytest.mark.parametrize("number", NUMBERS)
def test_a_quantity_is_a_small_whole_number(number: str) -> None:
    """Neither less than one, nor a float, nor a truth value, nor more than an order may have."""
    body = json.dumps({**ORDER, "lines": [{"sku": "tea", "quantity": "?"}]}).replace('"?"', number)
    assert refusal(decoding.ORDER, body) is not None
    body = json.dumps({**PAYMENT, "amount": "?"}).replace('"?"', number)
    assert (refusal(decoding.PAYMENT, body) is None) == (number == "0")


def test_what_one_order_may_take_is_bounded() -> None:
    """So that no one order holds a stock, or a transaction's locks."""
    fits = {
        **ORDER,
        "lines": [{"sku": f"s{n}", "quantity": QUANTITY_MAX} for n in range(LINES_MAX)],
    }
    assert refusal(decoding.ORDER, json.dumps(fits)) is None
    for lines in (
        [{"sku": "tea", "quantity": QUANTITY_MAX + 1}],
        [{"sku": f"s{n}", "quantity": 1} for n in range(LINES_MAX + 1)],
        [LINE, LINE],
        [],
    ):
        assert refusal(decoding.ORDER, json.dumps({**ORDER, "lines": lines})) is not None
    assert refusal(decoding.PAYMENT, json.dumps({**PAYMENT, "amount": AMOUNT_MAX + 1})) is not None


texts = st.text(max_size=200) | st.sampled_from(["u-1", "spring", "tea", "CNY", "\x00", "\ud800"])
leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)
)
FIELDS = ("user_id", "campaign_id", "lines", "coupon_code", "ttl_ms", "expected_total", "locale")
bodies = st.fixed_dictionaries(
    {}, optional=dict.fromkeys((*FIELDS, "payment_reference", "amount", "sku"), values)
)


@settings(max_examples=100, derandomize=True)
@given(bodies | values)
def test_whatever_is_sent_is_read_or_refused(body: Any) -> None:
    """No other exception, and a refusal that stays short however long what it quotes."""
    raw = json.dumps(body).encode()
    for decoder in (decoding.ORDER, decoding.ISSUANCE, decoding.PAYMENT, decoding.KEYED_ORDER):
        problem = refusal(decoder, raw)
        if problem is not None:
            assert problem.code in (Code.INVALID_FIELD, Code.MALFORMED_BODY)
            assert len(problem.detail) < 1_000


@settings(max_examples=100, derandomize=True)
@given(st.binary(max_size=300))
def test_bytes_that_are_no_json_are_refused(raw: bytes) -> None:
    assert refusal(decoding.ORDER, raw) is not None


@settings(max_examples=60, derandomize=True)
@given(values.filter(lambda value: not (type(value) is int and 1 <= value <= QUANTITY_MAX)))
def test_no_other_value_passes_as_a_quantity(value: Any) -> None:
    body = json.dumps({**ORDER, "lines": [{"sku": "tea", "quantity": value}]})
    assert refusal(decoding.ORDER, body) is not None
