"""What a CUDA job pays that launches 20 000 kernels a second, and how exact the edges of its gaps are.

On a simulated libcuda: the launch itself costs nothing, so the job's own work is a loop, set once so that it
comes to that rate. The probes, their limit and the daemon are the real ones.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from tests.simulators.cuda import JOB, build_libcuda, truth

from benchmarks.measure import BIN, OUT, Row, alternate, compile_c, judge, ratio, spread

ROUNDS = 7
LAUNCHES = 100_000
GOAL_SLOWER = 0.015
GOAL_EDGE_MS = 5.0
GAPS = """
for i in range(40):
    launch(3 + i % 5)
    sync()
    time.sleep(0.02 + 0.003 * (i % 7))
launch(1); sync()
"""


def run() -> tuple[str, list[Row]]:
    """Title and rows."""
    job = compile_c("launches")
    library = build_libcuda(OUT)
    work = _output([job, library, "0", "0"])

    def alone() -> float:
        return float(_output([job, library, work, str(LAUNCHES)]))

    def observed() -> float:
        report = OUT / "launches.json"
        command = [BIN / "whyidle", "run", "--json", report, "--", job, library, work, str(LAUNCHES)]
        return float(_output(command).splitlines()[0])

    found = alternate({"alone": alone, "observed": observed}, ROUNDS)
    slower = ratio(found["observed"], found["alone"]) - 1
    (engine,) = json.loads((OUT / "launches.json").read_text())["engines"]
    share = engine["launches_unseen_s"] / (engine["busy_s"] + engine["idle_s"])
    rate = LAUNCHES / statistics.median(found["alone"])
    starts, ends = _edges(library)
    worst = max(*starts, *ends)
    rows = [
        Row(
            f"CUDA job (simulated), {rate:.0f} launches/s, slower observed than not",
            f"{slower * 100:.2f} % ({share:.0%} of the time without launch probes)",
            f"≤{GOAL_SLOWER * 100:g} %",
            judge(slower <= GOAL_SLOWER),
        ),
        Row(
            f"edges of {len(starts)} gaps of a CUDA job (simulated), from the truth",
            f"start {spread(starts)} ms, end {spread(ends)} ms",
            f"≤{GOAL_EDGE_MS:g} ms",
            judge(worst <= GOAL_EDGE_MS),
        ),
    ]
    return "CUDA", rows


def _edges(library: Path) -> tuple[list[float], list[float]]:
    """How far the start and the end of each gap lie from the simulated device's own, ms."""
    job, true, report = OUT / "gaps_job.py", OUT / "truth", OUT / "gaps.json"
    job.write_text(JOB + GAPS)
    command = [BIN / "whyidle", "run", "--json", report, "--", sys.executable, job, library]
    _output(command, {"WHYIDLE_SIM_TRUTH": str(true)})
    expected = [(a[1] / 1e6, b[0] / 1e6) for a, b in pairwise(truth(true)) if b[0] - a[1] > 10_000_000]
    found = [gap for gap in json.loads(report.read_text())["gaps"] if not gap["open"]]
    found = sorted((g for g in found if g["duration_s"] > 0.01), key=lambda gap: gap["start_s"])
    if len(found) != len(expected):
        raise RuntimeError(f"{len(found)} gaps found, {len(expected)} were there")
    # A report counts from its own start: set the clocks by the median, which no single edge decides.
    apart = [
        (end - (g["start_s"] + g["duration_s"]) * 1e3) for g, (_, end) in zip(found, expected, strict=True)
    ]
    origin = statistics.median(apart)
    starts = [abs(g["start_s"] * 1e3 + origin - start) for g, (start, _) in zip(found, expected, strict=True)]
    ends = [abs(each - origin) for each in apart]
    return starts, ends


def _output(command: list[str | Path], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )
    return done.stdout.strip()
