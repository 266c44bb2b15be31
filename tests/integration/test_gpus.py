"""A job observed for real on a simulated GPU: gaps within a sample period, the same from a recording."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import report_schema

from harness_cli import load, whyidle
from simulators import nvml as simulator
from simulators.nvml import SimulatedGpus

pytestmark = pytest.mark.bpf

JOB = Path(simulator.__file__).with_name("gpu_job.py")
PERIOD_S = 0.1


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedGpus:
    """Two, the second of which nobody uses."""
    made = SimulatedGpus(tmp_path / "gpus", 2, PERIOD_S)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


def serve(server: socket.socket, wait_s: float) -> None:
    connection, _ = server.accept()
    with connection:
        while connection.recv(1):
            time.sleep(wait_s)
            connection.send(b"x")


def observed(
    tmp_path: Path, rounds: int, busy_s: float, wait_s: float
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Report, truth and text of a job whose server is not observed."""
    live, recording = tmp_path / "live.json", tmp_path / "a.rec"
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server, wait_s), daemon=True).start()
        job = [sys.executable, JOB, str(rounds), str(busy_s), str(server.getsockname()[1])]
        ran = whyidle("run", "--json", live, "--record", recording, "--", *job)
    assert ran.returncode == 0, ran.stderr
    report = load(live)
    report_schema.check(report)
    told = whyidle("report", recording, "--json")
    assert json.loads(told.stdout) == report
    return report, json.loads(ran.stdout.splitlines()[0]), ran.stdout


def test_gaps_with_nvml_alone_are_within_a_sample_period(gpus: SimulatedGpus, tmp_path: Path) -> None:
    """Four searches of 0.5 s between works of 0.4 s: each gap is found, and blamed on the search."""
    report, truth, text = observed(tmp_path, 4, 0.4, 0.5)
    (engine,) = report["engines"]
    assert (engine["kind"], engine["id"], engine["pid"]) == ("nvml", "nvml:0", truth["pid"])
    assert engine["simulated"]
    assert engine["memory_peak_bytes"] == 5 << 30
    assert [gpu["id"] for gpu in report["host"]["gpus"]] == ["nvml:0", "nvml:1"]
    assert "(simulated)" in text
    lengths = [(end - start) / 1e9 for start, end in truth["gaps"]]
    inner = sorted((g for g in report["gaps"] if g["duration_s"] > 0.3), key=lambda g: g["start_s"])[-4:]
    # Report times have another zero than the truth: distances between edges are compared, with two errors.
    for gap, length in zip(inner, lengths, strict=True):
        assert abs(gap["duration_s"] - length) <= 2 * PERIOD_S
        assert 0 < gap["start_uncertainty_s"] <= PERIOD_S + 0.001
        assert gap["causes"][0]["state"] == "network"
        assert gap["causes"][0]["function"] == "search"
    starts = [start / 1e9 for start, _ in truth["gaps"]]
    for start, gap in zip(starts, inner, strict=True):
        assert abs((gap["start_s"] - inner[0]["start_s"]) - (start - starts[0])) <= 2 * PERIOD_S
    found = next(f for f in report["findings"] if f["kind"] == "blocking_network_call")
    assert found["function"] == "search"
    assert found["engine_idle_s"] == pytest.approx(sum(lengths), abs=4 * PERIOD_S)


def test_many_small_gaps_are_found_as_well(gpus: SimulatedGpus, tmp_path: Path) -> None:
    """25 ms of work, 25 ms of search, 40 times: no gap is seen, the search is still blamed."""
    report, truth, text = observed(tmp_path, 40, 0.025, 0.025)
    (engine,) = report["engines"]
    idle = sum(end - start for start, end in truth["gaps"]) / 1e9
    assert engine["idle_scattered_s"] >= idle / 2
    assert "of idle in small gaps" in text
    # While the simulated GPU works its thread sleeps: half of the small gaps may count as that.
    found = next(f for f in report["findings"] if f["kind"] == "blocking_network_call")
    assert found["peer"]["address"] == "127.0.0.1"
    assert found["engine_idle_s"] >= idle / 4


def test_doctor_lists_the_gpus(gpus: SimulatedGpus) -> None:
    """Name, memory and driver of each, and that it is simulated."""
    told = whyidle("doctor", "--json")
    (check,) = [check for check in json.loads(told.stdout)["checks"] if check["name"] == "nvml"]
    assert check["status"] == "ok"
    assert check["detail"].count("Simulated GPU, 85.9 GB") == 2
    assert "simulated" in check["detail"]
    gpus.state.driver_error = simulator.DRIVER_NOT_LOADED
    told = whyidle("doctor", "--json")
    (check,) = [check for check in json.loads(told.stdout)["checks"] if check["name"] == "nvml"]
    assert check["status"] == "warning"
    assert "Driver Not Loaded" in check["detail"]
