"""How exact whyidle is on programs that know their own truth (``make accuracy``), several times over."""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.measure import ROOT, Row, judge, say

ROUNDS = 3


def run() -> tuple[str, list[Row]]:
    """Title and rows: the worst of all rounds."""
    rounds = []
    for number in range(1, ROUNDS + 1):
        say(f"  round {number}/{ROUNDS}")
        done = subprocess.run(
            [sys.executable, "-m", "tests.corpus"], cwd=ROOT, check=False, capture_output=True, text=True
        )
        if done.returncode not in (0, 1):
            raise RuntimeError(f"tests.corpus: {done.stderr.strip()[-300:]}")
        say("".join(f"  {line}\n" for line in done.stdout.splitlines() if "  WRONG" in line).rstrip())
        rounds.append(json.loads((ROOT / "out" / "accuracy.json").read_text())["totals"])
    precision, recall = (min(r[key] for r in rounds) for key in ("precision", "recall"))
    states = sum(r["states"] for r in rounds)
    right = sum(r["states_ok"] for r in rounds)
    other = max(r["other_share"] for r in rounds)
    worst = max(r["state_error_max_s"] for r in rounds)
    rows = [
        Row("programs, each run so often", f"{rounds[0]['programs']}, {ROUNDS} times", "≥40", ""),
        Row("findings: precision", f"{precision:.3f}", "1.000", judge(precision == 1)),
        Row("findings: recall", f"{recall:.3f}", "1.000", judge(recall == 1)),
        Row(
            "seconds per state within 1 % or 10 ms",
            f"{right} of {states}, worst {1000 * worst:.1f} ms",
            "all",
            judge(right == states),
        ),
        Row("time in no known state", f"{100 * other:.2f} %", "<1 %", judge(other < 0.01)),
    ]
    return "Accuracy: programs that know their own truth, the worst of all rounds", rows
