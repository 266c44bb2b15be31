"""Waits on sockets, grouped by who waited for whom, and the recent slices of every thread.

Two stores with fixed bounds, because a target decides how many slices, threads and peers there are:

- :class:`WaitTable` sums the waits of each thread for each peer. Nothing that it drops is lost from the
  threads' own totals; only the peer's name is.
- :class:`Timelines` keeps recent slices one by one, so that an engine gap, which is known only when it ends,
  can be overlaid with what the driver thread waited for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from whyidle_daemon.processes import Process
from whyidle_daemon.states import SOCKET_WAITS, TCP_SYN_SENT, peer_object, peer_text, remote_state
from whyidle_probes.events import NO_PEER, Peer, Wait
from whyidle_wire import report as wire

MAX_GROUPS = 8192
MAX_RECORDS = 32_768  # slices kept one by one: 6 MB
MAX_PORTS = 256
EPHEMERAL = 32768  # where Linux begins to number the ports of clients


class WaitKey(NamedTuple):
    """A thread of a process waiting for a peer. Processes are told apart by identity, not by PID."""

    process: Process
    tid: int
    wait: int
    remote: bytes
    port: int
    family: int

    @property
    def state(self) -> str:
        """The report's state."""
        return remote_state(self.wait, self.family, self.port)

    @property
    def peer(self) -> wire.Peer | None:
        """The report's peer object."""
        return peer_object(self.family, self.remote, self.port)

    @property
    def peer_text(self) -> str | None:
        """``address:port``."""
        return peer_text(self.family, self.remote, self.port)


class Record(NamedTuple):
    """One slice: asleep for ``blocked_ns`` in ``wait``, then runnable for ``runqueue_ns``."""

    start_ns: int
    blocked_ns: int
    runqueue_ns: int
    wait: int
    key: WaitKey | None
    connecting: bool = False

    @property
    def end_ns(self) -> int:
        """When the thread ran again."""
        return self.start_ns + self.blocked_ns + self.runqueue_ns


class WaitGroup:
    """All waits of one thread for one peer."""

    __slots__ = (
        "blocked_ns",
        "calls",
        "connects",
        "count",
        "first_ns",
        "key",
        "longest_ns",
        "more_ports",
        "open_ns",
        "ports",
        "short_count",
        "short_ns",
        "undated_ns",
    )

    def __init__(self, key: WaitKey) -> None:
        self.key = key
        self.count = 0  # slices, without those that only connected
        self.connects = 0
        self.blocked_ns = 0  # of slices
        self.longest_ns = 0
        self.open_ns = 0  # of a wait that has not ended; part of blocked_ns
        self.short_count = 0  # waits that were too short, or too many, to be slices
        self.short_ns = 0
        self.undated_ns = 0  # time whose place on the time line is not known
        self.first_ns = 0
        self.calls: dict[int, tuple[int, int]] = {}  # slices by syscall: how many, how long
        self.ports: frozenset[int] = frozenset()  # local ports
        self.more_ports = False  # more than MAX_PORTS of them

    @property
    def total_ns(self) -> int:
        """All the time in this wait, dated or not."""
        return self.blocked_ns + self.short_ns

    def copy(self) -> WaitGroup:
        """A copy that can be changed without changing this one."""
        twin = WaitGroup(self.key)
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        twin.calls = dict(self.calls)
        return twin

    def add(self, start_ns: int, blocked_ns: int, syscall: int, peer: Peer) -> None:
        """Count one wait."""
        self.blocked_ns += blocked_ns
        self.longest_ns = max(self.longest_ns, blocked_ns)
        self.first_ns = min(self.first_ns or start_ns, start_ns)
        count, ns = self.calls.get(syscall, (0, 0))
        self.calls[syscall] = (count + 1, ns + blocked_ns)
        if peer.tcp_state == TCP_SYN_SENT:
            self.connects += 1
        else:
            self.count += 1
        if peer.local_port and peer.local_port not in self.ports:
            if len(self.ports) < MAX_PORTS:
                self.ports |= {peer.local_port}
            else:
                self.more_ports = True


class WaitTable:
    """Wait groups by key, at most ``limit``; ``dropped`` groups were summed without their names."""

    def __init__(self, limit: int = MAX_GROUPS) -> None:
        self.groups: dict[WaitKey, WaitGroup] = {}
        self.listening: set[int] = set()  # local ports somebody accepts on
        self.dropped = 0
        self.dropped_ns = 0
        self._limit = limit

    def copy(self) -> WaitTable:
        """A copy to lay open waits over. Groups are shared: replace one before changing it."""
        twin = WaitTable(len(self.groups) * 2 + self._limit)
        twin.groups = dict(self.groups)
        twin.listening = set(self.listening)
        twin.dropped, twin.dropped_ns = self.dropped, self.dropped_ns
        return twin

    def inbound(self) -> frozenset[WaitKey]:
        """Groups on connections that the peer opened: waiting there is waiting for demand.

        Known by the local port: somebody in the target accepts on it, or many peers' ephemeral ports are
        connected to it (a client port is used for one peer at a time and seldom twice).
        """
        peers: dict[tuple[Process, int], set[tuple[bytes, int]]] = {}
        for key, group in self.groups.items():
            if key.wait == Wait.TCP and key.port >= EPHEMERAL:
                for port in group.ports:
                    peers.setdefault((key.process, port), set()).add((key.remote, key.port))
        shared = {end for end, remotes in peers.items() if len(remotes) >= 3}
        return frozenset(
            key
            for key, group in self.groups.items()
            if key.wait == Wait.TCP
            and any(port in self.listening or (key.process, port) in shared for port in group.ports)
        )

    def group(self, process: Process, tid: int, wait: int, peer: Peer) -> WaitGroup | None:
        """The group of a wait; ``None`` for what is no socket, and for demand on a listening socket."""
        if wait == Wait.LISTEN:
            if len(self.listening) < MAX_GROUPS:
                self.listening.add(peer.local_port)
            return None
        if wait not in SOCKET_WAITS:
            return None
        key = WaitKey(process, tid, wait, peer.remote, peer.remote_port, peer.family)
        group = self.groups.get(key)
        if group is None:
            if len(self.groups) >= self._limit:
                self._fold()
            group = self.groups[key] = WaitGroup(key)
        return group

    def short(
        self, process: Process, tid: int, waits: tuple[int, bytes, int, int], sums: tuple[int, int, int]
    ) -> None:
        """Add waits that came as sums: ``(wait, remote, port, family)``, ``(ns, count, longest_ns)``."""
        wait, remote, port, family = waits
        peer = NO_PEER._replace(remote=remote, remote_port=port, family=family)
        group = self.group(process, tid, wait, peer)
        if group is not None:
            group.short_ns += sums[0]
            group.undated_ns += sums[0]
            group.short_count += sums[1]
            group.longest_ns = max(group.longest_ns, sums[2])

    def open(self, process: Process, tid: int, slice_: tuple[int, int, int, int, Peer]) -> WaitKey | None:
        """Add a wait that lasts: ``(start_ns, so_far_ns, wait, syscall, peer)``. Only on a copy."""
        start_ns, so_far_ns, wait, syscall, peer = slice_
        group = self.group(process, tid, wait, peer)
        if group is None:
            return None
        group = self.groups[group.key] = group.copy()
        group.add(start_ns, so_far_ns, syscall, peer)
        group.open_ns += so_far_ns
        return group.key

    def _fold(self) -> None:
        """Drop the half of the groups with the least time."""
        ranked = sorted(self.groups.values(), key=lambda group: group.total_ns)
        for group in ranked[: len(ranked) // 2 + 1]:
            del self.groups[group.key]
            self.dropped += 1
            self.dropped_ns += group.total_ns


class Timelines:
    """Recent slices of every thread; at most ``limit`` in all."""

    def __init__(self, limit: int = MAX_RECORDS) -> None:
        self._threads: dict[int, deque[Record]] = {}
        self._limit = limit
        self._count = 0
        self.dropped = 0  # of driver threads, not yet laid over a gap

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        """Time to settle what can be settled, then :meth:`trim`."""
        return self._count >= self._limit

    def add(self, tid: int, record: Record) -> None:
        """Keep a slice."""
        line = self._threads.get(tid)
        if line is None:
            line = self._threads[tid] = deque()
        line.append(record)
        self._count += 1

    def of(self, tid: int) -> list[Record]:
        """The slices of a thread in order of time."""
        return sorted(self._threads.get(tid, ()), key=lambda record: record.start_ns)

    def forget(self, until_ns: Callable[[int], int]) -> None:
        """Drop the slices of each thread that ended by ``until_ns(tid)``."""
        for tid, line in list(self._threads.items()):
            limit = until_ns(tid)
            kept = deque(record for record in line if record.end_ns > limit)
            self._count -= len(line) - len(kept)
            self._replace(tid, kept)

    def trim(self, drivers: set[int]) -> list[Record]:
        """Make room: other threads' slices go first, then the oldest half of the drivers'. Returns those."""
        goal = self._limit // 2
        if self._count <= goal:
            return []
        for tid in [tid for tid in self._threads if tid not in drivers]:
            line = self._threads[tid]
            kept: deque[Record] = deque(list(line)[(len(line) + 1) // 2 :])
            self._count -= len(line) - len(kept)
            self._replace(tid, kept)
        lost: list[Record] = []
        if self._count > self._limit * 3 // 4:
            for tid in [tid for tid in self._threads if tid in drivers]:
                line = self._threads[tid]
                for _ in range((len(line) + 1) // 2):
                    lost.append(line.popleft())
                self._replace(tid, line)
            self._count -= len(lost)
            self.dropped += len(lost)
        return lost

    def _replace(self, tid: int, line: deque[Record]) -> None:
        if line:
            self._threads[tid] = line
        else:
            del self._threads[tid]


def between(records: list[Record], start_ns: int, end_ns: int) -> Iterable[Record]:
    """Those of a thread's slices, in order of time, that touch ``[start_ns, end_ns)``."""
    # Slices of one thread do not overlap, so only the one before the first can reach in.
    at = max(0, bisect_left(records, start_ns, key=lambda record: record.start_ns) - 1)
    for record in records[at:]:
        if record.start_ns >= end_ns:
            break
        if record.end_ns > start_ns:
            yield record
