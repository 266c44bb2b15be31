"""What asyncio's tasks wait for: the chain of coroutines of each, read from outside.

A task leads to its coroutine, whose frame's topmost value is what it awaits. CPython 3.11 to 3.15 with the
accelerated tasks (``_asyncio.Task`` and classes derived from it), whichever loop drives them, uvloop
included.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import NamedTuple

from whyidle_daemon.pystack.awaiting import FUTURE, NO_SOCKET, Awaiting, Awaits
from whyidle_daemon.pystack.coroutines import Coroutines
from whyidle_daemon.pystack.errors import StackError
from whyidle_daemon.pystack.heap import Heap
from whyidle_daemon.pystack.instances import Instances
from whyidle_daemon.pystack.memory import Metered, Read
from whyidle_daemon.pystack.objects import Objects
from whyidle_daemon.pystack.recheck import Group, Kept, Part, begin, group_of, unchanged
from whyidle_daemon.pystack.runtime import Interpreter
from whyidle_daemon.pystack.task_lists import TaskLists
from whyidle_daemon.pystack.threads import Threads
from whyidle_daemon.pystack.walk import Frame

MAX_TASKS = 1000
_MAX_TYPES = 64
_MAX_REMEMBERED = 1 << 14  # bytes of a task and its coroutines; with more it is read every time
_MAX_TASK_SIZE = 1024
_MAX_NAME = 256
_READS, _READS_OF_A_TASK = 20_000, 200  # 1 µs each; a task takes 60, finding the module once 2 a module
_CLASSES_LAST = 64  # readings; then an address may have become another class's
_LOOP = 16  # and a future its loop
_TYPE = 8  # of an object, after the number of references to it, which matters to nobody here


def allowance(limit: int) -> int:
    """How many reads so many tasks may take, without those of the code that they are in."""
    return _READS + limit * _READS_OF_A_TASK


class Task(NamedTuple):
    """A task that has not ended.

    ``frames`` run from the task's own coroutine inward to the one that waits. ``running`` says that the
    innermost is not suspended: it is on the stack of its loop's thread. ``loop`` tells apart the tasks of
    different loops (an address in the target), ``address`` is the task's own.

    ``kind`` says what it waits for (:mod:`~whyidle_daemon.pystack.awaiting`), ``descriptor`` the socket and
    ``joins`` the tasks among it; ``awaited`` is the address of what it awaits: another address is another
    wait, but the same one may be the next wait (a freed future's place is soon taken). All four only if
    descriptors were given to :meth:`TaskReader.read`.
    """

    name: str | None
    frames: tuple[Frame, ...]
    running: bool
    loop: int
    address: int = 0
    kind: str = FUTURE
    descriptor: int | None = None
    joins: tuple[int, ...] = ()
    awaited: int = 0


class Tasks(NamedTuple):
    """``complete`` is false where tasks were too many (``more`` then), or changed while they were read."""

    tasks: tuple[Task, ...]
    complete: bool
    more: bool = False


class _Known(NamedTuple):
    """A task as it was read, with the memory that it was read from: it is the same while this is."""

    memory: Group
    task: Task
    registered: frozenset[int] | None  # the descriptors that were looked among; ``None``: none mattered

    def holds(self, registered: frozenset[int]) -> bool:
        """Would it be read so among these descriptors?"""
        descriptor = self.task.descriptor
        return self.registered in (None, registered) and (descriptor is None or descriptor in registered)


class _Selector(NamedTuple):
    """What was read of a loop to find the epoll set that it sleeps in, and that."""

    memory: Group
    descriptor: int | None


class TaskReader:
    """Raises :class:`StackError`: ``unsupported`` on construction for other versions."""

    def __init__(self, pid: int, read: Read, python: Interpreter, objects: Objects, threads: Threads) -> None:
        self._pid = pid
        self._meter = read = Metered(read)
        self._heap = Heap(read, python)
        self._read, self._objects = read, objects
        self._coroutines = Coroutines(read, python, self._heap, objects)
        self._task_types: dict[int, tuple[int, int]] = {}
        self._instances = Instances(read, self._heap, objects)
        self._awaits = Awaits(read, self._heap, self._instances)
        self._lists = TaskLists(read, python, self._heap, threads, self._awaits.task_size)
        self._selectors: Kept[_Selector] = Kept()
        self._known: Kept[_Known] = Kept()
        self._among: frozenset[int] = frozenset()
        self._fresh = 0  # tasks of this reading that were not known
        self._reads = 0

    def read(
        self,
        limit: int = MAX_TASKS,
        registered: Collection[int] | None = None,
        selector: int | None = None,
        fresh: int = MAX_TASKS,
    ) -> Tasks:
        """Tasks of every loop and interpreter, at most ``limit``. Raises ``torn`` or ``gone``.

        With ``registered``, the descriptors that a loop's selector waits for, also what they wait for. With
        ``selector``, that loop's epoll descriptor, without the tasks of loops that have another. A task that
        was read so before and has not moved since costs next to nothing; at most ``fresh`` others are read.
        """
        found: list[Task] = []
        complete = True
        among = None
        if registered is not None:
            among = frozenset(registered)
            if among == self._among:  # the same object compares faster
                among = self._among
            self._among = among
        kept = (self._known, self._lists.links, self._selectors)
        begin(self._pid if among is not None else None, kept)
        self._meter.allow(allowance(limit))
        self._reads += 1
        if self._reads % _CLASSES_LAST == 0:
            self._instances.forget()
            self._task_types.clear()
            self._lists.forget()
        more = False
        self._fresh = 0
        for address in self._lists.addresses():
            if len(found) >= limit:
                more = True
                break
            if self._fresh >= fresh and address not in self._known.before:
                more = True
                continue
            try:
                task = self._task(address, among, selector)
            except StackError as error:
                if error.reason == "gone":
                    raise
                complete = False
                continue
            if task is not None:
                found.append(task)
        complete = complete and not self._lists.torn
        return Tasks(tuple(found), complete and not more, more=complete and more)

    def _task(
        self,
        address: int,
        registered: frozenset[int] | None = None,
        selector: int | None = None,
    ) -> Task | None:
        """``None`` for what is no unfinished task, or one of another loop."""
        known = self._known.get(address)
        if known is not None and registered is not None:
            elsewhere = selector is not None and self._selector(known.task.loop) not in (None, selector)
            if elsewhere or known.holds(registered):
                self._known.keep(address, known)
                return None if elsewhere else known.task
        kind_of = self._heap.type_of(address)
        if kind_of not in self._task_types:
            places = self._places(address, kind_of)
            if places is None:
                return None
            if len(self._task_types) > _MAX_TYPES:
                self._task_types.clear()
            self._task_types[kind_of] = places
        place, size = self._task_types[kind_of]
        memory = self._read(address, size)
        words = struct.unpack(f"<{size // 8}Q", memory)
        coroutine, name = words[place // 8], words[place // 8 + 1]
        if not coroutine:
            return None  # it has ended
        loop = words[_LOOP // 8]
        if selector is not None and self._selector(loop) not in (None, selector):
            return None
        self._fresh += 1
        parts: list[Part] = [(address + _TYPE, memory[_TYPE : place + 16])]
        points, running, awaited = self._coroutines.points(coroutine, parts)
        if not points:
            return None
        awaiting = Awaiting(FUTURE, None, ())
        if registered is not None and not running:
            awaiting = self._awaits.of(points, awaited, registered)
        frames = tuple(point.frame for point in points)
        task = Task(self._name(name), frames, running, loop, address, *awaiting, awaited)
        if registered is not None and not running:
            matters = registered if awaiting.descriptor is None and awaiting.kind not in NO_SOCKET else None
            known = _Known(group_of(parts), task, matters)
            small = len(known.memory.content) <= _MAX_REMEMBERED
            if small and unchanged(self._pid, [known.memory])[0]:  # it did not move meanwhile
                self._known.keep(address, known)
        return task

    def _selector(self, loop: int) -> int | None:
        known = self._selectors.get(loop)
        if known is None:
            descriptor = None
            parts: list[Part] = []
            self._meter.kept = parts
            try:
                descriptor = self._awaits.selector(loop)
            except StackError as error:
                if error.reason == "gone":
                    raise
            finally:
                self._meter.kept = None
            known = _Selector(group_of(parts), descriptor)
        self._selectors.keep(loop, known)
        return known.descriptor

    def _places(self, address: int, kind_of: int) -> tuple[int, int] | None:
        """Where tasks of a type have their coroutine (the name follows it), and how much to read.

        The structure is private to a C file, so it is found by what it holds: a coroutine, and behind it a
        name. A coroutine alone may be a result, or what took the place of something that the task gave back.
        """
        size = self._heap.pointer(kind_of + self._heap.at.type_basic_size) & ~7
        if not _LOOP < size <= _MAX_TASK_SIZE:
            return None
        memory = self._read(address, size)
        words = struct.unpack(f"<{size // 8}Q", memory)
        for index in range(_LOOP // 8, len(words) - 1):
            try:
                if self._is_coroutine(words[index]) and self._name(words[index + 1]) is not None:
                    same = self._read(address + _TYPE, size - _TYPE) == memory[_TYPE:]
                    return (index * 8, size) if same else None
            except StackError as error:
                if error.reason == "gone":
                    raise
        return None

    def _is_coroutine(self, address: int) -> bool:
        aligned = address and not address & 7
        return bool(aligned) and self._heap.type_of(address) == self._heap.types["PyCoro_Type"]

    def _name(self, address: int) -> str | None:
        """A string, or since 3.12 the number of a task that nobody named."""
        if not address:
            return None
        if self._heap.type_of(address) != self._heap.types["PyLong_Type"]:
            return self._objects.text(address, _MAX_NAME)
        size, low, high = struct.unpack("<QII", self._read(address + self._heap.at.long_value - 8, 16))
        digits = size >> 3
        return f"Task-{low + (high << 30) if digits == 2 else low}" if 0 < digits <= 2 else None
