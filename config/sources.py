"""Where settings come from: command line, environment, secret files, a TOML file.

Every source is flattened to dotted keys (`api.port`), merged by precedence, and each value is
converted by itself, so that one bad value hides no other.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args, get_origin

import msgspec

PREFIX = "TIDEGATE_"
CONFIG_VARIABLE = "TIDEGATE_CONFIG"

# Kubernetes gives every pod `<SERVICE>_PORT=tcp://…` and its kin for each service of the
# namespace; with a service named `tidegate` or `tidegate-api` they carry our prefix.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?$")

T = TypeVar("T", bound=msgspec.Struct)


class SettingsError(Exception):
    """Settings cannot be used as given."""

    def __init__(self, faults: Iterable[str]) -> None:
        """Keep every fault; each names its key and its mend."""
        self.faults = tuple(faults)
        super().__init__("settings cannot be used:\n" + "\n".join(f"  {f}" for f in self.faults))


class Found(NamedTuple):
    """A value as some source gave it."""

    value: object
    origin: str  # as the operator wrote it: `TIDEGATE_API__PORT`, `--port`, `/etc/x.toml: api.port`
    text: bool  # given as text: numbers and lists are still to be read from it


def gather(
    schema: type[msgspec.Struct],
    config_file: Path | None,
    overrides: Mapping[str, object],
    environ: Mapping[str, str],
) -> tuple[dict[str, Found], list[str]]:
    """Collect what every source says, the strongest winning, and all that none may say."""
    known = leaves(schema)
    faults: list[str] = []
    found: dict[str, Found] = {}
    named = environ.get(CONFIG_VARIABLE, "")
    path = config_file or (Path(named) if named else None)
    if path is not None:
        found |= _from_file(path, known, faults)
    found |= _from_environ(environ, known, faults)
    found |= _from_overrides(overrides, known, faults)
    return found, faults


def build(schema: type[T], found: Mapping[str, Found]) -> tuple[T, list[str]]:
    """Convert each value by itself; return the settings (defaults where invalid) and the faults."""
    known = leaves(schema)
    faults: list[str] = []
    tree: dict[str, Any] = {}
    for key, (value, origin, text) in found.items():
        kind = known[key]
        try:
            read = _split(value) if text and get_origin(kind) is tuple else value
            converted = msgspec.convert(read, type=kind, strict=not text)
        except msgspec.ValidationError as invalid:
            faults.append(f"{origin}: {invalid}; give {_describe(kind)}")
            continue
        group, _, name = key.rpartition(".")
        (tree.setdefault(group, {}) if group else tree)[name] = converted
    return msgspec.convert(tree, type=schema), faults


def leaves(schema: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the type of every setting by its dotted key."""
    return dict(_walk(schema, ""))


def flatten(settings: msgspec.Struct) -> dict[str, str]:
    """Return every setting as text by its dotted key, as `gather` would read it again."""
    plain = msgspec.to_builtins(settings)
    texts = {}
    for key in leaves(type(settings)):
        value = plain
        for part in key.split("."):
            value = value[part]
        texts[key] = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return texts


def env_name(key: str) -> str:
    """Return the environment variable of a dotted key."""
    return PREFIX + key.upper().replace(".", "__")


def _walk(schema: type[msgspec.Struct], prefix: str) -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(schema):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from _walk(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field.type


def _from_file(path: Path, known: Mapping[str, Any], faults: list[str]) -> dict[str, Found]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as absent:
        faults.append(
            f"{path}: cannot be read ({absent.strerror}); name a readable TOML file with --config "
            f"or {CONFIG_VARIABLE}"
        )
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as broken:
        faults.append(f"{path}: not TOML ({broken}); mend that line")
        return {}
    found = {}
    groups = {key.partition(".")[0] for key in known if "." in key}
    for name, value in document.items():
        within = value.items() if name in groups and isinstance(value, dict) else [("", value)]
        for inner, leaf in within:
            key = f"{name}.{inner}" if inner else name
            if key in known:
                found[key] = Found(leaf, f"{path}: {key}", text=False)
            else:
                faults.append(f"{path}: {key}: {_unknown(key, [*known, *groups])}")
    return found


def _from_environ(
    environ: Mapping[str, str], known: Mapping[str, Any], faults: list[str]
) -> dict[str, Found]:
    names = {env_name(key): key for key in known}
    found = {}
    for name, value in sorted(environ.items()):
        if not name.startswith(PREFIX) or name == CONFIG_VARIABLE:
            continue
        plain = name.removesuffix("_FILE")
        if name in names:
            found[names[name]] = Found(value, name, text=True)
        elif plain in names and plain in environ:
            faults.append(f"{name}: {plain} is set too; unset one of them")
        elif plain in names:
            content = _secret(name, value, faults)
            if content is not None:
                found[names[plain]] = Found(content, name, text=True)
        elif "__" in name or not _SERVICE_LINK.search(name):
            faults.append(f"{name}: {_unknown(name, names)}")
    return found


def _from_overrides(
    overrides: Mapping[str, object], known: Mapping[str, Any], faults: list[str]
) -> dict[str, Found]:
    found = {}
    for key, value in overrides.items():
        if value is None:
            continue
        if key in known:
            origin = "--" + key.rpartition(".")[2].replace("_", "-")
            found[key] = Found(value, f"{origin} ({key})", text=isinstance(value, str))
        else:
            faults.append(f"{key}: {_unknown(key, known)}")
    return found


def _secret(name: str, path: str, faults: list[str]) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as unreadable:
        why = getattr(unreadable, "strerror", None) or "not UTF-8 text"
        faults.append(f"{name}: {path!r} cannot be read ({why}); name a readable file")
        return None


def _split(value: object) -> object:
    """Read a list: a JSON array, or words between commas or blanks."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            return value
    return [word for word in re.split(r"[,\s]+", value) if word]


def _unknown(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"unknown; did you mean {near[0]}?" if near else "unknown; see `tidegate config show`"


def _describe(kind: Any) -> str:
    """Say what would be accepted: the mend."""
    if kind is bool:
        return "true or false"
    meta = next((m for m in getattr(kind, "__metadata__", ()) if isinstance(m, msgspec.Meta)), None)
    if meta is not None and meta.ge is not None:
        return f"a whole number from {meta.ge} to {meta.le}"
    if meta is not None:
        return f"{meta.min_length} to {meta.max_length} characters"
    if get_origin(kind) is tuple:
        return "a list of texts"
    options = [repr(option) for option in get_args(kind)]
    return "one of " + ", ".join(options) if options else "a text"
