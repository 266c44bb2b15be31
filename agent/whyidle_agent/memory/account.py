"""The memory's own account of what it holds, against which an observer's report is checked."""

import sys
import time
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

MAX_POINTS = 256
_VALUES = 4  # in a point
_SMALL = 512  # bytes up to which Python's own allocator serves, in steps of 16
_STATUS = Path("/proc/self/status")


class Account:
    """Counters, and over time: seconds (CLOCK_MONOTONIC), step, bytes held, bytes of the whole process.

    Of too many points every second one is forgotten, and their room is there from the start, so that the
    account is not what grows.
    """

    def __init__(self, policy: str) -> None:
        """`policy`: unbounded or managed."""
        self.policy = policy
        self.entries = 0  # held in the process
        self.held_bytes = 0
        self.indexed = 0  # embeddings made
        self.duplicates = 0  # of them: of a text that was indexed before
        self.duplicate_bytes = 0
        self.merged = 0
        self.expired = 0
        self.compactions = 0
        self.store_full = 0  # steps that found no room, and were added later
        self._points = array("d", bytes(8 * _VALUES * MAX_POINTS))
        self._count = 0
        self._stride = 1
        self._seen = 0

    def point(self, step: int) -> None:
        """Note how much is held after `step`."""
        if self._seen % self._stride == 0:
            self._put(self._count, (time.monotonic(), step, self.held_bytes, own_bytes()))
            self._count += 1
            if self._count == MAX_POINTS:
                self._count //= 2
                for kept in range(self._count):
                    self._put(kept, self._get(2 * kept))
                self._stride *= 2
        self._seen += 1

    def as_json(self) -> dict[str, Any]:
        """Return the account as a JSON object."""
        public = {key: value for key, value in vars(self).items() if not key.startswith("_")}
        return public | {"points": [list(self._get(number)) for number in range(self._count)]}

    def _put(self, number: int, point: Iterable[float]) -> None:
        for at, value in enumerate(point, _VALUES * number):
            self._points[at] = value

    def _get(self, number: int) -> Sequence[float]:
        return self._points[_VALUES * number : _VALUES * (number + 1)]


def own_bytes() -> int:
    """Return the memory of this process that no file backs, bytes; 0 where the kernel does not say."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return 0
    return 0


def size_of(*parts: object) -> int:
    """Return the bytes that objects take in this process, without what they refer to."""
    return sum(map(_allocated, parts))


def _allocated(one: object) -> int:
    size = sys.getsizeof(one)
    return (size + 15) // 16 * 16 + (16 if size > _SMALL else 0)
