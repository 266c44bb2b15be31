"""Engine idle time and what its driver thread was doing meanwhile.

A source of engine activity (uprobes on llama.cpp and CUDA, a GPU's samples) says when an engine
was busy and when it was idle, and who drives it; it produces an :class:`EngineActivity`. For llama.cpp the
kernel side also says *exactly* how the driver thread spent each gap, by kernel wait (:class:`Gap`). Slices
add the peers: the exact seconds of each wait are split over the slices of that wait that overlap the gap, and
what no slice covers stays without a peer. All sums are integers of nanoseconds and hold exactly.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple, TypeVar

from whyidle_daemon.chains import Chain, Link
from whyidle_daemon.gpus.usage import DeviceActivity
from whyidle_daemon.inferences import Inferences
from whyidle_daemon.processes import Process
from whyidle_daemon.roots import Cause, RootPiece, RootSums
from whyidle_daemon.sequences import Runs, RunsKey, Sequences, Tally
from whyidle_daemon.states import state_of
from whyidle_daemon.timelines import Record
from whyidle_daemon.waits import WaitKey
from whyidle_probes.events import Thread, Wait

_K = TypeVar("_K")
MAX_CAUSES = 4096
MAX_LONGEST = 100


class Piece(NamedTuple):
    """Part of a gap: ``ns`` in ``wait``.

    ``longest_ns`` is what remains if its calls are issued together (:class:`Tally`).
    """

    wait: int
    key: WaitKey | None
    ns: int
    longest_ns: int


class ExplainedGap(NamedTuple):
    """A gap with its pieces, which add up to ``end_ns - start_ns``. Orders by length.

    The truth lies within ``edges`` nanoseconds of its start and its end.
    """

    length_ns: int
    start_ns: int
    process: Process
    tid: int
    pieces: tuple[Piece, ...]
    open: bool
    roots: tuple[RootPiece, ...] = ()
    edges: tuple[int, int] = (10_000, 10_000)  # a uprobe's own time


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
    sequences: dict[RunsKey, Runs]
    gaps: tuple[ExplainedGap, ...]
    device: DeviceActivity | None = None
    roots: dict[Cause, int] | None = None
    chains: dict[Cause, Chain] | None = None
    inferences: Inferences | None = None
    unseen_ns: int = 0  # its calls were too many to have probes

    @property
    def idle_roots(self) -> dict[Cause, int]:
        """Idle nanoseconds by root cause; by what the driver waited for, of a source without chains."""
        return self.causes if self.roots is None else self.roots

    def blames(self, process: Process, tid: int) -> bool:
        """Whether a chain leads to this thread."""
        return any(cause.process is process and cause.tid == tid for cause in self.idle_roots)

    def way_to(self, process: Process, tid: int, keys: Container[WaitKey | None]) -> Chain:
        """The chain to the costliest of these waits of a thread; empty: there is none, or none is known."""
        found = [
            cause
            for cause in self.chains or {}
            if cause.process is process and cause.tid == tid and cause.key in keys
        ]
        worst = max(found, key=lambda cause: (self.idle_roots.get(cause, 0), str(cause[1:3])), default=None)
        return self.chains[worst] if worst is not None and self.chains else ()

    def idle_by(self, process: Process, tid: int) -> dict[tuple[int, WaitKey | None], int]:
        """Idle nanoseconds while this thread drove, or was to blame, by wait and peer."""
        drives = self.process is process and tid in self.drivers
        return {
            (cause.wait, cause.key): ns
            for cause, ns in (self.causes if drives else self.idle_roots).items()
            if cause.process is process and cause.tid == tid
        }


def explain(
    start_ns: int, end_ns: int, exact: Sequence[int] | None, records: Iterable[Record]
) -> tuple[Piece, ...]:
    """Split a gap into pieces that add up to its length.

    ``exact`` is the driver's time in the gap by wait; without it the slices alone must do, and what they do
    not cover is unknown.
    """
    length = end_ns - start_ns
    seen: dict[tuple[int, WaitKey | None], Tally] = {}
    for record in records:
        awake = record.start_ns + record.blocked_ns
        for wait, key, begin, end in (
            (record.wait, record.key, record.start_ns, awake),
            (int(Wait.RUNQUEUE), None, awake, record.end_ns),
        ):
            overlap = min(end, end_ns) - max(begin, start_ns)
            if overlap > 0:
                seen.setdefault((wait, key), Tally()).add(record, overlap)
    if exact is None:
        by_wait: dict[int, int] = {}
        for (wait, _), tally in seen.items():
            by_wait[wait] = by_wait.get(wait, 0) + tally.total
        by_wait[int(Wait.UNKNOWN)] = by_wait.get(int(Wait.UNKNOWN), 0) + max(
            0, length - sum(by_wait.values())
        )
    else:
        by_wait = {wait: ns for wait, ns in enumerate(exact) if ns}
    by_wait = fit(by_wait, length, int(Wait.UNKNOWN))
    pieces = []
    for wait, ns in by_wait.items():
        parts = {key: tally for (of, key), tally in seen.items() if of == wait and key is not None}
        covered = sum(tally.total for tally in parts.values())
        left = ns
        for key, tally in parts.items():
            # Slices and totals are stamped apart by nanoseconds; the totals are what adds up.
            share = tally.total if covered <= ns else tally.total * ns // covered
            if share:
                pieces.append(Piece(wait, key, share, min(tally.needed, share)))
            left -= share
        if left:
            longest = max(
                (tally.longest for (of, key), tally in seen.items() if of == wait and key is None), default=0
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


class IdleSums:
    """Explained gaps, summed."""

    def __init__(self) -> None:
        self.causes: dict[Cause, int] = {}
        self.beyond_longest: dict[WaitKey, int] = {}
        self.sequences = Sequences()
        self.roots = RootSums()
        self.longest: list[tuple[int, int, int, ExplainedGap]] = []
        self.order = 0

    def copy(self) -> IdleSums:
        twin = IdleSums()
        twin.causes, twin.beyond_longest = dict(self.causes), dict(self.beyond_longest)
        twin.sequences = self.sequences.copy()
        twin.roots = self.roots.copy()
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
        self.roots.take(gap.roots or own_roots(gap), MAX_CAUSES)
        self.order += 1
        item = (gap.length_ns, -gap.start_ns, self.order, gap)
        if len(self.longest) < MAX_LONGEST:
            heapq.heappush(self.longest, item)
        else:
            heapq.heappushpop(self.longest, item)

    def take_roots(self, pieces: Iterable[RootPiece]) -> None:
        """Root causes of idle time that is in no gap."""
        self.roots.take(pieces, MAX_CAUSES)

    def _fold(self) -> None:
        """Forget the names of the peers that cost the least; their time stays."""
        ranked = sorted(self.causes.items(), key=lambda item: -item[1])
        for cause, ns in ranked[MAX_CAUSES // 2 :]:
            if cause.key is not None:
                del self.causes[cause]
                nameless = cause._replace(key=None)
                self.causes[nameless] = self.causes.get(nameless, 0) + ns
                self.beyond_longest.pop(cause.key, None)


def own_roots(gap: ExplainedGap) -> list[RootPiece]:
    """Of a gap that was not walked over: what the driver itself waited for."""
    return [
        RootPiece(
            Cause(gap.process, gap.tid, piece.wait, piece.key),
            (Link(gap.process, gap.tid, piece.wait, piece.key),),
            piece.ns,
        )
        for piece in gap.pieces
    ]


def state_of_cause(wait: int, key: WaitKey | None) -> str:
    """The report's state of a piece or a cause."""
    return state_of(wait) if key is None else key.state


_FINENESS = {"llama": 0, "cuda": 1}


def finest(engines: Sequence[EngineActivity]) -> tuple[EngineActivity, ...]:
    """The engines whose idle time counts, in the sums by cause and in the findings: each idle second once.

    A model's context runs on the process's CUDA context, and that on a GPU: idle time of one is idle time of
    all. Of each process only the engines of its finest kind count, and a GPU if no process that uses it has
    another engine. Several of one kind (two models, two GPUs) are different engines, each with its own time.
    """
    best: dict[int, int] = {}
    for engine in engines:
        if engine.device is None:
            rank = _FINENESS.get(engine.kind, len(_FINENESS))
            best[id(engine.process)] = min(rank, best.get(id(engine.process), rank))
    return tuple(
        engine
        for engine in engines
        if (
            not any(id(process) in best for process in (engine.process, *engine.device.holders))
            if engine.device is not None
            else best[id(engine.process)] == _FINENESS.get(engine.kind, len(_FINENESS))
        )
    )
