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


class Spins:
    """The threads that a clock is on for."""

    def __init__(self) -> None:
        self._ran: dict[int, int] = {}  # tid -> how long, until the last look
        self._looked_ns = 0
        self._watched: set[int] = set()

    def update(self, glances: Iterable[Glance], now_ns: int) -> frozenset[int]:
        """The threads to have a clock from now on, at most ``MAX_CLOCKS``."""
        ran = {}
        busy: dict[int, float] = {}
        for thread in glances:
            total = thread.running_ns
            if thread.state == Wait.RUNNING:
                total += max(0, now_ns - thread.last_ns)
            ran[thread.tid] = total
            before = self._ran.get(thread.tid)
            if before is not None and now_ns > self._looked_ns:
                share = (total - before) / (now_ns - self._looked_ns)
                if share >= (END_SHARE if thread.tid in self._watched else BEGIN_SHARE):
                    busy[thread.tid] = share
        self._ran, self._looked_ns = ran, now_ns
        kept = sorted(busy, key=lambda tid: (tid not in self._watched, -busy[tid], tid))
        self._watched = set(kept[:MAX_CLOCKS])
        return frozenset(self._watched)
