"""Sets of intervals, each as some that do not overlap, in order. Pure; of any unit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

N = TypeVar("N", int, float)


def united(times: Iterable[tuple[N, N]]) -> list[tuple[N, N]]:
    """Intervals that may overlap as some that do not, in order; what is none is left out."""
    found: list[tuple[N, N]] = []
    for begin, end in sorted(times):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        elif begin < end:
            found.append((begin, end))
    return found


def uncovered(known: Iterable[tuple[N, N]], begin: N, end: N) -> N:
    """How much of an interval is in none of those known, which do not overlap."""
    inside = sum(max(0, min(b, end) - max(a, begin)) for a, b in known)
    return max(0, end - begin - inside)
