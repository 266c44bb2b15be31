"""Looks over all threads of one target: whose code is worth reading, and which never sleep."""

from __future__ import annotations

import os

from whyidle_daemon.kernel import Kernel
from whyidle_daemon.spins import HERTZ, Spins
from whyidle_daemon.stalls import Crowd

NS = 1_000_000_000
_THREAD_NS = 2_500  # of CPU time, for a look at one
_COSTS = 200  # half a percent of a core at most


class ThreadWatch:
    """Of one target. Threads that never sleep get a clock, which says what they do instead."""

    def __init__(self, target: int, kernel: Kernel) -> None:
        self._target = target
        self._kernel = kernel
        self._spins = Spins()
        self._clocks: dict[int, int] = {}
        self._next_ns = 0
        self.worth_reading: list[int] = []

    @property
    def busy(self) -> frozenset[int]:
        """Threads that do not sleep at present."""
        return self._spins.busy

    def look(self, now_ns: int, every_s: float) -> None:
        """Walk over all threads, so often, and the less often the more there are."""
        if now_ns < self._next_ns:
            return
        crowd = Crowd({engine.driver for engine in self._kernel.engines(self._target)})
        self._spins.update(crowd.passing(self._kernel.glances(self._target)), now_ns)
        self.worth_reading = crowd.watched
        self._set_clocks()
        self._next_ns = now_ns + max(int(every_s * NS), _COSTS * _THREAD_NS * self._spins.threads)

    def close(self) -> None:
        """Take the clocks away."""
        for clock in self._clocks.values():
            os.close(clock)
        self._clocks.clear()

    def _set_clocks(self) -> None:
        wanted = self._spins.clocked
        for tid in [tid for tid in self._clocks if tid not in wanted]:
            os.close(self._clocks.pop(tid))
        for tid in wanted - self._clocks.keys():
            clock = self._kernel.attach_clock(tid, HERTZ)
            if clock is not None:
                self._clocks[tid] = clock
