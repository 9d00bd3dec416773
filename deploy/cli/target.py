"""What a command is aimed at: a running `tidegate dev`, or the deployment the settings name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click
from msgspec.structs import replace

from config import settings as config

F = TypeVar("F", bound=Callable[..., Any])

data_option: Callable[[F], F] = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Aim at the `tidegate dev` that runs on this data folder, instead of the settings.",
)


class NoClusterError(Exception):
    """No embedded cluster runs on the data folder that was named."""


class Invocation:
    """One run of the command line: click's object for all commands."""

    def __init__(self) -> None:
        """Nothing is loaded before a command asks for it."""
        self.config_file: Path | None = None
        # The settings loaded last, for errors to name what could not be reached.
        self.settings: config.Settings | None = None


def load_settings(overrides: Mapping[str, object] | None = None) -> config.Settings:
    """Load the settings; `overrides` have dotted keys, and None values count as not given."""
    invocation = _invocation()
    invocation.settings = config.load(invocation.config_file, overrides or {})
    return invocation.settings


def connection_settings(data: Path | None) -> config.Settings:
    """Return the settings by which an operator's command reaches its deployment.

    With `data`, those of the embedded cluster that runs there, its master secret included. Raises
    NoClusterError when none does.
    """
    settings = load_settings()
    if data is not None:
        settings = _of_cluster(settings, data)
        _invocation().settings = settings
    return settings


def _of_cluster(settings: config.Settings, data: Path) -> config.Settings:
    from deploy.embedded import endpoints, folder

    try:
        where = endpoints.read(data)
        state = folder.read_state(data)
    except FileNotFoundError as absent:
        msg = f"no cluster runs on {data}; start one with `tidegate dev --data {data}`"
        raise NoClusterError(msg) from absent
    api = urlsplit(where.api)
    return replace(
        settings,
        postgres=replace(settings.postgres, dsn=where.postgres),
        valkey=replace(settings.valkey, url=where.valkey),
        broker=replace(settings.broker, url=where.rabbitmq),
        api=replace(settings.api, host=api.hostname or "127.0.0.1", port=api.port or 0),
        webhooks=replace(settings.webhooks, allow_private=True),
        secrets=replace(settings.secrets, master=settings.secrets.master or state.master),
    )


def _invocation() -> Invocation:
    found = click.get_current_context().find_object(Invocation)
    return found if found is not None else Invocation()
