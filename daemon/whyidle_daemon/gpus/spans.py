"""When an engine was idle, from sources of different resolution. Pure.

Every source says what it saw in :class:`EngineSpan` records. A uprobe knows an edge to microseconds; NVML
knows a duty cycle over its sample period. Where spans overlap the finer one counts, and what it saw is taken
off the coarser one's sum, so that busy time is never counted twice.

A period that was busy in part has its idle time somewhere. Beside a period without any work it is taken to be
the same gap reaching in; elsewhere it is *scattered*: many small gaps, none of which can be seen by itself.
A copy is not idle. The time of a thread on a CPU says nothing here: an engine thread that spins is no work.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from whyidle_daemon.facts import EngineSpan


class Segment(NamedTuple):
    """``work_ns`` of computing and copying somewhere in ``[start_ns, end_ns)``; at most its length."""

    start_ns: int
    end_ns: int
    busy_ns: int
    copy_ns: int
    edge_ns: int

    @property
    def length_ns(self) -> int:
        return self.end_ns - self.start_ns

    @property
    def work_ns(self) -> int:
        return self.busy_ns + self.copy_ns

    @property
    def idle_ns(self) -> int:
        return self.length_ns - self.work_ns


class Idle(NamedTuple):
    """An idle interval. The truth lies within ``start_edge_ns`` of its start, ``end_edge_ns`` of its end."""

    start_ns: int
    end_ns: int
    start_edge_ns: int
    end_edge_ns: int

    @property
    def length_ns(self) -> int:
        return self.end_ns - self.start_ns


class Scattered(NamedTuple):
    """``idle_ns`` in many small gaps, somewhere in ``[start_ns, end_ns)``."""

    start_ns: int
    end_ns: int
    idle_ns: int


class Idleness(NamedTuple):
    """What an engine did: gaps and scattered idle time add up to ``observed_ns - busy_ns - copy_ns``."""

    gaps: tuple[Idle, ...]
    scattered: tuple[Scattered, ...]
    busy_ns: int
    copy_ns: int
    observed_ns: int

    @property
    def idle_ns(self) -> int:
        return self.observed_ns - self.busy_ns - self.copy_ns


def segments(spans: Iterable[EngineSpan]) -> list[Segment]:
    """The finest thing known of every instant, in order of time; nothing where there is no span."""
    by_edge: dict[int, list[EngineSpan]] = {}
    for span in spans:
        if span.end_ns > span.start_ns:
            by_edge.setdefault(span.edge_ns, []).append(span)
    known: list[Segment] = []
    for edge in sorted(by_edge):
        known = _beneath(known, _disjoint(sorted(by_edge[edge], key=lambda s: (s.start_ns, s.end_ns))))
    return known


def _disjoint(spans: list[EngineSpan]) -> list[Segment]:
    """Spans of one resolution; where they overlap (a driver that repeats itself) the first one counts."""
    found: list[Segment] = []
    for span in spans:
        start = max(span.start_ns, found[-1].end_ns if found else span.start_ns)
        length, given = span.end_ns - start, span.end_ns - span.start_ns
        if length > 0:
            busy = min(length, max(0, span.busy_ns) * length // given)
            copy = min(length - busy, max(0, span.copy_ns) * length // given)
            found.append(Segment(start, span.end_ns, busy, copy, span.edge_ns))
    return found


def _beneath(fine: list[Segment], coarse: list[Segment]) -> list[Segment]:
    """Fill the holes of ``fine`` with what is left of ``coarse``."""
    found = list(fine)
    first = 0
    for whole in coarse:
        while first < len(fine) and fine[first].end_ns <= whole.start_ns:
            first += 1
        holes: list[tuple[int, int]] = []
        at, busy, copy = whole.start_ns, whole.busy_ns, whole.copy_ns
        for other in fine[first:]:
            if other.start_ns >= whole.end_ns:
                break
            if other.start_ns > at:
                holes.append((at, other.start_ns))
            shared = min(other.end_ns, whole.end_ns) - max(other.start_ns, whole.start_ns)
            busy -= other.busy_ns * shared // other.length_ns
            copy -= other.copy_ns * shared // other.length_ns
            at = max(at, other.end_ns)
        if at < whole.end_ns:
            holes.append((at, whole.end_ns))
        left = sum(end - start for start, end in holes)
        busy = max(0, min(busy, left))
        copy = max(0, min(copy, left - busy))
        for start, end in holes:
            # In proportion, each division on what is left: the sum is exact and no hole too full.
            length, work = end - start, busy + copy
            share = work * length // left
            part = share * busy // work if work else 0
            copied = share - part
            found.append(Segment(start, end, part, copied, whole.edge_ns))
            busy, copy, left = busy - part, copy - copied, left - length
    found.sort()
    return found


def during(known: list[Segment], times: list[tuple[int, int]]) -> list[Segment]:
    """The parts of segments that lie in intervals, with their share of the work; both in order of time."""
    found: list[Segment] = []
    first = 0
    for segment in known:
        while first < len(times) and times[first][1] <= segment.start_ns:
            first += 1
        for begin_ns, until_ns in times[first:]:
            if begin_ns >= segment.end_ns:
                break
            start, end = max(segment.start_ns, begin_ns), min(segment.end_ns, until_ns)
            length, whole = end - start, segment.length_ns
            busy, copy = segment.busy_ns * length // whole, segment.copy_ns * length // whole
            found.append(Segment(start, end, busy, copy, segment.edge_ns))
    return found


def idleness(known: list[Segment]) -> Idleness:
    """Gaps and scattered idle time of segments in order of time; the sums hold to the nanosecond."""
    gaps: list[Idle] = []
    scattered: list[Scattered] = []
    start: int | None = None  # of the gap that is open, and how well that is known
    start_edge = 0
    for number, segment in enumerate(known):
        before = _neighbour(known, number, -1)
        after = _neighbour(known, number, 1)
        if segment.work_ns == 0:
            if start is None:
                start, start_edge = segment.start_ns, max(segment.edge_ns, before.edge_ns if before else 0)
            if after is None or after.work_ns == after.length_ns:
                edge = max(segment.edge_ns, after.edge_ns if after else 0)
                gaps.append(Idle(start, segment.end_ns, start_edge, edge))
                start = None
        elif segment.idle_ns:
            idle_before = before is not None and before.work_ns == 0
            idle_after = after is not None and after.work_ns == 0
            head = segment.idle_ns // 2 if idle_after else segment.idle_ns
            if idle_before:
                assert start is not None
                end = segment.start_ns + head
                gaps.append(Idle(start, end, start_edge, _reach(segment, end)))
                start = None
            if idle_after:
                start = segment.end_ns - (segment.idle_ns - head if idle_before else segment.idle_ns)
                start_edge = _reach(segment, start)
            if not idle_before and not idle_after:
                _scatter(scattered, segment)
    busy = sum(segment.busy_ns for segment in known)
    copy = sum(segment.copy_ns for segment in known)
    return Idleness(tuple(gaps), tuple(scattered), busy, copy, sum(segment.length_ns for segment in known))


def _neighbour(known: list[Segment], number: int, step: int) -> Segment | None:
    """The segment just before or after; ``None`` where nothing is known."""
    at = number + step
    if not 0 <= at < len(known):
        return None
    first, second = (known[at], known[number]) if step < 0 else (known[number], known[at])
    return known[at] if first.end_ns == second.start_ns else None


def _reach(segment: Segment, edge: int) -> int:
    """The edge lies somewhere in the segment, whose own limits are as uncertain as its source."""
    inside = max(edge - segment.start_ns, segment.end_ns - edge)
    return max(inside, segment.edge_ns)


def _scatter(scattered: list[Scattered], segment: Segment) -> None:
    last = scattered[-1] if scattered else None
    if last is not None and last.end_ns == segment.start_ns:
        scattered[-1] = Scattered(last.start_ns, segment.end_ns, last.idle_ns + segment.idle_ns)
    else:
        scattered.append(Scattered(segment.start_ns, segment.end_ns, segment.idle_ns))


def cut(known: list[Segment], at_ns: int) -> int:
    """How many of the first segments, all ended by ``at_ns``, can be settled without cutting a gap in two.

    0 when all there is before ``at_ns`` is one gap.
    """
    number = next((n for n, segment in enumerate(known) if segment.end_ns > at_ns), len(known))
    while number and _joined(known[number - 1], known[number] if number < len(known) else None):
        number -= 1
    return number


def _joined(segment: Segment, after: Segment | None) -> bool:
    """A gap may reach from one segment into the other; from the last one into what is yet to come."""
    if after is None:
        return segment.work_ns < segment.length_ns
    if segment.end_ns < after.start_ns:
        return False
    empty = 0 in (segment.work_ns, after.work_ns)
    return empty and segment.idle_ns > 0 and after.idle_ns > 0
