"""The thread that drives a GPU, where only the GPU's samples tell of its work. Pure.

What a device counts says which process uses it, not which thread. Where a process has an engine of its own (a
model, a CUDA context) that one's driver is it. Else it is the thread that was at work when the GPU began to
be: a server has a thread for each caller, and each of them drives in turn. In doubt it is the main thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from whyidle_daemon.processes import Process
from whyidle_daemon.timelines import Record, between
from whyidle_probes.events import Wait

MIN_SHARE = 0.02
"""Of the window, for which a thread must have been at work to be taken for the driver."""
PREFERENCE = 2
"""As many times as long as the main thread another one must have been at work."""
MAX_THREADS = 256
_AT_WORK = frozenset({int(Wait.RUNNING), int(Wait.RUNQUEUE), int(Wait.GPU), int(Wait.DEVICE)})

_NOT = (0, 0, 0)

Lines = Callable[[int], list[Record]]


class Driving(NamedTuple):
    """Thread ``tid`` was at work longest until ``until_ns``, and at all until ``last_ns``."""

    tid: int
    until_ns: int
    last_ns: int


class Drivers:
    """Looks at the timelines of one target as they are at one moment."""

    def __init__(
        self,
        known: Callable[[Process], int | None],
        threads: Callable[[], Mapping[int, Iterable[int]]],
        lines: Lines,
        lives: Callable[[int], Mapping[int, tuple[int, int]]],
    ) -> None:
        """``known`` is the driver of a process's own engine, ``threads`` are those of each PID with slices.

        ``lives`` are those of a PID that were seen to begin: when they did, and when they ended.
        """
        self._known, self._threads, self._lines, self._lives = known, threads, lines, lives
        self._by_pid: Mapping[int, Iterable[int]] | None = None
        self._of: dict[int, dict[int, tuple[int, int]]] = {}

    def main(self, process: Process) -> int:
        """The driver of a process's own engine, else its main thread."""
        known = self._known(process)
        return process.pid if known is None else known

    def at(self, process: Process, start_ns: int, end_ns: int, default_ns: int) -> Driving:
        """Who drove in a window in which the GPU worked; in doubt the main driver, until ``default_ns``."""
        main = self.main(process)
        if self._known(process) is not None or end_ns <= start_ns:
            return Driving(main, default_ns, default_ns)
        worked: dict[int, tuple[int, int, int]] = {}
        for tid, life in self._threads_of(process.pid).items():
            if (not life[1] or life[1] > start_ns) and life[0] < end_ns:
                worked[tid] = self._worked(tid, life, start_ns, end_ns)
        best = max(worked, key=lambda tid: (worked[tid][0], -tid), default=main)
        least = max(MIN_SHARE * (end_ns - start_ns), PREFERENCE * worked.get(main, _NOT)[0])
        if best != main and worked[best][0] < least:
            best = main
        ns, until_ns, last_ns = worked.get(best, _NOT)
        return Driving(best, until_ns, last_ns) if ns > 0 else Driving(best, default_ns, default_ns)

    def life(self, process: Process, tid: int) -> tuple[int, int]:
        """When a thread began and ended; 0: it has not, or nobody saw it."""
        return self._threads_of(process.pid).get(tid, (0, 0))

    def _threads_of(self, pid: int) -> dict[int, tuple[int, int]]:
        if self._by_pid is None:
            self._by_pid = self._threads()
        if pid not in self._of:
            seen = dict(self._lives(pid))
            for tid in (pid, *self._by_pid.get(pid, ())):
                seen.setdefault(tid, (0, 0))
            self._of[pid] = dict(sorted(seen.items(), key=lambda item: item[1])[-MAX_THREADS:])
        return self._of[pid]

    def _worked(self, tid: int, life: tuple[int, int], start_ns: int, end_ns: int) -> tuple[int, int, int]:
        """How long a thread was certainly at work without a pause, until when, and when it last was.

        What it did before its first slice and after its last one nobody knows, if not its birth and its end.
        """
        line = self._lines(tid)
        begin, end = life
        if line:
            begin, end = begin or line[0].start_ns, end or line[-1].end_ns
        start_ns, end_ns = max(start_ns, begin), min(end_ns, end)
        stretches, at = [(0, 0)], start_ns
        for record in between(line, start_ns, end_ns):
            if record.wait not in _AT_WORK:
                stretches.append((record.start_ns - at, record.start_ns))
                at = max(at, record.start_ns + record.blocked_ns)
        stretches.append((end_ns - at, end_ns))
        return (*max(stretches), max(end for ns, end in stretches if ns > 0 or not end))
