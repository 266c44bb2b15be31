"""The live line on a real (pseudo) terminal."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import subprocess
import termios
from pathlib import Path

import pytest
from fake_daemon import COMMAND, OBSERVATION, FakeDaemon, Wire

from whyidle_cli.render.live import Live
from whyidle_wire.records import Observe, Progress

ROWS, COLUMNS = 24, 60


def everything(master: int) -> str:
    """What the terminal got, until its last writer is gone."""
    data = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:  # EIO: nobody holds the other side any more
            return data.decode()
        if not piece:
            return data.decode()
        data += piece


def test_live_line_on_a_terminal(tmp_path: Path) -> None:
    """The line is drawn in the last row, within the width, and the terminal is given back as it was."""

    def script(wire: Wire) -> Observe:
        wire.welcome()
        observe = wire.observing()
        wire.send(Progress(OBSERVATION, 12.3, 0.23, "network " + "x" * 100, 1, 7, 0))
        wire.report()
        return observe

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    path = tmp_path / "w.sock"
    with FakeDaemon(path, script) as daemon:
        process = subprocess.Popen(
            [*COMMAND, "run", "--socket", str(path), "--", "true"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=slave,
            env={**os.environ, "TERM": "xterm"},
        )
        os.close(slave)
        screen = everything(master)
        assert process.wait(60) == 0
    os.close(master)
    assert daemon.said.progress_interval_s > 0
    line = screen.partition(f"\x1b[{ROWS};1H\x1b[2K\x1b[2m")[2].partition("\x1b")[0]
    assert line.startswith("⏱ 12.3 s  engine busy 23 %  waiting: network xxx")
    assert line.endswith("…")
    assert len(line) < COLUMNS
    assert f"\x1b[1;{ROWS - 1}r" in screen  # the scrolling region leaves the last row out …
    assert screen.endswith(f"\x1b7\x1b[r\x1b[{ROWS};1H\x1b[2K\x1b8")  # … and is whole again at the end


PROGRESS = Progress(OBSERVATION, 12.3, 0.23, "network", 1, 7, 0)


def test_a_terminal_that_hung_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that is gone answers EIO to everything: the line goes, the report is still to come."""
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as stream:
        live = Live(stream)
        assert live.interval_s > 0
        os.close(master)
        live.update(PROGRESS)
        live.update(PROGRESS)
        live.clear()


def test_nothing_is_drawn_by_a_background_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal belongs to whoever is in the foreground."""
    monkeypatch.setenv("TERM", "xterm")
    foreground = os.getpgrp() + 1
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: foreground)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((COLUMNS, ROWS)))

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        def fileno(self) -> int:
            return 2

    stream = Terminal()
    live = Live(stream)
    live.update(PROGRESS)
    assert stream.getvalue() == ""
    foreground -= 1
    live.update(PROGRESS)
    assert "engine busy" in stream.getvalue()
