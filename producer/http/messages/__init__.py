"""What a chat may show its user: one catalogue per language, keyed by state, reason and problem."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Final, Literal, cast, get_args

from producer.http.headers import languages

Language = Literal["zh-CN", "en", "el"]

LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)
DEFAULT: Final[Language] = "en"

_BY_PRIMARY_SUBTAG: Final[dict[str, Language]] = {
    language.partition("-")[0]: language for language in LANGUAGES
}


class Messages:
    """The texts of all languages, read once."""

    def __init__(self) -> None:
        self._texts = {language: _read(language) for language in LANGUAGES}

    def status(self, language: Language, state: str) -> str:
        """Return what is said of an intent or order in this state."""
        return self._texts[language]["status"][state]

    def refusal(self, language: Language, reason: str) -> str:
        """Return what is said of a refusal."""
        return self._texts[language]["refusal"][reason]

    def problem(self, language: Language, code: str, seconds: int) -> str:
        """Return what is said of a problem, with the seconds to wait where the text has them."""
        return self._texts[language]["problem"][code].replace("{seconds}", str(seconds))

    def keys(self, language: Language) -> set[tuple[str, str]]:
        """Return (section, key) of every text of a language."""
        return {(section, key) for section, texts in self._texts[language].items() for key in texts}


@lru_cache(maxsize=1_024)
def language_for(locale: str | None, accept_language: bytes = b"") -> Language:
    """Choose the language of an intent's locale, else of Accept-Language, else English."""
    if locale is not None:
        return _BY_PRIMARY_SUBTAG.get(locale.partition("-")[0].lower(), DEFAULT)
    for wanted in languages(accept_language):
        if wanted in _BY_PRIMARY_SUBTAG:
            return _BY_PRIMARY_SUBTAG[wanted]
    return DEFAULT


def _read(language: Language) -> Mapping[str, Mapping[str, str]]:
    text = (files("producer.http.messages") / f"{language}.toml").read_text(encoding="utf-8")
    return cast("Mapping[str, Mapping[str, str]]", tomllib.loads(text))
