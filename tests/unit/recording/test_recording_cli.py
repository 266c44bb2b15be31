"""``whyidle report`` as a user runs it, and ``--record`` up to the daemon: neither needs one, nor root."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import recording_samples as samples

from whyidle_daemon.recording.blocks import file_header

WHYIDLE = [sys.executable, "-P", "-m", "whyidle_cli.main"]


def whyidle(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run it; names may hold any byte."""
    return subprocess.run(
        [os.fsencode(part) for part in (*WHYIDLE, *arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )


def test_text_and_json(tmp_path: Path) -> None:
    """The text, the JSON in its place, and both; the JSON is what the live observation reported."""
    live = samples.record(tmp_path / "a.rec")
    text = whyidle("report", tmp_path / "a.rec")
    assert (text.returncode, text.stderr) == (0, "")
    assert "The model was idle" in text.stdout
    assert "\x1b" not in text.stdout
    plain = json.loads(json.dumps(live))
    for arguments in ((tmp_path / "a.rec", "--json"), ("--json", tmp_path / "a.rec")):
        assert json.loads(whyidle("report", *arguments).stdout) == plain
    both = whyidle("report", tmp_path / "a.rec", "--json", tmp_path / "r.json")
    assert both.stdout == text.stdout
    assert json.loads((tmp_path / "r.json").read_text()) == plain


def test_cut_recording_says_so_and_reports(tmp_path: Path) -> None:
    """A recording that ends early is a report with status 0, and two lines on standard error."""
    samples.record(tmp_path / "a.rec", finish=False)
    done = whyidle("report", tmp_path / "a.rec")
    assert done.returncode == 0
    assert "The model was idle" in done.stdout
    assert len(done.stderr.splitlines()) == 2
    assert "not complete" in done.stderr


@pytest.mark.parametrize("name", ["a\nb", "a\x1b]0;title\x07b", "a\u202eb", "-x", "a\udcffb", "--json"])
def test_names_never_reach_the_terminal_raw(tmp_path: Path, name: str) -> None:
    """A file name with control characters is named without them, and one like an option is a name."""
    (tmp_path / name).write_bytes(b"no recording")
    done = whyidle("report", "--", name, cwd=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", done.stderr)
    assert "is not a whyidle recording" in done.stderr


def test_what_there_is_nothing_to_report_of(tmp_path: Path) -> None:
    """No file is wrong usage; a missing, empty, newer or special one is one error with a next step."""
    assert whyidle("report").returncode == 2
    (tmp_path / "empty").touch()
    (tmp_path / "newer").write_bytes(file_header(version=7))
    os.mkfifo(tmp_path / "fifo")
    table = {
        "none": "No such file",
        "empty": "is empty",
        "newer": "newer whyidle",
        ".": "it is a directory",
        "fifo": "no regular file",
    }
    for name, words in table.items():
        done = whyidle("report", tmp_path / name)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 2)
        assert words in done.stderr


def test_bad_output_is_refused_first(tmp_path: Path) -> None:
    """A place where the JSON cannot go is an error before the recording is read."""
    done = whyidle("report", tmp_path / "none.rec", "--json", tmp_path / "none" / "r.json")
    assert done.returncode == 1
    assert "r.json" in done.stderr


@pytest.mark.parametrize("name", ["exists", "link", ".", "none/a.rec", "a\udcffb"])
@pytest.mark.parametrize("command", ["run", "attach"])
def test_record_is_refused_before_anything_runs(tmp_path: Path, command: str, name: str) -> None:
    """What exists, what has no folder and what no message can name never reaches the daemon."""
    (tmp_path / "exists").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    what = ("--", "touch", tmp_path / "ran") if command == "run" else (str(os.getpid()),)
    done = whyidle(command, "--socket", tmp_path / "none.sock", "--record", tmp_path / name, *what)
    first, second = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert first.startswith("whyidle: cannot record to ")
    assert second.startswith("  ")
    assert (tmp_path / "exists").read_text() == "precious"
    assert not (tmp_path / "ran").exists()
