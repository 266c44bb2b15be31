"""Memory over time: of each process, and of what bounds it. Bounded; pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from whyidle_daemon.facts import LimitSample, MemorySample
from whyidle_daemon.processes import Process
from whyidle_daemon.series import Point, Series

MAX_PROCESSES = 256
MAX_LIMITS = 32
MAX_SHOWN = 32
SHOWN_POINTS = 64
NS = 1_000_000_000


class LimitSeries(NamedTuple):
    """One bound on memory: its size now, and how much of it was used when."""

    scope: str
    name: str
    limit_bytes: int
    points: tuple[Point, ...]


class MemoryLog:
    """Takes samples as they come."""

    def __init__(self) -> None:
        self._own: dict[Process, Series] = {}
        self._limits: dict[tuple[str, str], tuple[int, Series]] = {}

    def sample(self, process: Process, sample: MemorySample) -> None:
        """Memory of a process that no file backs; all resident memory where that is not known."""
        if process not in self._own and len(self._own) >= MAX_PROCESSES:
            least = min(self._own, key=lambda one: (not one.end_ns, self._own[one].points[-1][1]))
            del self._own[least]
        series = self._own.setdefault(process, Series())
        series.add(sample.ns, sample.rss_bytes if sample.own_bytes is None else sample.own_bytes)

    def replaced(self, process: Process) -> None:
        """Another program runs in the process: its memory is new."""
        self._own.pop(process, None)

    def limit(self, sample: LimitSample) -> None:
        """A bound was looked at; one that was changed begins anew."""
        key = (sample.scope, sample.name)
        size, series = self._limits.get(key, (sample.limit_bytes, Series()))
        if key not in self._limits and len(self._limits) >= MAX_LIMITS:
            return
        if size != sample.limit_bytes:
            series = Series()
        series.add(sample.ns, sample.used_bytes)
        self._limits[key] = (sample.limit_bytes, series)

    @property
    def processes(self) -> dict[Process, tuple[Point, ...]]:
        """By process, when it had how many bytes."""
        return {process: tuple(series.points) for process, series in self._own.items()}

    @property
    def limits(self) -> tuple[LimitSeries, ...]:
        return tuple(
            LimitSeries(*key, size, tuple(series.points)) for key, (size, series) in self._limits.items()
        )


def memory_object(
    processes: dict[Process, tuple[Point, ...]], limits: tuple[LimitSeries, ...], start_ns: int
) -> dict[str, Any]:
    """The report's ``memory``: the largest processes and all limits, at most 64 points each."""
    largest = sorted(processes.items(), key=lambda item: (-item[1][-1][1], item[0].pid))[:MAX_SHOWN]
    return {
        "processes": [
            {"pid": process.pid, "points": _shown(points, start_ns)} for process, points in largest
        ],
        "limits": [
            {
                "scope": limit.scope,
                "name": limit.name,
                "limit_bytes": limit.limit_bytes,
                "points": _shown(limit.points, start_ns),
            }
            for limit in limits
        ],
    }


def _shown(points: tuple[Point, ...], start_ns: int) -> list[list[float]]:
    step = -(-len(points) // SHOWN_POINTS)
    kept = [*points[: -1 or None : step], points[-1]] if points else []
    return [[(ns - start_ns) / NS, value] for ns, value in kept]
