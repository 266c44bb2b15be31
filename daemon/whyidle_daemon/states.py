"""From the kernel's view of a wait to the states of the report.

The kernel side says what a thread was asleep *in* (:class:`whyidle_probes.events.Wait`); the states say what
that *means*. The choices that are not obvious:

- accept on a listening socket is ``event_loop``: nobody asked for anything, exactly as in a selector;
- a socket to port 53 is ``dns``;
- netlink, packet and other sockets that never leave the host are ``other``, vsock (the hypervisor) and raw
  IP sockets are ``network``;
- waiting for a signal is ``sleep``: the thread asked to be left alone;
- io_uring waits for whatever completes first, as a selector does: ``event_loop``, with the peer that it was;
- terminals and other devices and inotify are ``other``: named only when they can be told apart.
"""

from __future__ import annotations

import ipaddress

from whyidle_probes.events import NO_PEER, NO_SYSCALL, Peer, Wait
from whyidle_wire import report as wire

AF_INET = 2
AF_INET6 = 10
AF_VSOCK = 40
TCP_SYN_SENT = 2
TCP_CLOSE = 7
TCP_LISTEN = 10
DNS_PORT = 53
MAPPED = bytes(10) + b"\xff\xff"  # IPv4 in IPv6

_STATE_OF: dict[int, str] = {
    Wait.RUNNING: "running",
    Wait.RUNQUEUE: "runqueue",
    Wait.TCP: "network",
    Wait.UDP: "network",
    Wait.UNIX: "local_ipc",
    Wait.PIPE: "local_ipc",
    Wait.EVENTFD: "local_ipc",
    Wait.SYSV_IPC: "local_ipc",
    Wait.FILE: "disk",
    Wait.DISK: "disk",
    Wait.FAULT: "page_fault",
    Wait.MEMORY: "page_fault",
    Wait.FUTEX: "lock",
    Wait.GIL: "gil",
    Wait.THROTTLED: "throttled",
    Wait.SLEEP: "sleep",
    Wait.SIGNAL: "sleep",
    Wait.CHILD: "child",
    Wait.IO_URING: "event_loop",
    Wait.EPOLL: "event_loop",
    Wait.POLL: "event_loop",
    Wait.LISTEN: "event_loop",
    Wait.STOPPED: "stopped",
    Wait.GPU: "gpu_wait",
}

SOCKET_WAITS = frozenset({int(Wait.TCP), int(Wait.UDP), int(Wait.SOCKET)})
SELECTORS = frozenset(
    {int(Wait.EPOLL), int(Wait.POLL), int(Wait.IO_URING)}
)  # their peer is the socket that woke them, if one did


def state_of(wait: int, syscall: int = NO_SYSCALL, peer: Peer = NO_PEER) -> str:
    """The state of a thread that is in ``wait``; numbers of a newer kernel side are ``other``."""
    if wait in SOCKET_WAITS:
        if peer.tcp_state == TCP_LISTEN:
            return "event_loop"
        if wait == Wait.SOCKET:
            return "network" if peer.family in (AF_INET, AF_INET6, AF_VSOCK) else "other"
        return "dns" if peer.remote_port == DNS_PORT else "network"
    return _STATE_OF.get(wait, "other")


def address_text(family: int, raw: bytes) -> str | None:
    """An address as people write it; IPv4 in IPv6 (``::ffff:a.b.c.d``) as IPv4. ``None``: no IP socket."""
    if family == AF_INET:
        return str(ipaddress.IPv4Address(raw[:4]))
    if family == AF_INET6:
        address = ipaddress.IPv6Address(raw)
        return str(address.ipv4_mapped or address)
    return None


def peer_address(peer: Peer) -> str | None:
    """The other end's address, or ``None`` for what is no IP socket or has no other end."""
    return address_text(peer.family, peer.remote) if peer.remote_port or any(peer.remote) else None


def is_local(peer: Peer) -> bool:
    """Whether the other end is on this host: loopback, or one of our own addresses talking to itself."""
    text = peer_address(peer)
    if text is None:
        return False
    return ipaddress.ip_address(text).is_loopback or address_text(peer.family, peer.local) == text


def peer_object(family: int, remote: bytes, port: int) -> wire.Peer | None:
    """The report's ``peer`` for a remote end, ``None`` when there is none."""
    address = address_text(family, remote)
    if address is None or (not port and not any(remote)):
        return None
    return {"host": None, "address": address, "port": port}


def remote_state(wait: int, family: int, port: int) -> str:
    """The state of a wait of which only the remote end is kept."""
    return state_of(wait, NO_SYSCALL, NO_PEER._replace(family=family, remote_port=port))


def peer_text(family: int, remote: bytes, port: int) -> str | None:
    """``address:port``, IPv6 in brackets."""
    peer = peer_object(family, remote, port)
    if peer is None:
        return None
    address = peer["address"]
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
