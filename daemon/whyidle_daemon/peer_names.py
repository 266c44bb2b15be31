"""Learns what hosts are called: from look-ups, and from what clients write first on a connection."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator

from whyidle_daemon import greetings
from whyidle_daemon.facts import HostName, Lookup
from whyidle_probes.events import FirstWrite, NameLookup

MAX_SAID = 1024
SAID_AGAIN_NS = 60_000_000_000  # what was recorded is not recorded again so soon


class PeerNames:
    """Makes facts of the kernel's events; ``read_netns`` gives a process's network namespace, 0: unknown."""

    def __init__(self, read_netns: Callable[[int], int]) -> None:
        self._read_netns = read_netns
        self._netns: dict[int, int] = {}  # of live processes
        self._said: dict[tuple[int, bytes, int, greetings.Greeting], int] = {}

    def learn(self, pid: int) -> int:
        """A process began, or became another program; returns its network namespace."""
        netns = self._netns[pid] = self._read_netns(pid)
        return netns

    def forget(self, pid: int) -> None:
        """A process ended."""
        self._netns.pop(pid, None)

    def facts(self, event: NameLookup | FirstWrite) -> list[Lookup | HostName]:
        """What one of the kernel's events tells."""
        if isinstance(event, NameLookup):
            return list(self._looked_up(event))
        name = self._called(event)
        return [name] if name is not None else []

    def _looked_up(self, event: NameLookup) -> Iterator[Lookup | HostName]:
        """What a call of getaddrinfo tells."""
        yield Lookup(event.pid, event.tid, event.start_ns, event.end_ns, event.host, event.status)
        if _is_address(event.host):  # written as a number already: no name to learn
            return
        for family, address in event.addresses:
            raw = address[:4] if family == socket.AF_INET else address
            yield HostName(event.pid, event.end_ns, family, raw, event.host, netns=self._netns_of(event.pid))

    def _called(self, event: FirstWrite) -> HostName | None:
        """The name that a client gave its peer, unless it is known; the bytes it stood in end here."""
        peer, greeting = event.peer, greetings.decode(event.data)
        if greeting is None or peer.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        raw = peer.remote[:4] if peer.family == socket.AF_INET else peer.remote
        said = (event.pid, raw, peer.remote_port, greeting)
        known_ns = self._said.get(said)
        if known_ns is not None and event.ns - known_ns < SAID_AGAIN_NS:
            return None
        self._said.pop(said, None)
        self._said[said] = event.ns
        if len(self._said) > MAX_SAID:
            del self._said[next(iter(self._said))]
        host, path, netns = greeting.host or "", greeting.path or "", self._netns_of(event.pid)
        return HostName(event.pid, event.ns, peer.family, raw, host, peer.remote_port, path, netns)

    def _netns_of(self, pid: int) -> int:
        return self._netns.get(pid) or self._read_netns(pid)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
