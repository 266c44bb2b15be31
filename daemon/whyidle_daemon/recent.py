"""What was read last of each thread, in bounded memory: a target decides how many there are, and their names.

When there is no room those go first that have ended, then what was read longest ago.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from whyidle_daemon.facts import LoopTasks, Site, StackSample
from whyidle_probes.events import Thread

ROOM = 1 << 20  # characters: up to 4 MB, since one takes one to four bytes
_ENTRY = 500  # what an entry takes besides its texts, in characters

Read = TypeVar("Read", StackSample, LoopTasks)


class Recent(Generic[Read]):
    """By TID. The newest is always kept."""

    def __init__(self, room: int = ROOM) -> None:
        self._kept: OrderedDict[int, tuple[Read, int]] = OrderedDict()  # with its size, the oldest first
        self._ended: OrderedDict[int, None] = OrderedDict()  # TIDs of these
        self._room = room
        self.size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, read: Read) -> None:
        """This was read last of its thread."""
        self.pop(read.tid)
        size = _size(read)
        self._kept[read.tid] = read, size
        self.size += size
        while self.size > self._room and len(self._kept) > 1:
            self.pop(next(iter(self._ended or self._kept)))

    def get(self, thread: Thread) -> Read | None:
        """What was read last of this thread, and not of another that had its TID before."""
        read, _ = self._kept.get(thread.tid, (None, 0))
        if read is None or read.pid != thread.pid or read.since_ns < thread.first_ns:
            return None
        return read

    def pop(self, tid: int) -> None:
        """It does not count any more."""
        _, size = self._kept.pop(tid, (None, 0))
        self._ended.pop(tid, None)
        self.size -= size

    def ended(self, tid: int) -> None:
        """A thread has ended: somebody may still ask what it waited in, as long as there is room."""
        if tid in self._kept:
            self._ended[tid] = None


def _size(read: StackSample | LoopTasks) -> int:
    if isinstance(read, StackSample):
        return _ENTRY + _characters(read.site)
    return _ENTRY + sum(_ENTRY + _characters(one.site) for one in read.tasks)


def _characters(site: Site) -> int:
    return len(site.function) + len(site.file) + sum(map(len, site.stack))
