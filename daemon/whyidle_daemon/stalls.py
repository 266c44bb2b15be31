"""Waits that have not ended: the hang is the case that matters most.

Pure: told what threads do, says which waits have crossed the threshold and which of those are over. A thread
that is meant to wait is not stalled: a loop in its selector, a server in accept, a worker without work.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import NamedTuple

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


class Stall(NamedTuple):
    """A wait above the threshold. ``thread`` is as it was when the wait was reported first."""

    thread: Thread
    duration_ns: int
    ended: bool


def may_stall(thread: Thread | Glance, drivers: Container[int]) -> bool:
    """Whether a wait of this kind is a stall once it has lasted long enough."""
    leads = thread.tid == thread.pid or thread.tid in drivers
    return not thread.end_ns and (thread.state in ALWAYS or (leads and thread.state in ONLY_IF_LEADING))


def candidates(threads: Iterable[Glance], drivers: Container[int]) -> list[tuple[int, int]]:
    """Threads whose wait may become a stall, and since when they wait: at most 256, the longest first.

    A wait of which nobody looked in its first second is not among them before the next look.
    """
    waiting = sorted((thread.last_ns, thread.tid) for thread in threads if may_stall(thread, drivers))
    return [(tid, since) for since, tid in waiting[:MAX_CANDIDATES]]


class StallTracker:
    """Which stalls are open, by thread."""

    def __init__(self) -> None:
        self.open: dict[int, Thread] = {}

    def update(
        self, threads: Iterable[Thread | Glance], now_ns: int, threshold_ns: int, drivers: Container[int]
    ) -> list[Stall]:
        """Stalls that began or ended, given what threads do now; of those with an open one a glance will do.

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
            if may_stall(thread, drivers) and len(self.open) < MAX_OPEN:
                self.open[tid] = thread
                changed.append(Stall(thread, now_ns - thread.last_ns, False))
        return changed
