"""Values as Grafana tells them, by the id of their unit."""

from __future__ import annotations

from typing import Final

_BINARY: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def told(value: float, unit: str, scale: float | None = None) -> str:
    """Say a value in a unit of Grafana's. `scale` is the largest of its axis: all are told alike."""
    scale = abs(value) if scale is None else scale
    match unit:
        case "s":
            return _seconds(value, scale)
        case "percentunit":
            return f"{_number(100 * value)} %"
        case "suffix: /s" | "reqps":
            return f"{_number(value)}/s"
        case "bytes":
            return _bytes(value, scale)
        case _:
            return _number(value)


def _seconds(value: float, scale: float) -> str:
    if value == 0:
        return "0 s"
    if scale < 1:
        return f"{_number(1_000 * value)} ms"
    if scale < 180:
        return f"{_number(value)} s"
    return f"{_number(value / 60)} min"


def _bytes(value: float, scale: float) -> str:
    power = 0
    while scale >= 1_024 and power < len(_BINARY) - 1:
        scale, power = scale / 1_024, power + 1
    return f"{_number(value / 1_024**power)} {_BINARY[power]}"


def _number(value: float) -> str:
    """Three figures, without zeros that say nothing; thousands are grouped."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
