"""Runs in pairs: how much slower, and whether that can be told from nothing. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

# Student's t, two-sided 95 %, by degrees of freedom; between two of them the larger value, on the safe side.
_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262,
        11: 2.201, 14: 2.145, 19: 2.093, 29: 2.045, 59: 2.001}  # fmt: skip


class Slowdown(NamedTuple):
    """Ratios of a run to the bare run beside it: median, and the 95 % interval of their geometric mean."""

    median: float
    low: float
    high: float
    pairs: int

    @property
    def told_from_zero(self) -> bool:
        """The interval does not hold 1."""
        return not self.low <= 1 <= self.high


def slowdown(times: Sequence[float], bare: Sequence[float]) -> Slowdown:
    """Compare run by run; both in the order in which they were made. Raises ValueError on fewer than two."""
    ratios = [a / b for a, b in zip(times, bare, strict=True)]
    if len(ratios) < 2:
        raise ValueError("an interval takes two pairs at least")
    logs = [math.log(ratio) for ratio in ratios]
    mean, error = statistics.mean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    reach = _t95(len(logs) - 1) * error
    return Slowdown(statistics.median(ratios), math.exp(mean - reach), math.exp(mean + reach), len(ratios))


def _t95(freedom: int) -> float:
    return _T95[max(known for known in _T95 if known <= freedom)]
