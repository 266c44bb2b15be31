"""Lists of tasks that change while they are read."""

from __future__ import annotations

import struct
from itertools import pairwise

from unit.pystack.test_pystack_hostile import NAMES, TYPES, of_objects
from whyidle_daemon.pystack import StackError
from whyidle_daemon.pystack.heap import Heap
from whyidle_daemon.pystack.runtime import Interpreter
from whyidle_daemon.pystack.task_lists import TaskLists
from whyidle_daemon.pystack.threads import Threads, ThreadState

VERSION = (3, 14)
STATE = ThreadState(0x100000, 0x200000, 0, 0)
SIZE, PLACE = 0x110, 0xA0  # of a task, and how far into it what links it is


class Loop:
    """Tasks of one thread, each in a list of memory like CPython's."""

    def __init__(self, *tasks: int) -> None:
        layout = of_objects(VERSION)
        kinds = dict(zip(NAMES.split(), (*TYPES, *TYPES), strict=False))
        python = Interpreter(VERSION, 0x10000, layout, TYPES, kinds)
        heap = Heap(self.read, python)
        self.words: dict[int, int] = {}
        self.head = STATE.address + heap.at.thread_tasks
        self.link(*tasks)
        self.tasks = set(tasks)
        threads = Threads(self.read, python)
        self.lists = TaskLists(self.read, python, heap, threads, self.task_size)
        self.then = lambda: None

    def link(self, *tasks: int) -> None:
        nodes = [self.head, *(task + PLACE for task in tasks), self.head]
        self.words |= dict(pairwise(nodes))

    def read(self, address: int, size: int) -> bytes:
        if address not in self.words or size != 8:
            raise StackError("unreadable")
        return struct.pack("<Q", self.words[address])

    def task_size(self, address: int) -> int:
        then, self.then = self.then, lambda: None
        then()
        return SIZE if address in self.tasks else 0

    def listed(self) -> list[int]:
        self.lists.torn = False
        self.lists._searches = 0
        self.lists.links.begin(iter([False] * 99))
        return list(self.lists.listed(STATE.interpreter, [STATE]))


def test_where_tasks_are_linked() -> None:
    """Learnt from the first, and good for the others."""
    loop = Loop(0x300000, 0x300000 + SIZE, 0x300000 + 2 * SIZE)
    assert loop.listed() == [0x300000, 0x300000 + SIZE, 0x300000 + 2 * SIZE]


def test_a_task_that_is_freed_while_its_place_is_looked_for() -> None:
    """The task before it in memory is not taken for it, neither then nor later."""
    neighbour, freed = 0x300000, 0x300000 + SIZE
    loop = Loop(freed, neighbour)

    def free() -> None:
        loop.tasks.discard(freed)
        loop.link(neighbour)

    loop.then = free
    assert set(loop.listed()) <= {neighbour}
    loop.link(neighbour)
    assert loop.listed() == [neighbour]


def test_a_list_that_changes_while_a_place_is_looked_for() -> None:
    """A task that holds the place of another's link, when that is gone, says nothing of where links are."""
    gone, taken = 0x300000, 0x300000 + 0x20
    loop = Loop(gone)

    def replace() -> None:
        loop.tasks = {taken}
        loop.link(taken)

    loop.then = replace
    assert loop.listed() == []
    assert loop.lists.torn
    assert loop.listed() == [taken]


def test_what_was_learnt_of_a_place_is_learnt_again() -> None:
    """An address may have become another class's."""
    loop = Loop(0x300000)
    assert loop.listed() == [0x300000]
    loop.lists.forget()
    loop.tasks = {0x300000 + 8}
    assert loop.listed() == [0x300000 + 8]
