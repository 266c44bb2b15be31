"""Where asyncio's tasks are: the sets and lists of them in another process.

``sys.modules`` leads to ``asyncio.tasks``, and that to its sets of tasks. 3.14 has lists of them as well: one
for each thread, and one for threads that have ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from whyidle_daemon.pystack.errors import StackError
from whyidle_daemon.pystack.heap import Heap
from whyidle_daemon.pystack.memory import Read
from whyidle_daemon.pystack.modules import Modules
from whyidle_daemon.pystack.objects import check
from whyidle_daemon.pystack.recheck import Group, Kept, group_of
from whyidle_daemon.pystack.runtime import Interpreter
from whyidle_daemon.pystack.threads import Threads, ThreadState

_THREADS_LAST = 16  # readings; then there may be another interpreter
_TYPE = 8  # of an object, after the number of references to it, which matters to nobody here
_SEARCHES = 8  # in one reading, for where a task has its place in a list
_LEAST_PLACE, _MAX_PLACE = 16, 1024
_NODE = 16  # bytes of what links a task: the next and the one before


class Link(NamedTuple):
    """Memory that leads to a task."""

    memory: Group


class TaskLists:
    """``task_size`` gives the bytes of a task at an address, 0: none is there. Raises :class:`StackError`.

    ``torn`` says after a reading that a list changed meanwhile, and was not read to its end.
    """

    def __init__(
        self, read: Read, python: Interpreter, heap: Heap, threads: Threads, task_size: Callable[[int], int]
    ) -> None:
        self._read, self._python, self._heap, self._threads = read, python, heap, threads
        self._task_size = task_size
        self._modules = Modules(python, heap)
        later = python.version >= (3, 12)
        self._names = ("_scheduled_tasks", "_eager_tasks") if later else ("_all_tasks", None)
        self._states: list[ThreadState] = []
        self._place: int | None = None  # in a task: of what links it into a list
        self._searches = self._readings = 0
        self.torn = False
        self.links: Kept[Link] = Kept()

    def forget(self) -> None:
        """Learn again where a task has its place."""
        self._place = None

    def addresses(self) -> Iterator[int]:
        """Of what may be a task, of every interpreter."""
        heap = self._heap
        if not self._states or heap.at.thread_tasks >= 0 or self._readings % _THREADS_LAST == 0:
            self._states = self._threads.all()
        self._readings += 1
        self._searches, self.torn = 0, False
        for interpreter in dict.fromkeys(state.interpreter for state in self._states):
            yield from self.listed(interpreter, self._states)
            namespace = self._modules.namespace(interpreter, "asyncio.tasks")
            if namespace is None:
                continue
            weak, eager = (self._modules.value(namespace, name) if name else None for name in self._names)
            if weak is not None:
                for reference in heap.members(heap.attribute(weak, "data", "PySet_Type")):
                    to = self._referent(reference)
                    if to:
                        yield to
            if eager is not None:
                yield from heap.members(eager)

    def listed(self, interpreter: int, states: Sequence[ThreadState]) -> Iterator[int]:
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
            try:
                yield from self._linked(head)
            except StackError as error:
                if error.reason == "gone":
                    raise
                self.torn = True  # one that ended leads nowhere; those before it count

    def _linked(self, head: int) -> Iterator[int]:
        previous, node, seen = head, self._next(head), {head}
        while node not in seen:
            seen.add(node)
            if self._place is None:
                self._place = self._find_place(previous, node)
            if self._place is not None:
                yield node - self._place
            previous, node = node, self._next(node)

    def _next(self, node: int) -> int:
        return int.from_bytes(self._link(node, 8), "little")

    def _find_place(self, previous: int, node: int) -> int | None:
        """How far into a task its ``node`` is: the structure is private to a C file.

        What lies before the task may be one too, and the task may go meanwhile: only a task that holds the
        node counts, and only if the node is still in its list.
        """
        self._searches += 1
        if self._searches > _SEARCHES:
            return None
        for distance in range(_LEAST_PLACE, _MAX_PLACE, 8):
            if self._holds(node, distance):
                linked = int.from_bytes(self._read(previous, 8), "little") == node
                if linked and self._holds(node, distance):
                    return distance
                self.torn = True
                break
        return None

    def _holds(self, node: int, distance: int) -> bool:
        """Is a task so far before a node, and the node in it?"""
        try:
            return self._task_size(node - distance) >= distance + _NODE
        except StackError as error:
            if error.reason == "gone":
                raise
            return False

    def _referent(self, reference: int) -> int:
        """What a weak reference refers to; 0 where there is none."""
        memory = self._link(reference + _TYPE, self._heap.at.weakref_object + 8 - _TYPE)
        if int.from_bytes(memory[:8], "little") != self._heap.types["_PyWeakref_RefType"]:
            return 0
        return int.from_bytes(memory[-8:], "little")

    def _link(self, address: int, size: int) -> bytes:
        """Memory that leads to a task, read again only if it changed."""
        known = self.links.get(address)
        if known is None:
            check(address)
            known = Link(group_of([(address, self._read(address, size))]))
        self.links.keep(address, known)
        return known.memory.content
