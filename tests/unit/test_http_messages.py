"""Catalogues: the same keys and placeholders in all languages, and a language is a file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from producer.http import messages as package
from producer.http.messages import LANGUAGES, Messages, MessagesError, span
from workers.domain.overload import Level

FOLDER = Path(package.__file__).parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with copies of the catalogues."""
    for language in LANGUAGES:
        shutil.copy(FOLDER / f"{language}.toml", tmp_path)
    return tmp_path


def test_the_languages_of_the_contract_are_there() -> None:
    """The chat of the seed speaks Chinese; English is what everybody else reads."""
    assert {"zh-CN", "en", "el"} <= set(LANGUAGES)


def test_adding_a_language_is_adding_a_file(folder: Path) -> None:
    """No code names a language."""
    text = (folder / "en.toml").read_text()
    (folder / "fr.toml").write_text(text.replace("Ordering is open.", "Vous pouvez commander."))
    messages = Messages(folder)
    assert set(messages.languages) == {*LANGUAGES, "fr"}
    assert messages.language_for(None, b"fr-CH, en;q=0.9") == "fr"
    assert messages.language_for("fr") == "fr"
    assert messages.level("fr", Level.NORMAL) == "Vous pouvez commander."


def test_a_regions_own_file_goes_before_its_languages(folder: Path) -> None:
    """Who reads zh-TW is given it where there is one, and zh-CN where there is not."""
    assert Messages(folder).language_for("zh-TW") == "zh-CN"
    shutil.copy(folder / "zh-CN.toml", folder / "zh-TW.toml")
    messages = Messages(folder)
    assert messages.language_for("zh-TW") == "zh-TW"
    assert messages.language_for(None, b"zh-tw;q=0.4, el;q=0.3") == "zh-TW"
    assert messages.language_for("zh-CN") == messages.language_for("zh-SG") == "zh-CN"


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (
            lambda text: text.replace("περίπου {wait}", "περίπου {seconds}", 1),
            "quota_exceeded must have",
        ),
        (lambda text: text.replace("περίπου {wait}", "σε λίγο", 1), "quota_exceeded must have"),
        (lambda text: text.replace("sold_out =", "sold_off =", 1), "sold_off is not a text"),
        (lambda text: text.replace("[level]", "[levels]"), "[level] closed is missing"),
    ],
)
def test_a_catalogue_that_differs_is_named_before_anybody_is_served(
    folder: Path, spoil: Callable[[str], str], fault: str
) -> None:
    """A hole that nobody fills, or a text that nobody has, would be met in the worst hour."""
    path = folder / "el.toml"
    path.write_text(spoil(path.read_text()))
    with pytest.raises(MessagesError) as caught:
        Messages(folder)
    assert fault in str(caught.value)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_has_a_hole_when_it_is_told(language: str) -> None:
    """Whatever the wait is said in."""
    messages = Messages()
    for section, key in messages.keys(language):
        if section == "problem" and key != "appointment_at":
            for seconds in (1, 7, 1_000, 9_000):
                assert "{" not in messages.problem(language, key, seconds)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_tells_people_to_go_away(language: str) -> None:
    """What the seed's users were told: that it was they who should take a break."""
    text = (FOLDER / f"{language}.toml").read_text().lower()
    for unkind in ("break", "too fast", "you are a little", "休息", "太快", "διάλειμμα"):
        assert unkind not in text


def test_waits_are_said_as_people_say_them() -> None:
    """Seconds to two minutes, minutes to two hours; never less than the wait."""
    assert [span(s) for s in (1, 2, 120, 121, 1_800, 7_200, 7_201)] == [
        ("second", 1),
        ("seconds", 2),
        ("seconds", 120),
        ("minutes", 3),
        ("minutes", 30),
        ("minutes", 120),
        ("hours", 3),
    ]
    seconds_of = {"second": 1, "seconds": 1, "minutes": 60, "hours": 3_600}
    assert all(seconds_of[span(s)[0]] * span(s)[1] >= s for s in range(1, 20_000))
