"""Simulated NVIDIA GPUs: builds the library, and says what its GPUs do, by a script or live.

A script has one line per GPU: ``0: idle 0.5 busy 1.2 copy 0.3 busy 2``, seconds each, the first line
``gpus 2`` and optionally ``period 0.1`` (seconds per sample).
"""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import time
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "out" / "simulators" / "libnvidia-ml.so.1"
VARIABLE = "WHYIDLE_SIMULATED_NVML"
MAGIC = 0x314D564E4D495357
MAX_GPUS, MAX_EDGES, MAX_PROCESSES = 16, 32768, 32
NOT_SUPPORTED, DRIVER_NOT_LOADED, GPU_IS_LOST = 3, 9, 15
SAMPLES, MEMORY, PROCESSES, POWER, THROTTLE, PROCESS_UTIL, COPY_SAMPLES = (1 << bit for bit in range(7))
NO_ROW = 0xFFFFFFFF
GIB = 1 << 30


class _Edge(ctypes.Structure):
    _fields_ = (("us", ctypes.c_uint64), ("busy", ctypes.c_uint32), ("copy", ctypes.c_uint32))


class _Process(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint32),
        ("util", ctypes.c_uint32),
        ("memory", ctypes.c_uint64),
        ("instance", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("util_us", ctypes.c_uint64),
    )


class Gpu(ctypes.Structure):
    """One GPU as the library sees it; assign to what it shall say."""

    _fields_ = (
        ("error", ctypes.c_uint32),
        ("unsupported", ctypes.c_uint32),
        ("gpm", ctypes.c_uint32),
        ("mig", ctypes.c_uint32),
        ("period_us", ctypes.c_uint64),
        ("memory_total", ctypes.c_uint64),
        ("memory_used", ctypes.c_uint64),
        ("throttle", ctypes.c_uint64),
        ("power_mw", ctypes.c_uint32),
        ("processes", ctypes.c_uint32),
        ("process", _Process * MAX_PROCESSES),
        ("edges", ctypes.c_uint64),
        ("edge", _Edge * MAX_EDGES),
    )

    def set(self, what: str, at_s: float | None = None) -> int:
        """From now, or from ``at_s`` (CLOCK_REALTIME), it is ``busy``, ``copy`` or ``idle``; in order.

        Returns the instant in nanoseconds of CLOCK_MONOTONIC.
        """
        assert what in ("busy", "copy", "idle"), what
        us = time.time_ns() // 1000 if at_s is None else int(at_s * 1e6)
        self.edge[self.edges % MAX_EDGES] = _Edge(us, what == "busy", what == "copy")
        self.edges += 1
        return us * 1000 + time.monotonic_ns() - time.time_ns()

    def busy(self) -> list[tuple[int, int]]:
        """When it computed, ns of CLOCK_MONOTONIC, as far as the last MAX_EDGES edges tell."""
        ahead = time.monotonic_ns() - time.time_ns()
        first = max(0, self.edges - MAX_EDGES)
        edges = [self.edge[number % MAX_EDGES] for number in range(first, self.edges)]
        at = [(edge.us * 1000 + ahead, edge.busy) for edge in edges]
        return [(start, end) for (start, busy), (end, _) in pairwise(at) if busy]

    def run(self, *rows: tuple[int, int, int] | tuple[int, int, int, int]) -> None:
        """The processes on it: PID, bytes, percent (``NO_ROW``: left out), MIG instance."""
        for number, row in enumerate(rows):
            pid, memory, util, *instance = row
            self.process[number] = _Process(pid, util, memory, instance[0] if instance else 0, 0, 0)
        self.processes = len(rows)
        self.memory_used = min(self.memory_total, sum(row[1] for row in rows))


class _State(ctypes.Structure):
    _fields_ = (
        ("magic", ctypes.c_uint64),
        ("driver_error", ctypes.c_uint32),
        ("gpus", ctypes.c_uint32),
        ("since_us", ctypes.c_uint64),
        ("calls", ctypes.c_uint64),
        ("delay_us", ctypes.c_uint64),
        ("gpu", Gpu * MAX_GPUS),
    )


class SimulatedGpus:
    """The state file at ``path``; what is written here, a running library sees at once."""

    def __init__(self, path: Path, gpus: int = 1, period_s: float = 0.1) -> None:
        self.path = path
        with path.open("w+b") as file:
            file.truncate(ctypes.sizeof(_State))
            self._map = mmap.mmap(file.fileno(), ctypes.sizeof(_State))
        self.state = _State.from_buffer(self._map)
        self.state.gpus = gpus
        self.state.since_us = time.time_ns() // 1000
        for number in range(gpus):
            gpu = self[number]
            gpu.period_us = int(period_s * 1e6)
            gpu.memory_total, gpu.power_mw = 80 * GIB, 75_000
        self.state.magic = MAGIC

    def __getitem__(self, number: int) -> Any:
        return self.state.gpu[number]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        del self.state
        self._map.close()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to see these GPUs."""
        return {VARIABLE: str(self.path), "LD_LIBRARY_PATH": str(build().parent)}


def attach(path: Path) -> Any:
    """The GPUs of a file that another process made."""
    with path.open("r+b") as file:
        return _State.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(_State))).gpu


def play(path: Path, script: str, start_s: float | None = None) -> SimulatedGpus:
    """GPUs that do what a script says, from ``start_s`` (CLOCK_REALTIME, default now) on."""
    lines = [line for line in (line.split("#")[0].strip() for line in script.splitlines()) if line]
    settings = dict(line.split() for line in lines if ":" not in line)
    gpus = SimulatedGpus(path, int(settings["gpus"]), float(settings.get("period", "0.1")))
    start = time.time() if start_s is None else start_s
    for line in lines:
        number, _, words = line.partition(":")
        if not words:
            continue
        at, parts = start, words.split()
        for what, seconds in zip(parts[::2], parts[1::2], strict=True):
            gpus[int(number)].set(what, at)
            at += float(seconds)
        gpus[int(number)].set("idle", at)
    return gpus


@cache
def build() -> Path:
    """The library, made with cc if it is older than its source."""
    source = Path(__file__).with_name("nvml.c")
    if not LIBRARY.exists() or LIBRARY.stat().st_mtime < source.stat().st_mtime:
        LIBRARY.parent.mkdir(parents=True, exist_ok=True)
        made = LIBRARY.with_suffix(".new")
        command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run([*command, f"-Wl,-soname,{LIBRARY.name}", "-o", made, source], check=True)
        made.rename(LIBRARY)
    size = ctypes.CDLL(str(LIBRARY)).whyidle_simulated_size
    size.restype = ctypes.c_size_t
    assert size() == ctypes.sizeof(_State)
    return LIBRARY
