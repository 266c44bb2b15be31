"""Where each thread's time went: the kernel's totals, refined by what is known of the peers.

The kernel sums a thread's time by :class:`whyidle_probes.events.Wait`, and these sums are exact: every
nanosecond since the thread was first seen is in one of them. Slices refine them (a UDP wait for port 53 is
``dns``) by *moving* time between states, so the states of a thread always add up to its wall time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from whyidle_daemon.processes import Process, ProcessTable
from whyidle_daemon.states import SELECTORS, state_of
from whyidle_daemon.waits import WaitGroup
from whyidle_probes.events import STATES as WAITS
from whyidle_probes.events import Thread, Wait

MAX_EXITED = 1000
MAX_THREADS = 1000  # in a report


class ThreadTime(NamedTuple):
    """One thread's life: ``states`` in nanoseconds add up to ``wall_ns``. ``counts`` is by kernel wait."""

    process: Process
    tid: int
    name: str
    first_ns: int
    wall_ns: int
    alive: bool
    states: dict[str, int]
    ran_ns: int  # on a CPU,
    slept_ns: int  # in sleep(2) and its like,
    selecting_ns: int  # and in a selector
    counts: tuple[int, ...]
    clock_samples: int = 0
    polling_samples: int = 0

    @property
    def leader(self) -> bool:
        """The main thread."""
        return self.tid == self.process.pid


class ThreadTable:
    """Threads that ended. Beyond the limit the shortest lives are summed, and those of ``keep`` last.

    Of those, engines' drivers, the oldest go: a server may make a thread for each request.
    """

    def __init__(self, limit: int = MAX_EXITED) -> None:
        self.exited: dict[tuple[int, int, int], Thread] = {}
        self.omitted = 0
        self.omitted_ns = [0] * WAITS
        self._limit = limit

    def add(self, thread: Thread, processes: ProcessTable, keep: set[int]) -> None:
        """Take the final record of a thread."""
        self.exited[thread.pid, thread.tid, thread.first_ns] = thread
        if len(self.exited) < self._limit * 2:
            return
        ranked = sorted(self.exited.items(), key=lambda item: _worth(item[1], keep))
        for key, ended in ranked[: -self._limit]:
            del self.exited[key]
            self.omitted += 1
            for wait, ns in enumerate(ended.ns):
                self.omitted_ns[wait] += ns
            processes.add_cpu(ended.pid, ended.last_ns, ended.ns[Wait.RUNNING])


def _worth(ended: Thread, keep: set[int]) -> tuple[bool, int]:
    return (True, ended.end_ns) if ended.tid in keep else (False, ended.end_ns - ended.first_ns)


def states_of(waits: Iterable[int], groups: Iterable[WaitGroup] = ()) -> dict[str, int]:
    """Nanoseconds by state, from nanoseconds by kernel wait; the sum does not change.

    ``groups`` are the thread's own; those whose peer says more than the kernel's wait does move their time.
    """
    by_wait = list(waits)
    states: dict[str, int] = {}
    for group in groups:
        wait = group.key.wait
        if group.key.state != state_of(wait):
            moved = min(group.total_ns, by_wait[wait])
            by_wait[wait] -= moved
            states[group.key.state] = states.get(group.key.state, 0) + moved
    for wait, ns in enumerate(by_wait):
        if ns:
            state = state_of(wait)
            states[state] = states.get(state, 0) + ns
    return {state: ns for state, ns in states.items() if ns}


def open_wait(thread: Thread, now_ns: int) -> tuple[int, int, int]:
    """What a live thread is in the middle of: ``(start_ns, blocked_ns, runqueue_ns)`` so far, or zeroes."""
    if thread.end_ns or thread.state == Wait.RUNNING or now_ns <= thread.last_ns:
        return thread.last_ns, 0, 0
    so_far = now_ns - thread.last_ns
    if thread.state == Wait.RUNQUEUE:
        return thread.last_ns, 0, so_far
    asleep = thread.asleep_ns(so_far)
    return thread.last_ns, asleep, so_far - asleep


def merged(exited: Iterable[Thread], live: Iterable[Thread]) -> list[Thread]:
    """Each thread once; its final record rather than a snapshot."""
    ended = list(exited)
    if not ended:
        return list(live)
    threads = {(thread.pid, thread.tid, thread.first_ns): thread for thread in live}
    threads |= {(thread.pid, thread.tid, thread.first_ns): thread for thread in ended}
    return list(threads.values())


def thread_times(
    threads: Iterable[Thread], now_ns: int, processes: ProcessTable, groups: Iterable[WaitGroup]
) -> list[ThreadTime]:
    """The lives of ``threads`` up to ``now_ns``, longest first."""
    of_thread: dict[tuple[Process, int], list[WaitGroup]] = {}
    for group in groups:
        process, tid = group.key.process, group.key.tid
        of_thread.setdefault((process, process.thread_id(tid, group.first_ns)), []).append(group)
    times = []
    for thread in threads:
        # A process that is not found was summed already.
        found = processes.find(thread.pid, thread.last_ns)
        process = found or Process(thread.pid, thread.first_ns, provisional=True)
        waits = thread.totals_at(now_ns)
        states = states_of(waits, of_thread.get((process, thread.tid), ()))
        times.append(
            ThreadTime(
                process,
                thread.tid,
                process.thread_name(thread.tid, thread.first_ns, thread.comm),
                thread.first_ns,
                sum(waits),
                not thread.end_ns,
                states,
                waits[Wait.RUNNING],
                waits[Wait.SLEEP],
                sum(waits[wait] for wait in SELECTORS),
                thread.count,
                thread.clock_samples,
                thread.polling_samples,
            )
        )
    times.sort(key=lambda time: (-time.wall_ns, time.process.pid, time.tid, time.first_ns))
    return times


def end_of(start_ns: int, now_ns: int, threads: Iterable[Thread], processes: ProcessTable) -> int:
    """When a target ended; now, while a thread of it lives."""
    threads = list(threads)
    ends = [thread.end_ns for thread in threads]
    ends += [process.end_ns for process in processes if process.end_ns]
    if not ends or any(not thread.end_ns for thread in threads):
        return max(now_ns, start_ns)
    return max(start_ns, min(max(ends), now_ns))
