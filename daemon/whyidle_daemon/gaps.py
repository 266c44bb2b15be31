"""Engine idle time and what its driver thread was doing meanwhile.

A source of engine activity (llama.cpp uprobes today; NVML and CUDA implement the same) says when an engine
was busy and when it was idle, and who drives it; it produces an :class:`EngineActivity`. For llama.cpp the
kernel side also says *exactly* how the driver thread spent each gap, by kernel wait (:class:`Gap`). Slices
add the peers: the exact seconds of each wait are split over the slices of that wait that overlap the gap, and
what no slice covers stays without a peer. All sums are integers of nanoseconds and hold exactly.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from whyidle_daemon.processes import Process
from whyidle_daemon.states import SOCKET_WAITS, state_of
from whyidle_daemon.waits import Record, Timelines, WaitGroup, WaitKey, between
from whyidle_probes.events import Engine, Gap, Thread, Wait

_K = TypeVar("_K")
MAX_PENDING = 4096
MAX_CAUSES = 4096
MAX_LONGEST = 100
SETTLE_NS = 2_000_000_000  # both rings have been drained of everything older
LLAMA_RESOLUTION_MS = 0.01  # a uprobe's entry and return, each late by its own few microseconds


class Cause(NamedTuple):
    """What an engine was idle for: thread ``tid`` of ``process`` in ``wait``, for the peer of ``key``."""

    process: Process
    tid: int
    wait: int
    key: WaitKey | None


class Piece(NamedTuple):
    """Part of a gap: ``ns`` in ``wait``.

    ``longest_ns`` is what one call needs: the longest single slice, and the time spent connecting.
    """

    wait: int
    key: WaitKey | None
    ns: int
    longest_ns: int


class ExplainedGap(NamedTuple):
    """A gap with its pieces, which add up to ``end_ns - start_ns``. Orders by length."""

    length_ns: int
    start_ns: int
    process: Process
    tid: int
    pieces: tuple[Piece, ...]
    open: bool


class Driver(NamedTuple):
    """The thread that drives an engine: its totals, if known, and the wait that it is in the middle of."""

    thread: Thread | None
    waiting: tuple[Record, ...] = ()


class EngineActivity(NamedTuple):
    """What every source of engine activity says of one engine; ``causes`` add up to ``idle_ns``.

    ``beyond_longest`` is, by peer, the waiting within each gap beyond that gap's longest call.
    """

    kind: str
    id: str
    process: Process | None
    drivers: frozenset[int]
    first_ns: int
    end_ns: int
    busy_ns: int
    idle_ns: int
    calls: int
    resolution_ms: float
    simulated: bool
    causes: dict[Cause, int]
    beyond_longest: dict[WaitKey, int]
    gaps: tuple[ExplainedGap, ...]

    def idle_by(self, process: Process, tid: int) -> dict[tuple[int, WaitKey | None], int]:
        """Idle nanoseconds while this thread drove, by wait and peer."""
        return {
            (cause.wait, cause.key): ns
            for cause, ns in self.causes.items()
            if cause.process is process and cause.tid == tid
        }


class EngineSource(Protocol):
    """Anything that knows engines: asked at a report for what they did up to ``now_ns``."""

    def activities(self, now_ns: int) -> list[EngineActivity]:
        """All engines of the target."""


def explain(
    start_ns: int, end_ns: int, exact: Sequence[int] | None, records: Iterable[Record]
) -> tuple[Piece, ...]:
    """Split a gap into pieces that add up to its length.

    ``exact`` is the driver's time in the gap by wait; without it the slices alone must do, and what they do
    not cover is unknown.
    """
    length = end_ns - start_ns
    seen: dict[tuple[int, WaitKey | None], list[int]] = {}  # all of it, the longest slice, connecting
    for record in records:
        awake = record.start_ns + record.blocked_ns
        for wait, key, begin, end in (
            (record.wait, record.key, record.start_ns, awake),
            (int(Wait.RUNQUEUE), None, awake, record.end_ns),
        ):
            overlap = min(end, end_ns) - max(begin, start_ns)
            if overlap > 0:
                sums = seen.setdefault((wait, key), [0, 0, 0])
                sums[0] += overlap
                if record.connecting:
                    sums[2] += overlap
                else:
                    sums[1] = max(sums[1], overlap)
    if exact is None:
        by_wait: dict[int, int] = {}
        for (wait, _), sums in seen.items():
            by_wait[wait] = by_wait.get(wait, 0) + sums[0]
        by_wait[int(Wait.UNKNOWN)] = by_wait.get(int(Wait.UNKNOWN), 0) + max(
            0, length - sum(by_wait.values())
        )
    else:
        by_wait = {wait: ns for wait, ns in enumerate(exact) if ns}
    by_wait = fit(by_wait, length, int(Wait.UNKNOWN))
    pieces = []
    for wait, ns in by_wait.items():
        parts = {key: sums for (of, key), sums in seen.items() if of == wait and key is not None}
        covered = sum(sums[0] for sums in parts.values())
        left = ns
        for key, (overlap, longest, connecting) in parts.items():
            # Slices and totals are stamped apart by nanoseconds; the totals are what adds up.
            share = overlap if covered <= ns else overlap * ns // covered
            if share:
                pieces.append(Piece(wait, key, share, min(longest + connecting, share)))
            left -= share
        if left:
            longest = max(
                (sums[1] for (of, key), sums in seen.items() if of == wait and key is None), default=0
            )
            pieces.append(Piece(wait, None, left, min(longest, left)))
    return tuple(pieces)


def fit(parts: dict[_K, int], total: int, rest: _K) -> dict[_K, int]:
    """Make ``parts`` add up to ``total``: what is missing goes to ``rest``, too much is scaled off."""
    have = sum(parts.values())
    if have > total:
        parts = {key: ns * total // have for key, ns in parts.items()}
        have = sum(parts.values())
        if parts and have < total:
            parts[max(parts, key=lambda key: parts[key])] += total - have
            have = total
    elif have < total:
        parts = {**parts, rest: parts.get(rest, 0) + total - have}
    return {key: ns for key, ns in parts.items() if ns}


class _Sums:
    """Explained gaps, summed."""

    def __init__(self) -> None:
        self.causes: dict[Cause, int] = {}
        self.beyond_longest: dict[WaitKey, int] = {}
        self.longest: list[tuple[int, int, int, ExplainedGap]] = []
        self.order = 0

    def copy(self) -> _Sums:
        twin = _Sums()
        twin.causes, twin.beyond_longest = dict(self.causes), dict(self.beyond_longest)
        twin.longest, twin.order = list(self.longest), self.order
        return twin

    def take(self, gap: ExplainedGap) -> None:
        for piece in gap.pieces:
            cause = Cause(gap.process, gap.tid, piece.wait, piece.key)
            self.causes[cause] = self.causes.get(cause, 0) + piece.ns
            if piece.key is not None:
                beyond = self.beyond_longest.get(piece.key, 0) + piece.ns - piece.longest_ns
                self.beyond_longest[piece.key] = beyond
        if len(self.causes) > MAX_CAUSES:
            self._fold()
        self.order += 1
        item = (gap.length_ns, -gap.start_ns, self.order, gap)
        if len(self.longest) < MAX_LONGEST:
            heapq.heappush(self.longest, item)
        else:
            heapq.heappushpop(self.longest, item)

    def _fold(self) -> None:
        """Forget the names of the peers that cost the least; their time stays."""
        ranked = sorted(self.causes.items(), key=lambda item: -item[1])
        for cause, ns in ranked[MAX_CAUSES // 2 :]:
            if cause.key is not None:
                del self.causes[cause]
                nameless = cause._replace(key=None)
                self.causes[nameless] = self.causes.get(nameless, 0) + ns
                self.beyond_longest.pop(cause.key, None)


class LlamaEngine:
    """One llama.cpp context: its gaps as they end, explained as late as possible (slices may lag)."""

    def __init__(self, process: Process, context: int) -> None:
        self.process = process
        self.context = context
        self.drivers: set[int] = set()
        self.pending: list[Gap] = []
        self.settled_ns: dict[int, int] = {}  # by driver: slices up to here are accounted for
        self._sums = _Sums()

    def add(self, gap: Gap) -> None:
        """Take a gap that ended."""
        self.pending.append(gap)
        self.drivers.add(gap.tid)

    def settle(self, timelines: Timelines, until_ns: int) -> None:
        """Explain the gaps that ended by ``until_ns`` for good; their slices can go then."""
        for gap in self.pending:
            if gap.end_ns <= until_ns:
                self.settled_ns[gap.tid] = max(self.settled_ns.get(gap.tid, 0), gap.end_ns)
        self.pending = _explain_into(self._sums, self.process, self.pending, timelines, until_ns)

    def activity(
        self,
        engine: Engine,
        now_ns: int,
        driver: Driver,
        lines: Timelines,
        groups: Iterable[WaitGroup],
    ) -> EngineActivity:
        """All that is known up to ``now_ns``; ``driver`` is thread ``engine.driver``."""
        end_ns = max(self.process.image_end(engine.last_ns, now_ns), engine.first_ns)
        sums = self._sums.copy()
        # A gap that began after the engine was read is one that the reading still counts as open.
        known = [gap for gap in self.pending if gap.start_ns < engine.last_ns]
        _explain_into(sums, self.process, known, lines, max(end_ns, now_ns))
        busy_ns = engine.busy_ns + (max(0, end_ns - engine.last_ns) if engine.busy else 0)
        idle_ns = max(0, end_ns - engine.first_ns - busy_ns)
        busy_ns = end_ns - engine.first_ns - idle_ns
        if not engine.busy and end_ns > engine.last_ns:
            sums.take(self._open(engine, end_ns, driver, lines))
        causes = sums.causes
        if engine.short_ns:
            between_calls = Cause(self.process, engine.driver, int(Wait.RUNNING), None)
            causes[between_calls] = causes.get(between_calls, 0) + engine.short_ns
        lost = Cause(self.process, engine.driver, int(Wait.UNKNOWN), None)
        causes = fit(_name_undated(causes, groups), idle_ns, lost)
        return EngineActivity(
            kind="llama",
            id=f"llama:{engine.pid}:{engine.context:x}",
            process=self.process,
            drivers=frozenset({*self.drivers, engine.driver}),
            first_ns=engine.first_ns,
            end_ns=end_ns,
            busy_ns=busy_ns,
            idle_ns=idle_ns,
            calls=engine.calls,
            resolution_ms=LLAMA_RESOLUTION_MS,
            simulated=False,
            causes=causes,
            beyond_longest=sums.beyond_longest,
            gaps=tuple(item[-1] for item in sorted(sums.longest, key=lambda item: (-item[0], -item[1]))),
        )

    def _open(self, engine: Engine, end_ns: int, driver: Driver, lines: Timelines) -> ExplainedGap:
        """The gap since the last call, from the driver's totals then and now."""
        exact = None
        if driver.thread is not None:
            totals = driver.thread.totals_at(end_ns)
            exact = [max(0, now - then) for now, then in zip(totals, engine.seen, strict=True)]
        records = [*between(lines.of(engine.driver), engine.last_ns, end_ns), *driver.waiting]
        pieces = explain(engine.last_ns, end_ns, exact, records)
        length = end_ns - engine.last_ns
        return ExplainedGap(length, engine.last_ns, self.process, engine.driver, pieces, True)


def _explain_into(
    sums: _Sums, process: Process, gaps: list[Gap], timelines: Timelines, until_ns: int
) -> list[Gap]:
    """Explain gaps that ended by ``until_ns`` into ``sums``; returns the others."""
    left = []
    lines: dict[int, list[Record]] = {}
    for gap in sorted(gaps, key=lambda gap: gap.start_ns):
        if gap.end_ns > until_ns:
            left.append(gap)
            continue
        if gap.tid not in lines:
            lines[gap.tid] = timelines.of(gap.tid)
        records = between(lines[gap.tid], gap.start_ns, gap.end_ns)
        pieces = explain(gap.start_ns, gap.end_ns, gap.ns, records)
        length = gap.end_ns - gap.start_ns
        sums.take(ExplainedGap(length, gap.start_ns, process, gap.tid, pieces, False))
    return left


def _name_undated(causes: dict[Cause, int], groups: Iterable[WaitGroup]) -> dict[Cause, int]:
    """Give socket waits without a peer to the peers that were waited for at an unknown time.

    These are waits too short to be slices, and slices that were lost: the kernel summed them by peer.
    """
    undated: dict[tuple[Process, int, int], list[WaitGroup]] = {}
    for group in groups:
        if group.undated_ns:
            undated.setdefault((group.key.process, group.key.tid, group.key.wait), []).append(group)
    named = dict(causes)
    for cause, ns in causes.items():
        candidates = undated.get((cause.process, cause.tid, cause.wait))
        if cause.key is not None or cause.wait not in SOCKET_WAITS or not candidates:
            continue
        have = sum(group.undated_ns for group in candidates)
        give = min(ns, have)
        for group in candidates:
            part = give * group.undated_ns // have
            to = cause._replace(key=group.key)
            named[to] = named.get(to, 0) + part
            named[cause] -= part
    return {cause: ns for cause, ns in named.items() if ns}


def state_of_cause(wait: int, key: WaitKey | None) -> str:
    """The report's state of a piece or a cause."""
    return state_of(wait) if key is None else key.state
