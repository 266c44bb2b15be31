"""Which user a subordinate user ID belongs to: limits per user would otherwise be 65,536 times as high."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Final

from whyidle_daemon.remembered import Remembered

SUBUID: Final = Path("/etc/subuid")
_MAX_BYTES: Final = 1 << 20


class Subordinates:
    """``/etc/subuid`` (subuid(5)), read again when it has changed. Without it nobody has any."""

    def __init__(self, path: Path = SUBUID) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._ranges: list[tuple[int, int, int | str]] = []  # first, behind the last, owner or his name
        self._uid = Remembered(_uid_of)

    def owner(self, uid: int) -> int:
        """The user who may act as ``uid`` in a name space of his; otherwise ``uid`` itself."""
        self._refresh()
        for first, end, owner in self._ranges:
            if first <= uid < end:
                number = owner if isinstance(owner, int) else self._uid(owner)
                return uid if number is None else number
        return uid

    def _refresh(self) -> None:
        try:
            about = os.stat(self._path)  # noqa: PTH116 (once per connection: the cheapest)
        except OSError:
            self._stamp, self._ranges = None, []
            return
        stamp = about.st_ino, about.st_size, about.st_mtime_ns
        if stamp == self._stamp:
            return
        self._stamp, self._ranges = stamp, []
        try:
            with self._path.open("rb") as file:
                text = file.read(_MAX_BYTES).decode("utf-8", "replace")
        except OSError:
            return
        for line in text.splitlines():
            name, _, rest = line.partition(":")
            first, _, count = rest.partition(":")
            try:
                owner = int(name) if name.isdecimal() else name
                self._ranges.append((int(first), int(first) + int(count), owner))
            except ValueError:
                continue


def _uid_of(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return None
