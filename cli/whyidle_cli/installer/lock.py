"""One installation at a time: two would take each other's versions for old ones, and remove them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from whyidle_cli.errors import InstallFailed
from whyidle_cli.installer.layout import Layout


@contextmanager
def alone(layout: Layout) -> Iterator[None]:
    """Whoever else installs or uninstalls here meanwhile fails. Raises InstallFailed if somebody does now."""
    layout.prefix.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino != layout.lock.stat().st_ino:
            raise FileNotFoundError
    except OSError:
        os.close(descriptor)
        raise InstallFailed(
            "whyidle is being installed or uninstalled here already", "wait until that is done"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
