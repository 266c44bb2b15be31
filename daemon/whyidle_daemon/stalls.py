"""Waits that have not ended: the hang is the case that matters most.

Pure: told what threads do, says which waits have crossed the threshold and which of those are over. A thread
that is meant to wait is not stalled: a loop in its selector, a server in accept, a worker without work. But a
loop whose main task awaits somebody's answer is.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import NamedTuple

from whyidle_probes.events import Thread, Wait

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
MAX_OPEN = 1024


class Stall(NamedTuple):
    """A wait above the threshold. ``thread`` is as it was when the wait was reported first."""

    thread: Thread
    duration_ns: int
    ended: bool


class StallTracker:
    """Which stalls are open."""

    def __init__(self) -> None:
        self._open: dict[int, Thread] = {}

    def update(
        self,
        threads: Iterable[Thread],
        now_ns: int,
        threshold_ns: int,
        drivers: Container[int],
        awaiting: Container[tuple[int, int]] = (),
    ) -> list[Stall]:
        """Stalls that began or ended, given what each watched thread does now.

        ``awaiting`` are event loops whose tasks wait for an answer: thread and start of its wait.
        """
        changed: list[Stall] = []
        seen = {thread.tid: thread for thread in threads}
        for tid, stalled in list(self._open.items()):
            thread = seen.get(tid)
            if thread is not None and thread.last_ns == stalled.last_ns and not thread.end_ns:
                continue
            # The next interval began when this one ended; a thread that is gone ended some time before now.
            over = thread.last_ns if thread is not None and thread.state == Wait.RUNNING else now_ns
            del self._open[tid]
            changed.append(Stall(stalled, max(over - stalled.last_ns, 0), True))
        for tid, thread in seen.items():
            if tid in self._open or thread.end_ns or now_ns - thread.last_ns < threshold_ns:
                continue
            leads = thread.tid == thread.pid or tid in drivers
            counts = thread.state in ALWAYS or (leads and thread.state in ONLY_IF_LEADING)
            counts = counts or (leads and (tid, thread.last_ns) in awaiting)
            if counts and len(self._open) < MAX_OPEN:
                self._open[tid] = thread
                changed.append(Stall(thread, now_ns - thread.last_ns, False))
        return changed
