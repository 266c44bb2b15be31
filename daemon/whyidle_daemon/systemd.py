"""Talking to the service manager: readiness, reloads, watchdog, and levels for the journal.

Everything here does nothing where systemd did not ask for it. Protocol: sd_notify(3), sd-daemon(3).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from typing import Final

_LEVELS: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.DEBUG, 7),
)


def notify(*lines: str) -> None:
    """Send state, such as ``READY=1``, to the service manager."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, contextlib.suppress(OSError):
        channel.sendto("\n".join(lines).encode(), address)


def reloading() -> None:
    """A reload begins; READY=1 ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


class Watchdog:
    """Pings from the event loop itself: a loop that hangs, or a process that is stopped, is restarted."""

    def __init__(self) -> None:
        text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
        asked = text.isdigit() and pid in (None, str(os.getpid()))
        self.interval_s = int(text) / 2e6 if asked else 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Ping now, and twice per period."""
        if self.interval_s:
            notify("WATCHDOG=1")
            self._timer = asyncio.get_running_loop().call_later(self.interval_s, self.start)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class _JournalFormatter(logging.Formatter):
    """Each line begins with its syslog level, ``<4>``, which the journal takes off and keeps."""

    def format(self, record: logging.LogRecord) -> str:
        level = next((number for least, number in _LEVELS if record.levelno >= least), 7)
        lines = super().format(record).splitlines() or [""]
        return "\n".join(f"<{level}>{line}" for line in lines)


def last_words(text: str) -> None:
    """Why the program ends: on standard error, for the journal as an error."""
    level = next(number for least, number in _LEVELS if least == logging.ERROR)
    mark = f"<{level}>" if to_journal() else ""
    sys.stderr.write("".join(f"{mark}{line}\n" for line in text.splitlines()))


def to_journal() -> bool:
    """Whether standard error is the journal (systemd.exec(5), JOURNAL_STREAM)."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        about = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return (device, inode) == (str(about.st_dev), str(about.st_ino))


def set_up_logging(level: int) -> None:
    """Log to standard error: with levels for the journal, with the program's name elsewhere."""
    handler = logging.StreamHandler(sys.stderr)
    if to_journal():
        handler.setFormatter(_JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("whyidled: %(levelname)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
