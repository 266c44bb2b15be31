"""Each second of a GPU once for a workload, however many of its observations are on that GPU. Pure.

Every observation has all that its GPU did while it lasted, by whomever. What is new in its sums is of so many
seconds before now; of these, those count that no other observation of the workload has brought.
"""

from __future__ import annotations

from typing import Final

from whyidle_daemon.intervals import uncovered, united

MAX_SPANS: Final = 64
"""Of one GPU that are remembered apart; the latest. Observations that go on have one in common."""

Seconds = tuple[float, float]
"""Busy and idle."""


class GpuSeconds:
    """What has been counted; an observation is known by its number."""

    def __init__(self) -> None:
        self._brought: dict[int, dict[str, Seconds]] = {}  # by an observation, of each GPU, so far
        # Of a workload and a GPU: from when to when.
        self._counted: dict[str, dict[str, list[tuple[float, float]]]] = {}

    def new(self, number: int, workload: str, gpu: str, so_far: Seconds, now_s: float) -> Seconds:
        """The part of an observation's seconds that is to be counted now. ``now_s`` is of any clock."""
        brought = self._brought.setdefault(number, {})
        before = brought.get(gpu, (0.0, 0.0))
        brought[gpu] = max(so_far[0], before[0]), max(so_far[1], before[1])
        busy, idle = brought[gpu][0] - before[0], brought[gpu][1] - before[1]
        if not busy + idle:
            return 0.0, 0.0
        share = min(1.0, self._uncounted(workload, gpu, now_s - busy - idle, now_s) / (busy + idle))
        return busy * share, idle * share

    def end(self, number: int) -> None:
        """An observation ends, or begins anew: what it brought stays counted."""
        self._brought.pop(number, None)

    def forget(self, workload: str) -> None:
        """Its sums are counted elsewhere from now on."""
        self._counted.pop(workload, None)

    def _uncounted(self, workload: str, gpu: str, start_s: float, end_s: float) -> float:
        """How much of an interval is new; it is counted from now on."""
        counted = self._counted.setdefault(workload, {})
        spans = counted.get(gpu, [])
        counted[gpu] = united([*spans, (start_s, end_s)])[-MAX_SPANS:]
        return uncovered(spans, start_s, end_s)
