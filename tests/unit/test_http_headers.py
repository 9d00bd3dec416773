"""Header fields: what may be written many ways is read one way, what is unclear is refused."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.http import headers
from producer.http.headers import HeaderError

printable = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=100
).filter(lambda text: text.strip() == text)


@given(printable)
def test_a_quoted_key_and_a_bare_one_are_the_same_key(key: str) -> None:
    """A structured-field string is only another spelling."""
    quoted = '"' + re.sub(r'(["\\])', r"\\\1", key) + '"'
    assert headers.idempotency_key(quoted.encode()) == key
    if not key.startswith('"'):
        assert headers.idempotency_key(key.encode()) == key


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b" ", b'""', b'"', b'"open', b'"a" b', b'"a";x=1', b'"\\x"', b'"\xc3\xa9"'),
        *(b"a\x00b", b"\xff", b"k" * 256, b'"' + b"k" * 256 + b'"'),
    ],
)
def test_a_key_that_cannot_be_read_is_refused(raw: bytes) -> None:
    """Half a quote or a stray byte must not silently become another key."""
    with pytest.raises(HeaderError):
        headers.idempotency_key(raw)


def test_a_key_may_have_255_characters_of_any_script() -> None:
    """Length counts characters, and a bare key may be UTF-8."""
    assert headers.idempotency_key(("茶" * 255).encode()) == "茶" * 255
    assert headers.idempotency_key(b"k" * 255) == "k" * 255
    with pytest.raises(HeaderError):
        headers.idempotency_key(("茶" * 256).encode())


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"wait=5", 5),
        (b"Wait = 7", 7),
        (b'respond-async, wait="9"', 9),
        (b"wait=10; foo=bar", 10),
        (b"wait=100", 30),
        (b"wait=0", 0),
        (b"wait=-1", 0),
        (b"wait=1.5", 0),
        (b"await=5", 0),
        (b"wait", 0),
        (b"", 0),
    ],
)
def test_a_wait_is_read_from_prefer_and_bounded(raw: bytes, expected: int) -> None:
    """A preference that cannot be read is none: it is never an error."""
    assert headers.wait_s(raw, 30) == expected


@pytest.mark.parametrize(
    ("raw", "fits"),
    [
        (b"application/json", True),
        (b"Application/JSON; charset=utf-8", True),
        (b'application/json;charset="UTF-8"', True),
        (b"application/json; charset=latin-1", False),
        (b"application/jsonx", False),
        (b"text/json", False),
        (b"text/plain", False),
        (b"", False),
        (None, False),
    ],
)
def test_json_is_json_in_utf_8(raw: bytes | None, fits: bool) -> None:
    """Another type or charset is not guessed at."""
    assert headers.is_media_type(raw, headers.JSON) is fits


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"zh-CN,zh;q=0.9,en;q=0.8", ["zh-cn", "zh", "en"]),
        (b"en;q=0.1, el", ["el", "en"]),
        (b"fr;q=0, *", ["*"]),
        (b"@@, ;q=, en", ["en"]),
        (b"x" * 2_000, []),
        (b"", []),
    ],
)
def test_languages_come_in_the_order_of_their_weight(raw: bytes, expected: list[str]) -> None:
    """What cannot be read is passed over."""
    assert headers.languages(raw) == expected


@given(st.binary(max_size=300))
def test_no_bytes_break_a_reader(raw: bytes) -> None:
    """Headers are anybody's: readers answer or refuse, and never raise anything else."""
    assert 0 <= headers.wait_s(raw, 30) <= 30
    assert headers.is_media_type(raw, headers.JSON) in (True, False)
    assert all(tag == tag.lower() for tag in headers.languages(raw))
    with contextlib.suppress(HeaderError):
        assert 1 <= len(headers.idempotency_key(raw)) <= 255
