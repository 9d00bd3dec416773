"""Goods: what a campaign file offers, as far as a sender of intents has to know it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
from msgspec import Struct

_CAMPAIGNS = Path(__file__).parent.parent / "campaigns"
DEFAULT = "qwen-spring-2026"


class Goods(Struct, frozen=True):
    """A campaign's id and its SKUs, the most popular first."""

    campaign_id: str
    skus: tuple[str, ...]


class GoodsError(Exception):
    """A campaign file that cannot be read; the message says which and why."""


class _Campaign(Struct):
    id: str


class _Item(Struct):
    sku: str


class _File(Struct):
    campaign: _Campaign
    items: list[_Item]


def path_of(name: str) -> Path:
    """Find the campaign file `name`: one of ours, or a path."""
    ours = _CAMPAIGNS / f"{name}.toml"
    return ours if ours.is_file() else Path(name)


def load(name: str) -> Goods:
    """Read what the campaign file `name` offers. Raises GoodsError."""
    path = path_of(name)
    try:
        read = msgspec.convert(tomllib.loads(path.read_text("utf-8")), _File)
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as fault:
        raise GoodsError(f"campaign {path}: {fault}") from None
    if not read.items:
        raise GoodsError(f"campaign {path}: has no items")
    return Goods(read.campaign.id, tuple(item.sku for item in read.items))
