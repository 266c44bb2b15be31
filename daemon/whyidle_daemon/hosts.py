"""Names of addresses: as they were looked up, or as a client called its peer on a connection.

What a process looked up itself goes before what it called the peer, and that before what others in its
network namespace knew not long ago: behind one address of a content network there are many hosts, and the
same private address is another host in another container.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from whyidle_daemon.facts import HostName
from whyidle_daemon.processes import Process
from whyidle_daemon.states import AF_INET, AF_INET6, MAPPED

MAX_ADDRESSES = 4096
MAX_NAMES = 16  # of one address
MAX_NAME = 255
LIFETIME_NS = 600_000_000_000  # of what another process knew, before or after


class _Name(NamedTuple):
    ns: int
    pid: int
    host: str
    port: int
    path: str | None  # ``None``: none, or several
    netns: int


class Hosts:
    """How addresses were resolved and called, the latest names of the latest addresses."""

    def __init__(self, limit: int = MAX_ADDRESSES) -> None:
        self._names: dict[bytes, list[_Name]] = {}
        self._limit = limit

    def add(self, name: HostName) -> None:
        """An address was resolved, or a peer was called by a name."""
        address = _plain(name.family, name.address)
        new = _Name(
            name.ns, name.pid, name.host[:MAX_NAME], name.port, name.path[:MAX_NAME] or None, name.netns
        )
        names = []
        for old in self._names.pop(address, []):
            if old.port and (old.pid, old.port, old.host) == (new.pid, new.port, new.host):
                # One connection after the other to the same host: one name, known since the first.
                new = new._replace(ns=min(old.ns, new.ns), path=old.path if old.path == new.path else None)
            else:
                names.append(old)
        self._names[address] = sorted([*names, new], key=lambda each: each.ns)[-MAX_NAMES:]
        if len(self._names) > self._limit:
            del self._names[next(iter(self._names))]

    def all(self) -> Iterator[HostName]:
        """What is known, in the form in which it came."""
        for address, names in self._names.items():
            family = AF_INET if len(address) == 4 else AF_INET6
            for each in names:
                path = each.path or ""
                yield HostName(each.pid, each.ns, family, address, each.host, each.port, path, each.netns)

    def of(self, process: Process, end: tuple[int, bytes, int], ns: int) -> tuple[str | None, str | None]:
        """Host and path by which a process knew ``(family, address, port)`` at ``ns``; 0: at the latest."""
        family, address, port = end
        names = self._names.get(_plain(family, address), [])
        called = [name for name in names if name.pid == process.pid and name.port == port and name.port]
        near = [
            name
            for name in names
            if name.host
            and name.netns == process.netns
            and name.port in (0, port)
            and (not ns or abs(name.ns - ns) <= LIFETIME_NS)
        ]
        choices = (
            [name for name in names if name.pid == process.pid and not name.port],
            [name for name in called if name.host],
            [name for name in near if not name.port],
            near,
        )
        host = next((_latest(choice, ns).host for choice in choices if choice), None)
        path = _latest(called, ns).path if called else None
        return host, path


def _latest(names: list[_Name], ns: int) -> _Name:
    before = [name for name in names if not ns or name.ns <= ns]
    return before[-1] if before else names[0]


def _plain(family: int, address: bytes) -> bytes:
    """4 bytes for IPv4, in whatever form it came."""
    if family == AF_INET:
        return address[:4]
    return address[12:16] if address[:12] == MAPPED else address
