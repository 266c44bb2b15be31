"""The time that decides how old recordings are (see `age`), from one daemon to the next."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final

NAME: Final = "recordings-time"


def read(state: Path) -> float | None:
    """Seconds since 1970; ``None``: there is none, or not to be made sense of."""
    try:
        return float((state / NAME).read_bytes()[:64])
    except (OSError, ValueError):
        return None


def write(state: Path, now_s: float) -> None:
    """Keep it, if that is possible."""
    with contextlib.suppress(OSError):
        descriptor = os.open(state / NAME, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.pwrite(descriptor, f"{now_s:.0f}".encode().ljust(32) + b"\n", 0)  # one size: never half of two
        finally:
            os.close(descriptor)


def boottime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
