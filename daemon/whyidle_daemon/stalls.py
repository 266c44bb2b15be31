"""Waits that have not ended: the hang is the case that matters most.

Pure: told what threads do, says which waits have crossed the threshold and which of those are over. A thread
that is meant to wait is not stalled: a loop in its selector, a server in accept, a worker without work. But a
loop whose main task awaits somebody's answer is.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable, Iterator
from typing import NamedTuple

from whyidle_daemon.states import SELECTORS
from whyidle_probes.events import Glance, Thread, Wait

# Any thread that sleeps in these is held up by somebody else.
ALWAYS = frozenset(
    {
        Wait.TCP,
        Wait.UDP,
        Wait.FILE,
        Wait.DISK,
        Wait.FAULT,
        Wait.MEMORY,
        Wait.STOPPED,
        Wait.THROTTLED,
        Wait.RUNQUEUE,
    }
)
# A worker waits for work in these, and for ever; a thread that others depend on is stalled in them.
ONLY_IF_LEADING = frozenset(
    {Wait.FUTEX, Wait.GIL, Wait.PIPE, Wait.UNIX, Wait.CHILD, Wait.SYSV_IPC, Wait.IO_URING}
)
MAX_OPEN = 256
MAX_CANDIDATES = 256
MAX_WATCHED = 64


class Stall(NamedTuple):
    """A wait above the threshold. ``thread`` is as it was when the wait was reported first."""

    thread: Thread
    duration_ns: int
    ended: bool


def leading(thread: Thread | Glance, drivers: Container[int]) -> bool:
    """Whether others depend on this thread: it is a process's first, or drives an engine."""
    return thread.tid == thread.pid or thread.tid in drivers


def may_stall(thread: Thread | Glance, drivers: Container[int]) -> bool:
    """Whether a wait of this kind is a stall once it has lasted long enough."""
    counts = thread.state in ALWAYS or (thread.state in ONLY_IF_LEADING and leading(thread, drivers))
    return counts and not thread.end_ns


class Crowd:
    """Of all threads of a target the ones to look at often, given each of them once.

    ``candidates``: those whose wait may become a stall, and since when they wait, at most 256, the longest
    first; then as many loops in their selectors, which are stalled if a task of theirs awaits an answer.
    ``watched``: those whose code is worth reading, at most 64. What leads a process, and what may be a
    stall, comes first: somebody waits for it.
    """

    def __init__(self, drivers: Container[int]) -> None:
        self._drivers = drivers
        self._waiting: list[tuple[int, int]] = []
        self._loops: list[tuple[int, int]] = []
        self._first: list[tuple[int, int]] = []
        self._rest: list[tuple[int, int]] = []

    def passing(self, threads: Iterable[Glance]) -> Iterator[Glance]:
        """The same threads without those that ended; they are not kept, and there may be ten thousand."""
        for thread in threads:
            if thread.end_ns:
                continue
            stalls = may_stall(thread, self._drivers)
            if stalls:
                _keep(self._waiting, thread, MAX_CANDIDATES)
            elif thread.state in SELECTORS and leading(thread, self._drivers):
                _keep(self._loops, thread, MAX_CANDIDATES)
            if stalls or thread.tid == thread.pid:
                _keep(self._first, thread, MAX_WATCHED)
            else:
                _keep(self._rest, thread, MAX_WATCHED)
            yield thread

    @property
    def candidates(self) -> list[tuple[int, int]]:
        ranked = [*sorted(self._waiting, reverse=True), *sorted(self._loops, reverse=True)]
        return [(tid, -since) for since, tid in ranked]

    @property
    def watched(self) -> list[int]:
        ranked = [*sorted(self._first, reverse=True), *sorted(self._rest, reverse=True)]
        return [tid for _, tid in ranked[:MAX_WATCHED]]


def _keep(longest: list[tuple[int, int]], thread: Glance, limit: int) -> None:
    """Among the ``limit`` that have been at it longest: a heap whose first has been so for the least time."""
    item = (-thread.last_ns, thread.tid)
    if len(longest) < limit:
        heapq.heappush(longest, item)
    elif item > longest[0]:
        heapq.heapreplace(longest, item)


class StallTracker:
    """Which stalls are open, by thread."""

    def __init__(self) -> None:
        self.open: dict[int, Thread] = {}

    def update(
        self,
        threads: Iterable[Thread | Glance],
        now_ns: int,
        threshold_ns: int,
        drivers: Container[int],
        awaiting: Container[tuple[int, int]] = (),
    ) -> list[Stall]:
        """Stalls that began or ended, given what threads do now; of those with an open one a glance will do.

        ``awaiting`` are event loops whose tasks wait for an answer: thread and start of its wait.
        A thread with an open stall that is not among them is gone.
        """
        changed: list[Stall] = []
        seen = {thread.tid: thread for thread in threads}
        for tid, stalled in list(self.open.items()):
            thread = seen.get(tid)
            if thread is not None and thread.last_ns == stalled.last_ns and not thread.end_ns:
                continue
            # The next interval began when this one ended; a thread that is gone ended some time before now.
            over = thread.last_ns if thread is not None and thread.state == Wait.RUNNING else now_ns
            del self.open[tid]
            changed.append(Stall(stalled, max(over - stalled.last_ns, 0), True))
        for tid, thread in seen.items():
            if tid in self.open or isinstance(thread, Glance) or now_ns - thread.last_ns < threshold_ns:
                continue
            counts = may_stall(thread, drivers)
            counts = counts or (leading(thread, drivers) and (tid, thread.last_ns) in awaiting)
            if counts and len(self.open) < MAX_OPEN:
                self.open[tid] = thread
                changed.append(Stall(thread, now_ns - thread.last_ns, False))
        return changed
