"""Whether values grow: Theil's slope (the median of all slopes between two points) with Sen's interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

STRETCHES = 48
_Z95 = 1.96


@dataclass(frozen=True)
class Slope:
    """Units per second, with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def level(self) -> bool:
        """Return whether the values may as well not grow at all: the interval contains 0, or lies below."""
        return self.low <= 0


def slope_of(points: Sequence[Sequence[float]], warm_up: float) -> Slope | None:
    """Return the slope of the floor of `points` (time, value) after a part `warm_up` of their time.

    The floor is the least value of each of 48 stretches of time: what is left when others have gone. None
    for fewer than four stretches.
    """
    if not points:
        return None
    start, end = points[0][0], points[-1][0]
    begin = start + (end - start) * warm_up
    length = (end - begin) / STRETCHES or 1.0
    floor: dict[int, Sequence[float]] = {}
    for point in points:
        if point[0] >= begin:
            which = min(STRETCHES - 1, int((point[0] - begin) / length))
            if which not in floor or point[1] < floor[which][1]:
                floor[which] = point
    least = [floor[which] for which in sorted(floor)]
    slopes = sorted(
        (b[1] - a[1]) / (b[0] - a[0]) for i, a in enumerate(least) for b in least[i + 1 :] if b[0] > a[0]
    )
    n, count = len(least), len(slopes)
    if n < 4 or not slopes:
        return None
    width = _Z95 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low, high = max(0, int((count - width) / 2)), min(count - 1, math.ceil((count + width) / 2))
    return Slope(median(slopes), slopes[low], slopes[high])
