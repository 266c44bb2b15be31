"""What event loops waited for: readings of their tasks, matched with the waits during which they were read.

Pure. A wait of a selector that a socket ended belongs to the task that waits for this socket. One that a
timer ended, or that lasts, is put down to a task that waits for a socket, if there is one: to one that the
main task or another one waits for rather than to one in the background, then to the one that has waited
longest. Not every wait is read. In one that was not, the tasks of the reading before still wait for their
sockets, up to the wait that such a socket ended, and for a second at most: they may also have got their
answer while the loop ran. All stores are bounded: a target decides how many tasks it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from whyidle_daemon.facts import AwaitingTasks, LoopTasks
from whyidle_daemon.processes import Process
from whyidle_daemon.sites import Place, Sites
from whyidle_probes.events import NO_PEER, Peer

MAX_KEPT = 4  # readings of one thread whose wait has not ended
MAX_LOOPS = 1024
CARRIED_NS = 1_000_000_000
MAX_ROWS = 64  # of one loop
SOCKET, TASK = "socket", "task"


RowKey = tuple[str, str, int | None, str, bytes, int]
"""Function, file, line, kind, address and port."""


class Row(NamedTuple):
    """Tasks that are alike in all readings of a loop; the latest one is ``last``.

    ``number`` were there at most at once, ``waited_ns`` the loop slept while one waited, ``longest_ns`` is
    the longest that one was seen in what looked like one wait (who waits for the like again may look so).
    """

    last: AwaitingTasks
    number: int
    waited_ns: int
    longest_ns: int


class Loop(NamedTuple):
    """One loop: ``read_ns`` of its waiting is what its tasks were read in; ``last`` is the latest reading."""

    process: Process
    tid: int
    read_ns: int
    rows: dict[RowKey, Row]
    last: LoopTasks


class Loops:
    """Readings of every loop of a target."""

    def __init__(self) -> None:
        self._pending: dict[tuple[int, int], list[LoopTasks]] = {}
        self._carried: dict[tuple[int, int], LoopTasks] = {}  # by thread: the tasks that still wait
        self._loops: dict[tuple[Process, int], Loop] = {}

    def add(self, reading: LoopTasks) -> None:
        """Keep a reading until its wait has ended; the latest of a wait counts."""
        who = reading.pid, reading.tid
        kept = [one for one in self._pending.pop(who, []) if one.since_ns != reading.since_ns]
        self._pending[who] = [*kept, reading][-MAX_KEPT:]
        if len(self._pending) > MAX_LOOPS:
            del self._pending[next(iter(self._pending))]

    def peek(self, pid: int, tid: int, since_ns: int) -> LoopTasks | None:
        """What was read in a wait that lasts."""
        kept = self._pending.get((pid, tid), ())
        return next((reading for reading in kept if reading.since_ns == since_ns), None)

    def take(self, process: Process, tid: int, since_ns: int, blocked_ns: int) -> LoopTasks | None:
        """What was read in a wait of ``blocked_ns``, which is counted; else what was read just before."""
        who = process.pid, tid
        found = self.peek(process.pid, tid, since_ns)
        if found is None:
            carried = self._carried.get(who)
            return carried if carried and since_ns - carried.since_ns <= CARRIED_NS else None
        self._carried.pop(who, None)
        waiting = tuple(one for one in found.tasks if one.kind == SOCKET and one.ports and not one.inbound)
        self._carried[who] = found._replace(tasks=waiting)
        if len(self._carried) > MAX_LOOPS:
            del self._carried[next(iter(self._carried))]
        self._pending[who] = [one for one in self._pending[who] if one.since_ns > since_ns]
        self._count(found, process, blocked_ns)
        return found

    def answered(self, pid: int, tid: int, peer: Peer) -> None:
        """A socket ended a wait: no task waits for it any more."""
        carried = self._carried.get((pid, tid))
        if carried is None:
            return
        left = []
        for one in carried.tasks:
            ports = (
                tuple(port for port in one.ports if port != peer.local_port)
                if _is_of(one, peer)
                else one.ports
            )
            if ports:
                left.append(one._replace(ports=ports, number=len(ports)))
        self._carried[pid, tid] = carried._replace(tasks=tuple(left))

    def copy(self) -> Loops:
        """A copy to lay open waits over."""
        twin = Loops()
        twin._pending = {who: list(kept) for who, kept in self._pending.items()}
        twin._carried = dict(self._carried)
        twin._loops = {key: loop._replace(rows=dict(loop.rows)) for key, loop in self._loops.items()}
        return twin

    def __iter__(self) -> Iterator[Loop]:
        return iter(self._loops.values())

    def _count(self, reading: LoopTasks, process: Process, blocked_ns: int) -> None:
        key = process, reading.tid
        loop = self._loops.get(key)
        if loop is None:
            if len(self._loops) >= MAX_LOOPS:
                return
            loop = Loop(*key, 0, {}, reading)
        end_ns = reading.since_ns + blocked_ns
        rows = loop.rows
        now: dict[RowKey, Row] = {}
        for one in reading.tasks:
            what = (
                one.site.function,
                one.site.file,
                one.site.line,
                one.kind,
                one.peer.remote,
                one.peer.remote_port,
            )
            before = now.get(what)
            count = one.number + (before.number if before else 0)
            longest = max(end_ns - one.since_ns, before.longest_ns if before else 0)
            now[what] = Row(before.last if before else one, count, blocked_ns, longest)
        for what, row in now.items():
            known = rows.get(what)
            if known is not None:
                rows[what] = Row(
                    row.last,
                    max(known.number, row.number),
                    known.waited_ns + row.waited_ns,
                    max(known.longest_ns, row.longest_ns),
                )
            elif len(rows) < MAX_ROWS:
                rows[what] = row
        self._loops[key] = loop._replace(read_ns=loop.read_ns + blocked_ns, last=reading)


def blamed(reading: LoopTasks, woken_by: Peer, sites: Sites) -> tuple[Place | None, Peer]:
    """The place and the peer that a wait is put down to; ``NO_PEER``: no more is known than who woke it.

    ``woken_by`` is the socket that ended it, ``NO_PEER`` if none did.
    """
    sockets = [one for one in reading.tasks if one.kind == SOCKET and not one.inbound]
    loop = "awaiting" if sum(one.number for one in sockets) == 1 else "waiting"
    if woken_by.remote_port:
        one = next((one for one in sockets if _is_of(one, woken_by)), None)
        return (sites.place(one.site, loop), NO_PEER) if one is not None else (None, NO_PEER)
    own = [one for one in reading.tasks if one.kind != TASK and not one.inbound]
    one = min(sockets or own, key=lambda one: (not one.wanted, one.since_ns), default=None)
    return (sites.place(one.site, loop), one.peer) if one is not None else (None, NO_PEER)


def awaited_answer(reading: LoopTasks) -> AwaitingTasks | None:
    """A task that waits for a socket, and that the main task or another one waits for; ``None``: none."""
    wanted = [one for one in reading.tasks if one.kind == SOCKET and one.wanted and not one.inbound]
    return min(wanted, key=lambda one: one.since_ns, default=None)


def _is_of(one: AwaitingTasks, peer: Peer) -> bool:
    ends = one.peer.remote, one.peer.remote_port, one.peer.family
    return ends == (peer.remote, peer.remote_port, peer.family) and peer.local_port in one.ports
