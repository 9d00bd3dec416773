"""The page holds nothing that its policy would have to forgive, and is whole."""

from __future__ import annotations

import asyncio
import re
from importlib import resources
from types import SimpleNamespace
from typing import Any, cast

import pytest

from producer.console.page import HEADERS, get_console, get_console_file
from producer.http.calls import Call, Reply
from producer.http.problems import Problem

FILES = resources.files("producer.console").joinpath("files")
NAMES = sorted(file.name for file in FILES.iterdir())
SOURCES = {name: FILES.joinpath(name).read_text(encoding="utf-8") for name in NAMES}


def got(name: str | None = None) -> Reply:
    if name is None:
        return cast(Reply, asyncio.run(cast(Any, get_console(cast(Call, None)))))
    call = SimpleNamespace(parameter=lambda _: name)
    return cast(Reply, asyncio.run(cast(Any, get_console_file(cast(Call, call)))))


def test_the_page_comes_with_a_policy_that_lets_nothing_else_in() -> None:
    """Word for word: what a browser enforces is what stands in the header."""
    headers = dict(got().headers)
    policy = dict(
        part.strip().split(" ", 1)
        for part in headers[b"content-security-policy"].decode().split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    for directive in ("script-src", "style-src", "connect-src", "img-src"):
        assert policy[directive] == "'self'"
    assert b"unsafe" not in headers[b"content-security-policy"]
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"referrer-policy"] == b"no-referrer"
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert not [name for name, _ in HEADERS if name == b"set-cookie"]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "index.html"])
def test_every_part_is_served_with_its_type_and_the_same_headers(name: str) -> None:
    """A part that is opened by itself is as closed as the page."""
    reply = got(name)
    assert reply.body.decode() == SOURCES[name]
    kinds = {"css": b"text/css", "js": b"text/javascript", "svg": b"image/svg+xml"}
    assert dict(reply.headers)[b"content-type"].startswith(kinds[name.rpartition(".")[2]])
    assert set(HEADERS) <= set(reply.headers)


@pytest.mark.parametrize("name", ["", "index.html", "../page.py", "%2e%2e", "no.js", "__init__.py"])
def test_nothing_else_is_served(name: str) -> None:
    """No path leads out of the folder."""
    with pytest.raises(Problem):
        got(name)


def test_the_page_has_no_inline_script_style_or_handler() -> None:
    """The policy would refuse them; they must not be missed."""
    page = SOURCES["index.html"]
    assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page)


def test_nothing_is_fetched_from_elsewhere() -> None:
    """Neither by the page nor by a part of it; addresses are relative, so a prefix does no harm."""
    for name, text in SOURCES.items():
        found = set(re.findall(r"https?://[^\s\"']+", text)) - {"http://www.w3.org/2000/svg"}
        assert not found, name
        assert not re.search(r"(src|href)=\"/", text), name


def test_no_text_is_made_into_markup() -> None:
    """Names and reasons are operators' words: they are set as text, never parsed."""
    banned = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|new Function"
    for name in NAMES:
        if name.endswith(".js"):
            assert not re.search(banned, SOURCES[name]), name
            assert not re.search(r"document\.cookie|localStorage", SOURCES[name]), name


def test_every_element_that_the_scripts_name_is_there() -> None:
    """An id that was renamed in one place would fail when it is needed."""
    ids = set(re.findall(r'\bid="([^"]+)"', SOURCES["index.html"]))
    for name in NAMES:
        if name.endswith(".js"):
            named = set(re.findall(r'\$\("([^"]+)"\)', SOURCES[name]))
            assert named <= ids, name


def test_every_control_has_a_name() -> None:
    """A field has its label, a button its words."""
    page = SOURCES["index.html"]
    labelled = set(re.findall(r'<label for="([^"]+)"', page))
    for kind in ("input", "select"):
        assert set(re.findall(rf'<{kind}[^>]*\bid="([^"]+)"', page)) <= labelled
