"""Waits that have not ended: the kernel sends nothing of them, so they come from the threads' own totals."""

from __future__ import annotations

from collections.abc import Iterable

from whyidle_daemon.attribution import open_wait
from whyidle_daemon.loops import Loops, blamed
from whyidle_daemon.processes import ProcessTable
from whyidle_daemon.sites import Sites
from whyidle_daemon.states import SELECTORS, TCP_LISTEN
from whyidle_daemon.things import thing_of
from whyidle_daemon.timelines import Record
from whyidle_daemon.wait_tables import Waits
from whyidle_probes.events import Thread, Wait


def with_lasting(  # noqa: PLR0917 (all that is known)
    waits: Waits,
    threads: Iterable[Thread],
    now_ns: int,
    sites: Sites,
    processes: ProcessTable,
    loops: Loops,
) -> tuple[Waits, dict[tuple[int, int], Record]]:
    """The waits with those that have not ended, and these by process and thread.

    What ``loops`` were seen to wait for in these is counted there.
    """
    waits = waits.copy()
    waiting: dict[tuple[int, int], Record] = {}
    for thread in threads:
        start_ns, blocked_ns, runqueue_ns = open_wait(thread, now_ns)
        if not blocked_ns and not runqueue_ns:
            continue
        wait, key = wait_of(thread.state, thread.peer.tcp_state), None
        process = processes.find(thread.pid, thread.last_ns)
        peer = thread.peer
        if blocked_ns and process is not None:
            place = sites.peek(thread.pid, thread.tid, start_ns)
            reading = loops.take(process, thread.tid, start_ns, blocked_ns) if wait in SELECTORS else None
            if reading is not None and not peer.remote_port:
                found, seen = blamed(reading, peer, sites)
                place, peer = found or place, seen if seen.remote_port else peer
            what = (start_ns, blocked_ns, wait, thread.syscall, peer)
            key = waits.table(wait).open(process, thread.tid, what, place)
        waiting[thread.pid, thread.tid] = Record(
            start_ns,
            blocked_ns,
            runqueue_ns,
            wait,
            key,
            False,
            thread.peer.local_port,
            thing=thing_of(wait, peer, thread.inode, thread.peer_inode) if blocked_ns else None,
        )
    return waits, waiting


def wait_of(state: int, tcp_state: int) -> int:
    """A socket in the listening state waits for demand, whatever syscall waits on it."""
    return int(Wait.LISTEN) if state == Wait.TCP and tcp_state == TCP_LISTEN else state
