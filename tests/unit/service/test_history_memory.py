"""A report over more of the history than there is memory for: one line that says what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from whyidle_daemon.history import __main__ as module
from whyidle_daemon.history.store import FOLDER

LIMITED = """
import resource, runpy, sys
from whyidle_daemon import replay
sys.argv = ["history", "--state", sys.argv[1], "--since-s", "60"]
try:
    runpy.run_module("whyidle_daemon.history", run_name="__main__")
except SystemExit:
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == replay.MAX_MEMORY
    print("limited")
"""


def test_too_much_to_report_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A week of thirty targets: each part's report is kept until all are there."""

    def report(path: Path) -> dict[str, Any]:
        raise MemoryError

    monkeypatch.setattr(module, "report", report)
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "20270115T080000Z-1-1.rec").touch()
    assert module.main(["--state", str(tmp_path), "--since-s", "1e12", "--unit", "x"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["situation"] == "TooMuchHistory"
    assert (
        error["message"] == "what the history has of unit x in that time takes too much memory for one report"
    )
    assert "--since" in error["hint"]


def test_the_program_has_a_limit(tmp_path: Path) -> None:
    """The same as of one recording's report: the host's memory is not this program's."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "limited"
