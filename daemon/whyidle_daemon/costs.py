"""What an observation cost and what was lost to it since it began, by the host's counters."""

from __future__ import annotations

import time

import psutil

from whyidle_daemon.facts import Loss, Overhead
from whyidle_daemon.kernel import Kernel
from whyidle_probes.events import Stat

NS = 1_000_000_000
_SELF = psutil.Process()


class Costs:
    """Counters since this was made."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._stats = kernel.stats()
        self._clock = time.process_time()
        self._run_ns = kernel.run_ns()
        self._skipped = kernel.skipped()

    def counted(self, which: Stat) -> int:
        """One counter of the kernel side, of the whole host."""
        return self._kernel.stat(which) - self._stats[which]

    def loss(self, stacks_lost: int, blind_ns: int) -> Loss:
        """What was lost on the whole host."""
        now = self._kernel.stats()
        lost = {which: now[which] - self._stats[which] for which in Stat}
        return Loss(
            slices_lost=lost[Stat.SLICES_LOST],
            control_lost=lost[Stat.CONTROL_LOST] + self._kernel.skipped() - self._skipped,
            threads_lost=lost[Stat.THREADS_LOST],
            waits_lost=lost[Stat.WAITS_LOST],
            gaps_lost=lost[Stat.GAPS_LOST],
            inferences_lost=lost[Stat.INFERENCES_LOST],
            engines_lost=lost[Stat.ENGINES_LOST],
            stacks_lost=stacks_lost,
            blind_ns=blind_ns,
        )

    def overhead(self) -> Overhead:
        """The daemon's own CPU and memory, and what the probes ran."""
        spent = self._kernel.run_ns() - self._run_ns
        return Overhead(
            time.process_time() - self._clock,
            _SELF.memory_info().rss,
            spent / NS if spent else None,
        )
