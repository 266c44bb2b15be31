"""The table of ``whyidle ps``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from typing import Any, Final, TextIO

from rich.cells import cell_len

from whyidle_cli.render.states import name
from whyidle_cli.render.text import column, fit
from whyidle_cli.render.units import percent, seconds

_HEAD: Final = ("PID", "USER", "SINCE", "STATE", "ENGINE", "WHERE", "FOUND BY", "COMMAND")
_WIDEST: Final = (10, 12, 9, 16, 14, 26, 20)
_RIGHT: Final = (0, 2)
_LEAST_COMMAND: Final = 20
_PIPED: Final = 160


def print_targets(targets: list[dict[str, Any]], stream: TextIO | None = None) -> None:
    """One line per target, oldest first. Raises KeyError or TypeError for another shape."""
    stream = sys.stdout if stream is None else stream
    if not targets:
        stream.write("nothing is observed: no process matches a rule, and nobody attached to one\n")
        return
    rows = [_row(target) for target in sorted(targets, key=lambda target: str(target["since"]))]
    widths = [
        min(most, max(cell_len(fit(row[i], most)) for row in (_HEAD, *rows)))
        for i, most in enumerate(_WIDEST)
    ]
    terminal = shutil.get_terminal_size().columns if stream.isatty() else _PIPED
    left = max(terminal - sum(widths) - 2 * len(widths), _LEAST_COMMAND)
    for row in (_HEAD, *rows):
        cells = [
            column(text, width, right=i in _RIGHT)
            for i, (text, width) in enumerate(zip(row[:-1], widths, strict=True))
        ]
        stream.write("  ".join([*cells, fit(row[-1], left)]).rstrip() + "\n")


def _row(target: dict[str, Any]) -> tuple[str, ...]:
    state = "-"
    if target["state"] is not None:
        state = f"{name(target['state'])} {percent(target['state_share'])}"
    return (
        str(target["pid"]),
        str(target["user"] or "?"),
        seconds(target["observed_s"]),
        state,
        _engine(target["engines"], target["engine_busy_share"]),
        _where(target),
        str(target["rule"] or target["client"] or "?"),
        " ".join(map(str, target["command"])),
    )


def _engine(engines: list[dict[str, Any]], busy: float | None) -> str:
    kinds = "+".join(_distinct(str(engine["kind"]) for engine in engines))
    return f"{kinds} {percent(busy)} busy" if kinds and busy is not None else kinds or "-"


def _where(target: dict[str, Any]) -> str:
    """The container and its pod, else the unit: the nearest thing that an operator can address."""
    container = target["container"]
    if container is not None:
        where = f"{container['runtime']}:{str(container['id'])[:12]}"
        return f"{where} pod {target['pod'][:8]}" if target["pod"] else where
    return str(target["unit"] or "-")


def _distinct(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))
