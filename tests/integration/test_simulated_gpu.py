"""A simulated GPU that computes when a real model does: what NVML shows of it, beside llama.cpp's truth."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import report_schema

from harness_cli import BIN, SearchServer, load
from simulators import llama_gpu
from simulators.nvml import SimulatedGpus

pytestmark = [pytest.mark.bpf, pytest.mark.model]

PERIOD_S = 0.1
EDGE_S = 0.005
LEAST_S = 3 * PERIOD_S  # of a gap that at least one whole sample lies in


def gaps_of(report: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Of the engine of that kind, in order of time, without the one at the end that lasts."""
    (engine,) = [engine["id"] for engine in report["engines"] if engine["kind"] == kind]
    found = [gap for gap in report["gaps"] if gap["engine"] == engine and not gap["open"]]
    return sorted((g for g in found if g["duration_s"] >= LEAST_S), key=lambda gap: gap["start_s"])


def test_the_gpu_is_idle_when_the_model_is(tmp_path: Path) -> None:
    """Edges by NVML lie within a sample period of those of llama_decode, and these at the shim's own."""
    gpus = SimulatedGpus(tmp_path / "gpus", period_s=PERIOD_S)
    with SearchServer(tmp_path, 0.5) as search:
        done = subprocess.run(
            [
                *(BIN / "whyidle", "run", "--json", tmp_path / "r.json", "--", BIN / "whyidle-agent", "run"),
                *("--search-url", search.url, "--loops", "5", "--seed", "1", "--workdir", tmp_path / "work"),
            ],
            env=os.environ | llama_gpu.environment(gpus),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    report = load(tmp_path / "r.json")
    report_schema.check(report)
    device = next(engine for engine in report["engines"] if engine["kind"] == "nvml")
    model = next(engine for engine in report["engines"] if engine["kind"] == "llama")
    assert (device["simulated"], model["simulated"]) == (True, False)
    assert device["pid"] == model["pid"]
    assert "nvml:0 (simulated)" in done.stdout
    assert device["memory_peak_bytes"] > 1_000_000  # the model's own bytes

    exact, seen = gaps_of(report, "llama"), gaps_of(report, "nvml")
    assert len(exact) >= 3
    for gap in exact:
        near = min(seen, key=lambda other: abs(other["start_s"] - gap["start_s"]))
        assert near["start_s"] == pytest.approx(gap["start_s"], abs=PERIOD_S)
        assert near["duration_s"] + near["start_s"] == pytest.approx(
            gap["duration_s"] + gap["start_s"], abs=PERIOD_S
        )

    truth = [(a[1] / 1e9, b[0] / 1e9) for a, b in pairwise(gpus[0].busy()) if b[0] - a[1] >= LEAST_S * 1e9]
    origin = median(start - gap["start_s"] for (start, _), gap in zip(truth, exact, strict=True))
    for (start, end), gap in zip(truth, exact, strict=True):
        assert gap["start_s"] + origin == pytest.approx(start, abs=EDGE_S)
        assert gap["start_s"] + gap["duration_s"] + origin == pytest.approx(end, abs=EDGE_S)


def test_the_model_computes_the_same_on_it(tmp_path: Path) -> None:
    """What stands in between changes nothing, also under another name: the same tokens."""
    code = (
        "from llama_cpp import Llama; from whyidle_agent.model_file import generated_model\n"
        "m = Llama(str(generated_model()), n_ctx=256, n_threads=1, seed=1, verbose=False)\n"
        "print([t for t, _ in zip(m.generate([1, 2, 3], temp=0.0), range(9))])"
    )
    gpus = SimulatedGpus(tmp_path / "gpus")
    environments = [{}, llama_gpu.environment(gpus), llama_gpu.environment(gpus, visible=False)]
    said = [
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | env, stdout=subprocess.PIPE, check=True
        ).stdout
        for env in environments
    ]
    assert said[0] == said[1] == said[2] != b""
    # The prompt and nine tokens, the last of which is not computed on: the same calls in both runs.
    assert gpus[0].edges % 4 == 0
    assert gpus[0].edges > 0
    assert gpus[0].processes == 0  # they have ended
