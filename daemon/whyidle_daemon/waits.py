"""Waits, grouped by who waited in which code for whom.

Kept in the tables of :mod:`whyidle_daemon.wait_tables`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from whyidle_daemon.processes import Process
from whyidle_daemon.sites import Place
from whyidle_daemon.states import TCP_SYN_SENT, peer_object, peer_text, remote_state
from whyidle_probes.events import NO_SYSCALL, Peer, Wait
from whyidle_wire import report as wire

NO_ADDRESS = bytes(16)
MAX_PORTS = 256
MAX_HANDOVERS = 64
NOBODY: Final[Mapping[tuple[int, int], int]] = MappingProxyType({})  # one for all: most waits are no locks
LONG_NS = 50_000_000  # waits that an event loop's other tasks notice
PIPES = frozenset({int(Wait.PIPE), int(Wait.UNIX)})
_OUTPUT = PIPES | {int(Wait.POLL), int(Wait.EPOLL)}


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
    of_child: bool = False  # a pipe or a socket pair, that a child of the process wrote to
    path: str | None = None  # that was asked for in clear text; filled in as the host is

    @property
    def state(self) -> str:
        """The report's state. Waiting for what a child writes is waiting for the child."""
        if self.of_child or (self.place and self.place.role == "subprocess" and self.wait in _OUTPUT):
            return "child"
        return remote_state(self.wait, self.family, self.port)

    @property
    def peer(self) -> wire.Peer | None:
        """The report's peer object."""
        peer = peer_object(self.family, self.remote, self.port)
        if peer is not None:
            peer["host"] = self.host
            if self.path is not None:
                peer["path"] = self.path
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
        "_call",
        "_calls",
        "blocked_ns",
        "connects",
        "count",
        "first_ns",
        "handovers",
        "key",
        "long_count",
        "long_ns",
        "longest_ns",
        "more_ports",
        "open_ns",
        "ports",
        "short_count",
        "short_ns",
        "short_samples",
        "undated_ns",
    )

    def __init__(self, key: WaitKey) -> None:
        self.key = key
        self.count = 0  # slices, without those that only connected
        self.connects = 0
        self.blocked_ns = 0  # of slices
        self.longest_ns = 0
        self.long_count = 0  # slices of LONG_NS and more
        self.long_ns = 0
        self.open_ns = 0  # of a wait that has not ended; part of blocked_ns
        self.short_count = 0  # waits that were too short, or too many, to be slices
        self.short_ns = 0
        self.short_samples = 0  # stacks read in waits too short to be slices
        self.undated_ns = 0  # time whose place on the time line is not known
        self.first_ns = 0
        self._call = NO_SYSCALL  # of all slices, as long as it is the same of all
        self._calls: dict[int, tuple[int, int]] | None = None  # by syscall, once there are several
        self.handovers: Mapping[tuple[int, int], int] = NOBODY  # by address and waking thread
        self.ports: frozenset[int] = frozenset()  # local ports
        self.more_ports = False  # more than MAX_PORTS of them

    @property
    def calls(self) -> Mapping[int, tuple[int, int]]:
        """Slices by syscall: how many, and how long in all (ns)."""
        if self._calls is not None:
            return self._calls
        slices = self.count + self.connects
        return {self._call: (slices, self.blocked_ns)} if slices else {}

    @property
    def total_ns(self) -> int:
        """All the time in this wait, dated or not."""
        return self.blocked_ns + self.short_ns

    @property
    def blocks_loop(self) -> bool:
        """Whether these are synchronous waits in a running event loop, mostly long ones."""
        place = self.key.place
        return place is not None and place.loop == "blocked" and 2 * self.long_ns >= self.total_ns

    def copy(self) -> WaitGroup:
        """A copy that can be changed without changing this one."""
        twin = WaitGroup(self.key)
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        twin._calls = dict(self._calls) if self._calls is not None else None
        if self.handovers is not NOBODY:
            twin.handovers = dict(self.handovers)
        return twin

    def absorb(self, other: WaitGroup) -> None:
        """Add all of another group to this one."""
        self._absorb_calls(other.calls)
        for name in (
            "count",
            "connects",
            "blocked_ns",
            "short_count",
            "short_ns",
            "undated_ns",
            "long_ns",
            "long_count",
            "short_samples",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.longest_ns = max(self.longest_ns, other.longest_ns)
        self.open_ns = max(self.open_ns, other.open_ns)
        self.first_ns = min(self.first_ns or other.first_ns, other.first_ns or self.first_ns)
        for handover, ns in other.handovers.items():
            self.hand_over(*handover, ns)
        ports = self.ports | other.ports
        self.more_ports = self.more_ports or other.more_ports or len(ports) > MAX_PORTS
        self.ports = ports if len(ports) <= MAX_PORTS else self.ports

    def _absorb_calls(self, others: Mapping[int, tuple[int, int]]) -> None:
        """Before the sums themselves: a group of one syscall has no others."""
        known = self.calls
        if not known and len(others) == 1:
            (self._call,) = others
            return
        if others and (self._calls is not None or others.keys() != known.keys()):
            self._calls = both = dict(known)
            for syscall, (count, ns) in others.items():
                counted, spent = both.get(syscall, (0, 0))
                both[syscall] = (counted + count, spent + ns)

    def add(self, start_ns: int, blocked_ns: int, syscall: int, peer: Peer) -> None:
        """Count one wait."""
        if syscall != self._call or self._calls is not None:
            self._absorb_calls({syscall: (1, blocked_ns)})
        self.blocked_ns += blocked_ns
        self.longest_ns = max(self.longest_ns, blocked_ns)
        if blocked_ns >= LONG_NS:
            self.long_count += 1
            self.long_ns += blocked_ns
        self.first_ns = min(self.first_ns or start_ns, start_ns)
        if peer.tcp_state == TCP_SYN_SENT:
            self.connects += 1
        else:
            self.count += 1
        if peer.local_port and peer.local_port not in self.ports:
            if len(self.ports) < MAX_PORTS:
                self.ports |= {peer.local_port}
            else:
                self.more_ports = True

    def hand_over(self, address: int, waker: int, blocked_ns: int) -> None:
        """A lock was waited for until a thread of the same process let go of it."""
        handover = (address, waker)
        known = self.handovers
        if not isinstance(known, dict):
            self.handovers = known = {}
        if handover in known or len(known) < MAX_HANDOVERS:
            known[handover] = known.get(handover, 0) + blocked_ns
