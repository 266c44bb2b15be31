"""Which sockets an epoll set of a process waits for, and who is at their other ends.

``/proc/PID/fdinfo/N`` lists the members of the set with their inodes. A connection keeps its ends as long as
it has its inode, so the tables of connections (a millisecond or more on a busy host) are read only for an
inode that is new, and at most a hundredth of the time. Read as hostile: however many sockets a process has,
this is bounded.
"""

from __future__ import annotations

import os
import re
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from whyidle_daemon.proc import Proc
from whyidle_daemon.sock_diag import Connection, listed, own_connections
from whyidle_daemon.states import TCP_LISTEN
from whyidle_probes.events import Peer

MAX_MEMBERS = 4096
MAX_KNOWN = 16384
MAX_SETS, MAX_KEPT_TEXT = 64, 1 << 16  # sets that are kept as they were read, and bytes of each
_MAX_TABLE = 4 << 20
_TABLE_COSTS = 100  # so many times what reading it took passes before it is read again
_UNKNOWN_FOR_NS = 1_000_000_000
_SET_LASTS_NS = 10_000_000_000
_MEMBER = re.compile(
    rb"^tfd: {0,20}(\d{1,9}) events: {0,20}[0-9a-f]+ .{0,80}?ino:([0-9a-f]{1,16}) sdev:([0-9a-f]{1,8})$",
    re.MULTILINE,
)


class Member(NamedTuple):
    """A socket in an epoll set. ``peer``: ``None`` for one that is no TCP connection, or is not known.

    ``inbound``: the peer connected to a port that somebody listens on here, so it is a client. ``late``: it
    will be known after a while, for the tables were read just before.
    """

    inode: int
    peer: Peer | None = None
    inbound: bool = False
    late: bool = False


class _Known(NamedTuple):
    peer: Peer | None
    inbound: bool
    until_ns: int  # for how long it is known that there is none


class _Set(NamedTuple):
    """An epoll set as it was read, and what all of it was found to be."""

    text: bytes
    members: dict[int, Member]
    until_ns: int


class EpollSets:
    """Reads epoll sets; ``clock`` is CLOCK_MONOTONIC in nanoseconds."""

    def __init__(self, proc: Proc, clock: Callable[[], int]) -> None:
        self._proc, self._clock = proc, clock
        self._known: OrderedDict[tuple[int, int], _Known] = OrderedDict()
        self._last: OrderedDict[tuple[int, int], _Set] = OrderedDict()
        self._next_ns: dict[int, int] = {}  # by network namespace: when its tables may be read again
        self._own_netns = proc.netns(os.getpid())
        with socket.socket(socket.AF_UNIX) as own:
            self._sockets = os.fstat(own.fileno()).st_dev

    def members(self, pid: int, descriptor: int) -> dict[int, Member]:
        """The sockets in an epoll set by descriptor; empty when there is none."""
        text = self._proc.read(pid, f"fdinfo/{descriptor}", 1 << 19)
        now = self._clock()
        last = self._last.pop((pid, descriptor), None)
        if last is None or last.text != text or now >= last.until_ns:
            last = self._found(pid, text, now)
        if last.until_ns > now and len(text) <= MAX_KEPT_TEXT:
            self._last[pid, descriptor] = last
            while len(self._last) > MAX_SETS:
                self._last.popitem(last=False)
        return last.members

    def _found(self, pid: int, text: bytes, now: int) -> _Set:
        netns = self._proc.netns(pid)
        inodes: dict[int, int] = {}
        for match in _MEMBER.finditer(text):
            fd, inode, device = match.groups()
            if int(device, 16) == self._sockets and len(inodes) < MAX_MEMBERS:
                inodes[int(fd)] = int(inode, 16)
        if any(self._is_new(netns, inode, now) for inode in inodes.values()):
            self._learn(pid, netns, inodes.values(), now)
        found = {}
        until = now + _SET_LASTS_NS
        for fd, inode in inodes.items():
            known = self._known.get((netns, inode))
            late = known is None or self._is_new(netns, inode, now)
            found[fd] = Member(inode, *known[:2], late) if known is not None else Member(inode, late=True)
            if known is None or known.peer is None:
                until = min(until, known.until_ns if known is not None else now)
        return _Set(text, found, until)

    def _is_new(self, netns: int, inode: int, now: int) -> bool:
        known = self._known.get((netns, inode))
        return known is None or (known.peer is None and now >= known.until_ns)

    def _learn(self, pid: int, netns: int, inodes: Iterable[int], now: int) -> None:
        if now < self._next_ns.get(netns, 0):
            return
        wanted = set(inodes)
        found: dict[int, Peer] = {}
        listening: set[int] = set()
        for inode, ends in self._connections(pid, netns):
            if ends.tcp_state == TCP_LISTEN:
                listening.add(ends.local_port)
            elif inode in wanted:
                found[inode] = ends
        if len(self._next_ns) >= MAX_KNOWN:
            self._next_ns.clear()
        self._next_ns[netns] = now + (self._clock() - now) * _TABLE_COSTS
        for inode in wanted:
            other = found.get(inode)
            inbound = other is not None and other.local_port in listening
            self._known.pop((netns, inode), None)
            self._known[netns, inode] = _Known(other, inbound, now + _UNKNOWN_FOR_NS)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def _connections(self, pid: int, netns: int) -> Iterator[Connection]:
        if netns and netns == self._own_netns:
            try:
                yield from own_connections()
            except OSError:
                self._own_netns = 0  # the kernel has no sock_diag for TCP, or this may not ask it
            else:
                return
        for name in ("net/tcp", "net/tcp6"):
            yield from listed(self._proc.read(pid, name, _MAX_TABLE))
