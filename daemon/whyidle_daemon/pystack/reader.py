"""Python stacks of a thread of another process, which is not stopped for it.

Meant for threads that sleep. A thread that runs meanwhile is noticed in most cases (its innermost frame is
read again at the end); whoever needs certainty compares the thread's context switches before and after.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from whyidle_daemon.proc import Proc
from whyidle_daemon.pystack.errors import StackError
from whyidle_daemon.pystack.memory import Memory
from whyidle_daemon.pystack.objects import MAX_TABLES, Objects
from whyidle_daemon.pystack.runtime import Interpreter, discover
from whyidle_daemon.pystack.tasks import MAX_TASKS, TaskReader, Tasks, allowance
from whyidle_daemon.pystack.thread_names import ThreadNames
from whyidle_daemon.pystack.threads import Threads
from whyidle_daemon.pystack.walk import Frame, Walker

MAX_FRAMES = 128
_MAX_TASKS = 65536
_READS = 16384  # in one reading of a stack, 1 µs each: to find a thread is one for each there is


class Stack(NamedTuple):
    """Innermost frame first; ``complete`` is false where more than the limit were there."""

    frames: tuple[Frame, ...]
    complete: bool


class StackReader:
    """Stacks of the threads of one process image. Raises :class:`StackError` on construction and on reads.

    After ``gone`` the reader is of no more use; after an exec a new one reads the new image.
    """

    def __init__(self, pid: int, proc: Path = Path("/proc"), max_frames: int = MAX_FRAMES) -> None:
        self.pid = pid
        self._proc = proc
        self._limit = max_frames
        self._memory = Memory(pid, proc)
        self._memory.allow(_READS)
        try:
            python = discover(pid, self._memory.read, Proc(proc))
            if python is None:
                raise StackError("not_python")
            self.python: Interpreter = python
            read = self._memory.read
            self._threads = Threads(read, python, self._inside)
            self._objects = Objects(read, python.version, python.layout, python.types)
            self._walker = Walker(read, python, self._objects)
        except BaseException:
            self._memory.close()
            raise
        self._tasks_of: TaskReader | None = None
        self._names: ThreadNames | None = None
        self._nested = len(self._namespaced(self.pid)) > 1

    def read(self, tid: int) -> Stack:
        """Stack of a thread, by its TID as this host (this ``/proc``) numbers it."""
        self._memory.allow(_READS)
        self._objects.allow(MAX_TABLES)
        states = self._threads.find(tid, main=tid == self.pid)
        frames: list[Frame] = []
        complete = True
        for state in states:
            top = self._walker.top(state.address)
            if not top:
                continue
            before = self._walker.identity(top)
            found, whole = self._walker.walk(top, self._limit - len(frames))
            if self._walker.top(state.address) != top or self._walker.identity(top) != before:
                raise StackError("torn", "the thread ran meanwhile")
            frames += found
            complete = complete and whole
        return Stack(tuple(frames), complete)

    def threads(self) -> list[int]:
        """TIDs, as this host numbers them, of the threads that Python knows; sorted."""
        self._memory.allow(_READS)
        inside = {self._inside(tid): tid for tid in self._tasks()}
        found = {self.pid: False}
        for state in self._threads.all():
            for tid in self._threads.tids(state):
                if tid in inside:
                    found[inside[tid]] = True
                    break
            else:
                found[self.pid] = True
        return sorted(tid for tid, known in found.items() if known)

    def name(self, tid: int) -> str:
        """What Python calls a thread other than the first; empty where that is not known. Raises ``gone``."""
        if tid == self.pid:
            return ""
        self._memory.allow(2 * _READS)  # of all modules as well, once
        try:
            if self._names is None:
                self._names = ThreadNames(self._memory.read, self.python, self._objects)
            return self._names.name(self._threads.find(tid, main=False)[0])
        except StackError as error:
            if error.reason == "gone":
                raise
            return ""

    def tasks(
        self,
        limit: int = MAX_TASKS,
        registered: Collection[int] | None = None,
        selector: int | None = None,
        fresh: int = MAX_TASKS,
    ) -> Tasks:
        """asyncio's unfinished tasks and what each awaits, about 0.1 ms per task; see ``TaskReader.read``.

        Raises :class:`StackError`: ``unsupported`` outside of CPython 3.11 to 3.15, else as :meth:`read`.
        """
        if self._tasks_of is None:
            self._tasks_of = TaskReader(
                self.pid, self._memory.read, self.python, self._objects, self._threads
            )
        self._memory.allow(2 * allowance(limit))  # as many for the code that the tasks are in
        self._objects.allow(4 * MAX_TABLES)  # the code of many libraries
        return self._tasks_of.read(limit, registered, selector, fresh)

    def close(self) -> None:
        """Idempotent."""
        self._memory.close()

    def __enter__(self) -> StackReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tasks(self) -> list[int]:
        try:
            names = (self._proc / str(self.pid) / "task").iterdir()
            return [int(path.name) for path in names][:_MAX_TASKS]
        except OSError:
            raise StackError("gone", "no task directory") from None

    def _inside(self, tid: int) -> int:
        """The TID that a thread has in its own PID namespace."""
        if not self._nested:
            return tid
        numbers = self._namespaced(tid)
        if not numbers:
            raise StackError("no_thread")
        return numbers[-1]

    def _namespaced(self, tid: int) -> list[int]:
        """``NSpid`` of a thread: its number in each namespace from this ``/proc``'s to its own."""
        try:
            text = (self._proc / str(self.pid) / "task" / str(tid) / "status").read_bytes()
        except OSError:
            return []
        for line in text.splitlines():
            if line.startswith(b"NSpid:"):
                return [int(word) for word in line.split()[1:]]
        return []
