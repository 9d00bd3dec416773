"""`tidegate config`."""

from __future__ import annotations

import os
from typing import Any

import click
import msgspec

from config import settings as settings_module
from config.sources import env_name, gather
from deploy.cli.output import json_option, show
from deploy.cli.target import Invocation, load_settings


@click.group()
def config() -> None:
    """Show the effective settings."""


@config.command("show")
@json_option
@click.pass_obj
def show_settings(invocation: Invocation, as_json: bool) -> None:
    """Print every setting, its value and where that came from; secrets are masked.

    The text is TOML: a settings file may be begun from it.
    """
    settings = load_settings()
    found, _ = gather(settings_module.Settings, invocation.config_file, {}, os.environ)
    origins = {key: source.origin for key, source in found.items()}
    plain = settings_module.redacted(settings)
    show(plain, _toml(plain, origins), as_json=as_json)


def _toml(plain: dict[str, Any], origins: dict[str, str]) -> str:
    top = {name: value for name, value in plain.items() if not isinstance(value, dict)}
    lines = [_line(name, name, value, origins) for name, value in top.items()]
    for group, values in plain.items():
        if isinstance(values, dict):
            lines += ["", f"[{group}]"]
            lines += [_line(name, f"{group}.{name}", v, origins) for name, v in values.items()]
    return "\n".join(lines)


def _line(name: str, key: str, value: Any, origins: dict[str, str]) -> str:
    # A JSON text, number, truth value or list of texts is the same in TOML.
    line = f"{name} = {msgspec.json.encode(value).decode()}"
    origin = origins.get(key)
    return f"{line:<60}  # from {origin}" if origin else f"{line:<60}  # default; {env_name(key)}"
