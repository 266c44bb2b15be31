"""The live line: what is going on at this instant, from the kernel's totals alone."""

from __future__ import annotations

from typing import NamedTuple

from whyidle_daemon.attribution import open_wait
from whyidle_daemon.facts import Snapshot
from whyidle_daemon.states import peer_text, state_of
from whyidle_probes.events import Thread
from whyidle_probes.syscalls import syscall_name

NS = 1_000_000_000


class Progress(NamedTuple):
    """Now, in a line. ``wait`` is what the driver thread (or the main thread) waits for."""

    elapsed_s: float
    engine_busy_share: float | None
    wait: str | None
    processes: int
    threads: int


def progress_of(snapshot: Snapshot, start_ns: int, roots: tuple[int, ...]) -> Progress:
    """Where things stand at ``snapshot`` of an observation that began at ``start_ns`` with ``roots``."""
    live = [thread for thread in snapshot.threads if not thread.end_ns]
    busy = observed = 0
    for engine in snapshot.engines:
        current = max(0, snapshot.ns - engine.last_ns)
        busy += engine.busy_ns + (current if engine.busy else 0)
        observed += engine.busy_ns + engine.idle_ns + current
    return Progress(
        (snapshot.ns - start_ns) / NS,
        busy / observed if observed else None,
        _wait_text(snapshot, live, roots),
        len({thread.pid for thread in live}),
        len(live),
    )


def _wait_text(snapshot: Snapshot, live: list[Thread], roots: tuple[int, ...]) -> str | None:
    """``network 127.0.0.1:8080 (recvfrom) 0.4 s``; ``None`` while the engine or the thread is busy."""
    if any(engine.busy for engine in snapshot.engines):
        return None
    drivers = {(engine.pid, engine.driver) for engine in snapshot.engines}
    mains = {(pid, pid) for pid in roots}
    candidates = [thread for thread in live if (thread.pid, thread.tid) in (drivers or mains)]
    if not candidates:
        return None
    thread = min(candidates, key=lambda thread: thread.last_ns)
    _, blocked_ns, runqueue_ns = open_wait(thread, snapshot.ns)
    if runqueue_ns:
        return f"runqueue {runqueue_ns / NS:.1f} s"
    if not blocked_ns:
        return None
    peer = thread.peer
    name = syscall_name(thread.syscall)
    words = [
        state_of(thread.state, thread.syscall, peer),
        peer_text(peer.family, peer.remote, peer.remote_port) or "",
        f"({name})" if name else "",
        f"{blocked_ns / NS:.1f} s",
    ]
    return " ".join(word for word in words if word)
