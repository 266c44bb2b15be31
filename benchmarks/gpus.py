"""What reading GPUs costs, and how well NVML alone places a gap: simulated GPUs, the real pynvml."""

from __future__ import annotations

import ctypes
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import ROOT, Row, judge, say, spread

sys.path.insert(0, str(ROOT / "tests"))  # the simulators

from simulators import nvml as simulator
from whyidle_daemon.facts import EngineSpan
from whyidle_daemon.gpus.nvidia import Nvidia
from whyidle_daemon.gpus.routing import Routes
from whyidle_daemon.gpus.sampler import GpuSampler
from whyidle_daemon.gpus.spans import idleness, segments

GPUS = 8
SECONDS = 5.0
ROUNDS = 3
GAPS = 30
GOAL_SHARE = 0.005
TICK_S = 0.1  # the daemon's


def run() -> tuple[str, list[Row]]:
    """Title and rows."""
    ctypes.CDLL(str(simulator.build()))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, gpm in (("the driver's samples", 0), ("GPM", 1)):
            found = [_cost(Path(folder) / f"{name}{n}", gpm) for n in range(ROUNDS)]
            share = sorted(cost for cost, _ in found)[ROUNDS // 2]
            rows.append(
                Row(
                    f"{GPUS} GPUs at 10 Hz by {name}",
                    f"{spread([100 * cost for cost, _ in found], '{:.2f}')} % of a core",
                    f"≤{100 * GOAL_SHARE:g} %",
                    judge(share <= GOAL_SHARE),
                )
            )
            rows.append(
                Row(
                    f"event loop held per tick, {name}",
                    f"{spread([1e3 * held for _, held in found], '{:.2f}')} ms at most",
                    "",
                    "",
                )
            )
        errors, period = _edges(Path(folder) / "edges")
        rows.append(
            Row(
                f"edges of {GAPS} gaps with NVML alone, {period * 1e3:g} ms samples",
                f"{spread([error * 1e3 for error in errors], '{:.1f}')} ms off",
                "≤1 period",
                judge(max(errors) <= period),
            )
        )
    return "GPUs (simulated)", rows


def _cost(path: Path, gpm: int) -> tuple[float, float]:
    """Share of a core of reading and routing, and the longest that one tick kept the loop."""
    gpus = simulator.SimulatedGpus(path, GPUS)
    for number in range(GPUS):
        gpus[number].gpm = gpm
        gpus[number].run((os.getpid(), simulator.GIB, 50))
        gpus[number].set("busy" if number % 2 else "idle")
    os.environ[simulator.VARIABLE] = str(path)
    told: list[object] = []
    routes = Routes(lambda pid: 1 if pid == os.getpid() else None)
    routes.add(1, told.append)
    sampler = GpuSampler(lambda: [Nvidia()])
    sampler.start()
    time.sleep(1.0)  # past opening the driver
    held = 0.0
    cpu, wall = time.process_time(), time.monotonic()
    for _ in range(int(SECONDS / TICK_S)):
        time.sleep(TICK_S)
        begin = time.perf_counter()
        routes.route(sampler.drain())
        held = max(held, time.perf_counter() - begin)
    share = (time.process_time() - cpu) / (time.monotonic() - wall)
    sampler.close()
    assert len(told) > GPUS * SECONDS * 8, f"only {len(told)} readings"
    return share, held


def _edges(path: Path) -> tuple[list[float], float]:
    """How far each edge of known gaps was off, in seconds, and the sample period."""
    period = 0.1
    gpus = simulator.SimulatedGpus(path, 1, period)
    os.environ[simulator.VARIABLE] = str(path)
    source, spans, truth = Nvidia(), [], []
    draw = random.Random(1)

    def read() -> None:
        spans.extend(r for r in source.read(frozenset(), False) if isinstance(r, EngineSpan))

    read()  # opens the driver
    gpus[0].set("busy")
    time.sleep(2 * period)
    for number in range(GAPS):
        if number % 10 == 0:
            say(f"  gap {number + 1}/{GAPS}")
        time.sleep(draw.uniform(2, 4) * period)
        start = gpus[0].set("idle")
        time.sleep(draw.uniform(2, 4) * period)
        truth.append((start, gpus[0].set("busy")))
        read()
    time.sleep(3 * period)
    read()
    source.close()
    found = idleness(segments(spans)).gaps
    errors: list[float] = []
    for start, end in truth:
        gap = min(found, key=lambda gap: abs(gap.start_ns - start) + abs(gap.end_ns - end))
        errors += [abs(gap.start_ns - start) / 1e9, abs(gap.end_ns - end) / 1e9]
    return errors, period
