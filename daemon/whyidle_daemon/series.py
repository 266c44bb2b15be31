"""Values over time in bounded memory, and whether they grow.

The trend rests on what is left when others have gone: the least value of each of up to 48 stretches of time,
so that the teeth of a garbage collector do not count. Its slope is the median of all slopes between two of
these (Theil 1950, Sen 1968), with Sen's confidence interval: a third of the points may be anything. A warm-up
that levels off, and one or two steps, are no trend: the second half must rise for certain by itself as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

NS = 1_000_000_000
MAX_POINTS = 512
STRETCHES = 48
WARM_UP = 0.2  # of the time, in which a program loads what it needs
MIN_SAMPLES = 16
MIN_POINTS = 4
LEVELS_OFF = 0.5  # the slope of the second half, as a part of that of the whole
MAX_STEP = 0.5  # of all growth, in one piece
_Z95 = 1.96

Point = tuple[int, int]


class Series:
    """Points ``(ns, value)`` in order of time; of too many, every second one is forgotten."""

    __slots__ = ("_last", "_points", "_seen", "_stride")

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._stride = 1
        self._seen = 0
        self._last: Point | None = None

    def add(self, ns: int, value: int) -> None:
        """Take the next one; what is not later than the last is ignored."""
        if self._last is not None and ns <= self._last[0]:
            return
        self._last = (ns, value)
        if self._seen % self._stride == 0:
            self._points.append(self._last)
            if len(self._points) >= MAX_POINTS:
                self._points = self._points[::2]
                self._stride *= 2
        self._seen += 1

    def clear(self) -> None:
        """It is about something else from now on."""
        self.__init__()  # type: ignore[misc]

    @property
    def points(self) -> list[Point]:
        """Those that are kept, and the latest."""
        if self._last is not None and (not self._points or self._points[-1] != self._last):
            return [*self._points, self._last]
        return list(self._points)


class Slope(NamedTuple):
    """Units per second, with its 95 % confidence interval."""

    slope: float
    low: float
    high: float


class Trend(NamedTuple):
    """Growth per second that goes on: ``rate`` (``low`` to ``high``), by ``grown`` in ``span_ns`` so far."""

    rate: float
    low: float
    high: float
    grown: int
    span_ns: int
    value: int  # now, as the trend has it
    samples: int


def theil_sen(points: Sequence[Point]) -> Slope | None:
    """The median slope of at least three points at different times."""
    return _theil_sen(tuple(points))


# Every pair of points: most of what a finding costs, and asked several times a second of the same ones.
@lru_cache(maxsize=32)
def _theil_sen(points: tuple[Point, ...]) -> Slope | None:
    slopes = sorted(
        (b[1] - a[1]) / (b[0] - a[0]) * 1e9
        for i, a in enumerate(points)
        for b in points[i + 1 :]
        if b[0] != a[0]
    )
    n = len(points)
    if n < 3 or not slopes:
        return None
    width = _Z95 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    count = len(slopes)
    low = max(0, int((count - width) / 2))
    high = min(count - 1, math.ceil((count + width) / 2))
    middle = (slopes[(count - 1) // 2] + slopes[count // 2]) / 2
    return Slope(middle, slopes[low], slopes[high])


def floor_of(points: Sequence[Point], stretches: int = STRETCHES) -> list[Point]:
    """The least value of each stretch of time: what stays when everything else was given back."""
    if not points:
        return []
    stretches = max(1, stretches)
    start, end = points[0][0], points[-1][0]
    length = max(1, end - start + 1)
    found: dict[int, Point] = {}
    for point in points:
        which = (point[0] - start) * stretches // length
        if which not in found or point[1] < found[which][1]:
            found[which] = point
    return [found[which] for which in sorted(found)]


def trend_of(
    points: Sequence[Point],
    min_samples: int = MIN_SAMPLES,
    warm_up: float = WARM_UP,
    stretches: int = STRETCHES,
    surely_on: bool = True,
) -> Trend | None:
    """The trend, if it is one: it goes up for certain, goes on, and is no single step.

    ``surely_on``: its second half, by itself, goes up for certain as well.
    """
    if len(points) < 2:
        return None
    begin = points[0][0] + (points[-1][0] - points[0][0]) * warm_up
    used = [point for point in points if point[0] >= begin]
    if len(used) < min_samples:
        return None
    floor = floor_of(used, min(stretches, len(used) // 2) if stretches == STRETCHES else stretches)
    whole = theil_sen(floor)
    if len(floor) < MIN_POINTS or whole is None or whole.low <= 0:
        return None
    later = theil_sen(floor[len(floor) // 2 - 1 :])
    if later is None or later.slope < LEVELS_OFF * whole.slope or (surely_on and later.low <= 0):
        return None
    grown = floor[-1][1] - floor[0][1]
    # In eight parts, so that how often it was looked at does not matter.
    marks = [floor[i * (len(floor) - 1) // 8][1] for i in range(9)]
    if grown <= 0 or max(b - a for a, b in pairwise(marks)) > MAX_STEP * grown:
        return None
    offsets = sorted(value - whole.slope * (ns - floor[-1][0]) / 1e9 for ns, value in floor)
    value = int(offsets[len(offsets) // 2])
    return Trend(whole.slope, whole.low, whole.high, grown, floor[-1][0] - floor[0][0], value, len(used))
