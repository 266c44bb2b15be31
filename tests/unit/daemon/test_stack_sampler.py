"""When the stack sampler reads a wait again: what a reading of an event loop leaves open."""

from __future__ import annotations

import logging
import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest
from timeline import MS, PID, START

from whyidle_daemon import reading_turns, sampler
from whyidle_daemon.epoll_sets import EpollSets
from whyidle_daemon.loop_reader import LoopReader
from whyidle_daemon.pystack import Frame, StackError, Task, Tasks
from whyidle_daemon.reading_guard import Process
from whyidle_daemon.recent import ROOM
from whyidle_probes.events import NO_PEER, Glance, Thread, Wait

LOOP = (
    Frame("EpollSelector.select", "/usr/lib/python3.11/selectors.py", 1),
    Frame("BaseEventLoop._run_once", "/usr/lib/python3.11/asyncio/base_events.py", 1),
    Frame("main", "/app/agent.py", 9),
)
STREAM = Frame("StreamReader.read", "/usr/lib/python3.11/asyncio/streams.py", 1)
SEARCH = Task("t", (Frame("search", "/app/agent.py", 4), STREAM), False, 1, 1, "socket", 7, (), 1)


class Loop:
    """A process whose loop has slept in one selector since START; its tasks are read as ``found`` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = START + 5 * MS
        self.found: Tasks | StackError = Tasks((SEARCH,), True)
        self.torn = False
        self.closed = 0
        self.cpu_ns = self.costs_ns = 0
        self.python = SimpleNamespace(runtime=0, version=(3, 11))
        self.thread = Glance(PID, PID, START, 0, 0, int(Wait.EPOLL), 232, 5, NO_PEER, 0)
        monkeypatch.setattr(sampler, "StackReader", lambda pid: self)
        self.loops = LoopReader(cast(EpollSets, self), lambda: self.now)
        look, clock = (lambda tid: self.thread), (lambda: self.cpu_ns)
        self.sampler = sampler.StackSampler(look, lambda *_: None, self.loops, clock)
        self.sampler.started(PID, self.now)
        self.sampler.discover(self.now)

    def close(self) -> None:
        self.closed += 1

    def members(self, pid: int, descriptor: int) -> dict[int, Any]:
        return {}

    def read(self, tid: int) -> Any:
        self.cpu_ns += self.costs_ns
        if self.torn:
            raise StackError("torn")
        return SimpleNamespace(frames=LOOP)

    def name(self, tid: int) -> str:
        return ""

    def tasks(self, *_: Any) -> Tasks:
        if isinstance(self.found, StackError):
            raise self.found
        return self.found

    def sample(self) -> list[str]:
        """The functions that a turn of the sampler finds."""
        found = self.sampler.sample([PID], self.now)
        return [one.site.function for one in found if not hasattr(one, "tasks")]


def test_a_wait_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tasks could be told: that is all there is to it."""
    loop = Loop(monkeypatch)
    assert (loop.sample(), loop.sample()) == (["search"], [])


def test_a_wait_that_began_while_the_loop_was_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """First only the selector's caller is known; when the loop may be read again, who waits in it."""
    loop = Loop(monkeypatch)
    loop.loops.failed(PID)
    assert loop.sample() == ["main"]
    loop.now += 20 * MS
    assert loop.sample() == []  # no reading is spent before
    loop.now += 10 * MS
    assert (loop.sample(), loop.sample()) == (["search"], [])


def test_a_wait_whose_tasks_could_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lasts: it is tried again after the pause."""
    loop = Loop(monkeypatch)
    loop.found = StackError("torn")
    assert loop.sample() == ["main"]
    loop.found = Tasks((SEARCH,), True)
    assert loop.sample() == []
    loop.now += 30 * MS
    assert (loop.sample(), loop.sample()) == (["search"], [])
    assert loop.sampler.reads == 2


def test_the_next_wait_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left open of a wait that is over does not matter any more."""
    loop = Loop(monkeypatch)
    loop.loops.failed(PID)
    assert loop.sample() == ["main"]
    loop.now += 200 * MS
    loop.thread = loop.thread._replace(last_ns=loop.now - 10 * MS)
    assert (loop.sample(), loop.sample()) == (["search"], [])


def test_a_wait_that_was_short_when_it_was_read_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lasts, and then its tasks are read, which a look at a short one leaves alone."""
    loop = Loop(monkeypatch)
    loop.now = START + 1 * MS
    assert loop.sampler.sample([PID], loop.now)
    who = Thread._make([PID, PID, *[0] * 22])
    assert loop.sampler.latest_loop(who) is None
    loop.now = START + 51 * MS
    assert loop.sample() == ["search"]
    reading = loop.sampler.latest_loop(who)
    assert reading is not None
    assert reading.since_ns == START
    assert loop.sample() == []


def test_a_reading_that_failed_is_tried_again_when_the_wait_is_twice_as_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hang is not without a line for ever; a process that cannot be read costs a few readings."""
    loop = Loop(monkeypatch)
    loop.torn = True
    tried = []
    for at in range(5, 1000, 5):
        loop.now = START + at * MS
        before = loop.sampler.reads
        assert loop.sample() == []
        if loop.sampler.reads > before:
            tried.append(at)
    assert tried == [5, 10, 20, 40, 80, 160, 320, 640]
    loop.torn = False
    loop.now = START + 1280 * MS
    assert (loop.sample(), loop.sample()) == (["search"], [])


def test_a_process_that_ends_between_two_tries_for_a_short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is forgotten at the first, and the second is not made; nothing is raised."""
    loop = Loop(monkeypatch)
    monkeypatch.setattr(loop, "read", lambda _: (_ for _ in ()).throw(StackError("gone")))
    loop.now = START + 1 * MS
    assert loop.sample() == []
    assert loop.sampler.reads == 1


HOSTILE = [ValueError("secret"), struct.error("secret"), OverflowError(), RecursionError(), MemoryError()]


@pytest.mark.parametrize("error", HOSTILE, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["_open", "read", "tasks", "name", "members"])
def test_a_target_that_breaks_its_reading_is_left_alone(
    where: str, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is raised, its next program is read; it is said once, without what the target holds."""
    loop = Loop(monkeypatch)
    loop.sampler.forget(PID)
    loop.closed = 0
    good = sampler.StackReader, loop.read, loop.tasks, loop.name, loop.members

    def broken(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(*((sampler, "StackReader") if where == "_open" else (loop, where)), broken)
    loop.sampler.started(PID, loop.now)
    for _ in range(20):
        loop.now += 500 * MS
        loop.thread = loop.thread._replace(last_ns=loop.now - 10 * MS)
        loop.sampler.discover(loop.now)
        assert loop.sample() == []
    assert not loop.sampler.has_work(loop.now)
    assert loop.closed == (where != "_open")
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert str(PID) in said
    assert type(error).__name__ in said
    assert "secret" not in said
    monkeypatch.setattr(sampler, "StackReader", good[0])
    for name, mended in zip(("read", "tasks", "name", "members"), good[1:], strict=True):
        monkeypatch.setattr(loop, name, mended)
    loop.sampler.started(PID, loop.now)
    loop.sampler.discover(loop.now)
    assert loop.sample() == ["search"]


def test_a_runtime_at_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile program says that its runtime is where no 64 bits reach: it is not read, others are."""
    loop = Loop(monkeypatch)
    loop.sampler.close()
    ranges = struct.Struct("<QQ")
    loop.sampler = sampler.StackSampler(
        lambda tid: loop.thread, lambda _, start, end: ranges.pack(start, end) and None, loop.loops, lambda: 0
    )
    loop.python.runtime = (1 << 64) - 8
    loop.sampler.started(PID, loop.now)
    loop.sampler.started(PID + 1, loop.now)
    loop.sampler.discover(loop.now)
    assert loop.sample() == []
    assert not loop.sampler.has_work(loop.now)


def test_processes_that_ended_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand short ones leave nothing: who has their numbers next is not theirs to be read for."""
    loop = Loop(monkeypatch)
    for pid in range(PID + 1, PID + 1001):
        loop.sampler.started(pid, loop.now)
        loop.sampler.started(pid, loop.now)  # it executed a program
        loop.sampler.forget(pid)
    assert not loop.sampler._pending
    loop.sampler.forget(PID)
    assert not loop.sampler.has_work(loop.now + 10_000 * MS)


def test_who_is_due_does_not_wait_for_who_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many were looked at in vain and get another look later."""
    loop = Loop(monkeypatch)
    looked: list[int] = []

    def none(pid: int) -> Any:
        looked.append(pid)
        raise StackError("not_python")

    monkeypatch.setattr(sampler, "StackReader", none)
    first = range(PID + 1, PID + 1 + 100 * sampler.DISCOVER_PER_TURN)
    for pid in first:
        loop.sampler.started(pid, loop.now)
    for _ in range(100):
        loop.sampler.discover(loop.now)
    assert looked == list(first)
    loop.sampler.started(PID, loop.now)
    loop.sampler.discover(loop.now)
    assert looked[-1] == PID
    loop.now += 100 * MS
    loop.sampler.discover(loop.now)
    assert len(looked) == len(first) + 1 + sampler.DISCOVER_PER_TURN


def test_what_takes_long_to_read_is_read_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has stacks that are expensive gets the same share of a CPU as everybody."""
    reads = []
    for costs_ns in (28_000, reading_turns.READ_COSTS_NS, 40 * reading_turns.READ_COSTS_NS):
        loop = Loop(monkeypatch)
        loop.costs_ns = costs_ns
        for _ in range(2000):
            loop.now += 5 * MS
            loop.thread = loop.thread._replace(last_ns=loop.now - 3 * MS)
            loop.sample()
        reads.append(loop.sampler.reads)
    usual = reading_turns.MAX_READS - reading_turns.KEPT + 10 * reading_turns.READS_PER_S
    assert reads[0] == reads[1] == pytest.approx(usual, abs=2)
    each = 1 + 40 - reading_turns.INCLUDED_NS / reading_turns.READ_COSTS_NS
    learnt = reading_turns.LEARNINGS + 10 * reading_turns.LEARNINGS_PER_S
    assert reads[2] == pytest.approx(learnt + (usual - learnt * reading_turns.LEARNING) / each, abs=1)


def test_a_thread_that_was_never_read_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool lives for one wait: what others are read for again and again leaves enough for that one."""
    loop = Loop(monkeypatch)
    loop.costs_ns = 20 * reading_turns.READ_COSTS_NS  # a slow host
    known, tool = PID, PID + 1
    for turn in range(400):
        loop.now += 50 * MS
        loop.thread = loop.thread._replace(tid=known, last_ns=loop.now - 3 * MS)
        loop.sampler.sample([known], loop.now)
        if turn % 40 == 39:  # every two seconds there is another
            loop.thread = loop.thread._replace(tid=tool, last_ns=loop.now - 3 * MS)
            assert loop.sampler.sample([tool], loop.now), f"at {turn}"
            loop.sampler.ended(tool)


def test_a_wait_of_a_new_kind_comes_before_those_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that asks every few milliseconds whether a file is there, and then searches once."""
    loop = Loop(monkeypatch)
    loop.costs_ns = 20 * reading_turns.READ_COSTS_NS  # a slow host
    polls, searches = (loop.thread._replace(state=int(wait)) for wait in (Wait.SLEEP, Wait.TCP))
    for _ in range(100):
        loop.now += 50 * MS
        loop.thread = polls._replace(last_ns=loop.now - 3 * MS)
        loop.sample()
    loop.now += 50 * MS
    loop.thread = searches._replace(last_ns=loop.now - 3 * MS)
    assert loop.sample() == ["search"]
    for number in range(10):  # later ones are read when they last, however seldom the polls were
        loop.now += 500 * MS
        loop.thread = polls._replace(last_ns=loop.now - 3 * MS)
        loop.sample()
        loop.now += 50 * MS
        loop.thread = searches._replace(last_ns=loop.now - 60 * MS)
        assert loop.sample() == ["search"], f"number {number}"


def starved(monkeypatch: pytest.MonkeyPatch, first: str) -> int:
    """Of 120 waits of a second, how many are read beside a thread that is in another wait whenever asked."""
    loop = Loop(monkeypatch)
    loop.costs_ns = 15 * reading_turns.READ_COSTS_NS
    lasts = loop.thread._replace(tid=PID + 1, state=int(Wait.FUTEX))
    asleep = {PID: loop.thread, PID + 1: lasts}
    loop.sampler._look = asleep.get
    readings: list[tuple[int, int]] = []

    def read(tid: int) -> Any:
        loop.cpu_ns += loop.costs_ns
        readings.append((tid, asleep[tid].last_ns))
        if first == "changes" and tid == PID:
            asleep[tid] = asleep[tid]._replace(last_ns=asleep[tid].last_ns + 1)
        if first == "torn" and tid == PID:
            raise StackError("torn")
        return SimpleNamespace(frames=LOOP[2:])

    monkeypatch.setattr(loop, "read", read)
    other = PID
    for turn in range(2400):
        loop.now += 50 * MS
        if turn % 20 == 0:
            asleep[PID + 1] = lasts._replace(last_ns=loop.now - 3 * MS)
        peer = NO_PEER._replace(local_port=turn, remote_port=80, family=2) if first == "port" else NO_PEER
        if first == "thread":
            asleep.pop(other, None)
            loop.sampler.ended(other)
            other = PID + 2 + turn
        state = int(Wait.TCP if first == "port" else Wait.SLEEP)
        asleep[other] = loop.thread._replace(tid=other, state=state, last_ns=loop.now - 3 * MS, peer=peer)
        loop.sampler.sample([other, PID + 1], loop.now)
    return len({since for tid, since in readings if tid == PID + 1})


@pytest.mark.parametrize("first", ["same", "port", "changes", "torn", "thread"])
def test_what_lasts_is_read_whatever_else_there_is(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new connection for each poll, stacks that change or are torn, a new thread each time."""
    assert starved(monkeypatch, first) == 120


def test_a_crowd_is_looked_at_once_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty threads of which each waits anew for the same: who may not be read is not looked at again."""
    loop = Loop(monkeypatch)
    looks = 0

    def look(tid: int) -> Glance:
        nonlocal looks
        looks += 1
        return loop.thread._replace(tid=tid, state=int(Wait.FUTEX), last_ns=loop.now - 3 * MS)

    loop.sampler._look = look
    tids, turns = list(range(PID, PID + 60)), 400
    for _ in range(turns):
        loop.now += 50 * MS
        loop.sampler.sample(tids, loop.now)
    each = 2  # before a reading, and after it
    assert looks <= turns * len(tids) + each * loop.sampler.reads


def test_a_new_kind_does_not_wait_for_what_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the readings are used up there are some for it alone, however long others have lasted."""
    loop = Loop(monkeypatch)
    loop.found = Tasks((), True)
    assert loop.sample()
    asleep = {PID: loop.thread._replace(last_ns=START + MS), PID + 1: loop.thread._replace(tid=PID + 1)}
    asleep[PID + 1] = asleep[PID + 1]._replace(last_ns=START + 10_000 * MS)
    loop.sampler._look = asleep.get
    loop.now = START + 10_003 * MS
    loop.sampler.sample([], loop.now)
    loop.sampler._turns._left = 0.0
    loop.now += MS
    found = loop.sampler.sample([PID, PID + 1], loop.now)
    assert {one.tid for one in found} == {PID + 1}


def test_kinds_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand threads that live, with as many clients each as there may be."""
    turns = reading_turns.ReadingTurns()
    thread = Loop(monkeypatch).thread._replace(state=int(Wait.TCP))
    for number in range(10_000):
        for port in range(20):
            peer = NO_PEER._replace(remote_port=port + 1, family=2)
            turns.tried(thread._replace(tid=number, peer=peer), settled=True)
    assert len(turns._kinds) == reading_turns.MAX_THREADS
    assert max(map(len, turns._kinds.values())) <= reading_turns.MAX_KINDS
    assert turns._known(thread._replace(tid=9_999, peer=NO_PEER._replace(remote_port=20, family=2)))


def test_another_program_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher becomes a tool by exec, and keeps its number."""
    loop = Loop(monkeypatch)
    assert loop.sample() == ["search"]
    loop.sampler._turns._left = 0.0
    loop.thread = loop.thread._replace(last_ns=loop.now)
    loop.now += 10 * MS
    assert loop.sample() == []
    loop.sampler.started(PID, loop.now)
    loop.sampler.discover(loop.now)
    assert loop.sample() == ["search"]


def test_what_has_lasted_longest_is_read_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of waits that are known; one of a kind that is new comes before them."""
    loop = Loop(monkeypatch)
    asleep = {PID + number: loop.thread._replace(tid=PID + number, last_ns=0) for number in range(4)}
    loop.sampler._look = asleep.get
    order: list[int] = []

    def read(tid: int) -> Any:
        order.append(tid)
        return SimpleNamespace(frames=LOOP)

    monkeypatch.setattr(loop, "read", read)
    for ages in ((5, 6, 7, None), (7, 6, 5, 3)):
        loop.now += 1000 * MS
        tids = [tid for tid, age in zip(asleep, ages, strict=True) if age]
        for tid, age in zip(asleep, ages, strict=True):
            asleep[tid] = asleep[tid]._replace(last_ns=loop.now - (age or 0) * MS)
        loop.sampler.sample(tids, loop.now)
    assert order == [PID + 2, PID + 1, PID, PID + 3, PID, PID + 1, PID + 2]


def test_a_reading_that_left_something_open_does_not_make_its_kind_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tasks of a loop tell more than the selector's caller: to read them comes as early as that."""
    loop = Loop(monkeypatch)
    loop.costs_ns = 20 * reading_turns.READ_COSTS_NS
    loop.found = StackError("torn")
    assert loop.sample() == ["main"]
    loop.found = Tasks((SEARCH,), True)
    loop.sampler._turns._left = 0.0
    loop.now += 30 * MS  # not long enough to be read for that it lasts
    assert loop.sample() == ["search"]


def test_a_short_wait_is_not_tried_again_at_any_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """When one try took all there is, it was the last for now."""
    loop = Loop(monkeypatch)
    loop.costs_ns, loop.torn = 2 * reading_turns.MAX_READS * reading_turns.READ_COSTS_NS, True
    loop.sampler._turns._learnings = 0  # it had what is let off just before
    loop.now = START + 1 * MS
    assert loop.sample() == []
    assert loop.sampler.reads == 1


def test_what_a_first_reading_learns_does_not_silence_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow host it costs as much as hundreds of others; a second one that does counts as that."""
    loop = Loop(monkeypatch)

    def reads_in_a_second(costs_ns: int) -> int:
        before = loop.sampler.reads
        loop.costs_ns = costs_ns
        for _ in range(200):
            loop.now += 5 * MS
            loop.thread = loop.thread._replace(last_ns=loop.now - 3 * MS)
            loop.sample()
            if loop.sampler.reads > before:
                loop.costs_ns = 28_000
        return loop.sampler.reads - before

    for _ in range(reading_turns.LEARNINGS):
        assert reads_in_a_second(300 * reading_turns.READ_COSTS_NS) >= 0.4 * reading_turns.READS_PER_S
    loop.sampler._turns._learnings = 0.0  # but for the one in five seconds
    assert reads_in_a_second(300 * reading_turns.READ_COSTS_NS) <= reading_turns.READS_PER_S / 2
    assert reads_in_a_second(28_000) == 0


@pytest.mark.parametrize("long", [False, True])
def test_threads_that_come_and_go_leave_nothing(long: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What their waits were read for goes with them; what was read is bounded."""
    loop = Loop(monkeypatch)
    loop.found = StackError("torn")  # the wait is to be read again
    for tid in range(PID, PID + 3000):
        loop.now += 1000 * MS
        loop.thread = loop.thread._replace(tid=tid, last_ns=loop.now - (5 if long else 1) * MS)
        assert loop.sampler.sample([tid], loop.now)
        loop.sampler.ended(tid)
    kept = loop.sampler
    assert (kept._done, kept._late, kept._failed, kept._turns._kinds) == ({}, {}, {}, {})
    assert kept._latest.size <= ROOM


def test_who_is_not_to_be_read_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is never opened; what is read of others is read under the guard."""
    loop = Loop(monkeypatch)
    begun: list[int] = []
    guard = SimpleNamespace(
        admit=lambda pid: Process(pid, 1, 1) if pid == PID else None,
        begin=lambda process: begun.append(process.pid),
    )
    opened: list[int] = []
    monkeypatch.setattr(sampler, "StackReader", lambda pid: opened.append(pid) or loop)
    loop.sampler = sampler.StackSampler(
        lambda tid: loop.thread, lambda *_: None, loop.loops, lambda: 0, guard=cast(Any, guard)
    )
    for pid in (PID, PID + 1):
        loop.sampler.started(pid, loop.now)
    loop.sampler.discover(loop.now)
    assert (opened, begun) == ([PID], [PID])
    assert loop.sample() == ["search"]
    assert begun == [PID, PID]
    loop.sampler.forget(PID)
    assert not loop.sampler.has_work(loop.now + 10_000 * MS)


@pytest.mark.parametrize(
    ("state", "since_ns", "looks"),
    [
        (Wait.RUNNING, 200_000, sampler.LOOKS),
        (Wait.RUNNING, 5_000_000, 1),
        (Wait.RUNQUEUE, 200_000, 1),
    ],
    ids=["woke up just now", "computes", "waits for a CPU"],
)
def test_who_computes_is_not_waited_for(
    state: Wait, since_ns: int, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model's threads never sleep while they compute: to look again costs, and finds nothing."""
    loop = Loop(monkeypatch)
    loop.thread = loop.thread._replace(state=int(state), last_ns=loop.now - since_ns)
    asked: list[int] = []

    def look(tid: int) -> Glance:
        asked.append(tid)
        return loop.thread

    loop.sampler._look = look
    assert loop.sample() == []
    assert len(asked) == 1 + looks  # one says whose turn it is


def test_what_is_known_is_nothing_to_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing new for ten seconds: nobody needs to look that often. Another kind of wait is something new."""
    loop = Loop(monkeypatch)
    assert loop.sample() == ["search"]
    assert loop.sampler.learning(loop.now)
    loop.now += sampler.LEARNING_NS
    loop.thread = loop.thread._replace(last_ns=loop.now - 5 * MS)
    assert loop.sample() == ["search"]
    assert not loop.sampler.learning(loop.now)
    loop.thread = loop.thread._replace(state=int(Wait.FUTEX), last_ns=loop.now - 6 * MS)
    assert loop.sample()
    assert loop.sampler.learning(loop.now)


def test_a_new_program_may_be_something_to_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is known whether it has code to be read."""
    loop = Loop(monkeypatch)
    later = loop.now + sampler.LEARNING_NS
    assert not loop.sampler.learning(later)
    loop.sampler.started(PID + 1, later)
    assert loop.sampler.learning(later)
