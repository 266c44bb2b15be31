"""The TCP connections of a network namespace, by inode.

Of this one by sock_diag(7), whose kernel side leaves out what is closed already: a tenth of the cost of
``/proc/PID/net/tcp``, which serves for other namespaces. Sources: linux/inet_diag.h, linux/netlink.h.
"""

from __future__ import annotations

import errno
import re
import socket
import struct
from collections.abc import Iterator

from whyidle_daemon.states import AF_INET, AF_INET6
from whyidle_probes.events import Peer

MAX_CONNECTIONS = 65536
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY, _DUMP = 20, 0x301  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEAD = struct.Struct("=IHHII")
_ASKED = struct.Struct("=BBBBI48x")
_SAID = struct.Struct("=BBxx2s2s16s16s28xI")
_STATES = 0xFFE & ~(1 << 6 | 1 << 7)  # without TIME_WAIT and CLOSE, which no descriptor has
_SOCK_STREAM = 1
_LINE = re.compile(
    rb"^ *\d+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) "
    rb"([0-9A-F]{2}) \S+ \S+ \S+ +\d+ +\d+ (\d{1,20}) ",
    re.MULTILINE,
)

Connection = tuple[int, Peer]
"""An inode and both ends."""


def own_connections() -> Iterator[Connection]:
    """Those of this process's network namespace. Raises OSError where the kernel does not offer it."""
    for family in (AF_INET, AF_INET6):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
            request = _ASKED.pack(family, socket.IPPROTO_TCP, 0, 0, _STATES)
            netlink.settimeout(1.0)
            netlink.send(_HEAD.pack(_HEAD.size + len(request), _SOCK_DIAG_BY_FAMILY, _DUMP, 1, 0) + request)
            for _ in range(MAX_CONNECTIONS):
                found, more = decoded(netlink.recv(1 << 18))
                yield from found
                if not more:
                    break


def decoded(data: bytes) -> tuple[list[Connection], bool]:
    """The connections of one answer, and whether more answers follow. Raises OSError for an error in it."""
    found: list[Connection] = []
    at = 0
    while at + _HEAD.size <= len(data):
        length, kind, *_ = _HEAD.unpack_from(data, at)
        if kind == _NLMSG_DONE or length < _HEAD.size:
            return found, False
        if kind == _NLMSG_ERROR:
            raise OSError(errno.EOPNOTSUPP, "no sock_diag for TCP")
        if length >= _HEAD.size + _SAID.size and at + length <= len(data):
            family, state, *ends, inode = _SAID.unpack_from(data, at + _HEAD.size)
            local_port, remote_port, local, remote = ends
            if family in (AF_INET, AF_INET6) and inode:
                size = 4 if family == AF_INET else 16
                peer = Peer(
                    local[:size].ljust(16, b"\0"),
                    remote[:size].ljust(16, b"\0"),
                    int.from_bytes(local_port),
                    int.from_bytes(remote_port),
                    family,
                    _SOCK_STREAM,
                    state,
                )
                found.append((inode, peer))
        at += (length + 3) & ~3
    return found, True


def listed(table: bytes) -> Iterator[Connection]:
    """Each line of ``/proc/PID/net/tcp`` or ``tcp6`` that is one.

    The kernel prints addresses as 32-bit numbers in the host's byte order.
    """
    for match in _LINE.finditer(table):
        local, local_port, remote, remote_port, state, inode = match.groups()
        if len(local) == len(remote) and int(inode):
            family = AF_INET if len(local) == 8 else AF_INET6
            ends = _address(local), _address(remote), int(local_port, 16), int(remote_port, 16)
            yield int(inode), Peer(*ends, family, _SOCK_STREAM, int(state, 16))


def _address(text: bytes) -> bytes:
    raw = bytes.fromhex(text.decode("ascii"))
    words = [raw[at : at + 4][::-1] for at in range(0, len(raw), 4)]
    return b"".join(words).ljust(16, b"\0")
