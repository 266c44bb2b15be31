"""Until when the daemon saw everything: what tells the next one for how long nobody looked.

Written once a second while something is observed, and at a clean end; a daemon that was killed has left one
that is at most a second old. CLOCK_MONOTONIC goes on over a restart of the daemon, and not over one of the
host: a beat of another boot tells nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Final

_NAME: Final = "last-seen"
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_MAX: Final = 4096


class Heartbeat:
    """The beat of one state directory."""

    def __init__(self, state: Path, boot: Path = BOOT_ID) -> None:
        self._path = state / _NAME
        self._boot = boot

    def last_ns(self) -> int | None:
        """When the daemon before this one saw things last; ``None``: there was none since the boot."""
        try:
            table = json.loads(self._path.read_bytes()[:_MAX])
            same = table["boot"] == self._boot.read_text().strip()
            ns = table["monotonic_ns"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return ns if same and isinstance(ns, int) and 0 < ns <= now_ns() else None

    def beat(self) -> None:
        """It is now, and all is seen."""
        with contextlib.suppress(OSError):
            text = json.dumps({"boot": self._boot.read_text().strip(), "monotonic_ns": now_ns()})
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.pwrite(descriptor, text.encode().ljust(128) + b"\n", 0)  # one size: never half of two
            finally:
                os.close(descriptor)


def now_ns() -> int:
    """CLOCK_MONOTONIC, with which the kernel side stamps."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def blind_ns(started_ns: int, last_seen_ns: int, began_ns: int) -> int:
    """For how long a process lived unobserved that is found when a daemon starts: pure.

    This observation began at ``began_ns``, the process at ``started_ns``; ``last_seen_ns`` is the beat.
    """
    return max(0, began_ns - max(started_ns, last_seen_ns))
