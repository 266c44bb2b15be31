"""The recent slices of every thread, one by one.

An engine gap is known only when it ends; it is then overlaid with what its driver thread waited for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import NamedTuple

from whyidle_daemon.things import Thing
from whyidle_daemon.waits import WaitKey

MAX_RECORDS = 32_768  # slices kept one by one: 6 MB


class Waker(NamedTuple):
    """Who ran when a wait ended, and in which system call."""

    pid: int
    tid: int
    syscall: int


class Record(NamedTuple):
    """One slice: asleep for ``blocked_ns`` in ``wait``, then runnable for ``runqueue_ns``."""

    start_ns: int
    blocked_ns: int
    runqueue_ns: int
    wait: int
    key: WaitKey | None
    connecting: bool = False
    port: int = 0  # the local one: which connection it was
    reset: bool = False  # the connection broke: whatever was asked for got no answer
    waker: Waker | None = None
    thing: Thing | None = None  # what on this host it waited for

    @property
    def end_ns(self) -> int:
        """When the thread ran again."""
        return self.start_ns + self.blocked_ns + self.runqueue_ns


class Timelines:
    """Recent slices of every thread; at most ``limit`` in all."""

    def __init__(self, limit: int = MAX_RECORDS) -> None:
        self._threads: dict[int, list[Record]] = {}  # a deque takes 600 bytes however short
        self._limit = limit
        self._count = 0
        self._since: dict[int, int] = {}  # by thread: the slices before this are gone
        self._since_all = 0
        self.dropped = 0  # of driver threads, not yet laid over a gap

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        """Time to settle what can be settled, then :meth:`trim`."""
        return self._count >= self._limit

    def add(self, tid: int, record: Record) -> None:
        """Keep a slice."""
        line = self._threads.get(tid)
        if line is None:
            line = self._threads[tid] = []
        line.append(record)
        self._count += 1

    def known_since(self, tid: int) -> int:
        """From when on all slices of a thread are here."""
        return max(self._since.get(tid, 0), self._since_all)

    @property
    def tids(self) -> list[int]:
        """The threads that have slices here."""
        return list(self._threads)

    def by_process(self) -> dict[int, list[int]]:
        """The threads that have slices here, by PID, as far as a slice of theirs says whose they are."""
        found: dict[int, list[int]] = {}
        for tid, line in self._threads.items():
            key = next((record.key for record in line if record.key is not None), None)
            if key is not None:
                found.setdefault(key.process.pid, []).append(tid)
        return found

    def of(self, tid: int) -> list[Record]:
        """The slices of a thread in order of time."""
        return sorted(self._threads.get(tid, ()), key=lambda record: record.start_ns)

    def named(self, name: Callable[[WaitKey], WaitKey]) -> Callable[[int], list[Record]]:
        """As :meth:`of`, with keys as ``name`` has them."""

        def records(tid: int) -> list[Record]:
            return [
                record if record.key is None else record._replace(key=name(record.key))
                for record in self.of(tid)
            ]

        return records

    def forget(self, until_ns: Callable[[int], int]) -> None:
        """Drop the slices of each thread that ended by ``until_ns(tid)``."""
        for tid, line in list(self._threads.items()):
            limit = until_ns(tid)
            kept = [record for record in line if record.end_ns > limit]
            self._count -= len(line) - len(kept)
            self._replace(tid, kept)

    def trim(self, drivers: set[int]) -> list[Record]:
        """Make room: other threads' slices go first, then the oldest half of the drivers'. Returns those."""
        goal = self._limit // 2
        if self._count <= goal:
            return []
        for tid in [tid for tid in self._threads if tid not in drivers]:
            line = self._threads[tid]
            kept = line[(len(line) + 1) // 2 :]
            self._count -= len(line) - len(kept)
            self._replace(tid, kept)
        lost: list[Record] = []
        if self._count > self._limit * 3 // 4:
            for tid in [tid for tid in self._threads if tid in drivers]:
                line = self._threads[tid]
                half = (len(line) + 1) // 2
                lost += line[:half]
                self._replace(tid, line[half:])
            self._count -= len(lost)
            self.dropped += len(lost)
        return lost

    def _replace(self, tid: int, line: list[Record]) -> None:
        first_ns = line[0].start_ns if line else None
        gone = [r.end_ns for r in self._threads[tid] if first_ns is None or r.start_ns < first_ns]
        self._since[tid] = max([self._since.get(tid, 0), *gone])
        if len(self._since) > self._limit:
            self._since_all = max(self._since.values())
            self._since.clear()
        if line:
            self._threads[tid] = line
        else:
            del self._threads[tid]


def between(records: list[Record], start_ns: int, end_ns: int) -> Iterable[Record]:
    """Those of a thread's slices, in order of time, that touch ``[start_ns, end_ns)``."""
    # Slices of one thread do not overlap, so only the one before the first can reach in.
    at = max(0, bisect_left(records, start_ns, key=lambda record: record.start_ns) - 1)
    for record in records[at:]:
        if record.start_ns >= end_ns:
            break
        if record.end_ns > start_ns:
            yield record
