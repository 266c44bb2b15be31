"""Names that a target looked up, summed by process, thread and host."""

from __future__ import annotations

from whyidle_daemon.facts import Lookup
from whyidle_daemon.processes import Process

MAX_LOOKUPS = 2048
MAX_HOST = 255


class LookupSums:
    """All look-ups of one host by one thread."""

    __slots__ = ("count", "failed", "host", "longest_ns", "process", "tid", "total_ns")

    def __init__(self, process: Process, tid: int, host: str) -> None:
        self.process = process
        self.tid = tid
        self.host = host
        self.count = 0
        self.failed = 0
        self.total_ns = 0
        self.longest_ns = 0


class Lookups:
    """At most ``limit`` hosts; the cheapest go first."""

    def __init__(self, limit: int = MAX_LOOKUPS) -> None:
        self._sums: dict[tuple[Process, int, str], LookupSums] = {}
        self._limit = limit

    def add(self, process: Process, lookup: Lookup) -> None:
        """A look-up has ended."""
        key = (process, lookup.tid, lookup.host[:MAX_HOST])
        if key not in self._sums and len(self._sums) >= self._limit:
            cheapest = sorted(self._sums, key=lambda key: self._sums[key].total_ns)
            for each in cheapest[: self._limit // 2]:
                del self._sums[each]
        sums = self._sums.setdefault(key, LookupSums(*key))
        ns = max(0, lookup.end_ns - lookup.start_ns)
        sums.count += 1
        sums.failed += lookup.status != 0
        sums.total_ns += ns
        sums.longest_ns = max(sums.longest_ns, ns)

    def all(self) -> tuple[LookupSums, ...]:
        """Every host of every thread."""
        return tuple(self._sums.values())
