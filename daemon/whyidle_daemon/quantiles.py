"""Quantiles of many durations in little memory, with a bound on their error.

Values fall into buckets whose bounds grow by 2 %, so a quantile is within 1 % of the value of its rank
(DDSketch, Masson et al. 2019). One nanosecond to a day is 1620 buckets.
"""

from __future__ import annotations

import math

RELATIVE_ERROR = 0.01
_LOG = math.log((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR))
_MAX = 86_400_000_000_000


class Durations:
    """A histogram of nanoseconds."""

    __slots__ = ("_buckets", "count")

    def __init__(self) -> None:
        self.count = 0
        self._buckets: dict[int, int] = {}

    def copy(self) -> Durations:
        twin = Durations()
        twin.count, twin._buckets = self.count, dict(self._buckets)
        return twin

    def add(self, ns: int) -> None:
        """Count one; below 1 ns counts as 1 ns, above a day as a day."""
        bucket = math.ceil(math.log(min(max(ns, 1), _MAX)) / _LOG)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1

    def quantile(self, q: float) -> float | None:
        """The value of rank ``ceil(q * count)``, within 1 %, in nanoseconds; ``None`` without values."""
        rank = max(1, math.ceil(q * self.count))
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                return 2 * math.exp(bucket * _LOG) / (1 + math.exp(_LOG))
        return None
