"""What a chat may show its user: one catalogue per language, keyed by state, reason and problem.

A language is a file: `<tag>.toml` in this folder, with the keys and the placeholders of the English
one. A file that differs in either is named when the texts are read, before anybody is served.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from producer.http.headers import languages
from workers.domain.overload import Level

Language = str  # the tag of a catalogue: `zh-CN`
Catalogue = Mapping[str, Mapping[str, str]]  # texts by section and key

DEFAULT: Final[Language] = "en"

_FOLDER: Final = files("producer.http.messages")
_PLACEHOLDER: Final = re.compile(r"\{(\w*)\}")
_CHOICES_MAX: Final = 1_024


class MessagesError(ValueError):
    """A catalogue that cannot be used; the message names every fault."""


class Messages:
    """The texts of all languages, read once; raises MessagesError for catalogues that differ."""

    def __init__(self, folder: Traversable = _FOLDER) -> None:
        self._texts = _read(folder)
        self.languages: tuple[Language, ...] = tuple(self._texts)
        self._by_tag = _by_tag(self.languages)
        self.language_for = lru_cache(_CHOICES_MAX)(self._language_for)

    def status(self, language: Language, state: str) -> str:
        """Return what is said of an intent or order in this state."""
        return self._texts[language]["status"][state]

    def refusal(self, language: Language, reason: str) -> str:
        """Return what is said of a refusal, or of a business no at the gate."""
        return self._texts[language]["refusal"][reason]

    def level(self, language: Language, level: Level) -> str:
        """Return what is said of the whole system at an overload level."""
        return self._texts[language]["level"][level.value]

    def problem(self, language: Language, key: str, seconds: int) -> str:
        """Return what is said of a problem, with how long to wait where the text has it."""
        return self.waiting(language, key, *span(seconds))

    def waiting(self, language: Language, key: str, unit: str, number: int) -> str:
        """Return what is said of a problem whose wait is so many of a unit."""
        texts = self._texts[language]
        wait = texts["unit"][unit].replace("{n}", str(number))
        return texts["problem"][key].replace("{wait}", wait)

    def keys(self, language: Language) -> set[tuple[str, str]]:
        """Return (section, key) of every text of a language."""
        return {(section, key) for section, key, _ in _entries(self._texts[language])}

    def _language_for(self, locale: str | None, accept_language: bytes = b"") -> Language:
        """Choose the language of an intent's locale, else of Accept-Language, else English."""
        if locale is not None:
            return self._known(locale.lower()) or DEFAULT
        for wanted in languages(accept_language):
            if known := self._known(wanted):
                return known
        return DEFAULT

    def _known(self, tag: str) -> Language | None:
        """Return the catalogue of a tag (in lower case), or of its language whatever the region."""
        return self._by_tag.get(tag) or self._by_tag.get(tag.partition("-")[0])


def span(seconds: int) -> tuple[str, int]:
    """Return a wait as people say it: a unit of the catalogues, and how many, rounded up."""
    if seconds <= 120:
        return ("second" if seconds == 1 else "seconds"), seconds
    if seconds <= 120 * 60:
        return "minutes", -(-seconds // 60)
    return "hours", -(-seconds // 3_600)


def _read(folder: Traversable) -> dict[Language, Catalogue]:
    texts: dict[Language, Catalogue] = {
        name.removesuffix(".toml"): tomllib.loads((folder / name).read_text(encoding="utf-8"))
        for name in sorted(file.name for file in folder.iterdir())
        if name.endswith(".toml")
    }
    model = _placeholders(texts[DEFAULT])
    if faults := [
        fault
        for language, catalogue in texts.items()
        for fault in _faults(language, _placeholders(catalogue), model)
    ]:
        raise MessagesError("; ".join(faults))
    return texts


def _faults(
    language: Language,
    found: Mapping[tuple[str, str], frozenset[str]],
    model: Mapping[tuple[str, str], frozenset[str]],
) -> Iterator[str]:
    for section, key in sorted(model.keys() ^ found.keys()):
        wrong = "is missing" if (section, key) in model else "is not a text we have"
        yield f"{language}: [{section}] {key} {wrong}"
    for section, key in sorted(model.keys() & found.keys()):
        if found[section, key] != model[section, key]:
            wanted = ", ".join(sorted(model[section, key])) or "none"
            yield f"{language}: [{section}] {key} must have these placeholders: {wanted}"


def _placeholders(catalogue: Catalogue) -> dict[tuple[str, str], frozenset[str]]:
    return {
        (section, key): frozenset(_PLACEHOLDER.findall(text))
        for section, key, text in _entries(catalogue)
    }


def _entries(catalogue: Catalogue) -> Iterator[tuple[str, str, str]]:
    for section, texts in catalogue.items():
        for key, text in texts.items():
            yield section, key, text


def _by_tag(known: tuple[Language, ...]) -> dict[str, Language]:
    """Index catalogues by their tag and by its first part, in lower case; the tag itself goes first."""
    index: dict[str, Language] = {}
    for language in known:
        index.setdefault(language.partition("-")[0].lower(), language)
    for language in known:
        index[language.lower()] = language
    return index


LANGUAGES: Final = Messages().languages
