"""Why a GPU was idle: its gaps, laid over the waits of its driver threads and of those behind them. Pure.

Nobody counts for a GPU how its driver spent a gap: slices must do. Time that no slice covers, a thread ran,
as far as the kernel's totals say that it did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from whyidle_daemon import chains
from whyidle_daemon.chains import Chain, Link
from whyidle_daemon.gaps import ExplainedGap, IdleSums, Piece, explain, fit
from whyidle_daemon.gpus.drivers import Drivers, Driving
from whyidle_daemon.gpus.spans import Idle, Idleness, Scattered
from whyidle_daemon.processes import Process
from whyidle_daemon.roots import Cause, RootPiece, roots_of
from whyidle_daemon.timelines import Record, between
from whyidle_probes.events import Wait

WINDOW_NS = 200_000_000  # beside a gap, in which its driver is looked for
STRETCH_NS, MAX_STRETCHES = 500_000_000, 64  # of scattered idle time
MAX_TURNS = 64  # of one: a server may have a thread for each of many short calls
_RUNNING, _UNKNOWN = int(Wait.RUNNING), int(Wait.UNKNOWN)
_WORK = frozenset({_RUNNING, _UNKNOWN, int(Wait.GPU)})

Lines = Callable[[int], list[Record]]
Walk = Callable[[int, int, tuple[int, int], bool], list[chains.Segment]]
Totals = Callable[[tuple[int, int]], list[int] | None]
"""All the time of a thread by wait, if that is known."""
User = Callable[[int, int], Process]
"""Whose an interval is: the process to look for the driver in."""


class Way(NamedTuple):
    """From a GPU to the root: who drives it, what every thread waited for, who ended whose wait."""

    drivers: Drivers
    lines: Lines
    walk: Walk


class _Led(NamedTuple):
    """A gap, and who ended it: thread ``tid``, at work until ``until_ns``; an open one nobody has ended."""

    gap: Idle
    process: Process
    tid: int
    until_ns: int
    is_open: bool


class _Turn(NamedTuple):
    """A part of a stretch, and who drove; ``last``: it ended within, and nobody drove after it."""

    part: Scattered
    driving: Driving
    last: bool


def explain_idleness(sums: IdleSums, found: Idleness, user: User, way: Way, last_ns: int = 0) -> None:
    """Add gaps and scattered idle time to ``sums``; a gap that ends at ``last_ns`` is still open."""
    led = [
        _led(gap, _work_beside(found.gaps, number), user(gap.start_ns, gap.end_ns), way, last_ns)
        for number, gap in enumerate(found.gaps)
    ]
    for one, following in zip_longest(led, led[1:]):
        sums.take(_explained(one, following, way))
        start_ns, end_ns = one.gap.start_ns, one.gap.end_ns
        sums.sequences.gap(start_ns, end_ns, list(between(way.lines(one.tid), start_ns, end_ns)))
    for part in found.scattered:
        for stretch in _stretches(part):
            process = user(stretch.start_ns, stretch.end_ns)
            for turn in _turns(stretch, process, way.drivers):
                for piece in _spread(turn.part, way.lines(turn.driving.tid)):
                    cause = Cause(process, turn.driving.tid, piece.wait, piece.key)
                    sums.causes[cause] = sums.causes.get(cause, 0) + piece.ns
                sums.take_roots(_spread_roots(turn, process, way))


def _work_beside(gaps: Sequence[Idle], number: int) -> tuple[int, int]:
    """From when the work before a gap was, at the earliest, and until when that after it, at the latest.

    A burst shorter than a sample period lies anywhere in that period, also where the gaps beside it were
    taken to be: they are known no better than their edges. It never lies beyond the other end of such a gap.
    """
    earliest, latest = 0, gaps[number].end_ns + WINDOW_NS
    if number:
        before = gaps[number - 1]
        earliest = max(before.start_ns, before.end_ns - before.end_edge_ns)
    if number + 1 < len(gaps):
        after = gaps[number + 1]
        latest = min(after.end_ns, after.start_ns + after.start_edge_ns)
    return earliest, latest


def _led(gap: Idle, beside: tuple[int, int], process: Process, way: Way, last_ns: int) -> _Led:
    """Who ended a gap; ``beside`` are the limits of the work before and after it."""
    is_open = gap.end_ns == last_ns
    if is_open:
        start_ns, end_ns = gap.start_ns - WINDOW_NS, gap.start_ns + gap.start_edge_ns
        window = max(beside[0], start_ns), min(gap.end_ns, end_ns)
        return _Led(gap, process, way.drivers.at(process, *window, gap.end_ns).tid, gap.end_ns, is_open)
    # Its end is as uncertain as its source: the walk begins where the driver certainly was at work.
    window = max(gap.start_ns, gap.end_ns - gap.end_edge_ns), min(beside[1], gap.end_ns + gap.end_edge_ns)
    tid, until_ns, _ = way.drivers.at(process, *window, gap.end_ns)
    return _Led(gap, process, tid, max(until_ns, gap.start_ns + 1), is_open)


def _explained(led: _Led, following: _Led | None, way: Way) -> ExplainedGap:
    """A gap and its causes; ``following`` is the next one, of the same run of samples or a later one."""
    gap, process, tid, until_ns, is_open = led
    inside = between(way.lines(tid), gap.start_ns, gap.end_ns)
    pieces = tuple(_ran(piece) for piece in explain(gap.start_ns, gap.end_ns, None, inside))
    known = list(_clipped(way.walk(gap.start_ns, until_ns, (process.pid, tid), is_open), gap))
    if until_ns < gap.end_ns:
        known += _clipped(_afterwards(led, following, way), gap)
    roots = roots_of(known, ())
    edges = (gap.start_edge_ns, gap.end_edge_ns)
    return ExplainedGap(gap.length_ns, gap.start_ns, process, tid, pieces, is_open, roots, edges=edges)


def _afterwards(led: _Led, following: _Led | None, way: Way) -> list[chains.Segment]:
    """From the end of work that was all within the gap: what whoever is next to work waited for."""
    gap, process, tid, until_ns, _ = led
    if following is None or following.gap.start_ns > gap.end_ns + gap.end_edge_ns:
        driving = way.drivers.at(process, gap.end_ns, gap.end_ns + WINDOW_NS, gap.end_ns)
        next_tid = driving.tid if driving.until_ns > gap.end_ns else tid
        return way.walk(until_ns, driving.until_ns, (process.pid, next_tid), False)
    end_ns, who = max(following.until_ns, gap.end_ns), (following.process.pid, following.tid)
    walked = way.walk(until_ns, end_ns, who, following.is_open)
    if walked and walked[-1].root.wait == _UNKNOWN:  # too far to walk
        return way.walk(until_ns, gap.end_ns, (process.pid, tid), False)
    return walked


def _clipped(walked: Iterable[chains.Segment], gap: Idle) -> Iterator[chains.Segment]:
    """What lies before the end of the gap."""
    for part in walked:
        if part.start_ns < gap.end_ns:
            yield part._replace(end_ns=min(part.end_ns, gap.end_ns))


def _stretches(part: Scattered) -> Iterator[Scattered]:
    """Parts of a long time in which the driver may change; their idle time adds up."""
    length = part.end_ns - part.start_ns
    number = max(1, min(MAX_STRETCHES, length // STRETCH_NS))
    for n in range(number):
        start, end = length * n // number, length * (n + 1) // number
        stretch = _cut(part, part.start_ns + start, part.start_ns + end)
        if stretch.idle_ns:
            yield stretch


def _turns(stretch: Scattered, process: Process, drivers: Drivers) -> Iterator[_Turn]:
    """A stretch, cut where its driver had ended or had not begun, if somebody else drove there."""
    pending = [(stretch, drivers.at(process, stretch.start_ns, stretch.end_ns, stretch.end_ns))]
    left = MAX_TURNS - 1

    def another(start_ns: int, end_ns: int, tid: int) -> bool:
        """Whether another thread was at work then; the main thread is who is asked in doubt."""
        nonlocal left
        found = drivers.at(process, start_ns, end_ns, end_ns) if left else None
        if found is None or found.tid in (tid, drivers.main(process)):
            return False
        pending.append((_cut(stretch, start_ns, end_ns), found))
        left -= 1
        return True

    while pending:
        part, driving = pending.pop()
        start_ns, end_ns = part.start_ns, part.end_ns
        born_ns, ended_ns = drivers.life(process, driving.tid)
        if start_ns < born_ns < end_ns and another(start_ns, born_ns, driving.tid):
            start_ns = born_ns
        if start_ns < ended_ns < end_ns and another(ended_ns, end_ns, driving.tid):
            end_ns = ended_ns
        last = bool(left) and start_ns < ended_ns < end_ns  # else there may have been more
        yield _Turn(_cut(stretch, start_ns, end_ns), driving, last)


def _cut(part: Scattered, start_ns: int, end_ns: int) -> Scattered:
    """A part of it; those that touch one another add up."""
    length, begin, end = part.end_ns - part.start_ns, start_ns - part.start_ns, end_ns - part.start_ns
    return Scattered(start_ns, end_ns, part.idle_ns * end // length - part.idle_ns * begin // length)


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


def _spread_roots(turn: _Turn, process: Process, way: Way) -> list[RootPiece]:
    """The same for the roots: whatever held up the driver until it was at work, scaled to the idle time."""
    part, tid, until_ns = turn.part, turn.driving.tid, turn.driving.last_ns
    found: dict[tuple[Cause, Chain], int] = {}

    def walked(start_ns: int, end_ns: int) -> None:
        for cause, chain, ns in roots_of(way.walk(start_ns, end_ns, (process.pid, tid), False), ()):
            if len(chain) > 1 or cause.wait not in _WORK:
                found[cause, chain] = found.get((cause, chain), 0) + ns

    walked(part.start_ns, until_ns)
    if turn.last:  # what came then held up whoever would be next
        walked(until_ns, part.end_ns)
    else:
        # What it waits for beyond that ends elsewhere: nobody is asked who ends it.
        for piece in explain(until_ns, part.end_ns, None, between(way.lines(tid), until_ns, part.end_ns)):
            if piece.wait not in _WORK:
                at = Cause(process, tid, piece.wait, piece.key), (Link(process, tid, piece.wait, piece.key),)
                found[at] = found.get(at, 0) + piece.ns
    own = Cause(process, tid, _RUNNING, None), (Link(process, tid, _RUNNING, None),)
    return [RootPiece(cause, chain, ns) for (cause, chain), ns in fit(found, part.idle_ns, own).items()]


def _ran(piece: Piece) -> Piece:
    """Every wait of a millisecond is a slice: time without one, the thread ran."""
    return piece._replace(wait=_RUNNING) if piece.wait == _UNKNOWN and piece.key is None else piece


def plausible(causes: dict[Cause, int], totals: Totals) -> dict[Cause, int]:
    """No thread ran for longer than the kernel says: the rest between its slices are waits too short for one.

    Which, its totals say as far as they are not used up; beyond them the cause is unknown.
    """
    result = dict(causes)
    for cause, ns in causes.items():
        if cause.wait != _RUNNING or cause.key is not None:
            continue
        ran = list(totals((cause.process.pid, cause.tid)) or ())
        more = ns - (ran[_RUNNING] if ran else 0)
        if more <= 0:
            continue
        result[cause] -= more
        used = [0] * len(ran)
        for other, part in causes.items():
            if other.wait < len(ran) and (other.process, other.tid) == (cause.process, cause.tid):
                used[other.wait] += part
        left = {wait: max(0, ran[wait] - used[wait]) for wait in range(len(ran)) if wait not in _WORK}
        shares = fit({wait: ns for wait, ns in left.items() if ns}, more, _UNKNOWN)
        for wait, part in shares.items():
            at = cause._replace(wait=wait)
            result[at] = result.get(at, 0) + part
    return {cause: ns for cause, ns in result.items() if ns}
