"""What an intent's texts may hold; whatever else they are is a matter of their types."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from producer.http import decoding
from producer.http.problems import Problem
from workers.domain.intent import IssuanceIntent, OrderIntent

ORDER: dict[str, Any] = {
    "user_id": "u-1",
    "campaign_id": "spring",
    "lines": [{"sku": "tea", "quantity": 1}, {"sku": "cup", "quantity": 1}],
    "coupon_code": "ABC",
    "conversation_id": "talk-1",
    "locale": "zh-CN",
}
CONTROL = ("\x00", "\n", "\x1f", "\x7f")


def _said_of(intent: dict[str, Any]) -> tuple[str, str]:
    """Return the field that is named, and what is said of it."""
    with pytest.raises(Problem) as raised:
        decoding.decode(decoding.ORDER, msgspec.json.encode(intent))
    (error,) = raised.value.errors
    return error.field, error.detail


@pytest.mark.parametrize("character", CONTROL)
@pytest.mark.parametrize("field", ["user_id", "conversation_id", "coupon_code"])
def test_a_text_holds_no_control_character(field: str, character: str) -> None:
    """At its beginning, within it, or at its end; beside other scripts, too."""
    for text in (f"{character}a", f"a{character}b", f"a{character}", f"会话{character}"):
        told = _said_of({**ORDER, field: text})
        assert told == (field, "holds a control character; leave it out")


def test_a_text_may_be_of_any_script() -> None:
    """User and conversation are named by the gateway, as it likes."""
    posted = {**ORDER, "user_id": "用户 Ω", "conversation_id": "συζήτηση\u00a01"}
    assert decoding.decode(decoding.ORDER, msgspec.json.encode(posted)).user_id == "用户 Ω"


@pytest.mark.parametrize("name", ["-tea", "te:a", "tea ", "te\na", "tea\n", "茶"])
def test_a_name_that_is_none_is_told_with_its_place(name: str) -> None:
    """Names are parts of account names, so there is no colon in them."""
    words = "must be letters, digits, `.`, `_` or `-`, beginning with a letter or digit"
    assert _said_of({**ORDER, "campaign_id": name}) == ("campaign_id", words)
    lines = [ORDER["lines"][0], {"sku": name, "quantity": 1}]
    assert _said_of({**ORDER, "lines": lines}) == ("lines[1].sku", words)


@pytest.mark.parametrize("locale", ["zh_CN", "zh CN", "zh\n", "中文"])
def test_a_language_is_a_tag(locale: str) -> None:
    """Whether there are texts in it is not asked."""
    words = "is a language tag: letters, digits and `-`, such as zh-CN"
    assert _said_of({**ORDER, "locale": locale}) == ("locale", words)


def test_a_wish_for_a_coupon_is_read_as_strictly() -> None:
    """Of the texts that it has."""
    wish = {"user_id": "u-1", "campaign_id": "spring", "conversation_id": "c", "locale": "en"}
    assert msgspec.convert(wish, IssuanceIntent).locale == "en"
    for field, text in (("user_id", "a\n"), ("conversation_id", "\x7f"), ("campaign_id", ":")):
        with pytest.raises(msgspec.ValidationError, match=field):
            msgspec.convert({**wish, field: text}, IssuanceIntent)


def test_the_schema_tells_what_the_texts_may_hold() -> None:
    """The check moved; what others are told of it did not."""
    schema = msgspec.json.schema(OrderIntent)["$defs"]["OrderIntent"]["properties"]
    assert schema["campaign_id"]["pattern"].startswith("^[A-Za-z0-9]")
    assert "\\x00" in schema["user_id"]["pattern"]
