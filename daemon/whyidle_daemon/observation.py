"""One observation: records in, a report out.

Pure: no clock, no I/O. What it is told (:meth:`Observation.add`) and the totals at one instant
(:class:`Snapshot`) decide every number, so it runs the same live, in a test and over a recording.

Order between the rings is not needed: a slice may come before the fork of its process, a gap before its
slices. Only a PID that is used again must not be seen again before the exit that freed it.
Memory is bounded; what had no room is counted and lowers the confidence of the findings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterator, Mapping
from typing import Any, Final, NamedTuple

from whyidle_daemon import report as build
from whyidle_daemon.attribution import ThreadTable, ThreadTime, end_of, merged, thread_times
from whyidle_daemon.chains import Walker
from whyidle_daemon.engines import Engines, settle_crowded
from whyidle_daemon.facts import (
    CudaFacts,
    EngineFacts,
    EngineSpan,
    GpuFacts,
    GpuSample,
    GpuUse,
    Host,
    HostName,
    LaunchesSeen,
    LimitSample,
    Lookup,
    LoopTasks,
    Loss,
    MemorySample,
    Overhead,
    ProcessFacts,
    Serving,
    Snapshot,
    StackSample,
    Tie,
)
from whyidle_daemon.findings import find_all
from whyidle_daemon.findings.evidence import Evidence
from whyidle_daemon.gaps import EngineActivity, finest
from whyidle_daemon.gpus.devices import Gpus
from whyidle_daemon.gpus.drivers import Drivers
from whyidle_daemon.gpus.idle import Way
from whyidle_daemon.hosts import Hosts
from whyidle_daemon.lasting import wait_of, with_lasting
from whyidle_daemon.llama import SETTLE_NS
from whyidle_daemon.lookups import Lookups
from whyidle_daemon.loop_objects import loop_objects
from whyidle_daemon.loops import Loops, blamed
from whyidle_daemon.memory import MemoryLog, memory_object
from whyidle_daemon.naming import Naming, dominant_places
from whyidle_daemon.processes import Process, ProcessTable
from whyidle_daemon.progress import Progress, progress_of
from whyidle_daemon.sequences import Runs, RunsKey, Sequences
from whyidle_daemon.sites import Place, Sites
from whyidle_daemon.states import SELECTORS, TCP_CLOSE, TCP_SYN_SENT
from whyidle_daemon.timelines import Record, Timelines
from whyidle_daemon.wait_tables import Waits
from whyidle_daemon.waits import PIPES, WaitKey
from whyidle_daemon.wakes import Wakes, Who
from whyidle_daemon.whatif import what_if
from whyidle_probes.events import (
    Engine,
    Exec,
    Exit,
    Fork,
    Gap,
    Inference,
    Library,
    Peer,
    ShortWaits,
    Slice,
    Start,
    Thread,
    Wait,
)
from whyidle_wire.report import REPORT_SCHEMA

PAGE_SIZE = 4096

__all__ = ["Observation", "Progress"]

Event = Slice | Thread | Fork | Exec | Exit | Gap | Library | ShortWaits | Inference | Start
Fact = ProcessFacts | MemorySample | LimitSample | EngineFacts | StackSample | LoopTasks | Lookup | HostName
Anything = (
    Event | Fact | CudaFacts | LaunchesSeen | EngineSpan | GpuFacts | GpuSample | GpuUse | Serving | Tie
)


class Seen(NamedTuple):
    """What a report is made of: all engines, although only the finest of them count in the evidence."""

    evidence: Evidence
    times: list[ThreadTime]
    engines: list[EngineActivity]
    loops: Loops


class Observation:
    """Everything known of one target. ``roots`` are the PIDs it began with."""

    def __init__(
        self,
        start_ns: int,
        roots: tuple[int, ...],
        command: tuple[str, ...],
        started_at: str,
        page_size: int = PAGE_SIZE,
    ) -> None:
        self.start_ns = start_ns
        self.roots = roots
        self.command = command
        self.started_at = started_at
        self._page_size = page_size
        self._processes = ProcessTable()
        self._threads = ThreadTable()
        self._waits = Waits()
        self._sites = Sites()
        self._loops = Loops()
        self._wakes = Wakes(self._processes.find)
        self._hosts = Hosts()
        self._lookups = Lookups()
        self._sequences = Sequences()  # of main threads that drive no engine, as far as they were settled
        self._lines = Timelines()
        self._memory = MemoryLog()
        self._engines = Engines(self._processes)
        self._gpus = Gpus(self._processes)
        self._slices = 0
        self._newest_ns = start_ns
        self._takers: dict[type, Callable[[Any], object]] = {
            Start: self._wakes.start,
            Tie: self._wakes.tie,
            LoopTasks: self._loops.add,
            HostName: self._hosts.add,
            LimitSample: self._memory.limit,
            Inference: self._engines.inference,
            EngineFacts: self._engines.facts,
            CudaFacts: self._engines.cuda,
            LaunchesSeen: self._engines.seen,
            ProcessFacts: self._processes.facts,
            Fork: self._processes.fork,
            Exit: self._processes.exit,
            GpuFacts: self._gpus.facts,
        }
        for pid in roots:
            root = self._processes.at(pid, start_ns)
            root.keep = True
            root.name(0, command)

    @property
    def processes(self) -> int:
        """How many are kept: those that live, and some that ended."""
        return len(self._processes)

    # --- in --------------------------------------------------------------------------------------------

    def add(self, record: Anything) -> None:
        """Take one record. Ignores what is neither kernel event nor fact."""
        take = self._takers.get(type(record))
        if take is not None:
            take(record)
        elif (own := _OWN_TAKERS.get(type(record))) is not None:
            own(self, record)

    def _serving(self, serving: Serving) -> None:
        self._wakes.serves(serving)
        self._waits.sockets.listens(serving.port)

    def _thread(self, record: Thread) -> None:
        if record.end_ns:
            self._processes.at(record.pid, record.last_ns)
            self._threads.add(record, self._processes, self._engines.drivers)
            self._wakes.exit(record)

    def _stack(self, record: StackSample) -> None:
        self._sites.add(record)
        if record.thread:
            self._processes.at(record.pid, record.since_ns).name_thread(record)

    def _lookup(self, record: Lookup) -> None:
        self._lookups.add(self._processes.at(record.pid, record.start_ns), record)

    def _slice(self, slice_: Slice) -> None:
        self._slices += 1
        process = self._processes.at(slice_.pid, slice_.start_ns)
        wait = wait_of(slice_.state, slice_.peer.tcp_state)
        key = None
        if slice_.blocked_ns:
            place, peer = self._code_of(slice_, wait, process)
            child = wait in PIPES and self._processes.is_child(slice_.waker_pid, process, slice_.start_ns)
            group = self._waits.table(wait).group(process, slice_.tid, wait, peer, place, child)
            if group is not None:
                group.add(slice_.start_ns, slice_.blocked_ns, slice_.syscall, slice_.peer)
                if slice_.waker_pid == slice_.pid and wait in (Wait.FUTEX, Wait.GIL):
                    group.hand_over(slice_.arg, slice_.waker_tid, slice_.blocked_ns)
                key = group.key
        connecting = slice_.peer.tcp_state == TCP_SYN_SENT
        record = Record(
            slice_.start_ns,
            slice_.blocked_ns,
            slice_.runqueue_ns,
            wait,
            key,
            connecting,
            slice_.peer.local_port,
            not connecting and slice_.peer.tcp_end == TCP_CLOSE,
        )
        record = self._wakes.linked(record, slice_)
        self._lines.add(slice_.tid, record)
        self._newest_ns = max(self._newest_ns, record.end_ns)
        if self._lines.full:
            self._settle()

    def _code_of(self, slice_: Slice, wait: int, process: Process) -> tuple[Place | None, Peer]:
        """Where a wait was, and for whom: of a selector's, what the tasks of the loop waited for."""
        place, peer = self._sites.take(slice_.pid, slice_.tid, slice_.start_ns), slice_.peer
        if wait in SELECTORS:
            reading = self._loops.take(process, slice_.tid, slice_.start_ns, slice_.blocked_ns)
            if reading is not None and (peer.remote_port or not self._wakes.ended_within(slice_, wait)):
                found, seen = blamed(reading, peer, self._sites)
                place, peer = found or place, seen if seen.remote_port else peer
            if slice_.peer.remote_port:
                self._loops.answered(slice_.pid, slice_.tid, slice_.peer)
        return place, peer

    def _gap(self, gap: Gap) -> None:
        if gap.end_ns <= gap.start_ns:
            return
        engine = self._engines.gap(gap)
        self._newest_ns = max(self._newest_ns, gap.end_ns)
        if engine.crowded:
            placed = self._placed()
            settle_crowded(engine, placed, self._newest_ns, self._walker(placed).walk)

    def _span(self, span: EngineSpan) -> None:
        engine = self._gpus.span(span)
        self._newest_ns = max(self._newest_ns, span.end_ns)
        if engine is not None and engine.full:
            placed = self._placed()
            self._gpus.settle(self._way(placed, self._walker(placed)), self._newest_ns - SETTLE_NS)

    def _gpu_sample(self, sample: GpuSample) -> None:
        self._gpus.sample(sample)
        total = self._gpus.memory_total(sample.gpu)
        if total and sample.memory_used_bytes is not None:
            used = sample.memory_used_bytes
            self._memory.limit(LimitSample("gpu", sample.gpu, sample.ns, used, total))

    def _gpu_use(self, use: GpuUse) -> None:
        driver = self._gpus.use(use)
        if driver is not None:
            self._engines.drivers.add(driver)

    def _way(
        self,
        lines: Callable[[int], list[Record]],
        walker: Walker,
        waiting: dict[tuple[int, int], Record] | None = None,
    ) -> Way:
        """From GPUs to the roots, by the slices as they are now."""
        lasting = {tid: record for (_, tid), record in (waiting or {}).items()}

        kept: dict[int, list[Record]] = {}

        def now(tid: int) -> list[Record]:
            if tid not in kept:
                kept[tid] = [*lines(tid), lasting[tid]] if tid in lasting else lines(tid)
            return kept[tid]

        drivers = Drivers(self._engines.driver_of, self._lines.by_process, now, self._wakes.lives)
        return Way(drivers, now, walker.walk)

    def _sampled(self, sample: MemorySample) -> None:
        self._processes.memory(sample)
        self._memory.sample(self._processes.at(sample.pid, sample.ns), sample)

    def _exec(self, event: Exec) -> None:
        self._processes.exec(event)
        self._memory.replaced(self._processes.at(event.pid, event.ns))

    def _short(self, waits: ShortWaits) -> None:
        process = self._processes.at(waits.pid, self._newest_ns)
        subject = (waits.state, waits.remote, waits.remote_port, waits.family)
        self._waits.sockets.short(process, waits.tid, subject, (waits.ns, waits.count, waits.longest_ns))

    def _settle(self) -> None:
        """Make room among the slices: account for good for what is old enough."""
        horizon = self._newest_ns - SETTLE_NS
        placed = self._placed()
        walker = self._walker(placed)
        self._engines.settle(placed, horizon, walker.walk)
        self._gpus.settle(self._way(placed, walker), horizon)
        # The walk over a gap that still lasts needs everybody's slices since it began.
        used_ns = self._gpus.settled_ns(horizon)
        gpus = [] if used_ns is None else [used_ns]
        settled = [horizon, *self._engines.latest_settled(), *gpus]

        def until(tid: int) -> int:
            if tid not in self._engines.drivers:
                return min(settled)
            return min([*self._engines.settled(tid), *gpus], default=0)

        for records in self._alone(placed):
            self._sequences.alone(record for record in records if record.end_ns <= horizon)
        self._lines.forget(until)
        for record in self._lines.trim(self._engines.drivers):
            group = self._waits.get(record.key) if record.key is not None else None
            if group is not None:
                group.undated_ns += record.blocked_ns

    def _placed(self) -> Callable[[int], list[Record]]:
        """The slices of a thread, those that were not sampled placed as far as is known now."""
        return self._lines.named(dominant_places(self._waits.groups.values(), self._short_places()))

    def _walker(
        self, lines: Callable[[int], list[Record]], waiting: dict[tuple[int, int], Record] | None = None
    ) -> Walker:
        return Walker(
            self._wakes,
            self._processes.find,
            lines,
            waiting=waiting,
            known_since=self._lines.known_since,
            processes=self._processes,
        )

    def _short_places(self, lasting: Container[tuple[int, int, int]] = ()) -> dict[WaitKey, dict[Place, int]]:
        """Where waits too short for slices were; ``lasting`` are (pid, tid, since_ns) of others."""
        found: dict[WaitKey, dict[Place, int]] = {}
        for of, since_ns, places in self._sites.short(lambda *wait: wait in lasting):
            process = self._processes.find(of.pid, since_ns)
            if process is not None:
                key = WaitKey(process, of.tid, of.wait, of.remote, of.port, of.family)
                known = found.setdefault(key, {})
                for place, count in places.items():
                    known[place] = known.get(place, 0) + count
        return found

    def _alone(self, placed: Callable[[int], list[Record]]) -> Iterator[list[Record]]:
        """The slices of each main thread that drives no engine."""
        mains = {process.pid for process in self._processes}
        return (placed(tid) for tid in self._lines.tids if tid in mains and tid not in self._engines.drivers)

    @property
    def cgroup(self) -> str | None:
        """Of the first process, as it was when the observation began."""
        root = self._processes.find(self.roots[0], self.start_ns) if self.roots else None
        return root.cgroup if root is not None else None

    def names(self) -> Iterator[HostName]:
        """How addresses were resolved, as it was told: for an observation that takes over from this one."""
        return self._hosts.all()

    def ties(self, alive: Collection[Who]) -> Iterator[Serving | Tie]:
        """Who serves and who waits for whom, of threads that are alive: for the one that takes over, too."""
        return self._wakes.known(alive)

    def is_over(self, engine: Engine, now_ns: int) -> bool:
        """Whether the program whose context it was has ended, or was replaced by another."""
        process = self._processes.find(engine.pid, engine.last_ns)
        return process is not None and process.image_end(engine.last_ns, now_ns) < now_ns

    # --- out -------------------------------------------------------------------------------------------

    def progress(self, snapshot: Snapshot) -> Progress:
        """Where things stand; changes nothing."""
        return progress_of(snapshot, self.start_ns, self.roots, tuple(self._gpus.progress()))

    def report(
        self, snapshot: Snapshot, host: Host, loss: Loss, overhead: Overhead, exit_status: int | None = None
    ) -> dict[str, Any]:
        """The report up to ``snapshot``, as the contract has it. Changes nothing; call it at any time."""
        seen = self._evidence(snapshot, host, loss)
        evidence = seen.evidence
        processes, processes_omitted = build.process_objects(
            self._processes, seen.times, self.start_ns, self._page_size
        )
        thread_list, threads_omitted = build.thread_objects(seen.times, self._threads)
        return {
            "schema": REPORT_SCHEMA,
            "host": build.host_object(host, self._gpus.host_objects()),
            "target": build.target_object(
                self._processes.find(self.roots[0], self.start_ns) if self.roots else None,
                (self.roots, self.command, self.started_at),
                evidence.wall_ns,
                exit_status,
            ),
            "processes": processes,
            "processes_omitted": processes_omitted,
            "threads": thread_list,
            "threads_omitted": threads_omitted,
            "memory": memory_object(self._memory.processes, self._memory.limits, self.start_ns),
            "engines": build.engine_objects(seen.engines, evidence.engines, self.start_ns),
            "gaps": build.gap_objects(seen.engines, self.start_ns),
            "idle_by_cause": build.idle_objects(evidence.engines),
            "findings": find_all(evidence),
            "what_if": what_if(evidence),
            "loops": loop_objects(seen.loops, seen.times, self._hosts),
            "loss": build.loss_object(loss, evidence.dropped),
            "overhead": build.overhead_object(overhead),
        }

    def findings(self, snapshot: Snapshot, host: Host, loss: Loss) -> list[dict[str, Any]]:
        """The ``findings`` of the report, without the rest of it. Changes nothing either."""
        return find_all(self._evidence(snapshot, host, loss).evidence)

    def _evidence(self, snapshot: Snapshot, host: Host, loss: Loss) -> Seen:
        now_ns = snapshot.ns
        threads = merged(self._threads.exited.values(), snapshot.threads)
        loops = self._loops.copy()
        waits, waiting = with_lasting(self._waits, threads, now_ns, self._sites, self._processes, loops)
        short = self._short_places({(pid, tid, record.start_ns) for (pid, tid), record in waiting.items()})
        naming = Naming(waits.groups, self._hosts, short)
        for who, record in waiting.items():
            key = naming.placed(record.key) if record.key is not None else None
            if key is not record.key:
                waiting[who] = record._replace(key=key)
        groups = naming.groups()
        times = thread_times(threads, now_ns, self._processes, groups.values())
        lines = self._lines.named(naming.placed)
        walker = self._walker(lines, waiting)
        engines = [
            naming.activity(
                self._engines.activity(
                    engine, now_ns, threads, waiting=waiting, lines=lines, naming=naming, walk=walker.walk
                )
            )
            for engine in snapshot.engines
        ]
        way = self._way(lines, walker, waiting)
        gpus = self._gpus.activities(now_ns, way, threads)
        engines += [naming.activity(gpu) for gpu in gpus]
        engines.sort(key=lambda engine: (engine.first_ns, engine.id))
        counted = finest(engines)
        end_ns = end_of(self.start_ns, now_ns, threads, self._processes)
        dropped = self._lines.dropped + waits.sockets.dropped
        evidence = Evidence(
            wall_ns=end_ns - self.start_ns,
            end_ns=end_ns,
            cpus=host.cpus,
            engines=counted,
            threads=tuple(times),
            groups=groups,
            inbound=frozenset(naming.key(key) for key in waits.inbound()),
            stacks=self._sites,
            lookups=self._lookups.all(),
            sequences=self._runs(naming, waiting) if not engines else {},
            processes=tuple(self._processes),
            memory=self._memory.processes,
            limits=self._memory.limits,
            loss=loss,
            slices=self._slices,
            dropped=dropped,
        )
        return Seen(evidence, times, engines, loops)

    def _runs(self, naming: Naming, waiting: dict[tuple[int, int], Record]) -> dict[RunsKey, Runs]:
        """Calls that main threads made one after another, in a target without an engine."""
        runs = self._sequences.copy()
        for records in self._alone(self._lines.named(naming.placed)):
            key = next((record.key for record in records if record.key is not None), None)
            last = waiting.get((key.process.pid, key.tid)) if key is not None else None
            runs.alone([*records, last] if last is not None else records)
        return runs.sums


# Apart from an observation's own: one that held its own methods would wait for the collector of garbage, and
# there are many, each with all that it was told.
_OWN_TAKERS: Final[Mapping[type, Callable[[Observation, Any], object]]] = {
    Slice: Observation._slice,
    Serving: Observation._serving,
    Thread: Observation._thread,
    Gap: Observation._gap,
    ShortWaits: Observation._short,
    StackSample: Observation._stack,
    Lookup: Observation._lookup,
    MemorySample: Observation._sampled,
    Exec: Observation._exec,
    EngineSpan: Observation._span,
    GpuSample: Observation._gpu_sample,
    GpuUse: Observation._gpu_use,
}
