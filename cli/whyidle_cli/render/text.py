"""Building blocks of the report: text that fits its columns, and bars.

Everything is a ``rich.text.Text`` that was built, never parsed, so that ``[red]`` in a thread's name is just
that. Widths are terminal cells, not characters: a wide character takes two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from whyidle_cli.sanitize import sanitize

_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"

# Only for its knowledge of how text wraps; nothing is printed on it.
_MEASURE: Final = Console(width=80, color_system=None, force_terminal=False, highlight=False)


def fit(text: object, width: int) -> str:
    """Sanitised, at most ``width`` cells, an ellipsis where it was cut."""
    clean = sanitize(str(text), max(width * 2, 1))
    if cell_len(clean) <= width:
        return clean
    return set_cell_size(clean, width - 1).rstrip() + "…" if width > 1 else "…"[:width]


def column(text: object, width: int, *, right: bool = False) -> str:
    """The same, padded to exactly ``width`` cells."""
    fitted = fit(text, width)
    padding = " " * (width - cell_len(fitted))
    return padding + fitted if right else fitted + padding


def wrap(text: str, width: int, style: str = "", first: str = "", rest: str | None = None) -> list[Text]:
    """Sanitised, wrapped between words into lines of ``width``, with a prefix on the first and the rest."""
    rest = " " * cell_len(first) if rest is None else rest
    clean = sanitize(text, 4000).strip()
    room = max(width - max(cell_len(first), cell_len(rest)), 10)
    lines = Text(clean).wrap(_MEASURE, room)
    return [
        Text.assemble(first if number == 0 else rest, (line.plain.rstrip(), style))
        for number, line in enumerate(lines)
    ]


def join(parts: Iterable[str], separator: str = " · ") -> str:
    """The parts that are not empty."""
    return separator.join(part for part in parts if part)


def flow(items: Iterable[str], width: int, style: str = "", indent: str = "") -> list[Text]:
    """The items that are not empty, a dot between them, broken into lines only between items."""
    lines: list[str] = []
    room = width - cell_len(indent)
    for item in items:
        if item and lines and cell_len(lines[-1]) + 3 + cell_len(item) <= room:
            lines[-1] += " · " + item
        elif item:
            lines.append(fit(item, room))
    return [Text(indent + line, style) for line in lines]


def bar(share: float | None, width: int) -> str:
    """A bar of ``width`` cells, to an eighth of a cell; empty if the share is unknown."""
    share = min(max(share or 0.0, 0.0), 1.0)
    eighths = round(share * width * 8)
    if share > 0:
        eighths = max(eighths, 1)
    whole, part = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[part] if part else "")).ljust(width)


def gauge(share: float | None, width: int, style: str) -> Text:
    """A bar with the rest of its width dotted, for a share of a whole that is there to be filled."""
    drawn = bar(share, width).rstrip()
    return Text.assemble((drawn, style), ("·" * (width - len(drawn)), "dim"))


def cells(shares: Sequence[float], width: int) -> list[int]:
    """Divide ``width`` cells in proportion to ``shares`` (largest remainder); all 0 if the shares are."""
    total = sum(shares)
    if total <= 0:
        return [0] * len(shares)
    exact = [share / total * width for share in shares]
    whole = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda index: whole[index] - exact[index])
    for index in by_remainder[: width - sum(whole)]:
        whole[index] += 1
    return whole


def peer_text(peer: dict[str, Any] | Any | None) -> str:
    """``search.example (93.184.216.34:443)``, ``127.0.0.1:8080``, ``[::1]:80``; empty for None."""
    if not peer:
        return ""
    address = sanitize(str(peer.get("address") or ""), 60)
    host = sanitize(str(peer.get("host") or ""), 60)
    if address:
        address = f"[{address}]" if ":" in address else address
        address += f":{peer.get('port')}" if peer.get("port") else ""
    if host and address:
        return f"{host} ({address})"
    return host or address
