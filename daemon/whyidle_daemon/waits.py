"""Waits, grouped by who waited in which code for whom.

Bounded, because a target decides how many threads, functions and peers there are. Nothing that a
:class:`WaitTable` drops is lost from the threads' own totals; only the names are.
"""

from __future__ import annotations

from typing import NamedTuple

from whyidle_daemon.processes import Process
from whyidle_daemon.sites import Place
from whyidle_daemon.states import SOCKET_WAITS, TCP_SYN_SENT, peer_object, peer_text, remote_state
from whyidle_probes.events import NO_PEER, Peer, Wait
from whyidle_wire import report as wire

MAX_GROUPS = 8192
NO_ADDRESS = bytes(16)
MAX_PORTS = 256
EPHEMERAL = 32768  # where Linux begins to number the ports of clients


class WaitKey(NamedTuple):
    """A thread of a process waiting in a place for a peer. Processes are told apart by identity, not by PID.

    What is no socket has no peer; ``place`` is ``None`` when no stack was read. ``host`` is filled in by
    :mod:`whyidle_daemon.naming`, for a report.
    """

    process: Process
    tid: int
    wait: int
    remote: bytes = NO_ADDRESS
    port: int = 0
    family: int = 0
    place: Place | None = None
    host: str | None = None

    @property
    def state(self) -> str:
        """The report's state."""
        return remote_state(self.wait, self.family, self.port)

    @property
    def peer(self) -> wire.Peer | None:
        """The report's peer object."""
        peer = peer_object(self.family, self.remote, self.port)
        if peer is not None:
            peer["host"] = self.host
        return peer

    @property
    def end_text(self) -> str | None:
        """``host:port``, the host by name when that is known: what its user calls it."""
        return f"{self.host}:{self.port}" if self.host is not None else self.peer_text

    @property
    def function(self) -> str | None:
        """The function that waits."""
        return self.place.function if self.place is not None else None

    @property
    def peer_text(self) -> str | None:
        """``address:port``."""
        return peer_text(self.family, self.remote, self.port)


class WaitGroup:
    """All waits of one thread in one place for one peer."""

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

    def absorb(self, other: WaitGroup) -> None:
        """Add all of another group to this one."""
        for name in ("count", "connects", "blocked_ns", "short_count", "short_ns", "undated_ns"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.longest_ns = max(self.longest_ns, other.longest_ns)
        self.open_ns = max(self.open_ns, other.open_ns)
        self.first_ns = min(self.first_ns or other.first_ns, other.first_ns or self.first_ns)
        for syscall, (count, ns) in other.calls.items():
            counted, spent = self.calls.get(syscall, (0, 0))
            self.calls[syscall] = (counted + count, spent + ns)
        ports = self.ports | other.ports
        self.more_ports = self.more_ports or other.more_ports or len(ports) > MAX_PORTS
        self.ports = ports if len(ports) <= MAX_PORTS else self.ports

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

    def group(
        self, process: Process, tid: int, wait: int, peer: Peer, place: Place | None = None
    ) -> WaitGroup | None:
        """The group of a wait; ``None`` for demand on a listening socket."""
        if wait == Wait.LISTEN:
            if len(self.listening) < MAX_GROUPS:
                self.listening.add(peer.local_port)
            return None
        if wait in SOCKET_WAITS:
            key = WaitKey(process, tid, wait, peer.remote, peer.remote_port, peer.family, place)
        else:
            key = WaitKey(process, tid, wait, place=place)
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

    def open(
        self,
        process: Process,
        tid: int,
        slice_: tuple[int, int, int, int, Peer],
        place: Place | None = None,
    ) -> WaitKey | None:
        """Add a wait that lasts: ``(start_ns, so_far_ns, wait, syscall, peer)``. Only on a copy."""
        start_ns, so_far_ns, wait, syscall, peer = slice_
        group = self.group(process, tid, wait, peer, place)
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


class Waits:
    """All waits: those for sockets, and the others, apart so that neither crowds out the other."""

    def __init__(self, sockets: WaitTable | None = None, others: WaitTable | None = None) -> None:
        self.sockets = sockets or WaitTable()
        self.others = others or WaitTable()

    def table(self, wait: int) -> WaitTable:
        """Where a wait belongs."""
        return self.sockets if wait in SOCKET_WAITS or wait == Wait.LISTEN else self.others

    @property
    def groups(self) -> dict[WaitKey, WaitGroup]:
        """Every group."""
        return self.sockets.groups | self.others.groups

    def get(self, key: WaitKey) -> WaitGroup | None:
        """The group of a key, ``None`` when it was dropped."""
        return self.table(key.wait).groups.get(key)

    def copy(self) -> Waits:
        """As :meth:`WaitTable.copy`."""
        return Waits(self.sockets.copy(), self.others.copy())
