"""Values as Grafana tells them, by the id of their unit."""

from __future__ import annotations

from typing import Final

_BINARY: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def told(value: float, unit: str, scale: float | None = None) -> str:
    """Say a value in a unit of Grafana's. `scale` is the largest of its axis: all are told alike."""
    on_axis = scale or 0.0
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
            return _number(value, on_axis)


def size(unit: str, scale: float) -> float:
    """Return what is told as 1 on an axis up to `scale`: 0.001 of milliseconds, 60 of minutes."""
    match unit:
        case "s":
            return 0.001 if scale < 1 else 1.0 if scale < 180 else 60.0
        case "bytes":
            return 1_024.0 ** _power(scale)
        case "percentunit":
            return 0.01
        case _:
            return 1.0


def _seconds(value: float, scale: float) -> str:
    if value == 0:
        return "0 s"
    per = size("s", scale)
    return f"{_number(value / per)} {'ms' if per < 1 else 's' if per == 1 else 'min'}"


def _bytes(value: float, scale: float) -> str:
    power = _power(scale)
    return f"{_number(value / 1_024**power)} {_BINARY[power]}"


def _power(scale: float) -> int:
    power = 0
    while scale >= 1_024 and power < len(_BINARY) - 1:
        scale, power = scale / 1_024, power + 1
    return power


def _number(value: float, scale: float = 0.0) -> str:
    """Three figures, without zeros that say nothing; thousands are grouped, and millions are M."""
    if scale >= 1_000_000:
        return f"{value / 1_000_000:.3g} M" if value else "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
