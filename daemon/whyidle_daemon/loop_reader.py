"""Reads what a sleeping event loop waits for: its tasks, and for each the socket and who is at its other end.

A task costs about 0.1 ms, a tenth of that when it has not moved since it was read before. So the number is
bounded, a reading looks at some new ones only (loops seldom sleep for longer than that takes), and one whose
tasks change while they are read is left alone for longer each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from whyidle_daemon.awaits import Chain, chains
from whyidle_daemon.epoll_sets import EpollSets, Member
from whyidle_daemon.facts import AwaitingTasks, LoopTasks, Site
from whyidle_daemon.pystack import Frame, StackError, Task, Tasks, own_frame
from whyidle_daemon.pystack.awaiting import SOCKET, TASK
from whyidle_daemon.sites import MAX_TEXT
from whyidle_probes.events import NO_PEER, Glance, Peer, Wait

MAX_TASKS = 256  # of one loop
MAX_FRESH = 48  # in one reading: 5 ms
MAX_ALONE = 64  # in a short wait
MAX_ALIKE = 64
MAX_SOCKETS = 32
MAX_STACK = 64
_LOCAL_PORT = Peer._fields.index("local_port")
_MAX_SEEN = 16384
_MAX_SITES = 512
# The first one is over at the next look: a loop that happened to wake while it was read may sleep long now.
_FIRST_PAUSE_NS, _LAST_PAUSE_NS = 25_000_000, 10_000_000_000


_Seen = dict[int, tuple[int, int]]
"""By the address of a task: what it awaits, and since when."""


class Reader(Protocol):
    """What a :class:`~whyidle_daemon.pystack.StackReader` offers of a process."""

    def tasks(
        self,
        limit: int,
        registered: dict[int, Member] | None = None,
        selector: int | None = None,
        fresh: int = MAX_TASKS,
    ) -> Tasks: ...


class Reading(NamedTuple):
    """Tasks of one loop; none where ``fact`` says why.

    ``late``: more will be known when the same wait is read again: who is at the other end of some socket,
    or what the loop waits for at all, once it is no longer left alone.
    """

    tasks: tuple[Task, ...]
    fact: LoopTasks | None
    late: bool = False


class _Place(NamedTuple):
    """Where tasks wait, ``None``: in no code of the target's own; the number tells places apart."""

    number: int
    site: Site | None


class _Group:
    """Tasks that are alike, while they are put together."""

    __slots__ = ("inbound", "number", "peer", "ports", "since_ns", "site", "task", "wanted")

    def __init__(self, chain: Chain, site: Site, peer: Peer, *, inbound: bool, since_ns: int) -> None:
        self.task, self.wanted = chain.task, chain.wanted
        self.site, self.peer, self.inbound, self.since_ns = site, peer, inbound, since_ns
        self.number, self.ports = 0, list[int]()

    def add(self, since_ns: int, port: int) -> None:
        self.number += 1
        self.since_ns = min(self.since_ns, since_ns)
        if port:
            self.ports.append(port)

    def whole(self) -> AwaitingTasks:
        return AwaitingTasks(
            self.task.name or "",
            self.site,
            self.task.kind,
            self.peer,
            self.number,
            self.since_ns,
            tuple(self.ports),
            self.inbound,
            self.wanted,
        )


class LoopReader:
    """For one target. ``clock`` is CLOCK_MONOTONIC in nanoseconds."""

    def __init__(self, sets: EpollSets, clock: Callable[[], int]) -> None:
        self._sets, self._clock = sets, clock
        self._seen: dict[tuple[int, int], _Seen] = {}  # by process and thread: each has a loop of its own
        self._sites: dict[tuple[Frame, ...], _Place] = {}
        self._places = 0
        self._pauses: dict[int, tuple[int, int]] = {}  # pid -> until when, how long

    def forget(self, pid: int) -> None:
        """A process has ended, or its memory is another program's."""
        self._pauses.pop(pid, None)
        for who in [who for who in self._seen if who[0] == pid]:
            del self._seen[who]

    def read(self, reader: Reader, thread: Glance | None) -> Reading:
        """What the loop waits for in whose selector ``thread`` sleeps. Raises StackError ``gone``.

        Without a thread the tasks alone: it runs again before more could be read.
        """
        if thread is None:
            return _tasks_alone(reader)
        if self.paused(thread.pid):
            return Reading((), None, late=True)
        members = self._sets.members(thread.pid, thread.fd) if thread.state == Wait.EPOLL else {}
        try:
            epoll = thread.fd if thread.state == Wait.EPOLL else -1
            found = reader.tasks(MAX_TASKS, members, epoll, MAX_FRESH)
        except StackError as error:
            if error.reason == "gone":
                raise
            if error.reason != "unsupported":
                self.failed(thread.pid)
                return Reading((), None, late=True)
            return Reading((), self._fact(thread, members, reason=error.detail))
        if len({task.loop for task in found.tasks}) > 1:
            return Reading((), self._fact(thread, members, reason="whose tasks they are cannot be told"))
        if not found.complete and not found.more:
            self.failed(thread.pid)
            return Reading((), None, late=True)
        alike = self._alike(thread, found.tasks, members)
        total = len(found.tasks) + found.more
        late = any(members[task.descriptor].late for task in found.tasks if task.descriptor in members)
        return Reading(found.tasks, self._fact(thread, members, alike, total), late)

    def paused(self, pid: int) -> bool:
        """A reading did not count a short while ago: the loop is left alone."""
        return self._clock() < self._pauses.get(pid, (0, 0))[0]

    def settled(self, pid: int) -> None:
        """A reading counts: the loop slept throughout."""
        self._pauses.pop(pid, None)

    def failed(self, pid: int) -> None:
        """A reading does not count: the next one has to wait, twice as long as the last time."""
        _, pause = self._pauses.get(pid, (0, 0))
        pause = min(max(2 * pause, _FIRST_PAUSE_NS), _LAST_PAUSE_NS)
        self._pauses[pid] = self._clock() + pause, pause

    def _fact(
        self,
        thread: Glance,
        members: dict[int, Member],
        alike: tuple[AwaitingTasks, ...] = (),
        total: int = 0,
        reason: str = "",
    ) -> LoopTasks:
        ends = (
            ()
            if not reason
            else tuple(dict.fromkeys(m.peer for m in members.values() if m.peer and not m.inbound))
        )
        return LoopTasks(thread.pid, thread.tid, thread.last_ns, alike, total, reason, ends[:MAX_SOCKETS])

    def _alike(
        self, thread: Glance, tasks: tuple[Task, ...], members: dict[int, Member]
    ) -> tuple[AwaitingTasks, ...]:
        """Tasks that are alike together; those first that somebody waits for, and those that wait longest."""
        who = thread.pid, thread.tid
        before, seen = self._seen.pop(who, {}), _Seen()
        found: dict[tuple[object, ...], _Group] = {}
        if len(self._sites) >= _MAX_SITES:
            self._sites.clear()
        for chain in chains(tasks):
            task = chain.task
            awaited, since = before.get(task.address, (0, 0))
            if awaited != task.awaited or not since:
                since = thread.last_ns
            seen[task.address] = task.awaited, since
            place = self._place(chain)
            if place.site is None:
                continue
            member = members.get(task.descriptor) if task.descriptor is not None else None
            peer = (member.peer if member is not None else None) or NO_PEER
            what = place.number, task.kind, peer[:_LOCAL_PORT], peer[_LOCAL_PORT + 1 :], chain.wanted
            group = found.get(what)
            if group is None:
                inbound = member is not None and member.inbound
                group = found[what] = _Group(chain, place.site, peer, inbound=inbound, since_ns=since)
            group.add(since, peer.local_port)
        if seen:
            self._seen[who] = seen
        while sum(map(len, self._seen.values())) > _MAX_SEEN:  # what was read longest ago goes
            del self._seen[next(iter(self._seen))]
        order = sorted((group.whole() for group in found.values()), key=_rank)
        return tuple(order[:MAX_ALIKE])

    def _place(self, chain: Chain) -> _Place:
        place = self._sites.get(chain.frames)
        if place is None:
            self._places += 1
            place = self._sites[chain.frames] = _Place(self._places, site_of(chain.frames))
        return place


def _tasks_alone(reader: Reader) -> Reading:
    try:
        found = reader.tasks(MAX_ALONE)
    except StackError as error:
        if error.reason == "gone":
            raise
        return Reading((), None)
    return Reading(found.tasks if found.complete else (), None)


def _rank(one: AwaitingTasks) -> tuple[bool, bool, bool, int]:
    return one.kind == TASK, one.kind != SOCKET or one.inbound, not one.wanted, one.since_ns


def site_of(frames: tuple[Frame, ...]) -> Site | None:
    """Where that is in the target's own code, ``None``: nowhere. No text is longer than a report has it."""
    own = own_frame(frames)
    if own is None:
        return None
    frame = frames[own]
    text = tuple(_text_of(one) for one in frames[:MAX_STACK])
    return Site(frame.function[:MAX_TEXT], frame.file[:MAX_TEXT], frame.line, text)


def _text_of(frame: Frame) -> str:
    """A frame as a stack has it."""
    return f"{frame.function} ({frame.file}:{frame.line if frame.line is not None else '?'})"[:MAX_TEXT]
