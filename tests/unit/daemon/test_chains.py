"""The walk to the root cause, whatever the threads of a target do to one another."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whyidle_daemon.chains import MAX_LINKS, MAX_STEPS, Walker
from whyidle_daemon.processes import ProcessTable, successors
from whyidle_daemon.roots import roots_of
from whyidle_daemon.things import thing_of
from whyidle_daemon.timelines import Record
from whyidle_daemon.wait_tables import EPHEMERAL
from whyidle_daemon.wakes import Wakes
from whyidle_probes.events import NO_PEER, NO_SYSCALL, Exit, Fork, Peer, Slice, Start, Thread, Wait

MS = 1_000_000
NUMBERS = {"write": 1, "sendto": 44, "connect": 42, "futex": 202, "exit": 60, "read": 0}
LOCAL, FAR = bytes([127, 0, 0, 1]).ljust(16, b"\0"), bytes([93, 184, 216, 34]).ljust(16, b"\0")


class World(NamedTuple):
    """Processes of one thread each, PID = TID."""

    processes: ProcessTable
    wakes: Wakes
    lines: dict[int, list[Record]]

    def walker(self, waiting: dict[tuple[int, int], Record] | None = None) -> Walker:
        return Walker(
            self.wakes,
            self.processes.find,
            lambda tid: sorted(self.lines.get(tid, []), key=lambda r: r.start_ns),
            waiting=waiting,
            processes=self.processes,
        )

    def sleep(
        self, tid: int, start: int, ns: int, wait: Wait, by: int = 0, call: str = "", peer: Peer = NO_PEER
    ) -> Record:
        syscall = NUMBERS.get(call, NO_SYSCALL)
        slice_ = Slice(1, tid, tid, start, ns, 0, 0, 0, by, by, int(wait), 7, 3, peer, waker_syscall=syscall)
        record = self.wakes.linked(Record(start, ns, 0, int(wait), None), slice_)
        self.lines.setdefault(tid, []).append(record)
        return record


def world(*pids: int) -> World:
    processes = ProcessTable()
    for pid in pids:
        processes.fork(Fork(1, 1, 1, pid, f"p{pid}"))
    return World(processes, Wakes(processes.find), {})


def tcp(local: int, remote: int, to: bytes = LOCAL, state: int = 1) -> Peer:
    return Peer(LOCAL if to == LOCAL else bytes(16), to, local, remote, 2, 1, state)


SERVER, AGENT, BALANCER, BYSTANDER = 10, 20, 30, 40
KEPT = EPHEMERAL + 1


def told(w: World, end: int = 100 * MS) -> list[tuple[int, int, float]]:
    segments = w.walker().walk(0, end, (SERVER, SERVER))
    return [(s.root.tid, s.root.wait, (s.end_ns - s.start_ns) / MS) for s in segments]


def test_the_agent_behind_a_server_is_to_blame() -> None:
    """The server's wait ends by the agent's call: what the agent waited for is the root."""
    w = world(SERVER, AGENT)
    w.sleep(SERVER, 5 * MS, 85 * MS, Wait.LISTEN, AGENT, "connect", tcp(8080, 0, state=10))
    w.sleep(AGENT, 10 * MS, 70 * MS, Wait.TCP, 0, "", tcp(KEPT, 443, FAR))
    assert told(w) == [
        (SERVER, Wait.RUNNING, 10),
        (AGENT, Wait.RUNNING, 10),
        (AGENT, Wait.TCP, 70),
        (AGENT, Wait.RUNNING, 10),
    ]
    (_, _, wait, _) = w.walker().walk(0, 100 * MS, (SERVER, SERVER))
    assert [link.tid for link in wait.chain] == [SERVER, AGENT]
    assert wait.chain[0].via == "tcp"


def test_an_interrupt_blames_nobody() -> None:
    """Who happened to run when data came from afar, or when a timer fired, did not cause it."""
    for wait, call, peer in (
        (Wait.TCP, "", tcp(KEPT, 443, FAR)),
        (Wait.EPOLL, "", NO_PEER),
        (Wait.FUTEX, "write", NO_PEER),
        (Wait.SLEEP, "write", NO_PEER),
    ):
        w = world(SERVER, BYSTANDER)
        w.sleep(SERVER, 0, 90 * MS, wait, BYSTANDER, call, peer)
        assert told(w) == [(SERVER, Wait.RUNNING, 10), (SERVER, wait, 90)]


def test_both_ends_of_a_connection_find_each_other() -> None:
    """Data that the kernel delivered in another thread's time still leads to the other end."""
    w = world(SERVER, AGENT, BYSTANDER)
    w.sleep(AGENT, 0, MS, Wait.TCP, SERVER, "sendto", tcp(KEPT, 8080))
    w.sleep(SERVER, 2 * MS, 88 * MS, Wait.TCP, BYSTANDER, "write", tcp(8080, KEPT))
    w.sleep(AGENT, 10 * MS, 70 * MS, Wait.SLEEP)
    assert (AGENT, Wait.SLEEP, 70) in told(w)
    assert all(tid != BYSTANDER for tid, _, _ in told(w))


def test_what_timed_out_before_is_the_same_wait() -> None:
    """A server that looks up every 10 ms waits for the one that calls in the end, all the time."""
    w = world(SERVER, AGENT)
    for n in range(9):
        by = AGENT if n == 8 else 0
        w.sleep(SERVER, n * 10 * MS, 10 * MS, Wait.LISTEN, by, "connect", tcp(8080, 0, state=10))
    w.sleep(AGENT, 0, 80 * MS, Wait.SLEEP)
    assert sum(ms for tid, wait, ms in told(w) if (tid, wait) == (AGENT, Wait.SLEEP)) == 80


def test_nobody_calls() -> None:
    """A wait on a listening socket that no thread of the target ended is no demand."""
    w = world(SERVER, BYSTANDER)
    w.sleep(SERVER, 0, 90 * MS, Wait.LISTEN, 0, "", tcp(8080, 0, state=10))
    assert [s.nobody for s in w.walker().walk(0, 100 * MS, (SERVER, SERVER))] == [False, True]


def test_a_server_that_nobody_has_called_yet() -> None:
    """The accept that lasts says that it is one: its worker on a connection waits to be called as well."""
    w = world(SERVER)
    port, worker = tcp(8080, 0, state=10), SERVER + 1
    thing = thing_of(int(Wait.LISTEN), port, 0, 0)
    lasting = {
        (SERVER, SERVER): Record(10 * MS, 90 * MS, 0, int(Wait.LISTEN), None, thing=thing),
        (SERVER, worker): Record(10 * MS, 90 * MS, 0, int(Wait.EPOLL), None),
    }
    (idle,) = w.walker(lasting).walk(10 * MS, 100 * MS, (SERVER, worker), True)
    assert idle.nobody
    del lasting[SERVER, SERVER]
    (idle,) = w.walker(lasting).walk(10 * MS, 100 * MS, (SERVER, worker), True)
    assert not idle.nobody


def test_a_thread_made_for_one_request_depends_on_who_made_it() -> None:
    """Before it was there, its maker waited."""
    w = world(SERVER, AGENT)
    w.processes.at(SERVER, 1)
    w.wakes.start(Start(1, 50 * MS, SERVER, SERVER + 1, SERVER, SERVER))
    w.sleep(SERVER, 0, 49 * MS, Wait.SLEEP)
    segments = w.walker().walk(0, 100 * MS, (SERVER, SERVER + 1))
    assert [(s.root.tid, s.root.wait) for s in segments] == [
        (SERVER + 1, Wait.RUNNING),
        (SERVER, Wait.RUNNING),
        (SERVER, Wait.SLEEP),
    ]


def test_an_open_gap_leads_to_who_called_last() -> None:
    """While it lasts nobody has ended the wait; the caller of before is who keeps the server waiting."""
    w = world(SERVER, AGENT)
    w.sleep(SERVER, 0, 5 * MS, Wait.LISTEN, AGENT, "connect", tcp(8080, 0, state=10))
    lasting = {
        (SERVER, SERVER): Record(10 * MS, 90 * MS, 0, int(Wait.LISTEN), None),
        (AGENT, AGENT): Record(20 * MS, 80 * MS, 0, int(Wait.TCP), None),
    }
    segments = w.walker(lasting).walk(10 * MS, 100 * MS, (SERVER, SERVER), True)
    assert (segments[0].root.tid, segments[0].root.wait) == (AGENT, Wait.TCP)
    w.processes.exit(Exit(1, 15 * MS, AGENT, 0, 0, ""))
    (nobody,) = w.walker({(SERVER, SERVER): lasting[SERVER, SERVER]}).walk(
        10 * MS, 100 * MS, (SERVER, SERVER), True
    )
    assert nobody.nobody


def test_a_driver_that_ended_explains_nothing_afterwards() -> None:
    """The time after its end has no cause."""
    w = world(SERVER)
    w.wakes.exit(Thread(*[0] * 4, 1, *[0] * 11, NO_PEER, "", (), ())._replace(tid=SERVER, end_ns=40 * MS))
    assert told(w)[0] == (SERVER, Wait.UNKNOWN, 60)


def test_a_tool_started_again_and_again_is_one() -> None:
    """Processes of one command and parent, one after another, are one; beside each other they are not."""
    table = ProcessTable()
    for pid, start, end in ((5, 10, 20), (6, 30, 40), (7, 35, 0)):
        table.fork(Fork(1, start, 2, pid, "curl"))
        if end:
            table.exit(Exit(1, end, pid, 0, 0, "curl"))
    first = {process.pid: leader.pid for process, leader in successors(table).items()}
    assert first == {5: 5, 6: 5, 7: 7}


_slices = st.lists(
    st.tuples(
        st.integers(1, 5),
        st.integers(0, 300),
        st.integers(0, 100),
        st.sampled_from([Wait.FUTEX, Wait.PIPE, Wait.TCP, Wait.LISTEN, Wait.EPOLL, Wait.SLEEP, Wait.CHILD]),
        st.integers(0, 6),
        st.sampled_from([*NUMBERS, ""]),
        st.integers(0, 3),
        st.sampled_from([LOCAL, FAR]),
    ),
    max_size=60,
)


@given(
    _slices, st.integers(0, 200), st.integers(1, 300), st.booleans(), st.lists(st.integers(1, 5), max_size=5)
)
def test_every_walk_covers_its_gap_once(
    slices: list[tuple[int, int, int, Wait, int, str, int, bytes]],
    start: int,
    length: int,
    open_end: bool,
    births: list[int],
) -> None:
    """Cycles, missing ends, threads that made each other: segments touch, cover the gap, and are bounded."""
    w = world(1, 2, 3, 4, 5)
    for n, creator in enumerate(births):
        w.wakes.start(Start(1, 50 * (n + 1), n + 1, n + 1, creator, creator))
    waiting = {}
    ends: dict[int, int] = {}
    for tid, at, ns, wait, by, call, port, to in sorted(slices, key=lambda item: item[1]):
        if at >= ends.get(tid, 0):  # slices of one thread do not overlap
            ends[tid] = at + ns
            record = w.sleep(tid, at, ns, wait, by, call, tcp(port, 3 - port, to))
            waiting[tid, tid] = Record(
                ends[tid], start + length - ends[tid], 0, int(wait), None, thing=record.thing
            )
    waiting = {who: record for who, record in waiting.items() if record.blocked_ns > 0}
    walker = w.walker(waiting if open_end else None)
    segments = walker.walk(start, start + length, (1, 1), open_end)
    assert len(segments) <= 3 * MAX_STEPS
    cursor = start + length
    for segment in segments:
        assert segment.end_ns == cursor
        assert segment.start_ns < cursor
        assert segment.chain[0].tid == 1
        assert len(segment.chain) <= MAX_LINKS + 1
        assert len({(link.process, link.tid) for link in segment.chain}) == len(segment.chain)
        cursor = segment.start_ns
    assert cursor == start
    own = [(int(Wait.RUNNING), None, length // 2), (int(Wait.SLEEP), None, length - length // 2)]
    for exact in ((), own):
        assert sum(piece.ns for piece in roots_of(segments, exact)) == length


@pytest.mark.parametrize("gap", [(2, 12), (24, 34), (0, 40)])
def test_turns_count_as_the_totals_say_wherever_their_slice_lies(gap: tuple[int, int]) -> None:
    """The driver has a CPU for 4 ms in turn with another; the slice of its turns begins with the first."""
    w = world(1)
    w.lines[1] = [Record(2 * MS, 0, 20 * MS, int(Wait.RUNQUEUE), None)]
    start, end = (ms * MS for ms in gap)
    waited = sum(MS for ms in range(*gap) if ms >= 2 and (ms - 2) % 8 < 4)
    own = [(int(Wait.RUNNING), None, end - start - waited), (int(Wait.RUNQUEUE), None, waited)]
    found = {p.cause.wait: p.ns for p in roots_of(w.walker().walk(start, end, (1, 1)), own)}
    assert found == {int(Wait.RUNNING): end - start - waited, int(Wait.RUNQUEUE): waited}


def test_many_threads_waiting_for_one_are_bounded() -> None:
    """A thousand wakers in a row: the chain has a limit, the time has none missing."""
    pids = range(100, 1100)
    w = world(*pids)
    for n, pid in enumerate(pids):
        w.sleep(pid, 0, (2000 - n) * MS, Wait.PIPE, pid + 1, "write")
    segments = w.walker().walk(0, 2100 * MS, (100, 100))
    assert sum(s.end_ns - s.start_ns for s in segments) == 2100 * MS
    assert max(len(s.chain) for s in segments) <= MAX_LINKS + 1
