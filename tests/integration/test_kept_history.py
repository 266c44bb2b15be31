"""The daemon keeps what it observes, in parts, and says for how long it was blind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import report_schema

from harness import SELF_SERVED, wait_until
from harness_cli import Daemon, whyidle
from whyidle_daemon.history.store import parts

pytestmark = pytest.mark.bpf

# A part is cut after 0.6 s, so that the test sees several.
CONFIG = """
[history]
part_minutes = 0.01
[discovery]
defaults = false
[[discovery.rule]]
name = "m"
command = ["*{mark}*"]
"""
CODE = (
    SELF_SERVED
    + """
def search_web():
    c.send(b"q"); c.recv(64)
while True:
    search_web()
"""
)


def history(state: Path, *arguments: str) -> dict[str, Any]:
    done = whyidle("report", "--since", "1h", "--state", state, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def agent(tmp_path: Path) -> Any:
    with subprocess.Popen([sys.executable, "-c", CODE, f"mark-{tmp_path.name}"]) as running:
        yield running
        running.kill()


def daemon(tmp_path: Path) -> Daemon:
    (tmp_path / "state").mkdir(exist_ok=True)
    return Daemon(
        tmp_path,
        config=CONFIG.format(mark=f"mark-{tmp_path.name}"),
        arguments=["--state", tmp_path / "state"],
    )


def whole_parts(state: Path) -> int:
    return sum(part.size > 1000 for part in parts(state / "recordings"))


def test_one_report_over_several_parts(tmp_path: Path, agent: subprocess.Popen[bytes]) -> None:
    """Cut while the process waits and runs, the parts add up to what was there: time, states, the finding."""
    state = tmp_path / "state"
    with daemon(tmp_path):
        wait_until(lambda: whole_parts(state) >= 5, "some parts", 60)
    files = parts(state / "recordings")
    report = history(state, "--pid", str(agent.pid))
    report_schema._VALIDATOR.validate(report)
    assert report["parts"] >= 5
    assert report["recording"] == {"complete": True, "reason": None}
    assert report["loss"]["seconds_blind"] == 0
    (main,) = [t for t in report["threads"] if t["tid"] == agent.pid]
    # Nothing is missed between two parts: the thread's time is the time from the first to the last.
    assert main["wall_s"] == pytest.approx(report["target"]["duration_s"], rel=0.02)
    assert sum(main["states"].values()) == pytest.approx(main["wall_s"], rel=1e-3)
    assert main["states"]["network"] > 0.8 * main["wall_s"]
    finding = next(f for f in report["findings"] if f["kind"] == "blocking_network_call")
    assert finding["function"] == "search_web"
    assert finding["blocked_s"] == pytest.approx(main["states"]["network"], rel=0.05)
    one = json.loads(whyidle("report", files[2].path, "--json").stdout)
    assert one["threads"][0]["wall_s"] < main["wall_s"] / 2
    assert whyidle("report", "--since", "1h", "--state", state, "--pid", "1").returncode == 1
    text = whyidle("report", "--since", "1h", "--state", state).stdout
    assert "search_web()" in text


def test_killed_and_started_again(tmp_path: Path, agent: subprocess.Popen[bytes]) -> None:
    """SIGKILL loses the last seconds of a part; the time without a daemon is in the report."""
    state = tmp_path / "state"
    first = daemon(tmp_path)
    wait_until(lambda: whole_parts(state) >= 2, "some parts", 60)
    first.kill()
    with daemon(tmp_path) as second:
        before = len(parts(state / "recordings"))
        wait_until(lambda: len(parts(state / "recordings")) >= before + 2, "more parts", 60)
        report = history(state)  # also while it is being written
        assert second.process.poll() is None
    blind = report["loss"]["seconds_blind"]
    started = [t["started_at"] for t in report["target"]["targets"]]
    assert len(started) == 1
    # The beat is at most a second older than the death; then the new one has to load its probes.
    assert 0.2 < blind < report["target"]["duration_s"]
    (main,) = [t for t in report["threads"] if t["tid"] == agent.pid]
    assert main["wall_s"] + blind == pytest.approx(report["target"]["duration_s"], abs=3.1)


def test_a_client_leaves_no_hole(tmp_path: Path, agent: subprocess.Popen[bytes]) -> None:
    """While somebody is attached to it, what was found is kept as well."""
    state = tmp_path / "state"
    with daemon(tmp_path) as running:
        wait_until(lambda: whole_parts(state) >= 1, "a part", 60)
        attached = whyidle("attach", str(agent.pid), "--duration", "1.5", "--socket", running.socket)
        assert attached.returncode == 0, attached.stderr
    report = history(state)
    (main,) = [t for t in report["threads"] if t["tid"] == agent.pid]
    assert main["wall_s"] == pytest.approx(report["target"]["duration_s"], abs=0.5)


def fill(path: Path) -> None:
    """Take all the room that is left."""
    with path.open("wb", 0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_full_disk(tmp_path: Path, agent: subprocess.Popen[bytes]) -> None:
    """The history ends, the observation does not, and room that comes back is used."""
    state = tmp_path / "state"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", state], check=True)
    try:
        with daemon(tmp_path) as running:
            filler = state / "filler"
            wait_until(lambda: whole_parts(state) >= 1, "a part", 60)
            fill(filler)
            count = len(parts(state / "recordings"))
            listed = whyidle("ps", "--json", "--socket", running.socket)
            assert str(agent.pid) in listed.stdout
            wait_until(lambda: len(parts(state / "recordings")) > count, "it to try again")
            for path in [filler, *(part.path for part in parts(state / "recordings"))]:
                path.unlink()
            wait_until(lambda: whole_parts(state) >= 1, "parts again", 60)
            os.kill(running.process.pid, signal.SIGTERM)
            assert running.process.wait(timeout=20) == 0
    finally:
        subprocess.run(["umount", state], check=True)
