"""Walks backwards from the end of an engine's gap to what everybody waited for: a pure function.

The walk begins at the driver thread and goes back in time. Where a thread ran, or waited for something that
no thread of the target ended (another host, the disk, a clock), that time is its own: a *segment*. Where it
was woken by another thread, the walk goes on at the waker at that instant and never comes back for the time
before: until then the waker is what everything depended on. A thread that was made within the gap depends on
whoever made it. So each nanosecond of the gap belongs to exactly one wait of one thread, whatever the number
of processes, and since time only decreases no cycle of waits can trap it.

The *chain* of a segment is the way to it, without the detours that came back to a thread already on it.

At a gap's open end waits have no waker yet: there the walk goes to whoever would have to end them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from whyidle_daemon.facts import Serving
from whyidle_daemon.processes import Process
from whyidle_daemon.states import SELECTORS
from whyidle_daemon.timelines import Record
from whyidle_daemon.waits import WaitKey
from whyidle_daemon.wakes import Wakes, Who
from whyidle_probes.events import Wait

MAX_STEPS = 4096  # of one gap; what is left then has no cause
MAX_LINKS = 16

_VIA = {
    Wait.FUTEX: "lock",
    Wait.PIPE: "pipe",
    Wait.UNIX: "unix socket",
    Wait.EVENTFD: "eventfd",
    Wait.TCP: "tcp",
    Wait.UDP: "udp",
    Wait.LISTEN: "tcp",
    Wait.CHILD: "child",
    Wait.SIGNAL: "signal",
    Wait.SYSV_IPC: "ipc",
}


class Link(NamedTuple):
    """A thread on the way, in the wait through which the next one holds it up. ``via``: by what means."""

    process: Process
    tid: int
    wait: int
    key: WaitKey | None
    via: str = ""


Chain = tuple[Link, ...]


class Segment(NamedTuple):
    """Part of a gap: a thread in one wait. ``chain`` leads from the driver to it, which is its last link.

    ``nobody``: it waits to be asked for work, and nobody who could is known.
    ``dated``: a slice says so; else it is what lies between slices.
    """

    start_ns: int
    end_ns: int
    chain: Chain
    nobody: bool = False
    dated: bool = True

    @property
    def root(self) -> Link:
        """Where it ends."""
        return self.chain[-1]


class Walker:
    """Walks over the timelines of one target, as they are at one moment."""

    def __init__(
        self,
        wakes: Wakes,
        find: Callable[[int, int], Process | None],
        lines: Callable[[int], list[Record]],
        *,
        waiting: Mapping[Who, Record] | None = None,
        known_since: Callable[[int], int] = lambda tid: 0,
        processes: Iterable[Process] = (),
    ) -> None:
        """``lines`` are a thread's slices in order of time, ``waiting`` the waits that last.

        ``known_since`` says from when on a thread's slices are kept.
        """
        self._wakes, self._find, self._lines = wakes, find, lines
        self._waiting = waiting or {}
        self._known_since = known_since
        self._processes = tuple(processes)
        # A server that nobody has called yet has ended no accept: only the wait that lasts shows it.
        open_ = [(pid, wait.thing) for (pid, _), wait in self._waiting.items() if wait.thing is not None]
        accepting = [Serving(pid, int(thing.here[-1])) for pid, thing in open_ if thing.kind == "listen"]
        serving = [*wakes.serving, *accepting]
        self.servers, self.listening = {one.pid for one in serving}, {one.port for one in serving}
        self._sorted: dict[int, list[Record]] = {}

    def walk(self, start_ns: int, end_ns: int, driver: Who, open_end: bool = False) -> list[Segment]:
        """The segments of ``[start_ns, end_ns)``, latest first: they touch each other and cover all of it."""
        walk = _Walk(self, start_ns, end_ns, driver)
        walk.run(open_end)
        return walk.segments

    def before(self, who: Who, ns: int) -> Record | None:
        """The last slice of a thread that began before ``ns``."""
        tid = who[1]
        if tid not in self._sorted:
            line = self._lines(tid)
            last = self._waiting.get(who)
            self._sorted[tid] = [*line, last] if last is not None else line
        line = self._sorted[tid]
        at = bisect_left(line, ns, key=lambda record: record.start_ns)
        return line[at - 1] if at else None


class _Walk:
    def __init__(self, walker: Walker, start_ns: int, end_ns: int, driver: Who) -> None:
        self.at = walker
        self.start_ns, self.end_ns, self.cursor = start_ns, end_ns, end_ns
        self.who = self.driver = driver
        self.path: list[tuple[Who, Link]] = []  # the links before this thread
        self.seen = {driver}  # at this instant
        self.segments: list[Segment] = []

    def run(self, open_end: bool) -> None:
        steps = 0
        while self.cursor > self.start_ns and steps < MAX_STEPS:
            steps += 1
            if self._not_alive():
                continue
            record = self.at.before(self.who, self.cursor)
            floor = self._floor()
            if record is None or record.end_ns <= floor:
                self._own(floor, int(Wait.RUNNING), None, dated=False)
                if self.cursor > self.start_ns and not self._to_creator():
                    break
                continue
            awake = record.start_ns + record.blocked_ns
            self._own(record.end_ns, int(Wait.RUNNING), None, dated=False)
            self._own(awake, int(Wait.RUNQUEUE), None)
            if self.cursor <= self.start_ns or self.cursor > awake:
                continue
            lasts = open_end and record is self.at._waiting.get(self.who)
            if self.cursor < awake:  # its end lies later: nobody who woke it then matters now
                by = None
            elif lasts and self.cursor == self.end_ns:
                by = self.at._wakes.awaited(self.who, record, self.cursor, self.at._processes)
            else:
                by = self.at._wakes.ended_by(self.who, record)
            if by is None or by in self.seen or not self._go(by, record):
                self._own(max(record.start_ns, floor), record.wait, record.key, self._nobody(record))
        if self.cursor > self.start_ns:
            self.who, self.path = self.driver, []
            self._own(self.start_ns, int(Wait.UNKNOWN), None, dated=False)

    def _nobody(self, record: Record) -> bool:
        """A server's thread that waits to be called."""
        if record.wait == Wait.LISTEN:
            return True
        if self.who[0] not in self.at.servers:
            return False
        if record.wait in SELECTORS or record.wait == Wait.TCP:
            key, thing = record.key, record.thing
            return key is None or not key.port or (thing is not None and thing.here[-1] in self.at.listening)
        return record.wait == Wait.FUTEX and record.key is not None and _is_work(record.key)

    def _floor(self) -> int:
        """Before this the thread was not there, or its slices are not known any more."""
        birth = self.at._wakes.birth(self.who, self.cursor)
        return max(self.start_ns, birth.ns if birth else 0, self.at._known_since(self.who[1]))

    def _not_alive(self) -> bool:
        """A thread that has ended cannot be who is waited for: whoever made it may make another."""
        end_ns = self.at._wakes.ended(self.who, self.cursor)
        if not end_ns:
            return False
        birth = self.at._wakes.birth(self.who, self.cursor)
        if birth is not None and birth.creator[0] == self.who[0]:
            outlived = self.at._wakes.ended(birth.creator, self.cursor)
            if (not outlived or outlived > end_ns) and self._to_creator():
                return True
        self._own(end_ns, int(Wait.UNKNOWN), None, dated=False)
        return self.cursor <= self.start_ns

    def _to_creator(self) -> bool:
        birth = self.at._wakes.birth(self.who, self.cursor)
        if birth is None or birth.creator in self.seen:
            return False
        return self._move(birth.creator, Link(self._process(), self.who[1], int(Wait.RUNNING), None, "start"))

    def _go(self, by: Who, record: Record) -> bool:
        via = record.thing.kind if record.thing is not None else _VIA.get(Wait(record.wait), "")
        return self._move(
            by, Link(self._process(), self.who[1], record.wait, record.key, "tcp" if via == "listen" else via)
        )

    def _move(self, to: Who, link: Link) -> bool:
        if self.at._find(to[0], self.cursor) is None:
            return False
        places = [who for who, _ in self.path]
        if to in places:
            del self.path[places.index(to) :]
        elif len(self.path) >= MAX_LINKS:
            return False
        else:
            self.path.append((self.who, link))
        self.who = to
        self.seen.add(to)
        return True

    def _process(self) -> Process:
        found = self.at._find(self.who[0], self.cursor)
        return found if found is not None else Process(self.who[0], self.cursor, provisional=True)

    def _own(
        self, down_to: int, wait: int, key: WaitKey | None, nobody: bool = False, dated: bool = True
    ) -> None:
        """The time from ``down_to`` to the cursor is this thread's own."""
        down_to = max(down_to, self.start_ns)
        if down_to >= self.cursor:
            return
        last = Link(self._process(), self.who[1], wait, key)
        chain = (*(link for _, link in self.path), last)
        self.segments.append(Segment(down_to, self.cursor, chain, nobody, dated))
        self.cursor = down_to
        self.seen = {self.who}


def _is_work(key: WaitKey) -> bool:
    return key.place is not None and key.place.role == "work"
