"""The live line: what is going on right now, while a command is observed.

On a terminal it has the last row to itself: the rows above become the scrolling region, so that what the
observed command prints scrolls there and neither overwrites the other (apt's progress bar does the same).
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, Final, TextIO

from rich.cells import cell_len, set_cell_size

from whyidle_cli.render.units import percent, seconds
from whyidle_cli.sanitize import sanitize
from whyidle_wire.records import Progress

_MIN_ROWS: Final = 5
_MOST_GPUS: Final = 4
_MIN_COLUMNS: Final = 20


def progress_text(progress: Progress) -> str:
    """The line, not yet cut to a width."""
    parts = [f"⏱ {seconds(progress.elapsed_s)}"]
    if progress.engine_busy_share is None:
        parts.append("no engine yet")
    else:
        parts.append(f"engine busy {percent(progress.engine_busy_share)}")
    parts += [_gpu(gpu) for gpu in progress.gpus[:_MOST_GPUS]]
    parts.append(f"waiting: {sanitize(progress.wait, 120)}" if progress.wait else "not waiting")
    if progress.processes > 1:
        parts.append(f"{progress.processes} processes")
    if progress.events_lost:
        parts.append(f"{progress.events_lost} events lost")
    return "  ".join(parts)


def _gpu(gpu: dict[str, Any]) -> str:
    share, simulated = gpu.get("busy_share"), gpu.get("simulated")
    name = sanitize(str(gpu.get("id")), 20) + (" (simulated)" if simulated else "")
    return f"{name} {percent(share)} busy" if isinstance(share, int | float) else name


class Live:
    """Draws Progress records on ``stream``.

    ``interval_s`` is how often the daemon should send them: 0 when there is nothing to draw on.
    """

    def __init__(self, stream: TextIO, *, forced: bool = False) -> None:
        """``forced`` (``--live``) writes whole lines, less often, where ``stream`` is not a terminal."""
        self._stream = stream
        self._size: tuple[int, int] | None = None
        self._terminal = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._on = self._terminal or forced
        self.interval_s = (0.5 if self._terminal else 5.0) if self._on else 0.0

    def update(self, progress: Progress) -> None:
        """Show the newest state."""
        if not self._on:
            return
        text = progress_text(progress)
        try:
            drawn = self._placed(text) if self._terminal else text + "\n"
        except OSError:
            self._on = False  # hung up
        else:
            self._write(drawn)

    def clear(self) -> None:
        """Remove the line and give the terminal back as it was."""
        if self._size is not None:
            _, rows = self._size
            self._size = None
            self._write(f"\x1b7\x1b[r\x1b[{rows};1H\x1b[2K\x1b8")

    def _placed(self, text: str) -> str:
        """What draws it; empty where there is no room, or where the terminal is not ours now (``&``)."""
        descriptor = self._stream.fileno()
        with contextlib.suppress(OSError):  # not its controlling terminal: nobody else's either
            if os.tcgetpgrp(descriptor) != os.getpgrp():
                return ""
        columns, rows = os.get_terminal_size(descriptor)
        if rows < _MIN_ROWS or columns < _MIN_COLUMNS:
            return ""
        begin = ""
        if self._size != (columns, rows):
            # Make room below the cursor, then shorten the region; setting it moves the cursor, hence 7 and 8.
            begin = f"\n\x1b7\x1b[1;{rows - 1}r\x1b8\x1b[1A"
            self._size = (columns, rows)
        if cell_len(text) >= columns:
            text = set_cell_size(text, columns - 2) + "…"
        return f"{begin}\x1b7\x1b[{rows};1H\x1b[2K\x1b[2m{text}\x1b[0m\x1b8"

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self._on = False  # the terminal is gone; the observed command may not be
