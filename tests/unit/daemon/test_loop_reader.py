"""Reading a loop: what becomes of its tasks, and when it is left alone."""

from __future__ import annotations

from typing import Any, cast

import pytest
from timeline import MS, PID, START, peer

from whyidle_daemon.epoll_sets import EpollSets, Member
from whyidle_daemon.loop_reader import _MAX_SEEN, MAX_ALIKE, MAX_TASKS, LoopReader, Reading
from whyidle_daemon.pystack import Frame, StackError, Task, Tasks
from whyidle_probes.events import NO_PEER, Glance, Peer, Wait

MAIN, SEARCH = Frame("main", "/app/agent.py", 9), Frame("search", "/app/agent.py", 4)
STREAM = Frame("StreamReader.read", "/usr/lib/python3.11/asyncio/streams.py", 1)


class World:
    """A process with tasks, an epoll set and a clock."""

    def __init__(self) -> None:
        self.now = START
        self.found: Tasks | StackError = Tasks((), True)
        self.sockets: dict[int, Member] = {}
        self.asked: list[Any] = []
        self.loops = LoopReader(cast(EpollSets, self), lambda: self.now)

    def members(self, pid: int, descriptor: int) -> dict[int, Member]:
        return self.sockets

    def tasks(self, limit: int, registered: Any = None, selector: int | None = None, fresh: int = 0) -> Tasks:
        self.asked.append((limit, registered, selector))
        if isinstance(self.found, StackError):
            raise self.found
        return self.found

    def read(self, since: int = START, tid: int = PID) -> Any:
        thread = Glance(PID, tid, since, 0, 0, int(Wait.EPOLL), 232, 5, NO_PEER, 0)
        return self.loops.read(self, thread)


def socket_task(number: int, descriptor: int | None, awaited: int = 1, name: str = "t") -> Task:
    return Task(name, (SEARCH, STREAM), False, 1, number, "socket", descriptor, (), awaited)


def member(to: Peer | None, **more: bool) -> Member:
    return Member(1, to, **more)


def test_tasks_that_are_alike_are_one_entry() -> None:
    """Same code and same peer, whatever the local ports; the main task's own wait comes last."""
    world = World()
    world.sockets = {7: member(peer(local_port=1)), 8: member(peer(local_port=2)), 9: member(peer(port=80))}
    main = Task("Task-1", (MAIN,), False, 1, 50, "task", None, (10, 11), 1)
    world.found = Tasks((main, *(socket_task(n + 3, n) for n in (7, 8, 9))), True)
    reading = world.read()
    assert world.asked == [(MAX_TASKS, world.sockets, 5)]
    entries = [(t.site.function, t.kind, t.peer.remote_port, t.number, t.ports) for t in reading.fact.tasks]
    assert entries == [
        ("search", "socket", 443, 2, (1, 2)),
        ("search", "socket", 80, 1, (40000,)),
        ("main", "task", 0, 1, ()),
    ]
    assert (reading.fact.total, reading.late) == (4, False)
    assert [one.wanted for one in reading.fact.tasks] == [True, False, True]
    assert reading.fact.tasks[0].site.stack == (
        "StreamReader.read (/usr/lib/python3.11/asyncio/streams.py:1)",
        "search (/app/agent.py:4)",
    )


def test_since_when_a_task_waits() -> None:
    """The same task in the same await has waited since it was seen first; in another one, since then."""
    world = World()
    world.sockets = {7: member(peer())}
    seen = []
    for since, awaited in ((START, 1), (START + MS, 1), (START + 2 * MS, 2), (START + 3 * MS, 2)):
        world.found = Tasks((socket_task(10, 7, awaited),), True)
        seen.append(world.read(since).fact.tasks[0].since_ns - START)
    assert seen == [0, 0, 2 * MS, 2 * MS]
    world.loops.forget(PID)
    assert world.read(START + 9 * MS).fact.tasks[0].since_ns == START + 9 * MS


def test_two_loops_of_a_process_wait_each_since_its_own_time() -> None:
    """Reading one does not make the tasks of the other new; both go with the process."""
    world = World()
    world.sockets = {7: member(peer())}
    seen = []
    for turn in range(3):
        for tid in (PID, PID + 1):
            world.found = Tasks((socket_task(tid, 7),), True)
            reading = world.read(START + (10 * turn + tid - PID) * MS, tid)
            seen.append((reading.fact.tasks[0].since_ns - START) // MS)
    assert seen == [0, 1, 0, 1, 0, 1]
    world.loops.forget(PID)
    for tid in (PID, PID + 1):
        world.found = Tasks((socket_task(tid, 7),), True)
        assert world.read(START + 99 * MS, tid).fact.tasks[0].since_ns == START + 99 * MS


def test_loops_of_threads_that_come_and_go_are_bounded() -> None:
    """A loop without tasks takes no room, and of those with some no more than there is room for."""
    world = World()
    for tid in range(PID, PID + 100):
        world.read(tid=tid)
    assert not world.loops._seen
    world.found = Tasks(tuple(socket_task(n + 1, 7) for n in range(MAX_TASKS)), True)
    for tid in range(PID, PID + 100):
        world.read(tid=tid)
        assert sum(map(len, world.loops._seen.values())) <= _MAX_SEEN


def test_a_loop_that_changes_while_it_is_read_is_left_alone() -> None:
    """For longer each time, up to a limit; a reading that counts ends that."""
    world = World()
    world.found = StackError("torn")
    pauses = []
    for n in range(11):
        began, asked = world.now, len(world.asked)
        while len(world.asked) == asked:
            world.now += 25 * MS
            assert world.read() == Reading((), None, late=True)
            assert world.loops.paused(PID)
        pauses.append((world.now - began) // MS)
        assert len(world.asked) == n + 1
    assert pauses == [25, 25, 50, 100, 200, 400, 800, 1600, 3200, 6400, 10_000]
    world.found = Tasks((), True)
    assert world.read().fact is None
    world.loops.settled(PID)
    assert world.read().fact is not None


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (StackError("unsupported", "tasks of Python 3.10"), "tasks of Python 3.10"),
        (Tasks((socket_task(1, 7), socket_task(2, 7)._replace(loop=2)), True), "whose tasks they are"),
    ],
)
def test_what_cannot_be_told_has_a_reason(found: Any, reason: str) -> None:
    """And the connections that the selector waits for, without clients."""
    world = World()
    world.sockets = {7: member(peer()), 8: member(peer(port=9), inbound=True), 9: member(None)}
    world.found = found
    fact = world.read().fact
    assert fact.reason.startswith(reason)
    assert (fact.tasks, fact.total, fact.sockets) == ((), 0, (peer(),))


def test_more_tasks_than_are_read() -> None:
    """Those that were read count, and that there are more is said; kinds of wait are bounded."""
    world = World()
    tasks = tuple(
        Task(None, (SEARCH._replace(line=n),), False, 1, n, "future", None, (), 1) for n in range(MAX_TASKS)
    )
    world.found = Tasks(tasks, False, more=True)
    fact = world.read().fact
    assert (fact.total, len(fact.tasks)) == (MAX_TASKS + 1, MAX_ALIKE)


def test_a_connection_that_is_too_new() -> None:
    """It is said that reading again will tell."""
    world = World()
    world.sockets, world.found = {7: member(None, late=True)}, Tasks((socket_task(1, 7),), True)
    reading = world.read()
    assert (reading.late, reading.fact.tasks[0].peer) == (True, NO_PEER)


def test_a_process_that_is_gone() -> None:
    """That is for the caller to handle."""
    world = World()
    world.found = StackError("gone")
    with pytest.raises(StackError):
        world.read()
