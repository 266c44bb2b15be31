"""How long from starting whyidled until its probes are attached: the first time, and with what that kept."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.measure import BIN, Row, judge, spread

ROUNDS = 7
GOAL_S = 2.0


def run() -> tuple[str, list[Row]]:
    """Title and rows. Ready is what the daemon tells systemd, over the same socket."""
    first = [_start("") for _ in range(ROUNDS)]
    with tempfile.TemporaryDirectory() as kept:
        _start(kept)
        again = [_start(kept) for _ in range(ROUNDS)]
    return "Start-up", [
        _row("whyidled start to probes attached, the first time", first),
        _row("the same, with the compiled probes that were kept", again),
    ]


def _row(what: str, seconds: list[float]) -> Row:
    middle = sorted(seconds)[len(seconds) // 2]
    return Row(what, f"{spread(seconds)} s", f"≤{GOAL_S:g} s", judge(middle <= GOAL_S))


def _start(cache: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(path))
            notify.settimeout(60)
            begin = time.monotonic()
            with subprocess.Popen(
                [BIN / "whyidled", "--socket", f"{folder}/socket", "--cache", cache],
                env={**os.environ, "NOTIFY_SOCKET": str(path)},
            ) as daemon:
                notify.recv(64)
                took = time.monotonic() - begin
                daemon.terminate()
    return took
