"""Tables of waits.

Bounded, because a target decides how many threads, functions and peers there are. Nothing that a
:class:`WaitTable` drops is lost from the threads' own totals; only the names are.
"""

from __future__ import annotations

from collections.abc import Container

from whyidle_daemon.processes import Process
from whyidle_daemon.sites import Place
from whyidle_daemon.states import SELECTORS, SOCKET_WAITS
from whyidle_daemon.waits import WaitGroup, WaitKey
from whyidle_probes.events import NO_PEER, Peer, Wait

MAX_GROUPS = 8192
CONNECTED = SELECTORS | {int(Wait.TCP)}
EPHEMERAL = 32768  # where Linux begins to number the ports of clients


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

    def inbound(self, listening: Container[int]) -> frozenset[WaitKey]:
        """Groups on connections that the peer opened: waiting there is waiting for demand.

        Known by the local port: somebody in the target accepts on it, or many peers' ephemeral ports are
        connected to it (a client port is used for one peer at a time and seldom twice).
        """
        peers: dict[tuple[Process, int], set[tuple[bytes, int]]] = {}
        for key, group in self.groups.items():
            if key.wait in CONNECTED and key.port >= EPHEMERAL:
                for port in group.ports:
                    peers.setdefault((key.process, port), set()).add((key.remote, key.port))
        shared = {end for end, remotes in peers.items() if len(remotes) >= 3}
        return frozenset(
            key
            for key, group in self.groups.items()
            if key.wait in CONNECTED
            and any(port in listening or (key.process, port) in shared for port in group.ports)
        )

    def group(  # noqa: PLR0917 (what a slice says)
        self,
        process: Process,
        tid: int,
        wait: int,
        peer: Peer,
        place: Place | None = None,
        of_child: bool = False,
    ) -> WaitGroup | None:
        """The group of a wait; ``None`` for demand on a listening socket."""
        if wait == Wait.LISTEN:
            self.listens(peer.local_port)
            return None
        if wait in SOCKET_WAITS or (wait in SELECTORS and peer.remote_port):
            key = WaitKey(process, tid, wait, peer.remote, peer.remote_port, peer.family, place)
        else:
            key = WaitKey(process, tid, wait, place=place, of_child=of_child)
        group = self.groups.get(key)
        if group is None:
            if len(self.groups) >= self._limit:
                self._fold()
            group = self.groups[key] = WaitGroup(key)
        return group

    def listens(self, port: int) -> None:
        """Somebody accepts on a local port."""
        if len(self.listening) < MAX_GROUPS:
            self.listening.add(port)

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

    def inbound(self) -> frozenset[WaitKey]:
        """As :meth:`WaitTable.inbound`, of all waits."""
        listening = self.sockets.listening
        return self.sockets.inbound(listening) | self.others.inbound(listening)

    def get(self, key: WaitKey) -> WaitGroup | None:
        """The group of a key, ``None`` when it was dropped."""
        return self.table(key.wait).groups.get(key)

    def copy(self) -> Waits:
        """As :meth:`WaitTable.copy`."""
        return Waits(self.sockets.copy(), self.others.copy())
