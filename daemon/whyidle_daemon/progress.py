"""The live line: what is going on at this instant, from the kernel's totals alone."""

from __future__ import annotations

from typing import NamedTuple

from whyidle_daemon.attribution import open_wait
from whyidle_daemon.facts import Snapshot
from whyidle_daemon.states import peer_text, state_of
from whyidle_probes.events import Thread, is_cuda
from whyidle_probes.syscalls import syscall_name

NS = 1_000_000_000


class GpuProgress(NamedTuple):
    """A GPU that the target uses: for which share of the time it was busy, ``None`` if it does not say."""

    gpu: str
    kind: str
    pid: int
    busy_share: float | None
    simulated: bool


class Progress(NamedTuple):
    """Now, in a line. ``wait`` is what the driver thread (or the main thread) waits for."""

    elapsed_s: float
    engine_busy_share: float | None
    wait: str | None
    processes: int
    threads: int
    gpus: tuple[GpuProgress, ...] = ()


def progress_of(
    snapshot: Snapshot, start_ns: int, roots: tuple[int, ...], gpus: tuple[GpuProgress, ...] = ()
) -> Progress:
    """Where things stand at ``snapshot`` of an observation that began at ``start_ns`` with ``roots``.

    The busy share is that of models; of CUDA contexts in processes without one; without either of GPUs.
    """
    live = [thread for thread in snapshot.threads if not thread.end_ns]
    busy = observed = 0
    models = {engine.pid for engine in snapshot.engines if not is_cuda(engine.context)}
    for engine in snapshot.engines:
        if is_cuda(engine.context) and engine.pid in models:
            continue
        current = max(0, snapshot.ns - engine.last_ns)
        busy += engine.busy_ns + (current if engine.busy else 0)
        observed += engine.busy_ns + engine.idle_ns + current
    shares = [gpu.busy_share for gpu in gpus if gpu.busy_share is not None]
    of_gpus = sum(shares) / len(shares) if shares else None
    return Progress(
        (snapshot.ns - start_ns) / NS,
        busy / observed if observed else of_gpus,
        _wait_text(snapshot, live, roots),
        len({thread.pid for thread in live}),
        len(live),
        gpus,
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
