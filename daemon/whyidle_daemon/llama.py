"""llama.cpp contexts as engines: busy inside ``llama_decode`` and ``llama_encode``, idle in between.

A CUDA context is one too (:mod:`whyidle_daemon.cuda`): busy from launch to synchronisation.

The kernel side counts busy and idle time and says exactly how the driver spent each gap that it reports. Gaps
below its threshold are only summed: the driver's own work between two calls. The gap that is open when the
report is made comes from the driver's totals now and at the end of its last call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from whyidle_daemon import cuda
from whyidle_daemon.chains import Chain, Segment
from whyidle_daemon.gaps import Driver, EngineActivity, ExplainedGap, IdleSums, explain, fit
from whyidle_daemon.inferences import InferenceLog
from whyidle_daemon.processes import Process
from whyidle_daemon.roots import Cause, roots_of
from whyidle_daemon.timelines import Record, between
from whyidle_daemon.unseen import Unseen, seen_gaps
from whyidle_daemon.waits import WaitGroup
from whyidle_probes.events import CONTEXT_CUDA, Engine, Gap, Wait, is_cuda

MAX_PENDING = 4096
MANY_PENDING = 512  # every report explains these anew, at some 50 µs each
SETTLE_NS = 2_000_000_000  # both rings have been drained of everything older
RecordsOf = Callable[[int], list[Record]]  # by thread, in order of time
Walk = Callable[[int, int, tuple[int, int], bool], list[Segment]]
RESOLUTION_MS = 0.01  # a uprobe's entry and return, each late by its own few microseconds


class LlamaEngine:
    """One llama.cpp context: its gaps as they end, explained as late as possible (slices may lag)."""

    def __init__(self, process: Process, context: int, unseen: Unseen) -> None:
        self.process = process
        self._unseen = unseen
        self._unseen_busy_ns = 0  # of intervals without probes
        self.context = context
        self.drivers: set[int] = set()
        self.pending: list[Gap] = []
        self.settled_ns: dict[int, int] = {}  # by driver: slices up to here are accounted for
        self.log = InferenceLog()
        self._sums = IdleSums()
        self._settle_at = MANY_PENDING

    @property
    def crowded(self) -> bool:
        """Time to settle what is old enough."""
        return len(self.pending) > self._settle_at

    def add(self, gap: Gap) -> None:
        """Take a gap that ended."""
        self.pending.append(gap)
        self.drivers.add(gap.tid)

    def settle(self, lines: RecordsOf, until_ns: int, walk: Walk) -> None:
        """Explain the gaps that ended by ``until_ns`` for good; their slices can go then."""
        for gap in self.pending:
            if gap.end_ns <= until_ns:
                self.settled_ns[gap.tid] = max(self.settled_ns.get(gap.tid, 0), gap.end_ns)
        self._unseen_busy_ns += self._explain_into(self._sums, self.pending, lines, until_ns, walk=walk)
        self.pending = [gap for gap in self.pending if gap.end_ns > until_ns]
        # Of those that are too young there may be many: not again for each that comes.
        self._settle_at = min(max(MANY_PENDING, 2 * len(self.pending)), MAX_PENDING)

    def activity(
        self,
        engine: Engine,
        now_ns: int,
        driver: Driver,
        lines: RecordsOf,
        groups: Iterable[WaitGroup],
        *,
        walk: Walk,
    ) -> EngineActivity:
        """All that is known up to ``now_ns``; ``driver`` is thread ``engine.driver``."""
        end_ns = max(self.process.image_end(engine.last_ns, now_ns), engine.first_ns)
        sums = self._sums.copy()
        # A gap that began after the engine was read is one that the reading still counts as open.
        known = [gap for gap in self.pending if gap.start_ns < engine.last_ns]
        unseen_ns = self._unseen_busy_ns
        unseen_ns += self._explain_into(sums, known, lines, max(end_ns, now_ns), walk=walk)
        current_ns = max(0, end_ns - engine.last_ns)
        blind = not is_cuda(engine.context) and bool(self._unseen.within(engine.last_ns, end_ns))
        if blind:  # what goes on has no probes
            whole = Gap(0, engine.pid, engine.driver, engine.context, engine.last_ns, end_ns, None, True)
            unseen_ns += self._explain_into(
                sums, [whole], lambda tid: [*lines(tid), *driver.waiting], end_ns, walk=walk, open_ns=end_ns
            )
        busy_ns = engine.busy_ns + unseen_ns + (current_ns if engine.busy and not blind else 0)
        idle_ns = max(0, end_ns - engine.first_ns - busy_ns)
        busy_ns = end_ns - engine.first_ns - idle_ns
        if not engine.busy and not blind and end_ns > engine.last_ns:
            sums.take(self._open(engine, end_ns, driver, lines, walk))
            current = [*between(lines(engine.driver), engine.last_ns, end_ns), *driver.waiting]
            sums.sequences.gap(engine.last_ns, end_ns, current)
        causes = sums.causes
        if engine.short_ns:
            between_calls = Cause(self.process, engine.driver, int(Wait.RUNNING), None)
            causes[between_calls] = causes.get(between_calls, 0) + engine.short_ns
            sums.roots.causes[between_calls] = sums.roots.causes.get(between_calls, 0) + engine.short_ns
        lost = Cause(self.process, engine.driver, int(Wait.UNKNOWN), None)
        groups = list(groups)
        causes = fit(_name_undated(causes, groups), idle_ns, lost)
        cuda_context = is_cuda(engine.context)
        roots = fit(_name_undated(sums.roots.causes, groups), idle_ns, lost)
        return EngineActivity(
            kind="cuda" if cuda_context else "llama",
            id=_name(engine),
            process=self.process,
            drivers=frozenset({*self.drivers, engine.driver}),
            first_ns=engine.first_ns,
            end_ns=end_ns,
            busy_ns=busy_ns,
            idle_ns=idle_ns,
            calls=engine.calls,
            resolution_ms=cuda.RESOLUTION_MS if cuda_context else RESOLUTION_MS,
            simulated=False,
            causes=causes,
            beyond_longest=sums.beyond_longest,
            sequences=sums.sequences.sums,
            roots=roots,
            chains=_ways(roots, sums.roots.ways()),
            gaps=tuple(item[-1] for item in sorted(sums.longest, key=lambda item: (-item[0], -item[1]))),
            inferences=self.log.at(engine, end_ns, ended=end_ns < now_ns),
        )

    def _explain_into(
        self,
        sums: IdleSums,
        gaps: list[Gap],
        records_of: RecordsOf,
        until_ns: int,
        *,
        walk: Walk,
        open_ns: int = 0,
    ) -> int:
        """Explain the gaps that ended by ``until_ns`` into ``sums``; one that ends at ``open_ns`` lasts.

        Returns for how long the engine was busy in those of them in which no call was seen.
        """
        ended = [gap for gap in gaps if gap.end_ns <= until_ns]
        lines = {tid: records_of(tid) for tid in {gap.tid for gap in ended}}
        found, busy_ns = seen_gaps(ended, self._unseen, lines)
        for gap in sorted(found, key=lambda gap: gap.start_ns):
            records = list(between(lines[gap.tid], gap.start_ns, gap.end_ns))
            sums.sequences.gap(gap.start_ns, gap.end_ns, records)
            pieces = explain(gap.start_ns, gap.end_ns, gap.ns, records)
            length, lasts = gap.end_ns - gap.start_ns, gap.end_ns == open_ns
            segments = walk(gap.start_ns, gap.end_ns, (gap.pid, gap.tid), lasts)
            roots = roots_of(segments, [piece[:3] for piece in pieces] if gap.ns is not None else ())
            sums.take(ExplainedGap(length, gap.start_ns, self.process, gap.tid, pieces, lasts, roots))
        return busy_ns

    def _open(
        self, engine: Engine, end_ns: int, driver: Driver, lines: RecordsOf, walk: Walk
    ) -> ExplainedGap:
        """The gap since the last call, from the driver's totals then and now."""
        exact = None
        if driver.thread is not None:
            totals = driver.thread.totals_at(end_ns)
            exact = [max(0, now - then) for now, then in zip(totals, engine.seen, strict=True)]
        records = [*between(lines(engine.driver), engine.last_ns, end_ns), *driver.waiting]
        pieces = explain(engine.last_ns, end_ns, exact, records)
        length = end_ns - engine.last_ns
        segments = walk(engine.last_ns, end_ns, (engine.pid, engine.driver), True)
        roots = roots_of(segments, [piece[:3] for piece in pieces] if exact is not None else ())
        return ExplainedGap(length, engine.last_ns, self.process, engine.driver, pieces, True, roots)


def _name(engine: Engine) -> str:
    if not is_cuda(engine.context):
        return f"llama:{engine.pid}:{engine.context:x}"
    known = engine.context & ~CONTEXT_CUDA
    return f"cuda:{engine.pid}:{known:x}" if known else f"cuda:{engine.pid}"


def _ways(roots: dict[Cause, int], ways: dict[Cause, Chain]) -> dict[Cause, Chain]:
    """The chain of each cause; of a wait that got its name afterwards, that of the nameless one."""
    found = {}
    for cause in roots:
        way = ways.get(cause) or ways.get(cause._replace(key=None))
        if way is not None:
            found[cause] = (*way[:-1], way[-1]._replace(key=cause.key))
    return found


def _name_undated(causes: dict[Cause, int], groups: Iterable[WaitGroup]) -> dict[Cause, int]:
    """Give waits without a peer or place to those that were waited for at an unknown time.

    These are waits too short to be slices, and slices that were lost: the kernel summed them by peer.
    """
    undated: dict[tuple[Process, int, int], list[WaitGroup]] = {}
    for group in groups:
        if group.undated_ns:
            undated.setdefault((group.key.process, group.key.tid, group.key.wait), []).append(group)
    named = dict(causes)
    for cause, ns in causes.items():
        candidates = undated.get((cause.process, cause.tid, cause.wait))
        if cause.key is not None or not candidates:
            continue
        have = sum(group.undated_ns for group in candidates)
        give = min(ns, have)
        for group in candidates:
            part = give * group.undated_ns // have
            to = cause._replace(key=group.key)
            named[to] = named.get(to, 0) + part
            named[cause] -= part
    return {cause: ns for cause, ns in named.items() if ns}
