"""What asyncio's tasks wait for: the chain of coroutines of each, read from outside.

``sys.modules`` leads to ``asyncio.tasks``, that to its sets of tasks, those to the tasks, and each task to
its coroutine, whose frame's topmost value is what it awaits. 3.14 has lists of tasks as well, one for each
thread. CPython 3.11 to 3.14 with the accelerated tasks (``_asyncio.Task`` and classes derived from it),
whichever loop drives them, uvloop included.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from whyidle_daemon.pystack.awaiting import FUTURE, NO_SOCKET, Awaiting, Awaits
from whyidle_daemon.pystack.coroutines import Coroutines
from whyidle_daemon.pystack.errors import StackError
from whyidle_daemon.pystack.heap import Heap
from whyidle_daemon.pystack.instances import Instances
from whyidle_daemon.pystack.memory import Metered, Read
from whyidle_daemon.pystack.objects import Objects, check
from whyidle_daemon.pystack.recheck import Group, Part, group_of, unchanged
from whyidle_daemon.pystack.runtime import Interpreter
from whyidle_daemon.pystack.threads import Threads, ThreadState
from whyidle_daemon.pystack.walk import Frame

MAX_TASKS = 1000
_MAX_KNOWN = 64  # types, modules and interpreters
_MAX_TASK_SIZE = 1024
_MAX_NAME = 256
_READS, _READS_OF_A_TASK = 20_000, 200  # 1 µs each; a task takes 60, finding the module once 2 a module
_CLASSES_LAST = 64  # readings; then an address may have become another class's
_THREADS_LAST = 16  # readings; then there may be another interpreter
_LOOP = 16  # and a future its loop
_TYPE = 8  # of an object, after the number of references to it, which matters to nobody here
_MAX_SEARCHES = 8
_MAX_LINKS = 4096  # to tasks, that are kept from one reading to the next


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
        self._read, self._python, self._objects, self._threads = read, python, objects, threads
        self._coroutines = Coroutines(read, python, self._heap, objects)
        self._task_types: dict[int, tuple[int, int]] = {}
        self._modules: dict[int, tuple[tuple[int, int], int | None]] = {}
        self._sets: dict[int, tuple[tuple[int, int], int | None, int | None]] = {}
        self._instances = Instances(read, self._heap, objects)
        self._awaits = Awaits(read, self._heap, self._instances)
        self._selectors: dict[int, _Selector] = {}
        self._states: list[ThreadState] = []
        self._known: dict[int, _Known] = {}
        self._links: dict[int, Group] = {}  # what leads to tasks
        self._node: int | None = None  # from a task to its place in a list
        self._searches = 0  # for that, in this reading
        self._among: frozenset[int] = frozenset()
        # Of these those of the reading before that are there unchanged.
        self._known_still: dict[int, _Known] = {}
        self._links_still: dict[int, Group] = {}
        self._selectors_still: dict[int, _Selector] = {}
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
        before: Collection[int] = self._known
        if among is not None:
            self._recheck()
        self._meter.allow(_READS + limit * _READS_OF_A_TASK)
        self._reads += 1
        if self._reads % _CLASSES_LAST == 0:
            self._instances.forget()
        more = False
        self._fresh = self._searches = 0
        for address in self._addresses():
            if len(found) >= limit:
                more = True
                break
            if self._fresh >= fresh and address not in before:
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
        return Tasks(tuple(found), complete and not more, more=complete and more)

    def _recheck(self) -> None:
        """Begin anew, with what is there as it was read before."""
        known, links, selectors = self._known, self._links, self._selectors
        groups = [one.memory for one in known.values()]
        groups += links.values()
        groups += [one.memory for one in selectors.values()]
        same = iter(unchanged(self._pid, groups))
        self._known_still = {at: one for at, one in known.items() if next(same)}
        self._links_still = {at: one for at, one in links.items() if next(same)}
        self._selectors_still = {at: one for at, one in selectors.items() if next(same)}
        self._known, self._links, self._selectors = {}, {}, {}

    def _addresses(self) -> Iterator[int]:
        heap = self._heap
        if not self._states or self._heap.at.thread_tasks >= 0 or self._reads % _THREADS_LAST == 0:
            self._states = self._threads.all()
        for interpreter in dict.fromkeys(state.interpreter for state in self._states):
            yield from self._listed(interpreter, self._states)
            namespace = self._namespace(interpreter)
            if namespace is None:
                continue
            weak, eager = self._sets_in(namespace)
            if weak is not None:
                for reference in heap.members(heap.attribute(weak, "data", "PySet_Type")):
                    to = self._referent(reference)
                    if to:
                        yield to
            if eager is not None:
                yield from heap.members(eager)

    def _referent(self, reference: int) -> int:
        """What a weak reference refers to; 0 where there is none."""
        memory = self._link(reference + _TYPE, self._heap.at.weakref_object + 8 - _TYPE)
        if int.from_bytes(memory[:8], "little") != self._heap.types["_PyWeakref_RefType"]:
            return 0
        return int.from_bytes(memory[-8:], "little")

    def _listed(self, interpreter: int, states: Sequence[ThreadState]) -> Iterator[int]:
        """Since 3.14: the tasks of an interpreter's threads, and of those that have ended."""
        at, layout = self._heap.at, self._python.layout
        if at.thread_tasks < 0:
            return
        if layout.thread_size != at.thread_size:
            raise StackError("unsupported", "tasks of this build of Python")
        heads = [state.address + at.thread_tasks for state in states if state.interpreter == interpreter]
        if layout.interp_size == at.interp_size:
            heads.append(interpreter + at.interp_tasks)
        for head in heads:
            node, seen = self._next(head), {head}
            while node not in seen:
                seen.add(node)
                task = self._task_at(node)
                if task:
                    yield task
                node = self._next(node)

    def _next(self, node: int) -> int:
        return int.from_bytes(self._link(node, 8), "little")

    def _task_at(self, node: int) -> int:
        """The task that has its place in a list at ``node``; the distance is found with the first one."""
        if self._node is None and self._searches < _MAX_SEARCHES:
            self._searches += 1
            for distance in range(_LOOP, _MAX_TASK_SIZE, 8):
                try:
                    if self._awaits.is_task(node - distance):
                        self._node = distance
                        break
                except StackError as error:
                    if error.reason == "gone":
                        raise
        return node - self._node if self._node is not None else 0

    def _link(self, address: int, size: int) -> bytes:
        """Memory that leads to a task, read again only if it changed."""
        known = self._links_still.get(address)
        if known is None:
            check(address)
            known = group_of([(address, self._read(address, size))])
        if len(self._links) < _MAX_LINKS:
            self._links[address] = known
        return known.content

    def _sets_in(self, namespace: int) -> tuple[int | None, int | None]:
        """The sets of tasks, and of eager ones; searched again when the module got another name."""
        version = self._heap.version_of(namespace)
        known = self._sets.get(namespace)
        if known is None or known[0] != version:
            later = self._python.version >= (3, 12)
            weak = self._heap.get(namespace, "_scheduled_tasks" if later else "_all_tasks")
            eager = self._heap.get(namespace, "_eager_tasks") if later else None
            if len(self._sets) > _MAX_KNOWN:
                self._sets.clear()
            known = self._sets[namespace] = version, weak, eager
        return known[1:]

    def _namespace(self, interpreter: int) -> int | None:
        """Dictionary of ``asyncio.tasks`` in an interpreter; searched again when a module was imported."""
        heap = self._heap
        modules = heap.pointer(interpreter + self._python.layout.interp_modules)
        if not modules:
            return None
        version = heap.version_of(modules)
        known = self._modules.get(interpreter)
        if known is None or known[0] != version:
            module = heap.get(modules, "asyncio.tasks")
            if module is not None and heap.type_of(module) != heap.types["PyModule_Type"]:
                module = None
            if len(self._modules) > _MAX_KNOWN:
                self._modules.clear()
            known = self._modules[interpreter] = version, module
        return heap.pointer(known[1] + heap.at.module_dict) if known[1] is not None else None

    def _task(
        self,
        address: int,
        registered: frozenset[int] | None = None,
        selector: int | None = None,
    ) -> Task | None:
        """``None`` for what is no unfinished task, or one of another loop."""
        known = self._known_still.get(address)
        if known is not None and registered is not None:
            elsewhere = selector is not None and self._selector(known.task.loop) not in (None, selector)
            if elsewhere or known.holds(registered):
                self._known[address] = known
                return None if elsewhere else known.task
        kind_of = self._heap.type_of(address)
        if kind_of not in self._task_types:
            places = self._places(address, kind_of)
            if places is None:
                return None
            if len(self._task_types) > _MAX_KNOWN:
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
            if unchanged(self._pid, [known.memory])[0]:  # it did not move meanwhile
                self._known[address] = known
        return task

    def _selector(self, loop: int) -> int | None:
        known = self._selectors.get(loop) or self._selectors_still.get(loop)
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
        self._selectors[loop] = known
        return known.descriptor

    def _places(self, address: int, kind_of: int) -> tuple[int, int] | None:
        """Where tasks of a type have their coroutine (the name follows it), and how much to read.

        The structure is private to a C file, so it is found by what it holds: the first coroutine.
        """
        size = self._heap.pointer(kind_of + self._heap.at.type_basic_size) & ~7
        if not _LOOP < size <= _MAX_TASK_SIZE:
            return None
        words = struct.unpack(f"<{size // 8}Q", self._read(address, size))
        for index, word in enumerate(words[:-1]):
            if index < _LOOP // 8 or word & 7 or not word:
                continue
            try:
                if self._heap.type_of(word) == self._heap.types["PyCoro_Type"]:
                    return index * 8, size
            except StackError as error:
                if error.reason == "gone":
                    raise
        return None

    def _name(self, address: int) -> str | None:
        """A string, or since 3.12 the number of a task that nobody named."""
        if not address:
            return None
        if self._heap.type_of(address) != self._heap.types["PyLong_Type"]:
            return self._objects.text(address, _MAX_NAME)
        size, low, high = struct.unpack("<QII", self._read(address + self._heap.at.long_value - 8, 16))
        digits = size >> 3
        return f"Task-{low + (high << 30) if digits == 2 else low}" if 0 < digits <= 2 else None
