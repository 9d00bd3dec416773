"""The `tidegate` command: one module per noun, loaded when its command is used."""

from __future__ import annotations

from deploy.cli.root import main

__all__ = ["main"]
