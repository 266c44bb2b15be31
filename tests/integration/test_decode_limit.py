"""A model so small that its probes would cost more than they may: they come off, gaps are found still."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path
from statistics import median

import pytest
import report_schema

from harness_cli import BIN, load, whyidle
from simulators import llama

pytestmark = pytest.mark.bpf
ROUNDS, CALLS, PAUSE_S = 6, 8000, 0.25
EDGE_S = 0.005


def test_too_many_calls(tmp_path: Path) -> None:
    """Some 10 000 calls per second, a pause of 0.25 s after every 8000: each pause is a gap, to its edges."""
    program, library = llama.build(tmp_path)
    report_file, recording = tmp_path / "r.json", tmp_path / "a.rec"
    done = subprocess.run(
        [
            *(BIN / "whyidle", "run", "--json", report_file, "--record", recording, "--"),
            *(program, library, str(ROUNDS), str(CALLS), str(int(PAUSE_S * 1000))),
        ],
        env=os.environ | {llama.VARIABLE: "100000"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    pauses = [tuple(map(float, line.split())) for line in itertools.islice(lines, ROUNDS)]
    report = load(report_file)
    report_schema.check(report)
    (engine,) = report["engines"]
    assert 1.0 < engine["calls_unseen_s"] <= engine["busy_s"] + engine["idle_s"]
    assert "of calls not observed, too many" in " ".join(done.stdout.split())
    found = [gap for gap in report["gaps"] if gap["duration_s"] >= 0.9 * PAUSE_S and not gap["open"]]
    found.sort(key=lambda gap: gap["start_s"])
    assert len(found) == ROUNDS
    origin = median(start - gap["start_s"] for (start, _), gap in zip(pauses, found, strict=True))
    for (start, end), gap in zip(pauses, found, strict=True):
        assert gap["start_s"] + origin == pytest.approx(start, abs=EDGE_S)
        assert gap["start_s"] + gap["duration_s"] + origin == pytest.approx(end, abs=EDGE_S)
        assert max(gap["causes"], key=lambda cause: cause["share"])["state"] == "sleep"
    assert engine["idle_s"] >= ROUNDS * PAUSE_S
    assert engine["busy_s"] >= 0.9 * float(lines[ROUNDS].split()[0])
    assert engine["idle_attributed_s"] >= 0.95 * engine["idle_s"]
    told = whyidle("report", recording, "--json")
    again = json.loads(told.stdout)
    for part in ("engines", "gaps", "idle_by_cause", "findings"):
        assert again[part] == report[part]


def test_few_calls_keep_their_probes(tmp_path: Path) -> None:
    """At some 200 calls per second every one is seen."""
    program, library = llama.build(tmp_path)
    report_file = tmp_path / "r.json"
    done = subprocess.run(
        [BIN / "whyidle", "run", "--json", report_file, "--", program, library, "2", "200", "50"],
        env=os.environ | {llama.VARIABLE: "5000000"},
        capture_output=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (engine,) = load(report_file)["engines"]
    assert engine["calls_unseen_s"] == 0
    assert engine["calls"] == 401
