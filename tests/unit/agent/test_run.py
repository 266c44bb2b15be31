"""How a run ends: what it says of itself where it is interrupted late, and where there is no room."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent_fakes import ScriptedBrain

from whyidle_agent import run as run_module
from whyidle_agent.errors import AgentError
from whyidle_agent.history import HistoryFile
from whyidle_agent.loop import Agent
from whyidle_agent.main import main

WRITE = {"tool": "write_file", "thought": "note", "name": "a.txt", "text": "body"}
FINISH = {"tool": "finish", "thought": "done", "answer": "42"}


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a run of two steps, with an account, whose model is scripted."""
    brain = ScriptedBrain(WRITE, FINISH)
    brain.model, brain.close = "scripted", lambda: None  # type: ignore[attr-defined]
    monkeypatch.setattr(run_module, "ServerBrain", lambda *_: brain)
    (tmp_path / "account").mkdir()
    stats = str(tmp_path / "account" / "stats.json")
    return ["run", "--brain-url", "http://127.0.0.1:9", "--workdir", str(tmp_path / "work"), "--stats", stats]


def after(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, then: Callable[[], None]) -> None:
    """Have `then` happen when the method has done its work."""
    real = getattr(owner, name)

    def both(*given: Any, **named: Any) -> None:
        real(*given, **named)
        then()

    monkeypatch.setattr(owner, name, both)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_ctrl_c_after_the_last_step_is_not_an_interruption(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is not to be done again: it ended, whatever came while it was cleaned up."""
    after(monkeypatch, Agent, "run", interrupt)
    assert main(command) == 0
    assert json.loads((tmp_path / "account" / "stats.json").read_text())["outcome"] == "finished"


@pytest.mark.parametrize("error", [AgentError("cannot use the memory store", "x"), OSError(5, "I/O error")])
def test_what_fails_after_the_last_step_is_only_said(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, capsys: Any
) -> None:
    """The task is done; to fail the run would have it done again."""

    def fail() -> None:
        raise error

    after(monkeypatch, Agent, "run", fail)
    assert main(command) == 0
    assert json.loads((tmp_path / "account" / "stats.json").read_text())["outcome"] == "finished"
    assert str(error) in capsys.readouterr().out


def test_an_account_of_another_run_is_not_taken_for_this_ones(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes before the run begins: one that cannot save its own has none."""
    account = tmp_path / "account" / "stats.json"
    account.write_text("{}")
    seen: list[bool] = []
    after(monkeypatch, HistoryFile, "__init__", lambda: seen.append(account.exists()))
    assert main(command) == 0
    assert seen == [False]
    assert json.loads(account.read_text())["outcome"] == "finished"


def test_an_account_without_room_does_not_fail_a_run_that_ended(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder has gone meanwhile: it is said, and the run is the success that it was."""
    after(monkeypatch, Agent, "run", (tmp_path / "account").rmdir)
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "cannot write" in out
    assert "finished: 2 steps" in out


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_said_where_it_matters(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A history that cannot be written ends the run; that its account cannot either does not hide why."""
    after(monkeypatch, HistoryFile, "__init__", (tmp_path / "account").rmdir)
    monkeypatch.setattr("whyidle_agent.history.os.fdatasync", full)
    assert main(command) == 1
    what, todo = capsys.readouterr().err.splitlines()
    assert what.endswith("history.jsonl: No space left on device")
    assert "make room" in todo


@pytest.mark.parametrize("arguments", [["run", "--small", "--loops", "1"], ["model", "--path"]])
def test_no_room_for_what_is_printed_is_one_clear_error(tmp_path: Path, arguments: list[str]) -> None:
    """`> /dev/full`: two lines and status 1, whichever command."""
    where = ["--workdir", str(tmp_path)] if arguments[0] == "run" else [str(tmp_path / "m.gguf")]
    with Path("/dev/full").open("w") as out:
        ended = subprocess.run(
            [sys.executable, "-m", "whyidle_agent.main", *arguments, *where],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "WHYIDLE_CACHE": str(tmp_path / "cache")},
            check=False,
        )
    assert ended.returncode == 1
    what, todo = ended.stderr.splitlines()
    assert "No space left on device" in what
    assert "make room" in todo
