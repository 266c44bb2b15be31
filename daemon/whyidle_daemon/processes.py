"""The processes of a target: who they are, when they lived, what they used.

Process events and slices arrive through different rings, so a process may be seen working before its fork is
known. Such a process is *provisional* until the fork arrives and adopts it. A PID that comes back after its
exit is another process: everything is looked up by PID and time, never by PID alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from whyidle_daemon.facts import MemorySample, ProcessFacts, StackSample
from whyidle_probes.events import Exec, Exit, Fork

MAX_PROCESSES = 4096  # ended ones beyond this are summed; a fork storm makes thousands that all look alike
_MAX_DEPTH = 16  # of a family
_MAX_NAMED = 1024  # threads of a process
_MAX_EXECS = 16
# The kernel reports a process as ended when its last thread begins to: that thread still runs for a while,
# and what it did comes through another ring.
_DYING_NS = 1_000_000_000


class Process:
    """One process: a PID from its start to its end. Compared and hashed by identity."""

    __slots__ = (
        "cgroup",
        "code",
        "command",
        "command_ns",
        "end_ns",
        "exec_pages",
        "execs",
        "exit_pages",
        "folded_cpu_ns",
        "keep",
        "netns",
        "pid",
        "ppid",
        "provisional",
        "rss_end",
        "rss_end_ns",
        "rss_peak",
        "start_ns",
        "threads",
    )

    def __init__(self, pid: int, start_ns: int, provisional: bool) -> None:
        self.pid = pid
        self.ppid: int | None = None
        self.start_ns = start_ns
        self.end_ns = 0  # 0: alive
        self.provisional = provisional
        self.command: tuple[str, ...] = ()
        self.command_ns = -1
        self.cgroup: str | None = None
        self.code: int | None = None
        self.rss_peak: int | None = None  # of the samples
        self.exec_pages = 0  # peak of the image before the last exec
        self.exit_pages = 0
        self.rss_end: int | None = None
        self.rss_end_ns = -1
        self.folded_cpu_ns = 0  # of ended threads that are no longer kept one by one
        self.execs: list[tuple[int, int]] = []  # (ns, old_tid)
        self.keep = False
        self.netns = 0
        self.threads: dict[int, tuple[int, str]] = {}  # by TID: seen when, and what Python calls it

    def name(self, ns: int, command: tuple[str, ...]) -> None:
        """Remember the command of the latest ``ns``: facts read before an exec do not outlive it."""
        if ns >= self.command_ns and command:
            self.command, self.command_ns = command, ns

    def peak_bytes(self, page_size: int) -> int | None:
        """Peak of resident memory; ``None`` when nothing is known of the last image."""
        # The kernel's peak at exit survives an exec: no higher than before, it says nothing of the new image.
        pages = self.exit_pages if self.exit_pages > self.exec_pages else 0
        return max(self.rss_peak or 0, pages * page_size) or None

    def name_thread(self, sample: StackSample) -> None:
        """Remember what a thread was called when it was read."""
        if len(self.threads) < _MAX_NAMED or sample.tid in self.threads:
            self.threads[sample.tid] = sample.since_ns, sample.thread

    def thread_name(self, tid: int, first_ns: int, comm: str) -> str:
        """What Python calls a thread that began then, else what the kernel does."""
        seen_ns, name = self.threads.get(tid, (0, ""))
        return name if name and seen_ns >= first_ns else comm

    def thread_id(self, tid: int, ns: int) -> int:
        """The ID that thread ``tid`` goes by now: calling exec made a thread the leader."""
        for exec_ns, old_tid in self.execs:
            if tid == old_tid and ns <= exec_ns:
                return self.pid
        return tid

    def image_end(self, ns: int, now_ns: int) -> int:
        """When the program image that was running at ``ns`` was replaced or ended; ``now_ns`` if neither."""
        ends = [exec_ns for exec_ns, _ in self.execs if exec_ns >= ns]
        if self.end_ns:
            ends.append(max(self.end_ns, ns))
        return min([*ends, max(now_ns, ns)])


def successors(processes: Iterable[Process]) -> dict[Process, Process]:
    """Each process, and the first of those that ran the same command for the same parent one after another.

    A tool that is started for each call is one culprit, not a hundred; two agents beside each other are two.
    """
    first: dict[Process, Process] = {}
    latest: dict[tuple[int, tuple[str, ...]], Process] = {}
    for process in sorted(processes, key=lambda process: (process.start_ns, process.pid)):
        what = (process.ppid or 0, process.command)
        before = latest.get(what)
        alike = before is not None and process.ppid and before.end_ns and before.end_ns <= process.start_ns
        first[process] = first[before] if before is not None and alike else process
        latest[what] = process
    return first


class ProcessTable:
    """Every process seen; ended ones beyond ``limit`` are summed in ``omitted``, ``omitted_cpu_ns``.

    Those that ended a moment ago are kept whatever the limit, up to twice as many: who is forgotten while
    records of him are still to come begins a second life.
    """

    def __init__(self, limit: int = MAX_PROCESSES) -> None:
        self._lives: dict[int, list[Process]] = {}
        self._limit = limit
        self._full = limit  # so many processes before it is tried (again) to forget some
        self._count = 0
        self._last_exit_ns = 0
        self.omitted = 0
        self.omitted_cpu_ns = 0

    def __iter__(self) -> Iterator[Process]:
        return (process for lives in self._lives.values() for process in lives)

    def __len__(self) -> int:
        return self._count

    def at(self, pid: int, ns: int) -> Process:
        """The process that had ``pid`` at ``ns``; a provisional one if none is known."""
        lives = self._lives.get(pid)
        for life in reversed(lives or ()):
            if life.start_ns <= ns:
                if life.end_ns and ns > life.end_ns + _DYING_NS:
                    break
                return life
        else:
            if lives:
                if lives[0].provisional:
                    lives[0].start_ns = ns
                return lives[0]
        return self._new(pid, ns, provisional=True)

    def find(self, pid: int, ns: int) -> Process | None:
        """As :meth:`at`, but never makes one."""
        for life in reversed(self._lives.get(pid, [])):
            if life.start_ns <= ns:
                return life
        return next(iter(self._lives.get(pid, [])), None)

    def is_child(self, pid: int, process: Process, ns: int) -> bool:
        """Whether ``pid`` was at ``ns`` a child of a process, or a descendant."""
        for _ in range(_MAX_DEPTH):
            child = self.find(pid, ns) if pid and pid != process.pid else None
            if child is None or not child.ppid:
                return False
            if child.ppid == process.pid:
                return True
            pid = child.ppid
        return False

    def fork(self, event: Fork) -> Process:
        """A process appeared."""
        lives = self._lives.get(event.pid, [])
        for process in lives:
            if process.provisional and process.start_ns >= event.ns:
                process.provisional, process.start_ns = False, event.ns
                break
        else:
            if lives and not lives[-1].end_ns and lives[-1].start_ns < event.ns:
                lives[-1].end_ns = event.ns  # its exit was lost
            process = self._new(event.pid, event.ns, provisional=False)
        process.ppid = event.parent
        parent = self.find(event.parent, event.ns)
        process.netns = process.netns or (parent.netns if parent is not None else 0)
        process.name(event.ns, (event.comm,) if event.comm else ())
        return process

    def exec(self, event: Exec) -> None:
        """A process replaced its image."""
        process = self.at(event.pid, event.ns)
        process.name(event.ns, (event.path or event.comm,))
        process.exec_pages = max(process.exec_pages, event.rss_peak_pages)
        process.execs = [*process.execs[1 - _MAX_EXECS :], (event.ns, event.old_tid)]

    def exit(self, event: Exit) -> None:
        """A process ended."""
        process = self.at(event.pid, event.ns)
        process.end_ns, process.code = event.ns, event.code
        self._last_exit_ns = max(self._last_exit_ns, event.ns)
        process.exit_pages = event.rss_peak_pages
        process.name(0, (event.comm,) if event.comm else ())

    def facts(self, facts: ProcessFacts) -> None:
        """``/proc`` was read."""
        process = self.at(facts.pid, facts.ns)
        process.ppid = facts.ppid if process.ppid is None else process.ppid
        process.cgroup = facts.cgroup or process.cgroup
        process.netns = facts.netns or process.netns
        process.name(facts.ns, facts.command)

    def memory(self, sample: MemorySample) -> None:
        """Memory was sampled."""
        process = self.at(sample.pid, sample.ns)
        process.rss_peak = max(process.rss_peak or 0, sample.rss_bytes, sample.peak_bytes or 0)
        if sample.ns >= process.rss_end_ns:
            process.rss_end, process.rss_end_ns = sample.rss_bytes, sample.ns

    def add_cpu(self, pid: int, ns: int, cpu_ns: int) -> None:
        """Account for the CPU time of a thread that is no longer kept by itself."""
        process = self.find(pid, ns)
        if process is not None:
            process.folded_cpu_ns += cpu_ns
        else:
            self.omitted_cpu_ns += cpu_ns

    def _new(self, pid: int, ns: int, provisional: bool) -> Process:
        process = Process(pid, ns, provisional)
        lives = self._lives.setdefault(pid, [])
        lives.append(process)
        lives.sort(key=lambda life: life.start_ns)
        self._count += 1
        if self._count > self._full:
            self._fold()
            # In proportion: where most live, looking through all of them is not to be for each few more.
            self._full = max(self._limit, self._count + max(self._limit, self._count) // 8)
        return process

    def _fold(self) -> None:
        """Sum the ended processes that used the least CPU, down to half the limit."""
        settled_ns = self._last_exit_ns - (_DYING_NS if self._count < 2 * self._limit else 0)
        ended = sorted(
            (process for process in self if 0 < process.end_ns <= settled_ns and not process.keep),
            key=lambda process: (process.folded_cpu_ns, process.end_ns),
        )
        for process in ended[: max(0, self._count - self._limit // 2)]:
            lives = self._lives[process.pid]
            lives.remove(process)
            if not lives:
                del self._lives[process.pid]
            self._count -= 1
            self.omitted += 1
            self.omitted_cpu_ns += process.folded_cpu_ns
