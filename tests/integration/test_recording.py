"""Recordings of real observations: the same report later, after a crash too, and no file lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import report_schema

from harness import SELF_SERVED, Program, wait_until
from harness_cli import Daemon, load, whyidle
from whyidle_wire.records import Ended, Failure, FailureCode, Finish, Observe, Observing, Report

pytestmark = pytest.mark.bpf

AGENT = (
    SELF_SERVED
    + """
import subprocess
for _ in range(10):
    c.send(b"q"); c.recv(64)
    sum(range(200000))
subprocess.run(["sleep", "0.1"])
"""
)


def test_report_of_a_recording_is_the_live_report(tmp_path: Path) -> None:
    """``whyidle report`` says, field by field and line by line, what ``whyidle run`` said."""
    recording, live, again = tmp_path / "a.rec", tmp_path / "live.json", tmp_path / "again.json"
    ran = whyidle("run", "--json", live, "--record", recording, "--", sys.executable, "-c", AGENT)
    assert ran.returncode == 0, ran.stderr
    told = whyidle("report", recording, "--json", again)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout == ran.stdout
    report = load(again)
    assert report == load(live)
    assert report["recording"] == {"complete": True, "reason": None}
    report_schema.check(report)
    assert len(report["processes"]) >= 2
    assert recording.stat().st_mode & 0o7777 == 0o600
    assert whyidle("report", recording, "--json").stdout == again.read_text()


def test_attach_records_too(tmp_path: Path) -> None:
    """``whyidle attach --record`` with a relative name writes where the user is, not where the daemon is."""
    with subprocess.Popen(["/bin/sleep", "60"]) as sleeper:
        try:
            done = subprocess.run(
                [
                    *(sys.executable, "-P", "-m", "whyidle_cli.main", "attach", str(sleeper.pid)),
                    *("--duration", "0.3", "--record", "a b.rec", "--json", "live.json"),
                ],
                cwd=tmp_path,
                timeout=60,
                capture_output=True,
                check=False,
            )
        finally:
            sleeper.kill()
    assert done.returncode == 0, done.stderr
    assert json.loads(whyidle("report", "--json", tmp_path / "a b.rec").stdout) == load(
        tmp_path / "live.json"
    )


def test_killed_daemon_leaves_a_readable_recording(tmp_path: Path) -> None:
    """After kill -9 of the daemon the report covers all but the last seconds, and says that it is cut off."""
    program = Program("import time\nwhile True: time.sleep(0.01)")
    recording = tmp_path / "a.rec"
    try:
        with Daemon(tmp_path) as daemon, daemon.client() as client:
            client.send(Observe(1, program.pid, ("agent",), 0.0, str(recording)))
            assert isinstance(client.receive(20), Observing)
            program.go()

            def two_checkpoints() -> bool:
                done = whyidle("report", recording, "--json")
                return done.returncode == 0 and json.loads(done.stdout)["target"]["duration_s"] > 2

            wait_until(two_checkpoints, "a recording of 2 s")
            daemon.kill()
    finally:
        program.close()
    done = whyidle("report", recording, "--json", tmp_path / "r.json")
    assert done.returncode == 0
    assert "not complete" in done.stderr
    report = load(tmp_path / "r.json")
    report_schema.check(report)
    assert not report["recording"]["complete"]
    (thread,) = report["threads"]
    assert thread["pid"] == program.pid
    assert thread["states"]["sleep"] > 0.5 * thread["wall_s"]
    assert sum(thread["states"].values()) == pytest.approx(thread["wall_s"], rel=0.001)


def test_daemon_has_the_last_word(tmp_path: Path) -> None:
    """Paths that only the daemon can judge come back as a Failure; without one the observation runs."""
    program = Program("pass")
    (tmp_path / "exists").touch()
    try:
        with Daemon(tmp_path) as daemon, daemon.client() as client:
            for path in (str(tmp_path / "exists"), "relative", "/proc/nothing", str(tmp_path), "/\0"):
                client.send(Observe(1, program.pid, (), 0.0, path))
                answer = client.receive(20)
                assert isinstance(answer, Failure)
                assert answer.code == FailureCode.BAD_REQUEST
                assert "cannot record" in answer.message
                assert answer.hint
            gone = tmp_path / "gone.rec"
            client.send(Observe(2, 2**22 + 1, (), 0.0, str(gone)))
            assert isinstance(client.receive(20), Failure)
            assert not gone.exists()
            client.send(Observe(3, program.pid, (), 0.0))
            observing = client.receive(20)
            assert isinstance(observing, Observing)
            program.go()
            assert program.join() == 0
            assert isinstance(client.receive(20), Ended)
            client.send(Finish(observing.observation))
            answer = client.receive(20)
            assert isinstance(answer, Report)
            assert "recording" not in answer.report
    finally:
        program.close()
