"""`endpoints.json`: where a running cluster and each of its processes is to be found."""

from __future__ import annotations

from pathlib import Path

import msgspec

from deploy.embedded.folder import write_private

_NAME = "endpoints.json"


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """The file's content; the field names are public."""

    api: str = ""
    metrics: dict[str, str] = {}
    postgres: str
    valkey: str
    rabbitmq: str = ""  # empty: Valkey is the broker
    api_key: str = ""
    processes: dict[str, list[int]] = {}

    def write(self, data: Path) -> None:
        """Replace the file in `data` in one step."""
        text = msgspec.json.format(msgspec.json.encode(self), indent=2)
        write_private(data / _NAME, text + b"\n")


def read(data: Path) -> Endpoints:
    """Read the file in `data`; raises FileNotFoundError when no cluster runs there."""
    return msgspec.json.decode((data / _NAME).read_bytes(), type=Endpoints)


def remove(data: Path) -> None:
    """Say that no cluster runs on `data` any more."""
    (data / _NAME).unlink(missing_ok=True)
