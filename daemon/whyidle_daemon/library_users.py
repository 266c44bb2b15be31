"""Who maps the files that have probes, by device and inode.

Told where it is known: of a process that was looked at, and of its children, which begin with what it maps.
A child may have been forked by one whose look was not granted, and the C library is not announced: before a
file counts as unused, the maps of everybody who is observed are read. Each may take 50 ms, and there may be
ten thousand: one turn of it is short, and all turns together a twentieth of the daemon's time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from typing import Final

from whyidle_daemon.proc import Proc

Key = tuple[tuple[int, int], int]
"""A file: its device and inode."""

TURN_S: Final = 0.01
"""No other process is begun with after this."""
SHARE: Final = 0.05


class LibraryUsers:
    """The observed processes that map each file, as far as that is known."""

    def __init__(
        self,
        proc: Proc,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self._proc, self._clock, self._cpu = proc, clock, cpu
        self._of: dict[Key, set[int]] = {}
        self._files: dict[int, set[Key]] = {}  # the same by process
        self._sought: set[Key] = set()  # seem unused: whether they are is being looked for
        self._unread: list[int] = []  # processes to look at for that
        self._read: set[int] = set()
        self._again_s = 0.0

    def add(self, pid: int, key: Key) -> None:
        self._of.setdefault(key, set()).add(pid)
        self._files.setdefault(pid, set()).add(key)

    def forked(self, parent: int, pid: int) -> None:
        for key in self._files.get(parent, ()):
            self._of[key].add(pid)
        if parent in self._files:
            self._files[pid] = set(self._files[parent])

    def forget(self, pid: int) -> None:
        """It maps nothing any more, or nobody cares."""
        for key in self._files.pop(pid, ()):
            self._of[key].discard(pid)
            if not self._of[key]:
                del self._of[key]
        self._read.discard(pid)

    def count(self, pid: int) -> int:
        """How many files a process maps."""
        return len(self._files.get(pid, ()))

    def clear(self) -> None:
        self._of.clear()
        self._files.clear()
        self._sought.clear()

    @property
    def seeking(self) -> bool:
        """There is more to be looked at before it is known whether files are unused."""
        return bool(self._sought)

    def unused(self, files: Iterable[Key], observed: Callable[[], Iterable[int]]) -> Collection[Key]:
        """Those of the files that no observed process maps; none as long as that is still looked for."""
        idle = {key for key in files if not self._of.get(key)}
        if not self._sought:
            self._sought, self._unread, self._read = idle, [], set()
        else:
            self._sought &= idle
        if not self._sought:
            return ()
        self._unread = [pid for pid in observed() if pid not in self._read]
        if self._unread and self._clock() >= self._again_s:
            self._turn()
        if self._unread:
            return ()
        found, self._sought = self._sought, set()
        return found

    def _turn(self) -> None:
        began_s = self._cpu()
        while self._unread and self._sought and self._cpu() - began_s < TURN_S:
            pid = self._unread.pop()
            self._read.add(pid)
            for mapping in self._proc.mappings(pid):
                key = (mapping.device, mapping.inode)
                if key in self._sought:
                    self.add(pid, key)
                    self._sought.discard(key)
                    if not self._sought:
                        break
        if not self._sought:
            self._unread.clear()
        self._again_s = self._clock() + (self._cpu() - began_s) / SHARE
