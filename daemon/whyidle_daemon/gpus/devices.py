"""The GPUs of one observation: what its processes used, when they were idle, and why. Pure.

A GPU becomes an engine of the target when one of its processes is seen holding memory of it. Why it was idle
is :mod:`whyidle_daemon.gpus.idle`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from whyidle_daemon.facts import EngineSpan, GpuFacts, GpuSample, GpuUse
from whyidle_daemon.gaps import EngineActivity, IdleSums, fit
from whyidle_daemon.gpus.idle import Totals, Way, explain_idleness, plausible
from whyidle_daemon.gpus.samples import MAX_PERIOD_NS
from whyidle_daemon.gpus.spans import Idleness, Segment, cut, during, idleness, segments
from whyidle_daemon.gpus.usage import EVER, Usage
from whyidle_daemon.processes import Process, ProcessTable
from whyidle_daemon.progress import GpuProgress
from whyidle_daemon.roots import Cause
from whyidle_probes.events import Thread, Wait

MAX_SPANS = 4096
MAX_GPUS = 128
NS_PER_MS = 1_000_000
_UNKNOWN = int(Wait.UNKNOWN)


class GpuEngine:
    """One GPU that the target uses."""

    def __init__(self, gpu: str) -> None:
        self.gpu = gpu
        self.usage = Usage()
        self._settled_ns = 0
        self._spans: list[EngineSpan] = []
        self._sums = IdleSums()
        self._scattered_ns = self._busy_ns = self._copy_ns = self._observed_ns = 0
        self._first_ns = 0
        self._by_edge: dict[int, int] = {}
        self._told_work_ns = self._told_ns = 0  # of all spans so far, whatever their source

    @property
    def full(self) -> bool:
        """Time to settle."""
        return len(self._spans) > MAX_SPANS

    def add(self, span: EngineSpan) -> None:
        """Take what a source saw; what lies before what was settled comes too late."""
        left = span.within(self._settled_ns, span.end_ns)
        if left is None:
            return
        span = left
        self._first_ns = min(self._first_ns or span.start_ns, span.start_ns)
        self._spans.append(span)
        if self.usage.over:
            return
        length = span.end_ns - span.start_ns
        self._told_ns += length
        self._told_work_ns += min(length, max(0, span.busy_ns) + max(0, span.copy_ns))

    @property
    def pending_ns(self) -> int | None:
        """Since when it has something that is not settled; ``None``: it has nothing."""
        return min((span.start_ns for span in self._spans), default=None)

    @property
    def busy_share(self) -> float | None:
        """How busy it was, by all that its sources said: near enough for a line that passes."""
        return self._told_work_ns / self._told_ns if self._told_ns else None

    def settle(self, way: Way, until_ns: int) -> None:
        """Account for good for what ended by ``until_ns``; keeps the gap that reaches beyond.

        Nothing is counted of the time in which nobody lived who used it, and that is forgotten.
        """
        known = _compact(during(segments(self._spans), self.usage.times(until_ns)))
        number = cut(known, until_ns)
        if known and known[-1].end_ns + MAX_PERIOD_NS <= until_ns:
            number = len(known)  # nothing is told any more: a gap ends with what was
        if number == 0 and len(known) > MAX_SPANS // 2:
            number = len(known) // 2  # a gap is cut in two rather than memory used without bound
        if number:
            found = idleness(known[:number])
            explain_idleness(self._sums, found, self.usage.chooser(), way)
            self._count(known[:number], found)
            self._settled_ns = known[number - 1].end_ns
        self._spans = [EngineSpan(self.gpu, *segment) for segment in known[number:]]

    def _count(self, known: list[Segment], found: Idleness) -> None:
        self._scattered_ns += sum(part.idle_ns for part in found.scattered)
        self._busy_ns += found.busy_ns
        self._copy_ns += found.copy_ns
        self._observed_ns += found.observed_ns
        for segment in known:
            self._by_edge[segment.edge_ns] = self._by_edge.get(segment.edge_ns, 0) + segment.length_ns

    def activity(
        self, facts: GpuFacts | None, end_ns: int, process: Process, way: Way, totals: Totals
    ) -> EngineActivity:
        """All that is known up to ``end_ns``; of a GPU that cannot tell, no busy and no idle time."""
        within = (span.within(0, end_ns) for span in self._spans)
        lived = self.usage.times(EVER)
        known = during(segments(span for span in within if span is not None), lived)
        found = idleness(known)
        total = GpuEngine(self.gpu)  # only its sums
        total._scattered_ns, total._busy_ns = self._scattered_ns, self._busy_ns
        total._copy_ns, total._observed_ns = self._copy_ns, self._observed_ns
        total._by_edge = dict(self._by_edge)
        total._count(known, found)
        sums = self._sums.copy()
        last_ns = known[-1].end_ns if known else self._settled_ns
        explain_idleness(sums, found, self.usage.chooser(), way, last_ns)
        busy_ns = total._busy_ns + total._copy_ns
        idle_ns = total._observed_ns - busy_ns
        edge_ns = max(total._by_edge, key=lambda edge: (total._by_edge[edge], edge), default=0)
        lived_ns = sum(max(0, min(end, last_ns) - max(begin, self._first_ns)) for begin, end in lived)
        unseen_ns = max(0, lived_ns - total._observed_ns)
        main = way.drivers.main(process)
        unknown = Cause(process, main, _UNKNOWN, None)
        roots = fit(plausible(sums.roots.causes, totals), idle_ns, unknown)
        ways = sums.roots.ways()
        return EngineActivity(
            kind=facts.via if facts is not None else self.gpu.partition(":")[0],
            id=self.gpu,
            process=process,
            drivers=frozenset({main, *(cause.tid for cause in sums.causes)}),
            first_ns=self._first_ns,
            end_ns=last_ns,
            busy_ns=busy_ns,
            idle_ns=idle_ns,
            calls=0,
            resolution_ms=edge_ns / NS_PER_MS,
            simulated=facts is not None and facts.simulated,
            causes=fit(plausible(sums.causes, totals), idle_ns, unknown),
            beyond_longest=sums.beyond_longest,
            sequences=sums.sequences.sums,
            gaps=tuple(item[-1] for item in sorted(sums.longest, key=lambda item: (-item[0], -item[1]))),
            roots=roots,
            chains={cause: ways[cause] for cause in roots if cause in ways},
            device=self.usage.device(facts, total._copy_ns, total._scattered_ns, unseen_ns),
        )


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
        """Bytes of a GPU that the target uses now; ``None``: it does not, or nobody knows."""
        facts = self._facts.get(gpu)
        user = self._engines[gpu].usage.main_user if gpu in self._engines else None
        used = user is not None and not user.end_ns
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

    def settle(self, way: Way, until_ns: int) -> None:
        """Account for good for what ended by ``until_ns``."""
        for engine in self._engines.values():
            if engine.usage.users:
                engine.settle(way, until_ns)

    def settled_ns(self, until_ns: int) -> int | None:
        """Up to when slices are accounted for, ``until_ns`` at most; ``None`` if the target uses no GPU.

        A GPU that tells nothing waits for none.
        """
        used = [engine.pending_ns for engine in self._engines.values() if engine.usage.users]
        return min([until_ns, *(ns for ns in used if ns is not None)]) if used else None

    def activities(self, now_ns: int, way: Way, threads: Iterable[Thread]) -> list[EngineActivity]:
        """The GPUs that processes of the target used; ``threads`` are all, with their totals."""
        totals: dict[tuple[int, int], list[int]] = {}
        for thread in threads:
            who, ns = (thread.pid, thread.tid), thread.totals_at(now_ns)
            totals[who] = [a + b for a, b in zip(totals[who], ns, strict=True)] if who in totals else ns
        found = []
        for gpu, engine in self._engines.items():
            user = engine.usage.main_user
            if user is None:
                continue
            found.append(engine.activity(self._facts.get(gpu), now_ns, user, way, totals.get))
        return found

    def progress(self) -> Iterator[GpuProgress]:
        """The GPUs that processes of the target use, as they are now."""
        for gpu, engine in self._engines.items():
            user, facts = engine.usage.main_user, self._facts.get(gpu)
            if user is not None:
                kind = facts.via if facts is not None else gpu.partition(":")[0]
                simulated = facts is not None and facts.simulated
                yield GpuProgress(gpu, kind, user.pid, engine.busy_share, simulated)

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
