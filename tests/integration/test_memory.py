"""Memory that grows, foretold: the rate, and when the control group's limit is reached."""

from __future__ import annotations

import contextlib
import datetime
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import wait_until
from harness_cli import load, whyidle

pytestmark = pytest.mark.bpf
LIMIT = 160_000_000
CHUNK = 200_000

LEAK = f"""
import os, sys, time
with open(sys.argv[2], "w") as file:
    file.write(str(os.getpid()))
log = open(sys.argv[1], "w", buffering=1)
kept = []
began = time.monotonic()
while True:
    kept.append(bytearray(os.urandom(1)) * {CHUNK})
    print(time.time(), len(kept) * {CHUNK}, file=log)
    time.sleep(max(0.0, began + len(kept) * 0.025 - time.monotonic()))
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with a limit on memory, of whichever version this host has."""
    v2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    root = Path("/sys/fs/cgroup" if v2 else "/sys/fs/cgroup/memory")
    path = root / "whyidle-test-memory"
    try:
        path.mkdir(exist_ok=True)
        (path / ("memory.max" if v2 else "memory.limit_in_bytes")).write_text(str(LIMIT))
    except OSError as error:
        pytest.skip(f"no control group with a limit on memory can be made here: {error}")
    yield path

    def gone() -> bool:
        with contextlib.suppress(OSError):
            path.rmdir()
        return not path.exists()

    wait_until(gone, "the group to be removed")


def found(report: dict[str, Any], kind: str) -> dict[str, Any]:
    (one,) = [finding for finding in report["findings"] if finding["kind"] == kind]
    return one


def test_the_first_half_foretells_the_end(group: Path, tmp_path: Path) -> None:
    """The rate is within 5 % of the program's own account, the end within 10 % of when it is killed."""
    log, report = tmp_path / "log", tmp_path / "report.json"
    process = subprocess.Popen([sys.executable, "-c", LEAK, log, group / "cgroup.procs"])
    try:
        done = whyidle("attach", str(process.pid), "--duration", "9", "--json", report)
        assert done.returncode == 0, done.stderr
        assert process.poll() is None, "it was to live twice as long"
        process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
    lines = [line.split() for line in log.read_text().splitlines() if len(line.split()) == 2]
    steps = [(float(at), int(total)) for at, total in lines]
    told = load(report)
    began = datetime.datetime.fromisoformat(told["target"]["started_at"]).timestamp()
    until = began + told["target"]["duration_s"]
    seen = [step for step in steps if began <= step[0] <= until]
    truth = (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])
    growth, near = found(told, "memory_growth"), found(told, "memory_limit_near")
    killed = steps[-1][0]
    (tmp_path / "numbers").write_text(json.dumps([truth, growth, near, killed - steps[0][0]]))
    assert growth["growth_bytes_per_s"] == pytest.approx(truth, rel=0.05)
    assert near["limit"]["scope"] == "cgroup"
    assert near["limit"]["limit_bytes"] == pytest.approx(LIMIT, abs=4096)
    assert until < killed
    error = (began + near["limit_at_s"] - killed) / (killed - steps[0][0])
    print(f"rate {growth['growth_bytes_per_s'] / truth - 1:+.2%}, end {error:+.2%}")
    assert abs(error) <= 0.10
