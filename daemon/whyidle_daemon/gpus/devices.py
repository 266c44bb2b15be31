"""The GPUs of one observation: what its processes used, when they were idle, and why. Pure.

A GPU becomes an engine of the target when one of its processes is seen holding memory of it. The thread that
drives it is not known from a device's counters: it is the one that drives a model in that process, else the
main thread. What that thread waited for explains a gap; time that no wait covers, it ran.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from whyidle_daemon.facts import EngineSpan, GpuFacts, GpuSample, GpuUse
from whyidle_daemon.gaps import Driver, EngineActivity, ExplainedGap, IdleSums, Piece, explain, fit
from whyidle_daemon.gpus.spans import Idle, Idleness, Scattered, Segment, cut, idleness, segments
from whyidle_daemon.gpus.usage import Usage
from whyidle_daemon.processes import Process, ProcessTable
from whyidle_daemon.roots import Cause
from whyidle_daemon.timelines import Record, between
from whyidle_probes.events import Thread, Wait

MAX_SPANS = 4096
MAX_GPUS = 128
NS_PER_MS = 1_000_000
RecordsOf = Callable[[int], list[Record]]
_RUNNING, _UNKNOWN = int(Wait.RUNNING), int(Wait.UNKNOWN)


class GpuEngine:
    """One GPU that the target uses."""

    def __init__(self, gpu: str) -> None:
        self.gpu = gpu
        self.usage = Usage()
        self.settled_ns = 0
        self._spans: list[EngineSpan] = []
        self._sums = IdleSums()
        self._scattered_ns = self._busy_ns = self._copy_ns = self._observed_ns = 0
        self._first_ns = 0
        self._by_edge: dict[int, int] = {}

    @property
    def full(self) -> bool:
        """Time to settle."""
        return len(self._spans) > MAX_SPANS

    def add(self, span: EngineSpan) -> None:
        """Take what a source saw; what lies before what was settled comes too late."""
        left = span.within(self.settled_ns, span.end_ns)
        if left is None:
            return
        span = left
        self._first_ns = min(self._first_ns or span.start_ns, span.start_ns)
        self._spans.append(span)

    def settle(self, process: Process, tid: int, lines: RecordsOf, until_ns: int) -> None:
        """Account for good for what ended by ``until_ns``; keeps the gap that reaches beyond."""
        known = _compact(segments(self._spans))
        number = cut(known, until_ns)
        if number == 0 and len(known) > MAX_SPANS // 2:
            number = len(known) // 2  # a gap is cut in two rather than memory used without bound
        if number:
            found = idleness(known[:number])
            _explain(self._sums, found, (process, tid), lines(tid))
            self._count(known[:number], found)
            self.settled_ns = known[number - 1].end_ns
        self._spans = [EngineSpan(self.gpu, *segment) for segment in known[number:]]

    def _count(self, known: list[Segment], found: Idleness) -> None:
        self._scattered_ns += sum(part.idle_ns for part in found.scattered)
        self._busy_ns += found.busy_ns
        self._copy_ns += found.copy_ns
        self._observed_ns += found.observed_ns
        for segment in known:
            self._by_edge[segment.edge_ns] = self._by_edge.get(segment.edge_ns, 0) + segment.length_ns

    def activity(
        self,
        facts: GpuFacts | None,
        end_ns: int,
        process: Process,
        driver: tuple[int, Driver],
        lines: RecordsOf,
    ) -> EngineActivity:
        """All that is known up to ``end_ns``; of a GPU that cannot tell, no busy and no idle time."""
        tid, of = driver
        within = (span.within(0, end_ns) for span in self._spans)
        known = segments(span for span in within if span is not None)
        found = idleness(known)
        total = GpuEngine(self.gpu)  # only its sums
        total._scattered_ns, total._busy_ns = self._scattered_ns, self._busy_ns
        total._copy_ns, total._observed_ns = self._copy_ns, self._observed_ns
        total._by_edge = dict(self._by_edge)
        total._count(known, found)
        sums = self._sums.copy()
        last_ns = known[-1].end_ns if known else self.settled_ns
        records = sorted([*lines(tid), *of.waiting], key=lambda record: record.start_ns)
        _explain(sums, found, (process, tid), records, last_ns)
        busy_ns = total._busy_ns + total._copy_ns
        idle_ns = total._observed_ns - busy_ns
        edge_ns = max(total._by_edge, key=lambda edge: (total._by_edge[edge], edge), default=0)
        unseen_ns = max(0, last_ns - self._first_ns - total._observed_ns)
        return EngineActivity(
            kind=facts.via if facts is not None else self.gpu.partition(":")[0],
            id=self.gpu,
            process=process,
            drivers=frozenset({tid}),
            first_ns=self._first_ns,
            end_ns=last_ns,
            busy_ns=busy_ns,
            idle_ns=idle_ns,
            calls=0,
            resolution_ms=edge_ns / NS_PER_MS,
            simulated=facts is not None and facts.simulated,
            causes=fit(_plausible(sums.causes, of.thread), idle_ns, Cause(process, tid, _UNKNOWN, None)),
            beyond_longest=sums.beyond_longest,
            sequences=sums.sequences.sums,
            gaps=tuple(item[-1] for item in sorted(sums.longest, key=lambda item: (-item[0], -item[1]))),
            device=self.usage.device(facts, total._copy_ns, total._scattered_ns, unseen_ns),
        )


def _explain(
    sums: IdleSums, found: Idleness, who: tuple[Process, int], records: list[Record], last_ns: int = 0
) -> None:
    """Add gaps and scattered idle time to ``sums``; a gap that ends at ``last_ns`` is still open."""
    for gap in found.gaps:
        sums.take(_explained(gap, who, records, gap.end_ns == last_ns))
        inside = list(between(records, gap.start_ns, gap.end_ns))
        sums.sequences.gap(gap.start_ns, gap.end_ns, inside)
    for part in found.scattered:
        for piece in _spread(part, records):
            cause = Cause(*who, piece.wait, piece.key)
            sums.causes[cause] = sums.causes.get(cause, 0) + piece.ns


def _explained(gap: Idle, who: tuple[Process, int], records: list[Record], is_open: bool) -> ExplainedGap:
    inside = between(records, gap.start_ns, gap.end_ns)
    pieces = tuple(_ran(piece) for piece in explain(gap.start_ns, gap.end_ns, None, inside))
    edges = (gap.start_edge_ns, gap.end_edge_ns)
    return ExplainedGap(gap.length_ns, gap.start_ns, *who, pieces, is_open, edges=edges)


def _spread(part: Scattered, records: list[Record]) -> list[Piece]:
    """What the driver waited for meanwhile, scaled to the idle time: it also waits while the GPU works."""
    inside = between(records, part.start_ns, part.end_ns)
    pieces = explain(part.start_ns, part.end_ns, None, inside)
    waits = {piece: piece.ns for piece in pieces if piece.wait not in (_UNKNOWN, _RUNNING)}
    rest = Piece(_RUNNING, None, 0, 0)
    return [
        piece._replace(ns=ns, longest_ns=min(piece.longest_ns, ns))
        for piece, ns in fit(waits, part.idle_ns, rest).items()
    ]


def _ran(piece: Piece) -> Piece:
    """Every wait of a millisecond is a slice: time without one, the thread ran."""
    return piece._replace(wait=_RUNNING) if piece.wait == _UNKNOWN and piece.key is None else piece


def _plausible(causes: dict[Cause, int], thread: Thread | None) -> dict[Cause, int]:
    """A thread did not run for longer than the kernel says; beyond that the cause is unknown."""
    ran = thread.ns[_RUNNING] if thread is not None else 0
    result = dict(causes)
    for cause, ns in causes.items():
        if cause.wait == _RUNNING and cause.key is None and ns > ran:
            unknown = cause._replace(wait=_UNKNOWN)
            result[cause] = ran
            result[unknown] = result.get(unknown, 0) + ns - ran
    return {cause: ns for cause, ns in result.items() if ns}


def _compact(known: list[Segment]) -> list[Segment]:
    """Join neighbours that are alike: all idle, or all busy."""
    found: list[Segment] = []
    for segment in known:
        last = found[-1] if found else None
        alike = (
            last is not None
            and last.end_ns == segment.start_ns
            and last.edge_ns == segment.edge_ns
            and last.copy_ns == segment.copy_ns == 0
            and (last.busy_ns == segment.busy_ns == 0 or (last.idle_ns == segment.idle_ns == 0))
        )
        if alike and last is not None:
            found[-1] = last._replace(end_ns=segment.end_ns, busy_ns=last.busy_ns + segment.busy_ns)
        else:
            found.append(segment)
    return found


class Gpus:
    """All GPUs that an observation was told of."""

    def __init__(self, processes: ProcessTable) -> None:
        self._processes = processes
        self._facts: dict[str, GpuFacts] = {}
        self._engines: dict[str, GpuEngine] = {}

    def facts(self, facts: GpuFacts) -> None:
        """A GPU of the host."""
        if facts.gpu in self._facts or len(self._facts) < MAX_GPUS:
            self._facts[facts.gpu] = facts

    def span(self, span: EngineSpan) -> GpuEngine | None:
        """What a source saw."""
        engine = self._engine(span.engine)
        if engine is not None and span.end_ns > span.start_ns:
            engine.add(span)
        return engine

    def sample(self, sample: GpuSample) -> None:
        """State of a GPU."""
        engine = self._engine(sample.gpu)
        if engine is not None:
            engine.usage.sample(sample)

    def memory_total(self, gpu: str) -> int | None:
        """Bytes of a GPU that the target uses; ``None``: it does not, or nobody knows."""
        facts = self._facts.get(gpu)
        used = gpu in self._engines and self._engines[gpu].usage.main_user is not None
        return facts.memory_total_bytes if facts is not None and used else None

    def use(self, use: GpuUse) -> int | None:
        """A process of the target uses a GPU; returns the thread that is taken to drive it."""
        engine = self._engine(use.gpu)
        process = self._processes.find(use.pid, use.ns) or self._processes.at(use.pid, use.ns)
        if engine is None or use.ns < process.start_ns:
            return None  # an earlier process that had this PID
        process.keep = True
        engine.usage.use(process, use)
        return process.pid

    def settle(self, driver: Callable[[Process], int], lines: RecordsOf, until_ns: int) -> None:
        """Account for good for what ended by ``until_ns``."""
        for engine in self._engines.values():
            user = engine.usage.main_user
            if user is not None:
                engine.settle(user, driver(user), lines, until_ns)

    def settled_ns(self, tid: int) -> int | None:
        """Up to when the slices of a thread are accounted for; ``None`` if it drives no GPU."""
        times = [
            engine.settled_ns
            for engine in self._engines.values()
            if any(user.pid == tid for user in engine.usage.users)
        ]
        return min(times, default=None)

    def activities(
        self,
        now_ns: int,
        driver_of: Callable[[Process], int],
        threads: Iterable[Thread],
        waiting: Mapping[tuple[int, int], Record],
        lines: RecordsOf,
    ) -> list[EngineActivity]:
        """The GPUs that processes of the target used; ``waiting`` are waits that last, by thread."""
        found = []
        latest = {(thread.pid, thread.tid): thread for thread in threads}
        for gpu, engine in self._engines.items():
            user = engine.usage.main_user
            if user is None:
                continue
            end_ns = max(process.end_ns or now_ns for process in engine.usage.users)
            who = (user.pid, driver_of(user))
            driver = Driver(latest.get(who), (waiting[who],) if who in waiting else ())
            facts = self._facts.get(gpu)
            activity = engine.activity(facts, min(end_ns, now_ns), user, (who[1], driver), lines)
            found.append(activity)
        return found

    def host_objects(self) -> list[dict[str, Any]]:
        """``host.gpus``."""
        ranked = sorted(self._facts.values(), key=lambda facts: (facts.via, facts.number, facts.gpu))
        return [gpu_object(facts) for facts in ranked]

    def _engine(self, gpu: str) -> GpuEngine | None:
        engine = self._engines.get(gpu)
        if engine is None and len(self._engines) < MAX_GPUS:
            engine = self._engines[gpu] = GpuEngine(gpu)
        return engine


def gpu_object(facts: GpuFacts) -> dict[str, Any]:
    """One of ``host.gpus``."""
    return {
        "index": facts.number,
        "name": facts.name,
        "driver": facts.driver,
        "memory_total_bytes": facts.memory_total_bytes,
        "id": facts.gpu,
        "parent": facts.parent or None,
        "simulated": facts.simulated,
        "unknown": list(facts.unknown),
    }
