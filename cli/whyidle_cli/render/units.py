"""Numbers as people read them."""

from __future__ import annotations

from typing import Final

UNKNOWN: Final = "unknown"
TIMES: Final = "\N{MULTIPLICATION SIGN}"


def seconds(value: float | None) -> str:
    """Seconds with three digits that matter: ``0.4 ms``, ``312 ms``, ``12.41 s``, ``2 min 05 s``."""
    if value is None:
        return UNKNOWN
    if value < 0:
        return "-" + seconds(-value)
    if value == 0:
        return "0 s"
    if value < 0.0995:
        return f"{value * 1000:.1f} ms"
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 9.995:
        return f"{value:.2f} s"
    if value < 59.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def percent(share: float | None) -> str:
    """A share of 0 to 1 as whole percent; small ones are not rounded to nothing."""
    if share is None:
        return UNKNOWN
    if 0 < share < 0.005:
        return "<1 %"
    if 0.995 <= share < 1:
        return ">99 %"
    return f"{share * 100:.0f} %"


def size(value: int | None) -> str:
    """Bytes in decimal units: ``812 kB``, ``3.2 GB``."""
    if value is None:
        return UNKNOWN
    number, unit = float(value), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 999.5 or unit == "TB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if number >= 99.5 or unit == "B" else f"{number:.1f} {unit}"


def count(number: int, singular: str, plural: str = "") -> str:
    """``1 thread``, ``7 threads``."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"
