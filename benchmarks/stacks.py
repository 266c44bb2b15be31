"""What a reading of a blocked thread's Python stack costs the daemon."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.measure import Row, judge, spread
from whyidle_daemon.pystack import StackReader

READINGS, GOAL_US = 200, 300.0
DEPTHS = (3, 20, 60)
PROGRAM = """
import sys, urllib.request
def search(depth):
    if depth > 1:
        return search(depth - 1)
    print(flush=True)
    sys.stdin.readline()
search(int(sys.argv[1]))
"""


def run() -> tuple[str, list[Row]]:
    """Title and rows. ``/proc/PID/mem`` is opened once; each reading walks all frames, to their lines."""
    rows = []
    for depth in DEPTHS:
        command = [sys.executable, "-c", PROGRAM, str(depth)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as target:
            try:
                assert target.stdout
                target.stdout.readline()
                first, others = _readings(target.pid, depth + 1)
            finally:
                target.kill()
        rows.append(
            Row(
                f"a stack of {depth + 1} frames", f"{spread(others)} µs of CPU; the first {first:.0f} µs",
                f"≤{GOAL_US:g} µs", judge(statistics.median(others) <= GOAL_US),
            )
        )  # fmt: skip
    return "Reading the stack of a thread that sleeps", rows


def _readings(pid: int, frames: int) -> tuple[float, list[float]]:
    """Microseconds of CPU: of the first, which learns the code objects, and of the others."""
    found = []
    with StackReader(pid) as reader:
        for _ in range(READINGS):
            began = time.thread_time_ns()
            stack = reader.read(pid)
            found.append((time.thread_time_ns() - began) / 1000)
            if len(stack.frames) != frames:
                raise RuntimeError(f"{len(stack.frames)} frames were read of {frames}")
    return found[0], found[1:]
