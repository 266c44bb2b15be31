"""Which target learns what of the GPUs. Pure.

A target is told of every GPU of the host once, and of what a GPU does from the moment on that one of its own
processes is seen using it: what other people's jobs do is not its business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from whyidle_daemon.facts import EngineSpan, GpuFacts, GpuSample, GpuUse
from whyidle_daemon.gpus.sampler import GpuProcesses, Reading

_KEPT = 64  # spans of each GPU that no target uses yet

Tell = Callable[[Any], None]


class Routes:
    """All targets and all GPUs. ``target_of`` says which target a PID belongs to."""

    def __init__(self, target_of: Callable[[int], int | None]) -> None:
        self._target_of = target_of
        self._tell: dict[int, Tell] = {}
        self._uses: dict[int, set[str]] = {}
        self._facts: dict[str, GpuFacts] = {}
        self._recent: dict[str, deque[EngineSpan]] = {}
        self._looked_ns: dict[str, int] = {}

    @property
    def gpus(self) -> list[GpuFacts]:
        """What is known of the host's."""
        return list(self._facts.values())

    def add(self, number: int, tell: Tell) -> None:
        """A target began."""
        self._tell[number], self._uses[number] = tell, set()
        for facts in self._facts.values():
            tell(facts)

    def remove(self, number: int) -> None:
        """A target ended."""
        self._tell.pop(number, None)
        self._uses.pop(number, None)

    def route(self, readings: Iterable[Reading]) -> None:
        """Tell each target what concerns it."""
        for reading in readings:
            if isinstance(reading, GpuFacts):
                self._facts[reading.gpu] = reading
                for tell in self._tell.values():
                    tell(reading)
            elif isinstance(reading, GpuProcesses):
                self._processes(reading)
            elif isinstance(reading, EngineSpan):
                self._recent.setdefault(reading.engine, deque(maxlen=_KEPT)).append(reading)
                # One process's own work concerns its target alone.
                only = self._target_of(reading.pid) if reading.pid else None
                self._told(reading.engine, reading, only)
            else:
                self._told(reading.gpu, reading, None)

    def _told(self, gpu: str, reading: EngineSpan | GpuSample, only: int | None) -> None:
        for number, gpus in self._uses.items():
            if gpu in gpus and only in (None, number):
                self._tell[number](reading)

    def _processes(self, reading: GpuProcesses) -> None:
        owners = [self._target_of(row.pid) for row in reading.rows]
        since_ns = self._looked_ns.get(reading.gpu, 0)
        self._looked_ns[reading.gpu] = reading.ns
        for row, number in zip(reading.rows, owners, strict=True):
            tell = self._tell.get(number) if number is not None else None
            if tell is None or number is None:
                continue
            others = sum(owner != number for owner in owners)
            tell(GpuUse(reading.gpu, row.pid, reading.ns, row.memory_bytes, row.utilization, others))
            if reading.gpu not in self._uses[number]:
                self._uses[number].add(reading.gpu)
                for span in self._recent.get(reading.gpu, ()):
                    if span.start_ns >= since_ns and span.pid in (0, row.pid):
                        tell(span)  # it began to use it after the last look
