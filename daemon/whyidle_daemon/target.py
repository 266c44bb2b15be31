"""One target under observation: feeds its records to its pure :class:`Observation`.

This is the seam between I/O and logic. Whatever an observation learns passes through ``Observation.add``,
in an order that a recording can keep.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from whyidle_daemon.contexts import Contexts
from whyidle_daemon.costs import Costs
from whyidle_daemon.discovery.placement import Placement, placement_of
from whyidle_daemon.epoll_sets import EpollSets
from whyidle_daemon.facts import CudaFacts, Host, LaunchesSeen, Loss, Overhead, ProcessFacts, Snapshot
from whyidle_daemon.gpus.watch import GpuWatch
from whyidle_daemon.kernel import Kernel, monotonic_ns
from whyidle_daemon.libraries import EngineLibraries
from whyidle_daemon.limits import Limits
from whyidle_daemon.looks import Looks
from whyidle_daemon.loop_reader import LoopReader
from whyidle_daemon.memory_sampler import MemorySampler
from whyidle_daemon.observation import Observation, Progress
from whyidle_daemon.owners import Owners
from whyidle_daemon.peer_names import PeerNames
from whyidle_daemon.proc import Proc
from whyidle_daemon.reading_guard import UNGUARDED, Guard
from whyidle_daemon.rebase import Base
from whyidle_daemon.recording.output import Output
from whyidle_daemon.recording.reader import ordered
from whyidle_daemon.recording.recorder import RecordedObservation, Recorder
from whyidle_daemon.sampler import StackSampler
from whyidle_daemon.stall_watch import StallWatch
from whyidle_daemon.telling import Telling
from whyidle_daemon.thread_watch import ThreadWatch
from whyidle_probes.events import (
    ContextMade,
    Event,
    Exec,
    Exit,
    FirstWrite,
    Fork,
    Library,
    NameLookup,
    Noticed,
    Slice,
    Stat,
    Thread,
)
from whyidle_wire.records import StallEvent

log = logging.getLogger(__name__)

_FINISH_TURN = 10_000
_FINISH_TURNS = 50
_LIBRARY_RETRIES, _SLOW_RETRIES = 340, 300  # 2 ms apart, then with every tick of the daemon
_LOOKS_AGAIN = 5
NS = 1_000_000_000


class TargetGoneError(Exception):
    """None of the processes to observe is alive any more."""


def host() -> Host:
    """This machine."""
    return Host(platform.release(), os.cpu_count() or 1)


def _utc() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _set_gil(kernel: Kernel, pid: int, start: int, end: int) -> None:
    with contextlib.suppress(OSError):  # the table is full: the GIL then counts as a lock
        kernel.set_gil(pid, start, end)


class Target:
    """One observation: its processes in the kernel's maps, and its reducer."""

    def __init__(
        self,
        number: int,
        kernel: Kernel,
        libraries: EngineLibraries,
        proc: Proc,
        *,
        know_owners: bool = False,
        guard: Guard = UNGUARDED,
        limits: Limits | None = None,
    ) -> None:
        self.number = number
        self.listeners: list[Callable[[Event], None]] = []  # of processes
        self.wait_listeners: list[Callable[[Event], None]] = []
        self._kernel = kernel
        self._libraries = libraries
        self._proc = proc
        self._guard = guard
        self._owners = Owners(proc) if know_owners else None
        self._unmapped: dict[int, int] = {}
        self._looks = Looks()
        self._telling = Telling()  # what this holds does not hold it, so that it goes when it is let go
        self.tell = self._telling.tell
        self._memory = MemorySampler(proc, self.tell, limits or Limits(proc))
        self._contexts = Contexts(proc, self.tell, guard)
        self._names = PeerNames(proc.netns)
        self._seen: dict[str, LaunchesSeen] = {}
        loops = LoopReader(EpollSets(proc, monotonic_ns), monotonic_ns)
        self._sampler = StackSampler(kernel.glance, partial(_set_gil, kernel), loops, guard=guard)
        self._threads = ThreadWatch(number, kernel)
        self._stalls = StallWatch(number, kernel, proc, self._sampler)
        self._costs = Costs(kernel)
        self.gpus: GpuWatch | None = None
        self._recorder: Recorder | None = None  # for the client
        self._history: Recorder | None = None
        self.blind_ns = 0
        self.start_ns = monotonic_ns()

    def start(
        self,
        roots: tuple[int, ...],
        command: tuple[str, ...],
        output: Output | None = None,
        history: Output | None = None,
    ) -> tuple[int, int]:
        """Begin; returns how many processes and threads there are. Raises :class:`TargetGoneError`.

        ``output`` gets a recording of it, ``history`` another. Whatever it raises, nothing is tracked then.
        """
        try:
            return self._start(roots, command, output, history)
        except BaseException:
            self._let_go()
            raise

    def _start(
        self, roots: tuple[int, ...], command: tuple[str, ...], output: Output | None, history: Output | None
    ) -> tuple[int, int]:
        self.started_at = _utc()
        self.start_ns = monotonic_ns()
        self.roots = roots
        self._telling.observation = self._observe(self.start_ns, command, self.started_at, output, history)
        self._kernel.track(roots, self.number)
        pids = self._kernel.processes(self.number)
        threads = self._kernel.threads(self.number)
        alive = {thread.pid for thread in threads}
        if not alive.intersection(roots):
            raise TargetGoneError
        for pid in pids:
            self._learn(pid)
            self._scan(pid)
            self._sampler.started(pid, self.start_ns)
        return len(pids), len(threads)

    def _observe(
        self, ns: int, command: tuple[str, ...], at: str, output: Output | None, history: Output | None
    ) -> Observation:
        self._recorder = self._history = None
        outputs = [file for file in (output, history) if file is not None]
        if not outputs:
            return Observation(ns, self.roots, command, at)
        recorded = RecordedObservation(ns, self.roots, command, at, outputs=outputs, host=host())
        if output is not None:
            self._recorder = recorded.recorders[0]
        if history is not None:
            self._history = recorded.recorders[-1]
        return recorded

    def know_owners(self) -> None:
        """Look whose its processes are from now on: of what was, nobody can be told; cut here."""
        if self._owners is None:
            self._owners = Owners(self._proc)

    def renew(self, history: Output | None) -> None:
        """Cut here: the observation so far ends, with its recordings; another goes on and misses nothing.

        ``history`` gets the recording of the new one.
        """
        self.drain()
        raw = self._raw_snapshot()
        if self._history is not None:
            # Nobody waits for this file: the disk may take its time, and the loop goes on.
            self._history.finish(self._telling.rebased(raw), self.loss(), self.overhead(), None, wait_s=0.0)
        before = self.observation
        over = {(one.pid, one.context) for one in raw.engines if before.is_over(one, raw.ns)}
        self._kernel.forget_engines(over)
        raw = raw._replace(engines=tuple(one for one in raw.engines if (one.pid, one.context) not in over))
        decodes = self._seen.get("decode")
        self._telling.base = Base(raw, decodes.ns if decodes is not None and not decodes.seen else None)
        self._costs = Costs(self._kernel)
        self.blind_ns = self._sampler.dropped = 0
        self._telling.observation = self._observe(raw.ns, before.command, _utc(), None, history)
        alive = self._kernel.processes(self.number)
        if self._owners is not None:  # of those that the new one will speak of
            self._owners.keep((*alive, *self.roots))  # a root that has ended says whose the tree is
        for pid in alive:
            self._learn(pid)
            self._tell_cuda(pid)
        for seen in self._seen.values():
            if not seen.seen:
                self.observation.add(seen._replace(ns=raw.ns))
        for name in before.names():
            self.observation.add(name)
        for tie in before.ties({(thread.pid, thread.tid) for thread in raw.threads}):
            self.observation.add(tie)
        for facts in self._contexts.all():
            self.observation.add(facts._replace(ns=raw.ns))
        for thread in raw.threads:  # waits that last over the cut were read before it
            for sample in (self._sampler.latest(thread), self._sampler.latest_loop(thread)):
                if sample is not None and sample.since_ns == thread.last_ns:
                    self.tell(sample)
        if self.gpus is not None:
            self.gpus.add(self.number, self.tell)

    @property
    def observation(self) -> Observation:
        """The one that goes on."""
        return self._telling.observation

    @property
    def history_bytes(self) -> int:
        """How large the part of the history is that is being written."""
        return self._history.size if self._history is not None else 0

    def handle(self, event: Event) -> None:
        """Take one record of this target from the kernel side."""
        if type(event) is Slice:  # nearly all of them
            self.tell(event)
            for listener in self.wait_listeners:
                listener(event)
        elif isinstance(event, Library):
            # The mapping appears only after the tracepoint: look now, and again until it is there.
            if event.pid not in self._unmapped and not self._scan(event.pid):
                self._unmapped[event.pid] = _LIBRARY_RETRIES
        elif isinstance(event, ContextMade):
            with self._looks.charged() as allowed:
                if allowed:  # else it is found later, without what it was made with
                    self._contexts.look(event.pid, event.context, event.parameters)
        elif isinstance(event, NameLookup | FirstWrite):
            for fact in self._names.facts(event):
                self.observation.add(fact)
        elif not isinstance(event, Noticed):  # which is of no target
            self.tell(event)
            self._follow(event)

    def _follow(self, event: Event) -> None:
        """Keep what is known of processes up to date, and pass on what clients listen for."""
        if isinstance(event, Exec | Exit):
            self._contexts.forget(event.pid)
        if isinstance(event, Fork):
            self._libraries.forked(event.parent, event.pid)
        elif isinstance(event, Exec):
            self._libraries.replaced(event.pid)
        if isinstance(event, Fork | Exec):
            self._learn(event.pid)
            self._sampler.started(event.pid, event.ns)
        elif isinstance(event, Exit):
            self._unmapped.pop(event.pid, None)
            self._libraries.forget(event.pid)
            self._names.forget(event.pid)
            self._sampler.forget(event.pid)
        elif isinstance(event, Thread):
            self._sampler.ended(event.tid)
        if isinstance(event, Fork | Exec | Exit):
            for listener in self.listeners:
                listener(event)

    def retry_libraries(self) -> bool:
        """Look again for libraries that were announced; true while there is something to look for."""
        for pid, left in list(self._unmapped.items()):
            if self._looks.spent:
                return False  # until the next tick
            if self._scan(pid) or left <= 1:
                del self._unmapped[pid]
            else:
                self._unmapped[pid] = left - 1
        return any(left > _SLOW_RETRIES for left in self._unmapped.values())

    def look_again(self) -> None:
        """Look for the libraries of all its processes soon, as if they had just been mapped."""
        for pid in self._kernel.processes(self.number):
            self._unmapped.setdefault(pid, _LOOKS_AGAIN)

    def _scan(self, pid: int) -> bool:
        with self._looks.charged() as allowed:
            found = allowed and self._libraries.scan(pid)
        self._tell_cuda(pid)
        return found

    def _tell_cuda(self, pid: int) -> None:
        simulated = self._libraries.cuda.get(pid)
        if simulated is not None:
            self.observation.add(CudaFacts(pid, monotonic_ns(), simulated))

    def calls_seen(self, seen: LaunchesSeen) -> None:
        """Calls of a kind have probes from now on, or none."""
        self._seen[seen.what] = seen
        self.observation.add(seen)

    def has_work(self, within_s: float) -> bool:
        """Whether some of its processes run code that can be read, or are to be looked at for that."""
        return self._sampler.has_work(monotonic_ns() + round(within_s * NS))

    @property
    def learning(self) -> bool:
        """Whether something was read lately that was not known, or may soon be."""
        return self._sampler.learning(monotonic_ns())

    def sample_stacks(self, look_every_s: float) -> None:
        """Read the code of threads that sleep; notice interpreters first, and new threads every so often."""
        now = monotonic_ns()
        try:
            self._sampler.discover(now)
            self._threads.look(now, look_every_s)
            self._sampler.running = self._threads.busy
            found = self._sampler.sample(self._threads.worth_reading, now)
        finally:
            self._guard.rest()
        for sample in found:
            self.tell(sample)

    def stalls(self, threshold_ns: int) -> list[StallEvent]:
        """Waits that crossed the threshold since the last call, and those that were reported and are over."""
        return self._stalls.changed(threshold_ns, self.start_ns)

    def sample_memory(self) -> None:
        """Resident memory of the live processes, and what was kept back in the kernel."""
        if not self._memory.due:
            return
        self._memory.sample(self._kernel.processes(self.number))
        with self._looks.charged() as allowed:
            if allowed:
                self._contexts.look_at_others(self._kernel.engines(self.number))
        if self._costs.counted(Stat.EXITS_KEPT):
            self._sweep()

    @property
    def placement(self) -> Placement:
        """Where its first process runs."""
        return placement_of(self._proc.cgroup(self.roots[0]))

    def snapshot(self) -> Snapshot:
        """The kernel's totals now, since the observation began."""
        return self._telling.rebased(self._raw_snapshot())

    def _raw_snapshot(self) -> Snapshot:
        threads = ordered(self._kernel.threads(self.number))
        engines = tuple(self._kernel.engines(self.number))
        return Snapshot(monotonic_ns(), threads, engines)

    def progress(self) -> Progress:
        return self.observation.progress(self.snapshot())

    def loss(self) -> Loss:
        """What was lost since this observation began, on the whole host."""
        return self._costs.loss(self._sampler.dropped, self.blind_ns)

    def overhead(self) -> Overhead:
        """Own cost since this observation began."""
        return self._costs.overhead()

    def report(self, exit_status: int | None = None) -> dict[str, Any]:
        """The report so far; drains what the rings hold first."""
        self.drain()
        return self.observation.report(self.snapshot(), host(), self.loss(), self.overhead(), exit_status)

    def findings(self) -> list[dict[str, Any]]:
        """The findings of the report so far: of all that it says, what a subscriber waits for."""
        self.drain()
        return self.observation.findings(self.snapshot(), host(), self.loss())

    def finish(self, exit_status: int | None) -> dict[str, Any]:
        """The last report; a recording gets its end, with the same totals."""
        self.drain()
        totals = self.snapshot(), self.loss(), self.overhead()
        report = self.observation.report(totals[0], host(), *totals[1:], exit_status)
        if self._recorder is not None:
            self._recorder.finish(*totals, exit_status)
            report["recording"] = self._recorder.state()
        if self._history is not None:  # nobody waits for this one
            self._history.finish(*totals, exit_status, wait_s=0.0)
        return report

    def flush_recording(self) -> None:
        """Once a second: write what was recorded, so that a crash costs no more than that."""
        for recorder in (self._recorder, self._history):
            if recorder is not None:
                recorder.tick(lambda: (self.snapshot(), self.loss(), self.overhead()))

    def close(self) -> None:
        """Stop observing. The files are written to their ends, and nobody waits for that."""
        if self._history is not None and not self._history.over:
            self.drain()
            self._history.finish(self.snapshot(), self.loss(), self.overhead(), None, wait_s=0.0)
        for recorder in (self._recorder, self._history):
            if recorder is not None:
                recorder.close(wait_s=0.0)
        self._let_go()
        self.listeners, self.wait_listeners = [], []

    def _let_go(self) -> None:
        """Its processes are nobody's: another target may have them."""
        try:
            self._threads.close()
            self._sampler.close()
            for pid in self._kernel.processes(self.number):
                self._libraries.forget(pid)
        finally:
            self._kernel.untrack(self.number)

    def drain(self) -> None:
        """Take what the rings hold, and the threads that ended without room in them."""
        for _ in range(_FINISH_TURNS):
            if self._kernel.consume(_FINISH_TURN) < _FINISH_TURN:
                break
        if self.gpus is not None:
            self.gpus.drain()
        self._sweep()

    def _sweep(self) -> None:
        for thread in self._kernel.sweep_exited(self.number):
            self.tell(thread)
            self._sampler.ended(thread.tid)

    def owned_by(self, pid: int, uid: int) -> bool:
        """Whether a process belonged to a user alone whenever it was looked at. Not known is no."""
        return self._owners is not None and self._owners.owns(uid, pid)

    def partly_owned_by(self, uid: int) -> bool:
        """Whether some process of the tree belonged to this user alone, as far as is known."""
        return self._owners is not None and self._owners.owns_some(uid)

    def rooted_in(self, uid: int) -> bool:
        """Whether its roots are, or were, this user's alone, whoever else is in the tree."""
        return all(self.owned_by(pid, uid) for pid in self.roots)

    def wholly_owned_by(self, uid: int) -> bool:
        """Whether every process of the tree is and was this user's alone."""
        return self._owners is not None and self._owners.owns_all(uid)

    def _learn(self, pid: int) -> None:
        if self._owners is not None:
            self._owners.learn(pid)
        command = self._proc.command(pid)
        if command:
            parent = self._proc.parent(pid) or 0
            netns = self._names.learn(pid)
            facts = ProcessFacts(pid, parent, command, self._proc.cgroup(pid), monotonic_ns(), netns)
            self.observation.add(facts)
