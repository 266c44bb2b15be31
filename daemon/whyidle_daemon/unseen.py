"""When calls of an engine's library had no probes, since there were too many; and what becomes of it. Pure.

Of llama.cpp nothing is seen then but the sleep of the thread that drives it: who sleeps calls nothing. So
each sleep that became a slice is a gap, and the rest of the time counts as work.
"""

from __future__ import annotations

from collections.abc import Iterable

from whyidle_daemon.facts import LaunchesSeen
from whyidle_daemon.timelines import Record, between
from whyidle_probes.events import Gap, Wait

_MAX = 4096
_JOIN_NS = 100_000
"""Between two sleeps, or a sleep and the first call: what a thread needs to wake up and go on."""
_AT_WORK = frozenset({int(Wait.RUNNING), int(Wait.RUNQUEUE), int(Wait.GPU), int(Wait.DEVICE)})


class Unseen:
    """The times in which a kind of call had no probes."""

    def __init__(self) -> None:
        self._past: list[tuple[int, int]] = []
        self._before_ns = 0  # of those that had no room
        self._since: int | None = None

    def add(self, seen: LaunchesSeen) -> None:
        """Probes went on or off."""
        if not seen.seen:
            if self._since is None:
                self._since = seen.ns
        elif self._since is not None:
            self._past.append((self._since, max(seen.ns, self._since)))
            self._since = None
            if len(self._past) > _MAX:
                start, end = self._past.pop(0)
                self._before_ns += end - start

    def within(self, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
        """Those times, as far as they lie in an interval."""
        times = [*self._past, *([(self._since, end_ns)] if self._since is not None else [])]
        cut = ((max(start, start_ns), min(end, end_ns)) for start, end in times)
        return [(start, end) for start, end in cut if start < end]

    def ns(self, start_ns: int, end_ns: int) -> int:
        """For how long of an engine's life its calls had no probes."""
        found = sum(end - start for start, end in self.within(start_ns, end_ns))
        return min(found + self._before_ns, max(0, end_ns - start_ns))

    def gaps(self, whole: Gap, records: Iterable[Record]) -> list[Gap]:
        """The gaps in an interval of which no call was seen; ``records`` are the driver's slices."""
        times = self.within(whole.start_ns, whole.end_ns)
        seen_ns = times[-1][1] if times else whole.start_ns  # from then on a call would have been seen
        idle: list[tuple[int, int]] = []
        asleep = [
            (record.start_ns, record.start_ns + record.blocked_ns)
            for record in records
            if record.wait not in _AT_WORK
        ]
        for begin, until in sorted([*asleep, (seen_ns, whole.end_ns)]):
            start, end = max(begin, whole.start_ns), min(until, whole.end_ns)
            if start >= end:
                continue
            if idle and start - idle[-1][1] <= _JOIN_NS:
                idle[-1] = (idle[-1][0], max(end, idle[-1][1]))
            else:
                idle.append((start, end))
        return [whole._replace(start_ns=a, end_ns=b, ns=None, unseen=False) for a, b in idle]


def seen_gaps(gaps: Iterable[Gap], unseen: Unseen, records: dict[int, list[Record]]) -> tuple[list[Gap], int]:
    """The gaps with those in unseen times in the place of these; and for how long of those it was busy."""
    found: list[Gap] = []
    busy_ns = 0
    for gap in gaps:
        if not gap.unseen:
            found.append(gap)
            continue
        inner = unseen.gaps(gap, between(records[gap.tid], gap.start_ns, gap.end_ns))
        busy_ns += gap.end_ns - gap.start_ns - sum(one.end_ns - one.start_ns for one in inner)
        found += inner
    return found, busy_ns
