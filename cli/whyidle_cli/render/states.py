"""How each state looks: a glyph for terminals without colour, a colour for the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from rich.text import Text

from whyidle_cli.render.text import cells, join
from whyidle_cli.render.units import percent
from whyidle_cli.sanitize import sanitize


class Look(NamedTuple):
    """How a state is drawn."""

    glyph: str
    style: str


_LOOKS: Final = {
    "running": Look("█", "green"),
    "gpu_wait": Look("▓", "bright_green"),
    "runqueue": Look("▓", "yellow"),
    "throttled": Look("▓", "bright_red"),
    "network": Look("▒", "magenta"),
    "dns": Look("▒", "bright_magenta"),
    "disk": Look("▒", "cyan"),
    "page_fault": Look("▒", "bright_cyan"),
    "lock": Look("▒", "red"),
    "gil": Look("▒", "bright_yellow"),
    "local_ipc": Look("░", "blue"),
    "child": Look("░", "bright_blue"),
    "event_loop": Look("·", "dim"),
    "sleep": Look("·", "dim"),
    "stopped": Look("x", "dim"),
    "other": Look("·", "dim"),
}
_SMALLEST: Final = 0.005
_FIRST: Final = ("running", "runqueue", "throttled")
_OTHER_GLYPH: Final = {"█": "▓", "▓": "▒", "▒": "░", "░": "▒", "·": "-", "x": "·"}


def look(state: str) -> Look:
    """The look of a state, also of one that a newer daemon invents."""
    return _LOOKS.get(state, Look("·", "dim"))


def name(state: str) -> str:
    """The state's name in a sentence."""
    return sanitize(state, 20).replace("_", " ")


def ordered(states: Mapping[str, float]) -> list[tuple[str, float]]:
    """Running and waiting for a CPU first, so that the bars compare; then by size. Zeros are left out."""
    rank = {state: index for index, state in enumerate(_FIRST)}
    return sorted(
        ((state, value) for state, value in states.items() if value > 0),
        key=lambda item: (rank.get(item[0], len(rank)), -item[1], item[0]),
    )


def state_bar(states: Mapping[str, float], width: int) -> Text:
    """The states stacked in one bar of ``width`` cells. Neighbours never have the same glyph."""
    text = Text()
    parts = ordered(states)
    before = ""
    for (state, _), size in zip(parts, cells([value for _, value in parts], width), strict=True):
        if size == 0:
            continue
        glyph, style = look(state)
        glyph = _OTHER_GLYPH[glyph] if glyph == before else glyph
        text.append(glyph * size, style)
        before = glyph
    text.pad_right(width - text.cell_len)
    return text


def state_legend(states: Mapping[str, float], width: int) -> str:
    """``running 36 % · network 60 %``, in the order of the bar; as many of the largest as fit."""
    total = sum(states.values())
    if total <= 0:
        return "no time seen"
    parts = [(state, value / total) for state, value in ordered(states) if value / total >= _SMALLEST]
    while True:
        text = join(f"{name(state)} {percent(share)}" for state, share in parts)
        if len(text) <= width or len(parts) == 1:
            return text
        parts.remove(min(parts, key=lambda part: part[1]))
