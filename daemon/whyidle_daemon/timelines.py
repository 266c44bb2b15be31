"""The recent slices of every thread, one by one.

An engine gap is known only when it ends; it is then overlaid with what its driver thread waited for.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple

from whyidle_daemon.things import Thing
from whyidle_daemon.waits import WaitKey

MAX_RECORDS = 32_768  # slices kept one by one: 1.5 MB
MAX_RESTS = 4096
MAX_NS = (1 << 64) - 1


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


Rest = tuple[Any, ...]
"""Of a :class:`Record`, all but its times."""


class Line:
    """The slices of one thread, in 40 bytes each: three numbers, and the rest, which is the same of many."""

    __slots__ = ("_rests", "_times")

    def __init__(self) -> None:
        self._times = array("Q")
        self._rests: list[Rest] = []

    def __len__(self) -> int:
        return len(self._rests)

    @property
    def last(self) -> Rest:
        """The rest of the latest."""
        return self._rests[-1] if self._rests else ()

    @property
    def key(self) -> WaitKey | None:
        """Of the first slice that has one."""
        return next((key for _, key, *_ in self._rests if key is not None), None)

    def add(self, start_ns: int, blocked_ns: int, runqueue_ns: int, rest: Rest) -> None:
        times = start_ns, blocked_ns, runqueue_ns
        try:
            self._times.extend(times)
        except OverflowError:  # a recording that lies; the array may have taken some of them
            del self._times[3 * len(self._rests) :]
            self._times.extend(min(max(ns, 0), MAX_NS) for ns in times)
        self._rests.append(rest)

    def records(self) -> Iterator[tuple[int, int, int, Rest]]:
        """Start, blocked and run-queue nanoseconds, and the rest, in the order in which they came."""
        times = self._times
        return zip(times[::3], times[1::3], times[2::3], self._rests, strict=True)

    def ends(self) -> list[tuple[int, int]]:
        """Start and end of each (ns)."""
        return [(start, start + blocked + runqueue) for start, blocked, runqueue, _ in self.records()]

    def only(self, places: Sequence[int]) -> Line:
        """Of these slices, by place, a line of their own."""
        line = Line()
        for place in places:
            line._times.extend(self._times[3 * place : 3 * place + 3])
            line._rests.append(self._rests[place])
        return line


class Timelines:
    """Recent slices of every thread; at most ``limit`` in all."""

    def __init__(self, limit: int = MAX_RECORDS) -> None:
        self._threads: dict[int, Line] = {}
        self._rests: dict[Rest, Rest] = {}  # to have each only once
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
            line = self._threads[tid] = Line()
        rest: Rest = record[3:]
        if rest == line.last:
            rest = line.last
        else:
            if len(self._rests) >= MAX_RESTS:
                self._rests.clear()
            rest = self._rests.setdefault(rest, rest)
        line.add(*record[:3], rest)
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
            key = line.key
            if key is not None:
                found.setdefault(key.process.pid, []).append(tid)
        return found

    def of(self, tid: int) -> list[Record]:
        """The slices of a thread in order of time."""
        return self.named(lambda key: key)(tid)

    def named(self, name: Callable[[WaitKey], WaitKey]) -> Callable[[int], list[Record]]:
        """As :meth:`of`, with keys as ``name`` has them."""
        known: dict[int, Rest] = {}  # by identity: to hash one costs more than to name it

        def records(tid: int) -> list[Record]:
            line = self._threads.get(tid)
            if line is None:
                return []
            found = []
            for start_ns, blocked_ns, runqueue_ns, rest in line.records():
                named = known.get(id(rest))
                if named is None:
                    wait, key, *others = rest
                    named = known[id(rest)] = (wait, key if key is None else name(key), *others)
                found.append(Record(start_ns, blocked_ns, runqueue_ns, *named))
            found.sort(key=itemgetter(0))
            return found

        return records

    def forget(self, until_ns: Callable[[int], int]) -> None:
        """Drop the slices of each thread that ended by ``until_ns(tid)``."""
        for tid, line in list(self._threads.items()):
            limit = until_ns(tid)
            kept = [place for place, (_, end_ns) in enumerate(line.ends()) if end_ns > limit]
            if len(kept) < len(line):
                self._keep(tid, kept)

    def trim(self, drivers: set[int]) -> list[Record]:
        """Make room: other threads' slices go first, then the oldest half of the drivers'. Returns those."""
        goal = self._limit // 2
        if self._count <= goal:
            return []
        for tid in [tid for tid in self._threads if tid not in drivers]:
            self._keep(tid, range((len(self._threads[tid]) + 1) // 2, len(self._threads[tid])))
        lost: list[Record] = []
        if self._count > self._limit * 3 // 4:
            for tid in [tid for tid in self._threads if tid in drivers]:
                line = self._threads[tid]
                half = (len(line) + 1) // 2
                lost += [
                    Record(start_ns, blocked_ns, runqueue_ns, *rest)
                    for start_ns, blocked_ns, runqueue_ns, rest in islice(line.records(), half)
                ]
                self._keep(tid, range(half, len(line)))
            self.dropped += len(lost)
        return lost

    def _keep(self, tid: int, places: Sequence[int]) -> None:
        """Keep only these slices of a thread, and know from when on none is missing."""
        line = self._threads[tid]
        kept = line.only(places)
        first_ns = next((start_ns for start_ns, _ in kept.ends()), None)
        gone = [end for start, end in line.ends() if first_ns is None or start < first_ns]
        self._count -= len(line) - len(kept)
        self._since[tid] = max([self._since.get(tid, 0), *gone])
        if len(self._since) > self._limit:
            self._since_all = max(self._since.values())
            self._since.clear()
        if len(kept):
            self._threads[tid] = kept
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
