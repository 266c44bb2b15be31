"""What a driver says of a GPU's utilisation, as spans on the monotonic clock. Pure.

NVML stamps a sample with CLOCK_REALTIME in microseconds; it tells how much of the time since the sample
before it the GPU computed. Nothing in it is believed unchecked: drivers return rows of zeros, percentages in
the thousands, old rows again, and stamps from before the clock was set.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from whyidle_daemon.facts import EngineSpan

US = 1000
MAX_PERIOD_NS = 5_000_000_000
_AHEAD_NS = 1_000_000_000
_MISSED = 1.75  # periods apart: a sample in between is missing
MAX_PID = 1 << 22  # PID_MAX_LIMIT
# A copy at this rate keeps a PCIe link (4.0 x16) busy; GPM tells bytes, not time.
LINK_MIB_PER_S = 20_000


class Row(NamedTuple):
    """One sample as the driver has it: microseconds of CLOCK_REALTIME, percent."""

    us: int
    value: int


class Utilization:
    """The samples of one GPU, drained again and again."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.last_us = 0
        self.refused = 0
        self._last_ns = 0
        self._periods: deque[int] = deque(maxlen=16)
        self._before: frozenset[int] = frozenset()  # stamps from before the clock was set back

    def spans(
        self, rows: Iterable[Row], copies: Sequence[Row], offset_ns: int, now_ns: int
    ) -> list[EngineSpan]:
        """What new rows say; ``copies`` are of the memory interface, ``offset_ns`` takes us to monotonic."""
        good = []
        for row in sorted(rows):
            ns = row.us * US + offset_ns
            if row.us <= self.last_us:
                self.refused += row.us == 0
            elif row.value > 100 or row.us in self._before or not 0 < ns <= now_ns + _AHEAD_NS:
                self.refused += 1
            else:
                good.append(row)
                self.last_us = row.us
        found = []
        stamps = [row.us for row in copies]
        for row in good:
            end_ns = min(row.us * US + offset_ns, now_ns)
            span = self._span(row, end_ns, copies, stamps)
            self._last_ns = max(self._last_ns, end_ns)
            if span is not None:
                found.append(span)
        return found

    def restart(self) -> None:
        """The driver was away: what comes next does not go on where this ended."""
        self._last_ns = 0
        self.last_us = 0

    def set_back(self, rows: Iterable[Row]) -> None:
        """The clock was; ``rows`` are all that the driver has: their stamps may look like new ones now."""
        self.restart()
        self._before = frozenset(row.us for row in rows)

    def _span(self, row: Row, end_ns: int, copies: Sequence[Row], stamps: list[int]) -> EngineSpan | None:
        since_ns = end_ns - self._last_ns
        if not self._last_ns or since_ns <= 0 or since_ns > MAX_PERIOD_NS:
            return None  # since when is not known
        from statistics import median  # noqa: PLC0415 (0.3 MB, for those who have a GPU)

        period = int(median(self._periods)) if self._periods else since_ns
        if since_ns > _MISSED * period:
            since_ns = period
        self._periods.append(end_ns - self._last_ns)
        start_ns = end_ns - since_ns
        busy = since_ns * row.value // 100
        copy = max(0, since_ns * _nearest(copies, stamps, row.us, since_ns) // 100 - busy)
        return EngineSpan(self.engine, start_ns, end_ns, busy, copy, max(period, since_ns))


def _nearest(copies: Sequence[Row], stamps: list[int], us: int, since_ns: int) -> int:
    """How much of the time memory was read or written: kernels do it too, but no longer than they run."""
    at = bisect_left(stamps, us)
    near = [copies[i] for i in (at - 1, at) if 0 <= i < len(copies)]
    best = min(near, key=lambda row: abs(row.us - us), default=None)
    if best is None or abs(best.us - us) * US > since_ns // 2 or best.value > 100:
        return 0
    return best.value


def gpm_span(
    engine: str, start_ns: int, end_ns: int, busy_percent: float | None, mib_per_s: float
) -> EngineSpan | None:
    """What two GPM readings say; ``None`` when they do not."""
    length = end_ns - start_ns
    if busy_percent is None or not 0 <= busy_percent <= 100 or length <= 0:  # NaN is neither
        return None
    busy = min(length, int(length * busy_percent / 100))
    share = min(1.0, mib_per_s / LINK_MIB_PER_S) if mib_per_s > 0 else 0.0
    copy = max(0, int(length * share) - busy)
    return EngineSpan(engine, start_ns, end_ns, busy, copy, length)


class ProcessRow(NamedTuple):
    """A process that uses a GPU: bytes and permille, ``None`` when not known."""

    pid: int
    memory_bytes: int | None
    utilization: int | None = None


class UtilizationRow(NamedTuple):
    """One of NVML's process samples: percent, at ``us``."""

    pid: int
    us: int
    percent: int


def process_rows(
    running: Iterable[tuple[int, int | None]],
    utilization: Iterable[UtilizationRow],
    memory_total: int | None,
    since_us: int,
    now_us: int,
) -> list[ProcessRow]:
    """Rows that can be true: a PID that can exist, no more memory than there is, at most 100 %, fresh.

    A utilisation row of a process that holds nothing of the GPU, or older than ``since_us``, may be of an
    earlier process with the same PID.
    """
    memory: dict[int, int | None] = {}
    for pid, size in running:
        if not 0 < pid < MAX_PID:
            continue
        known = size if size is not None and (memory_total is None or size <= memory_total) else None
        before = memory.get(pid)
        memory[pid] = known if before is None else before + (known or 0)
    shares: dict[int, UtilizationRow] = {}
    for row in utilization:
        fresh = since_us < row.us <= now_us + _AHEAD_NS // US
        if row.pid in memory and row.percent <= 100 and fresh:
            last = shares.get(row.pid)
            if last is None or row.us > last.us:
                shares[row.pid] = row
    return [
        ProcessRow(pid, size, shares[pid].percent * 10 if pid in shares else None)
        for pid, size in sorted(memory.items())
    ]
