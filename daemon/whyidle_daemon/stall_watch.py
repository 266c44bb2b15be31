"""Looks for waits of one target that last, and says what is known of each."""

from __future__ import annotations

import time
from typing import Any

from whyidle_daemon.facts import AwaitingTasks
from whyidle_daemon.kernel import Kernel, monotonic_ns
from whyidle_daemon.loops import awaited_answer
from whyidle_daemon.proc import Proc
from whyidle_daemon.sampler import StackSampler
from whyidle_daemon.stalls import Stall, StallTracker, candidates
from whyidle_daemon.states import SELECTORS, peer_object, state_of
from whyidle_probes.events import Thread
from whyidle_probes.syscalls import syscall_name
from whyidle_wire.records import StallEvent

NS = 1_000_000_000
_EVERY_NS = 250_000_000
_COSTS = 50  # 2 % of a core at most, while a client waits for stalls


class StallWatch:
    """The stalls of one target. ``sampler`` reads the code of the threads."""

    def __init__(self, target: int, kernel: Kernel, proc: Proc, sampler: StackSampler) -> None:
        self._target = target
        self._kernel = kernel
        self._proc = proc
        self._sampler = sampler
        self._tracker = StallTracker()
        self._candidates: list[tuple[int, int]] = []
        self._drivers: set[int] = set()
        self._next_ns = 0

    def changed(self, threshold_ns: int, start_ns: int) -> list[StallEvent]:
        """Waits that crossed the threshold since the last call, and those that were reported and are over.

        Their times are since ``start_ns``.
        """
        now = monotonic_ns()
        if now >= self._next_ns:
            began = time.thread_time_ns()
            self._drivers = {engine.driver for engine in self._kernel.engines(self._target)}
            self._candidates = candidates(self._kernel.briefs(), self._target, self._drivers)
            self._next_ns = now + max(_EVERY_NS, _COSTS * (time.thread_time_ns() - began))
        opened = self._tracker.open
        due = [t for t, since in self._candidates if now - since >= threshold_ns and t not in opened]
        whole = [thread for thread in map(self._kernel.thread, due) if thread is not None]
        glances = [glance for glance in map(self._kernel.glance, opened) if glance is not None]
        loops = {(thread.tid, thread.last_ns) for thread in whole if self._awaiting(thread) is not None}
        found = self._tracker.update([*glances, *whole], now, threshold_ns, self._drivers, loops)
        return [self._event(stall, start_ns) for stall in found]

    def _awaiting(self, thread: Thread) -> AwaitingTasks | None:
        """The task that waits for an answer, of a thread whose event loop waits for that."""
        reading = self._sampler.latest_loop(thread) if thread.state in SELECTORS else None
        if reading is None or reading.since_ns != thread.last_ns:
            return None
        return awaited_answer(reading)

    def _event(self, stall: Stall, start_ns: int) -> StallEvent:
        thread, sample = stall.thread, self._sampler.latest(stall.thread)
        called = sample.thread if sample is not None else ""
        site = sample.site if sample is not None and sample.since_ns == thread.last_ns else None
        end, state = thread.peer, state_of(thread.state, thread.syscall, thread.peer)
        if (task := self._awaiting(thread)) is not None:
            site, end, state = task.site, task.peer, "network"
        peer: Any = peer_object(end.family, end.remote, end.remote_port)
        return StallEvent(
            self._target,
            thread.pid,
            thread.tid,
            called or self._proc.thread_name(thread.pid, thread.tid) or thread.comm,
            state,
            (thread.last_ns - start_ns) / NS,
            stall.duration_ns / NS,
            syscall_name(thread.syscall) or "",
            peer,
            site.function if site else None,
            site.file if site else None,
            site.line if site else None,
            site.stack if site else (),
            stall.ended,
        )
