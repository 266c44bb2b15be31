"""The targets under observation: feeds each one's records to its pure :class:`Observation`.

This is the seam between I/O and logic. Whatever an observation learns passes through ``Observation.add``,
in an order that a recording can keep.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psutil

from whyidle_daemon.access import owner_of
from whyidle_daemon.contexts import facts_of
from whyidle_daemon.discovery.placement import Placement, placement_of
from whyidle_daemon.epoll_sets import EpollSets
from whyidle_daemon.facts import (
    AwaitingTasks,
    CudaFacts,
    EngineFacts,
    Host,
    LaunchesSeen,
    LimitSample,
    Loss,
    MemorySample,
    Overhead,
    ProcessFacts,
    Snapshot,
)
from whyidle_daemon.gpus.watch import GpuWatch
from whyidle_daemon.kernel import Kernel, monotonic_ns
from whyidle_daemon.libraries import EngineLibraries
from whyidle_daemon.limits import Limits
from whyidle_daemon.loop_reader import LoopReader
from whyidle_daemon.loops import awaited_answer
from whyidle_daemon.observation import Anything, Observation, Progress
from whyidle_daemon.peer_names import PeerNames
from whyidle_daemon.probe_limit import HIT_NS, ProbeLimit
from whyidle_daemon.proc import Proc
from whyidle_daemon.rebase import Base
from whyidle_daemon.recording.output import Output
from whyidle_daemon.recording.reader import ordered
from whyidle_daemon.recording.recorder import RecordedObservation, Recorder
from whyidle_daemon.sampler import StackSampler
from whyidle_daemon.spins import HERTZ, Spins
from whyidle_daemon.stalls import Crowd, Stall, StallTracker
from whyidle_daemon.states import SELECTORS, peer_object, state_of
from whyidle_probes.events import (
    ContextMade,
    Event,
    Exec,
    Exit,
    FirstWrite,
    Fork,
    Gap,
    Library,
    NameLookup,
    Noticed,
    Slice,
    Stat,
    Thread,
)
from whyidle_probes.syscalls import syscall_name
from whyidle_wire.records import StallEvent

log = logging.getLogger(__name__)

_MEMORY_PROCESSES = 256
_MEMORY_COSTS = 200  # half a percent of a core at most
_MAX_LIMITS = 32
_MAX_CONTEXTS = 64
_KNOWN_OWNERS = 16384
_WATCH_EVERY_NS = 250_000_000
_STALL_COSTS = 50  # 2 % of a core, while a client waits for stalls: once a second
_WATCH_COSTS = 200  # with ten thousand threads a walk takes 20 ms: then every 4 s, half a percent of a core
_FINISH_TURN = 10_000
_FINISH_TURNS = 50
_LIBRARY_RETRIES, _SLOW_RETRIES = 340, 300  # 2 ms apart, then with every tick of the daemon
NS = 1_000_000_000


class TargetGoneError(Exception):
    """None of the processes to observe is alive any more."""


def host() -> Host:
    """This machine."""
    return Host(platform.release(), os.cpu_count() or 1)


def _utc() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Target:
    """One observation: its processes in the kernel's maps, and its reducer."""

    def __init__(
        self, number: int, kernel: Kernel, libraries: EngineLibraries, proc: Proc, know_owners: bool = False
    ) -> None:
        self.number = number
        self.listeners: list[Callable[[Event], None]] = []
        self._kernel = kernel
        self._libraries = libraries
        self._proc = proc
        self._owners: dict[int, int | None] | None = {} if know_owners else None
        self._unmapped: dict[int, int] = {}
        self._limits = Limits(proc)
        self._next_memory_ns = 0
        self._looked_at: dict[tuple[int, int], EngineFacts] = {}
        self._names = PeerNames(proc.netns)
        self._watched: list[int] = []
        self._may_stall: list[tuple[int, int]] = []
        self._drivers: set[int] = set()
        self._stalls = StallTracker()
        self._spins = Spins()
        self._clocks: dict[int, int] = {}  # of threads that never sleep
        self._next_watch_ns = 0
        self._next_stall_ns = 0
        self._seen: dict[str, LaunchesSeen] = {}
        loops = LoopReader(EpollSets(proc, monotonic_ns), monotonic_ns)
        self._sampler = StackSampler(kernel.glance, self._set_gil, loops)
        self._baseline = kernel.stats()
        self._clock_start = time.process_time()
        self._run_ns_start = kernel.run_ns()
        self.gpus: GpuWatch | None = None
        self._recorder: Recorder | None = None  # for the client
        self._history: Recorder | None = None
        self._base: Base | None = None
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

        ``output`` gets a recording of it, ``history`` another.
        """
        self.started_at = _utc()
        self.start_ns = monotonic_ns()
        self.roots = roots
        self.observation = self._observe(self.start_ns, command, self.started_at, output, history)
        self._kernel.track(roots, self.number)
        pids = self._kernel.processes(self.number)
        threads = self._kernel.threads(self.number)
        alive = {thread.pid for thread in threads}
        if not alive.intersection(roots):
            self._kernel.untrack(self.number)
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

    def renew(self, history: Output | None) -> None:
        """Cut here: the observation so far ends, with its recordings; another goes on and misses nothing.

        ``history`` gets the recording of the new one.
        """
        self.drain()
        raw = self._raw_snapshot()
        if self._history is not None:
            # Nobody waits for this file: the disk may take its time, and the loop goes on.
            self._history.finish(self._rebased(raw), self.loss(), self.overhead(), None, wait_s=0.0)
        before = self.observation
        decodes = self._seen.get("decode")
        self._base = Base(raw, decodes.ns if decodes is not None and not decodes.seen else None)
        self._baseline = self._kernel.stats()
        self._clock_start, self._run_ns_start = time.process_time(), self._kernel.run_ns()
        self.blind_ns = self._sampler.dropped = 0
        self.observation = self._observe(raw.ns, before.command, _utc(), None, history)
        alive = self._kernel.processes(self.number)
        if self._owners is not None:  # of those that the new one will speak of
            self._owners = {pid: self._owners[pid] for pid in alive if pid in self._owners}
        for pid in alive:
            self._learn(pid)
            self._tell_cuda(pid)
        for seen in self._seen.values():
            if not seen.seen:
                self.observation.add(seen._replace(ns=raw.ns))
        for name in before.names():
            self.observation.add(name)
        for facts in self._looked_at.values():
            self.observation.add(facts._replace(ns=raw.ns))
        for thread in raw.threads:  # waits that last over the cut were read before it
            for sample in (self._sampler.latest(thread.tid), self._sampler.latest_loop(thread.tid)):
                if sample is not None and sample.since_ns == thread.last_ns:
                    self.tell(sample)
        if self.gpus is not None:
            self.gpus.add(self.number, self.tell)

    def tell(self, record: Anything) -> None:
        """Everything that the observation is told in its order, seen from where it began."""
        seen = self._base.record(record) if self._base is not None else record
        if seen is not None:
            self.observation.add(seen)

    @property
    def history_bytes(self) -> int:
        """How large the part of the history is that is being written."""
        return self._history.size if self._history is not None else 0

    def handle(self, event: Event) -> None:
        """Take one record of this target from the kernel side."""
        if isinstance(event, Library):
            # The mapping appears only after the tracepoint: look now, and again until it is there.
            if not self._scan(event.pid):
                self._unmapped[event.pid] = _LIBRARY_RETRIES
        elif isinstance(event, ContextMade):
            self._look_at_context(event.pid, event.context, event.parameters)
        elif isinstance(event, NameLookup | FirstWrite):
            for fact in self._names.facts(event):
                self.observation.add(fact)
        elif not isinstance(event, Noticed):  # which is of no target
            self.tell(event)
            self._follow(event)

    def _follow(self, event: Event) -> None:
        """Keep what is known of processes up to date, and pass on what clients listen for."""
        if isinstance(event, Exec | Exit):
            self._looked_at = {one: facts for one, facts in self._looked_at.items() if one[0] != event.pid}
        if isinstance(event, Fork | Exec):
            self._learn(event.pid)
            self._sampler.started(event.pid, event.ns)
        elif isinstance(event, Exit):
            self._unmapped.pop(event.pid, None)
            self._libraries.cuda.pop(event.pid, None)
            self._names.forget(event.pid)
            self._sampler.forget(event.pid)
        if isinstance(event, Fork | Exec | Exit | Slice):
            for listener in self.listeners:
                listener(event)

    def retry_libraries(self) -> bool:
        """Look again for libraries that were announced; true while there is something to look for."""
        for pid, left in list(self._unmapped.items()):
            if self._scan(pid) or left <= 1:
                del self._unmapped[pid]
            else:
                self._unmapped[pid] = left - 1
        return any(left > _SLOW_RETRIES for left in self._unmapped.values())

    def _scan(self, pid: int) -> bool:
        found = self._libraries.scan(pid)
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

    def sample_stacks(self) -> None:
        """Read the code of threads that sleep; notice interpreters first."""
        now = monotonic_ns()
        self._sampler.discover(now)
        if now >= self._next_watch_ns:
            self._look_around(now)
        for sample in self._sampler.sample(self._watched, now):
            self.tell(sample)

    def _look_around(self, now: int) -> None:
        """Walk over all threads: it costs more than a look at a few, so it says which those are."""
        self._drivers = {engine.driver for engine in self._kernel.engines(self.number)}
        crowd = Crowd(self._drivers)
        wanted = self._spins.update(crowd.passing(self._kernel.glances(self.number)), now)
        self._may_stall, self._watched = crowd.candidates, crowd.watched
        self._sampler.running = self._clocks.keys()
        self._set_clocks(wanted)
        took = monotonic_ns() - now
        self._next_watch_ns = now + max(_WATCH_EVERY_NS, _WATCH_COSTS * took)
        self._next_stall_ns = now + max(_WATCH_EVERY_NS, _STALL_COSTS * took)

    def stalls(self, threshold_ns: int) -> list[StallEvent]:
        """Waits that crossed the threshold since the last call, and those that were reported and are over."""
        now = monotonic_ns()
        if now >= self._next_stall_ns:
            self._look_around(now)
        opened = self._stalls.open
        due = [t for t, since in self._may_stall if now - since >= threshold_ns and t not in opened]
        whole = [thread for thread in map(self._kernel.thread, due) if thread is not None]
        glances = [glance for glance in map(self._kernel.glance, opened) if glance is not None]
        loops = {(thread.tid, thread.last_ns) for thread in whole if self._loop_of(thread) is not None}
        changed = self._stalls.update([*glances, *whole], now, threshold_ns, self._drivers, loops)
        return [self._stall_event(stall) for stall in changed]

    def _loop_of(self, thread: Thread) -> AwaitingTasks | None:
        """The task that waits for an answer, of a thread whose event loop waits for that."""
        reading = self._sampler.latest_loop(thread.tid) if thread.state in SELECTORS else None
        if reading is None or reading.since_ns != thread.last_ns:
            return None
        return awaited_answer(reading)

    def _stall_event(self, stall: Stall) -> StallEvent:
        thread, sample = stall.thread, self._sampler.latest(stall.thread.tid)
        site = sample.site if sample is not None and sample.since_ns == thread.last_ns else None
        end, state = thread.peer, state_of(thread.state, thread.syscall, thread.peer)
        if (task := self._loop_of(thread)) is not None:
            site, end, state = task.site, task.peer, "network"
        peer: Any = peer_object(end.family, end.remote, end.remote_port)
        return StallEvent(
            self.number,
            thread.pid,
            thread.tid,
            self._proc.thread_name(thread.pid, thread.tid) or thread.comm,
            state,
            (thread.last_ns - self.start_ns) / NS,
            stall.duration_ns / NS,
            syscall_name(thread.syscall) or "",
            peer,
            site.function if site else None,
            site.file if site else None,
            site.line if site else None,
            site.stack if site else (),
            stall.ended,
        )

    def sample_memory(self) -> None:
        """Resident memory of the live processes, and what was kept back in the kernel."""
        now = monotonic_ns()
        if now < self._next_memory_ns:
            return
        groups: dict[tuple[str, str], LimitSample] = {}
        for pid in self._kernel.processes(self.number)[:_MEMORY_PROCESSES]:
            memory = self._proc.memory(pid)
            if memory:
                self.observation.add(MemorySample(pid, now, *memory))
            if len(groups) < _MAX_LIMITS:
                for one in self._limits.cgroups(pid):
                    sample = LimitSample(one.scope, one.name, now, one.used_bytes, one.limit_bytes)
                    groups.setdefault((one.scope, one.name), sample)
        for sample in groups.values():
            self.observation.add(sample)
        if (host := self._limits.host()) is not None:
            self.observation.add(LimitSample(host.scope, host.name, now, host.used_bytes, host.limit_bytes))
        self._look_at_contexts()
        self._next_memory_ns = now + _MEMORY_COSTS * (monotonic_ns() - now)
        if self._kernel.stat(Stat.EXITS_KEPT) != self._baseline[Stat.EXITS_KEPT]:
            self._sweep()

    def _look_at_contexts(self) -> None:
        """Those that were made before anybody looked."""
        for engine in self._kernel.engines(self.number):
            if (engine.pid, engine.context) not in self._looked_at:
                self._look_at_context(engine.pid, engine.context, None)

    def _look_at_context(self, pid: int, context: int, parameters: bytes | None) -> None:
        """What a model context holds; at once, for its program may be a short one."""
        if len(self._looked_at) < _MAX_CONTEXTS:
            facts = facts_of(self._proc, pid, context, monotonic_ns(), parameters)
            self._looked_at[pid, context] = facts
            self.tell(facts)

    @property
    def placement(self) -> Placement:
        """Where its first process runs."""
        return placement_of(self._proc.cgroup(self.roots[0]))

    @property
    def over(self) -> bool:
        """All processes have gone."""
        return not self._kernel.processes(self.number)

    def snapshot(self) -> Snapshot:
        """The kernel's totals now, since the observation began."""
        return self._rebased(self._raw_snapshot())

    def _raw_snapshot(self) -> Snapshot:
        threads = ordered(self._kernel.threads(self.number))
        engines = tuple(self._kernel.engines(self.number))
        return Snapshot(monotonic_ns(), threads, engines)

    def _rebased(self, snapshot: Snapshot) -> Snapshot:
        return self._base.snapshot(snapshot) if self._base is not None else snapshot

    def progress(self) -> Progress:
        return self.observation.progress(self.snapshot())

    def loss(self) -> Loss:
        """What was lost since this observation began, on the whole host."""
        now = self._kernel.stats()
        lost = {which: now[which] - self._baseline[which] for which in Stat}
        return Loss(
            slices_lost=lost[Stat.SLICES_LOST],
            control_lost=lost[Stat.CONTROL_LOST],
            threads_lost=lost[Stat.THREADS_LOST],
            waits_lost=lost[Stat.WAITS_LOST],
            gaps_lost=lost[Stat.GAPS_LOST],
            inferences_lost=lost[Stat.INFERENCES_LOST],
            engines_lost=lost[Stat.ENGINES_LOST],
            stacks_lost=self._sampler.dropped,
            blind_ns=self.blind_ns,
        )

    def overhead(self) -> Overhead:
        """Own cost since this observation began."""
        spent = self._kernel.run_ns() - self._run_ns_start
        return Overhead(
            time.process_time() - self._clock_start,
            psutil.Process().memory_info().rss,
            spent / NS if spent else None,
        )

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
        if self._history is not None:
            self._history.finish(*totals, exit_status)
        return report

    def flush_recording(self) -> None:
        """Once a second: write what was recorded, so that a crash costs no more than that."""
        for recorder in (self._recorder, self._history):
            if recorder is not None:
                recorder.tick(lambda: (self.snapshot(), self.loss(), self.overhead()))

    def close(self) -> None:
        """Stop observing."""
        if self._history is not None and not self._history.over:
            self.drain()
            self._history.finish(self.snapshot(), self.loss(), self.overhead(), None)
        for recorder in (self._recorder, self._history):
            if recorder is not None:
                recorder.close()
        for clock in self._clocks.values():
            os.close(clock)
        self._clocks.clear()
        self._sampler.close()
        self._kernel.untrack(self.number)

    def _set_clocks(self, wanted: frozenset[int]) -> None:
        for tid in [tid for tid in self._clocks if tid not in wanted]:
            os.close(self._clocks.pop(tid))
        for tid in wanted - self._clocks.keys():
            clock = self._kernel.attach_clock(tid, HERTZ)
            if clock is not None:
                self._clocks[tid] = clock

    def _set_gil(self, pid: int, start: int, end: int) -> None:
        with contextlib.suppress(OSError):  # the table is full: the GIL then counts as a lock
            self._kernel.set_gil(pid, start, end)

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

    def owned_by(self, pid: int, uid: int) -> bool:
        """Whether a process belonged to a user alone whenever it was looked at. Not known is no."""
        return self._owners is not None and self._owners.get(pid) == uid

    def wholly_owned_by(self, uid: int) -> bool:
        """Whether every process of the tree is and was this user's alone."""
        return self._owners is not None and all(owner == uid for owner in self._owners.values())

    def _learn(self, pid: int) -> None:
        if self._owners is not None and (pid in self._owners or len(self._owners) < _KNOWN_OWNERS):
            full = len(self._owners) >= _KNOWN_OWNERS - 1  # the last place says that there were more
            owner = owner_of(pid, self._proc) if not full else None
            # One that was another's for a moment stays hidden: its records from then are in the sums.
            self._owners[pid] = owner if self._owners.get(pid, owner) == owner else None
        command = self._proc.command(pid)
        if command:
            parent = self._proc.parent(pid) or 0
            netns = self._names.learn(pid)
            facts = ProcessFacts(pid, parent, command, self._proc.cgroup(pid), monotonic_ns(), netns)
            self.observation.add(facts)


class Targets:
    """All targets; routes records to them by number."""

    def __init__(self, make_kernel: Callable[[Callable[[Event], None]], Kernel], proc: Proc) -> None:
        self._targets: dict[int, Target] = {}
        self._next = 1
        self._proc = proc
        self.know_owners = False
        self.on_noticed: Callable[[], None] = lambda: None
        self.on_gap: Callable[[Gap], None] | None = None
        self.kernel = make_kernel(self._dispatch)
        self.libraries = EngineLibraries(self.kernel.attach_functions, proc)
        self._limits: dict[str, ProbeLimit] = {}
        self.gpus = GpuWatch(self.kernel.target_of, self.kernel.processes)

    def __len__(self) -> int:
        return len(self._targets)

    def __iter__(self) -> Iterator[Target]:
        return iter(list(self._targets.values()))

    def start(
        self,
        roots: tuple[int, ...],
        command: tuple[str, ...],
        output: Output | None = None,
        history: Output | None = None,
    ) -> tuple[Target, int, int]:
        """Observe processes and their descendants. Raises :class:`TargetGoneError`; no file remains then."""
        target = Target(self._next, self.kernel, self.libraries, self._proc, self.know_owners)
        off = [what for what, limit in self._limits.items() if not limit.attached]
        self._next += 1
        self._targets[target.number] = target
        try:
            processes, threads = target.start(roots, command, output, history)
        except BaseException:
            del self._targets[target.number]
            for file in (output, history):
                if file is not None:
                    file.discard()
            raise
        for what in off:
            target.calls_seen(LaunchesSeen(monotonic_ns(), False, round(self._limits[what].rate), what))
        target.gpus = self.gpus
        self.gpus.add(target.number, target.tell)
        return target, processes, threads

    def stop(self, target: Target) -> None:
        target.close()
        self._targets.pop(target.number, None)
        self.gpus.remove(target.number)

    def close(self) -> None:
        """The daemon ends."""
        self.gpus.close()
        self.libraries.close()
        self.kernel.close()

    def limit_probes(self) -> None:
        """Twenty times a second: keep the probes on what is called often within their budgets."""
        for what, counter in (("launch", Stat.LAUNCHES), ("decode", Stat.DECODES)):
            if self.libraries.has(what):
                self._limit_probes(what, self.kernel.stat(counter))

    def _limit_probes(self, what: str, hits: int) -> None:
        now = monotonic_ns()
        limit = self._limits.setdefault(what, ProbeLimit(now, hits, HIT_NS[what]))
        if not limit.update(now, hits):
            return
        if what == "decode" and limit.attached:
            self.kernel.decodes_seen(now)
        elif what == "launch" and not limit.attached:
            self.kernel.launches_seen(None)
        self.libraries.set_probes(what, limit.attached)
        if what == "launch" and limit.attached:
            now = monotonic_ns()
            self.kernel.launches_seen(now)
        log.info("probes on calls (%s): %s at %.0f/s", what, "on" if limit.attached else "off", limit.rate)
        for target in self._targets.values():
            target.calls_seen(LaunchesSeen(now, limit.attached, round(limit.rate), what))

    def drain_waits(self) -> None:
        """Waits too short for events, summed by the kernel since the last call."""
        for waits in self.kernel.drain_waits():
            target = self._targets.get(waits.target)
            if target is not None:
                target.observation.add(waits)

    def _dispatch(self, event: Event) -> None:
        target = self._targets.get(event.target)
        if target is not None:
            target.handle(event)
            if self.on_gap is not None and isinstance(event, Gap):
                self.on_gap(event)
        elif isinstance(event, Noticed):
            self.on_noticed()
