"""What a thread waits on, if it is something on this host that another thread can end the wait by."""

from __future__ import annotations

from typing import NamedTuple

from whyidle_daemon.states import SELECTORS, TCP_LISTEN, is_local
from whyidle_probes.events import Peer, Wait

_SOCKETS = SELECTORS | {int(Wait.TCP), int(Wait.UDP)}


class Thing(NamedTuple):
    """What is waited on, seen from one end; :meth:`other` is the same from the other end."""

    kind: str
    here: tuple[bytes | int, ...]
    there: tuple[bytes | int, ...] = ()

    def other(self) -> Thing:
        return Thing(self.kind, self.there, self.here)


def thing_of(wait: int, peer: Peer, inode: int, peer_inode: int) -> Thing | None:
    """What on this host a wait was for; ``None`` for anything remote, or not known."""
    if wait == Wait.UNIX:
        return Thing("unix", (inode,), (peer_inode,)) if inode else None
    if wait == Wait.PIPE:
        return Thing("pipe", (inode,)) if inode else None
    if wait == Wait.LISTEN or (wait in SELECTORS and peer.tcp_state == TCP_LISTEN and peer.local_port):
        return Thing("listen", (peer.local_port,))
    if wait in _SOCKETS and peer.remote_port and is_local(peer):
        return Thing("tcp", (peer.local, peer.local_port), (peer.remote, peer.remote_port))
    return None
