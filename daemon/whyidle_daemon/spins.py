"""Which threads never sleep: those whose CPU time is worth asking a clock what it goes to.

Pure: told how long each thread has run, says for which of them a clock is to be on.
"""

from __future__ import annotations

from collections.abc import Iterable

from whyidle_probes.events import Glance, Wait

HERTZ = 99  # of CPU time: not a divisor of what programs do at round intervals
MAX_CLOCKS = 8
BEGIN_SHARE = 0.8  # of the time between two looks
END_SHARE = 0.5
# To attach a clock costs milliseconds, to have one nothing while the thread sleeps: a thread that computes
# every now and then keeps it over so many looks, unless another one has no place.
KEPT_LOOKS = 40


class Spins:
    """``busy``: threads that do not sleep at present. ``clocked``: those that a clock is on for."""

    def __init__(self) -> None:
        self._ran: dict[int, int] = {}  # tid -> how long, until the last look
        self._looked_ns = 0
        self._idle: dict[int, int] = {}  # of those with a clock: looks since they were busy
        self.busy: frozenset[int] = frozenset()

    @property
    def clocked(self) -> frozenset[int]:
        """At most ``MAX_CLOCKS``."""
        return frozenset(self._idle)

    @property
    def threads(self) -> int:
        """How many there were at the last look."""
        return len(self._ran)

    def update(self, glances: Iterable[Glance], now_ns: int) -> None:
        """Look at all threads."""
        ran = {}
        shares: dict[int, float] = {}
        for thread in glances:
            total = thread.running_ns
            if thread.state == Wait.RUNNING:
                total += max(0, now_ns - thread.last_ns)
            ran[thread.tid] = total
            before = self._ran.get(thread.tid)
            if before is not None and now_ns > self._looked_ns:
                share = (total - before) / (now_ns - self._looked_ns)
                if share >= (END_SHARE if thread.tid in self.busy else BEGIN_SHARE):
                    shares[thread.tid] = share
        self._ran, self._looked_ns = ran, now_ns
        ranked = sorted(shares, key=lambda tid: (tid not in self.busy, -shares[tid], tid))
        self.busy = frozenset(ranked[:MAX_CLOCKS])
        resting = {tid: looks + 1 for tid, looks in self._idle.items() if tid in ran and tid not in self.busy}
        latest = sorted(resting, key=lambda tid: (resting[tid], tid))[: MAX_CLOCKS - len(self.busy)]
        kept = {tid: resting[tid] for tid in latest if resting[tid] <= KEPT_LOOKS}
        self._idle = dict.fromkeys(self.busy, 0) | kept
