"""What commands print: results, among them what users wrote, to a terminal that obeys its letters."""

from __future__ import annotations

import json

import pytest

from deploy.cli.output import show

# Title, colour, cursor; the same in one byte above ASCII; a line that reads backwards or has an end.
OBEYED = ("\x1b]0;x\x07", "\x1b[31m", "\r", "\x9b2J", "\x9d0;x\x9c", "\u202e", "\u2066", "\u2028")


@pytest.mark.parametrize("text", OBEYED)
def test_a_text_cannot_command_the_terminal(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    show({"user": text}, f"user {text}\nnext", as_json=False)
    printed = capsys.readouterr().out
    assert printed.replace("\N{REPLACEMENT CHARACTER}", "").replace("\n", "").isprintable()
    assert printed.startswith("user ")
    assert printed.endswith("\nnext\n")


@pytest.mark.parametrize("text", OBEYED)
def test_json_says_the_same_in_letters(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    show({"user": text}, "", as_json=True)
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable()
    assert json.loads(printed) == {"user": text}


def test_what_can_be_seen_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show({}, "奶茶 × 2, μία τσάντα, 👍\n  so", as_json=False)
    assert capsys.readouterr().out == "奶茶 × 2, μία τσάντα, 👍\n  so\n"
