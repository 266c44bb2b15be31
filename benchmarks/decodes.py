"""What a model pays that decodes 5000 tokens a second, each in a call of its own: the probes and their limit.

On a llama_decode that only takes time, so that the rate is the same on every machine. Probes, limit and
daemon are the real ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import BIN, OUT, ROOT, Row, alternate, judge, ratio

sys.path.insert(0, str(ROOT / "tests"))  # the simulators

from simulators import llama

ROUNDS = 7
CALLS = 25_000
TAKES_NS = 200_000
GOAL_SLOWER = 0.01


def run() -> tuple[str, list[Row]]:
    """Title and rows."""
    OUT.mkdir(parents=True, exist_ok=True)
    program, library = llama.build(OUT)
    report = OUT / "decodes.json"
    job = [program, library, "1", str(CALLS), "1"]

    def alone() -> float:
        return _seconds(job)

    def observed() -> float:
        return _seconds([BIN / "whyidle", "run", "--json", report, "--", *job])

    found = alternate({"alone": alone, "observed": observed}, ROUNDS)
    slower = ratio(found["observed"], found["alone"]) - 1
    (engine,) = json.loads(report.read_text())["engines"]
    share = engine["calls_unseen_s"] / (engine["busy_s"] + engine["idle_s"])
    return "llama_decode, often", [
        Row(
            f"model at {CALLS / min(found['alone']):.0f} calls/s (simulated), slower observed than not",
            f"{slower * 100:.2f} % ({share:.0%} of the time without probes)",
            f"≤{GOAL_SLOWER * 100:g} %",
            judge(slower <= GOAL_SLOWER),
        )
    ]


def _seconds(command: list[str | Path]) -> float:
    """Of CPU time in all calls, which other work on the machine hardly changes: the second line."""
    environment = os.environ | {llama.VARIABLE: str(TAKES_NS)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return float(done.stdout.splitlines()[1].split()[1])
