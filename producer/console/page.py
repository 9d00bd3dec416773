"""The page itself: a few files of this package, told with headers that let nothing else in.

The page holds no data and needs no key; what it shows it asks for with the key that the operator
types. Nothing is fetched from anywhere else, nothing stands inline, nobody may frame it, and with
trusted types the browser itself refuses to make markup of a text.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Final

from producer.http.calls import NO_STORE, Call, Reply
from producer.http.problems import Code, Problem

_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    b" base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    b" require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = [
    (b"content-security-policy", _POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    NO_STORE,
]
_KINDS: Final = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}
_PAGE: Final = "index.html"


async def get_console(call: Call) -> Reply:
    """`GET /console`: the page."""
    del call
    return _reply(_PAGE)


async def get_console_file(call: Call) -> Reply:
    """`GET /console/{file}`: a part of the page."""
    name = call.parameter("file")
    if name == _PAGE or name not in _files():
        raise Problem(Code.NOT_FOUND, "The console has no such part.")
    return _reply(name)


def _reply(name: str) -> Reply:
    kind = (b"content-type", _KINDS[name.rpartition(".")[2]])
    return Reply(200, _files()[name], [kind, *HEADERS])


@functools.cache
def _files() -> dict[str, bytes]:
    folder = resources.files(__package__).joinpath("files")
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
