"""One observation: records in, a report out.

Pure: no clock, no I/O. What it is told (:meth:`Observation.add`) and the totals at one instant
(:class:`Snapshot`) decide every number, so it runs the same live, in a test and over a recording.

Order between the rings is not needed: a slice may come before the fork of its process, a gap before its
slices. Only a PID that is used again must not be seen again before the exit that freed it.
Memory is bounded; what had no room is counted and lowers the confidence of the findings.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import Any

from whyidle_daemon import report as build
from whyidle_daemon.attribution import ThreadTable, end_of, merged, thread_times
from whyidle_daemon.facts import (
    Host,
    HostName,
    Lookup,
    Loss,
    MemorySample,
    Overhead,
    ProcessFacts,
    Snapshot,
    StackSample,
)
from whyidle_daemon.findings import find_all
from whyidle_daemon.findings.evidence import Evidence
from whyidle_daemon.gaps import Driver, EngineActivity
from whyidle_daemon.hosts import Hosts
from whyidle_daemon.lasting import wait_of, with_lasting
from whyidle_daemon.llama import MAX_PENDING, SETTLE_NS, LlamaEngine
from whyidle_daemon.lookups import Lookups
from whyidle_daemon.naming import Naming, dominant_places
from whyidle_daemon.processes import Process, ProcessTable
from whyidle_daemon.progress import Progress, progress_of
from whyidle_daemon.sequences import Runs, RunsKey, Sequences
from whyidle_daemon.sites import Place, Sites
from whyidle_daemon.states import TCP_CLOSE, TCP_SYN_SENT
from whyidle_daemon.timelines import Record, Timelines
from whyidle_daemon.wait_tables import Waits
from whyidle_daemon.waits import PIPES, WaitKey
from whyidle_daemon.whatif import what_if
from whyidle_probes.events import Engine, Exec, Exit, Fork, Gap, Library, ShortWaits, Slice, Thread, Wait
from whyidle_wire.report import REPORT_SCHEMA

PAGE_SIZE = 4096

__all__ = ["Observation", "Progress"]

Event = Slice | Thread | Fork | Exec | Exit | Gap | Library | ShortWaits
Anything = Event | ProcessFacts | MemorySample | StackSample | Lookup | HostName


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
        self._hosts = Hosts()
        self._lookups = Lookups()
        self._sequences = Sequences()  # of main threads that drive no engine, as far as they were settled
        self._lines = Timelines()
        self._engines: dict[tuple[Process, int], LlamaEngine] = {}
        self._drivers: set[int] = set()
        self._slices = 0
        self._newest_ns = start_ns
        self._takers: dict[type, Callable[[Any], object]] = {
            Slice: self._slice,
            Thread: self._thread,
            Gap: self._gap,
            ShortWaits: self._short,
            StackSample: self._sites.add,
            HostName: self._hosts.add,
            Lookup: self._lookup,
            MemorySample: self._processes.memory,
            ProcessFacts: self._processes.facts,
            Fork: self._processes.fork,
            Exec: self._processes.exec,
            Exit: self._processes.exit,
        }
        for pid in roots:
            root = self._processes.at(pid, start_ns)
            root.keep = True
            root.name(0, command)

    # --- in --------------------------------------------------------------------------------------------

    def add(self, record: Anything) -> None:
        """Take one record. Ignores what is neither kernel event nor fact."""
        take = self._takers.get(type(record))
        if take is not None:
            take(record)

    def _thread(self, record: Thread) -> None:
        if record.end_ns:
            self._processes.at(record.pid, record.last_ns)
            self._threads.add(record, self._processes, self._drivers)

    def _lookup(self, record: Lookup) -> None:
        self._lookups.add(self._processes.at(record.pid, record.start_ns), record)

    def _slice(self, slice_: Slice) -> None:
        self._slices += 1
        process = self._processes.at(slice_.pid, slice_.start_ns)
        wait = wait_of(slice_.state, slice_.peer.tcp_state)
        key = None
        if slice_.blocked_ns:
            place = self._sites.take(slice_.pid, slice_.tid, slice_.start_ns)
            child = wait in PIPES and self._processes.is_child(slice_.waker_pid, process, slice_.start_ns)
            group = self._waits.table(wait).group(process, slice_.tid, wait, slice_.peer, place, child)
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
        self._lines.add(slice_.tid, record)
        self._newest_ns = max(self._newest_ns, record.end_ns)
        if self._lines.full:
            self._settle()

    def _gap(self, gap: Gap) -> None:
        if gap.end_ns <= gap.start_ns:
            return
        process = self._processes.at(gap.pid, gap.start_ns)
        process.keep = True
        engine = self._engines.get((process, gap.context))
        if engine is None:
            engine = self._engines[process, gap.context] = LlamaEngine(process, gap.context)
        engine.add(gap)
        self._drivers.add(gap.tid)
        self._newest_ns = max(self._newest_ns, gap.end_ns)
        if len(engine.pending) > MAX_PENDING:
            placed = self._placed()
            engine.settle(placed, self._newest_ns - SETTLE_NS)
            if len(engine.pending) > MAX_PENDING:
                engine.settle(placed, self._newest_ns)

    def _short(self, waits: ShortWaits) -> None:
        process = self._processes.at(waits.pid, self._newest_ns)
        subject = (waits.state, waits.remote, waits.remote_port, waits.family)
        self._waits.sockets.short(process, waits.tid, subject, (waits.ns, waits.count, waits.longest_ns))

    def _settle(self) -> None:
        """Make room among the slices: account for good for what is old enough."""
        horizon = self._newest_ns - SETTLE_NS
        placed = self._placed()
        for engine in self._engines.values():
            engine.settle(placed, horizon)

        def until(tid: int) -> int:
            if tid not in self._drivers:
                return horizon
            driven = [engine for engine in self._engines.values() if tid in engine.drivers]
            return min((engine.settled_ns.get(tid, 0) for engine in driven), default=0)

        for records in self._alone(placed):
            self._sequences.alone(record for record in records if record.end_ns <= horizon)
        self._lines.forget(until)
        for record in self._lines.trim(self._drivers):
            group = self._waits.get(record.key) if record.key is not None else None
            if group is not None:
                group.undated_ns += record.blocked_ns

    def _placed(self) -> Callable[[int], list[Record]]:
        """The slices of a thread, those that were not sampled placed as far as is known now."""
        return self._lines.named(dominant_places(self._waits.groups.values(), self._short_places()))

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
        return (placed(tid) for tid in self._lines.tids if tid in mains and tid not in self._drivers)

    def names(self) -> Iterator[HostName]:
        """How addresses were resolved, as it was told: for an observation that takes over from this one."""
        return self._hosts.all()

    # --- out -------------------------------------------------------------------------------------------

    def progress(self, snapshot: Snapshot) -> Progress:
        """Where things stand; changes nothing."""
        return progress_of(snapshot, self.start_ns, self.roots)

    def report(
        self, snapshot: Snapshot, host: Host, loss: Loss, overhead: Overhead, exit_status: int | None = None
    ) -> dict[str, Any]:
        """The report up to ``snapshot``, as the contract has it. Changes nothing; call it at any time."""
        now_ns = snapshot.ns
        threads = merged(self._threads.exited.values(), snapshot.threads)
        waits, waiting = with_lasting(self._waits, threads, now_ns, self._sites, self._processes)
        lasting = {(pid, tid, record.start_ns) for (pid, tid), record in waiting.items()}
        naming = Naming(waits.groups, self._hosts, self._short_places(lasting))
        waiting = {
            who: record._replace(key=naming.placed(record.key)) if record.key is not None else record
            for who, record in waiting.items()
        }
        groups = naming.groups()
        times = thread_times(threads, now_ns, self._processes, groups.values())
        engines = [
            naming.activity(self._activity(engine, now_ns, threads, waiting, naming))
            for engine in snapshot.engines
        ]
        engines.sort(key=lambda engine: (engine.first_ns, engine.id))
        end_ns = end_of(self.start_ns, now_ns, threads, self._processes)
        dropped = self._lines.dropped + waits.sockets.dropped
        evidence = Evidence(
            wall_ns=end_ns - self.start_ns,
            end_ns=end_ns,
            cpus=host.cpus,
            engines=tuple(engines),
            threads=tuple(times),
            groups=groups,
            inbound=frozenset(naming.key(key) for key in waits.inbound()),
            stacks=self._sites,
            lookups=self._lookups.all(),
            sequences=self._runs(naming, waiting) if not engines else {},
            processes=tuple(self._processes),
            loss=loss,
            slices=self._slices,
            dropped=dropped,
        )
        processes, processes_omitted = build.process_objects(
            self._processes, times, self.start_ns, self._page_size
        )
        thread_list, threads_omitted = build.thread_objects(times, self._threads)
        return {
            "schema": REPORT_SCHEMA,
            "host": build.host_object(host),
            "target": build.target_object(
                self._processes.find(self.roots[0], self.start_ns) if self.roots else None,
                (self.roots, self.command, self.started_at),
                end_ns - self.start_ns,
                exit_status,
            ),
            "processes": processes,
            "processes_omitted": processes_omitted,
            "threads": thread_list,
            "threads_omitted": threads_omitted,
            "engines": build.engine_objects(engines),
            "gaps": build.gap_objects(engines, self.start_ns),
            "idle_by_cause": build.idle_objects(engines),
            "findings": find_all(evidence),
            "what_if": what_if(evidence),
            "loss": build.loss_object(loss, dropped),
            "overhead": build.overhead_object(overhead),
        }

    def _runs(self, naming: Naming, waiting: dict[tuple[int, int], Record]) -> dict[RunsKey, Runs]:
        """Calls that main threads made one after another, in a target without an engine."""
        runs = self._sequences.copy()
        for records in self._alone(self._lines.named(naming.placed)):
            key = next((record.key for record in records if record.key is not None), None)
            last = waiting.get((key.process.pid, key.tid)) if key is not None else None
            runs.alone([*records, last] if last is not None else records)
        return runs.sums

    def _activity(
        self,
        engine: Engine,
        now_ns: int,
        threads: list[Thread],
        waiting: dict[tuple[int, int], Record],
        naming: Naming,
    ) -> EngineActivity:
        process = self._processes.find(engine.pid, engine.first_ns)
        process = process or Process(engine.pid, engine.first_ns, provisional=True)
        known = self._engines.get((process, engine.context)) or LlamaEngine(process, engine.context)
        thread = next(
            (
                thread
                for thread in threads
                if (thread.pid, thread.tid) == (engine.pid, engine.driver)
                and thread.first_ns <= engine.last_ns
                and (not thread.end_ns or thread.end_ns >= engine.last_ns)
            ),
            None,
        )
        record = waiting.get((engine.pid, engine.driver))
        driver = Driver(thread, (record,) if record is not None else ())
        return known.activity(engine, now_ns, driver, self._lines.named(naming.placed), naming.known)
