"""The command line itself: help, version, schema, doctor, the exit statuses that all share."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_daemon import COMMAND

from whyidle_cli.commands import doctor
from whyidle_cli.main import COMMANDS, main
from whyidle_wire.schema import schema_text

DIAGNOSIS = {
    "checks": [
        {"name": "kernel", "status": "ok", "detail": "6.18.5", "fix": None, "needed_for": "everything"},
        {
            "name": "bcc",
            "status": "missing",
            "detail": "python3-bpfcc is not installed " + "for /usr/bin/python3 " * 5,
            "fix": "apt-get install python3-bpfcc",
            "needed_for": "loading the probes",
        },
        {
            "name": "nvml",
            "status": "warning",
            "detail": "no GPU\x1b[2J",
            "fix": None,
            "needed_for": "GPU activity",
        },
    ],
    "can_run": False,
}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["run", "--nonsense"],
        ["watch", "--js"],
        ["watch", "--pid", "99999999999999999999"],
        ["watch", "--pid", "0"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage is status 2 with the usage on standard error."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: whyidle" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command has a help with examples that fits 81 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"] if command else ["--help"])
    out = capsys.readouterr().out
    assert caught.value.code == 0
    assert "example" in out
    assert f"whyidle {command}".strip() in out
    assert max(map(len, out.splitlines())) <= 81


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the name and the version."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("whyidle ")


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    """schema prints the document that is shipped."""
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == schema_text()


@pytest.mark.parametrize(("closed", "said"), [(">&-", False), ("2>&-", True), ("<&- >&- 2>&-", False)])
def test_closed_descriptors(closed: str, said: bool) -> None:
    """A parent that closed them gets nothing, and nothing of ours is written to in their place."""
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    done = subprocess.run([*shell, *COMMAND, "schema"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (schema_text() if said else "")


def use_doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    program = tmp_path / "doctor.py"
    program.write_text(code)
    monkeypatch.setattr(doctor, "DOCTOR", [sys.executable, str(program), "--json"])


def test_doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each check is shown, what is not well with its fix, and a host that cannot run gives status 3."""
    use_doctor(monkeypatch, tmp_path, f"print({json.dumps(DIAGNOSIS)!r})")
    assert main(["doctor"]) == 3
    out = capsys.readouterr().out
    assert "✓ kernel" in out
    assert "✗ bcc" in out
    assert "fix: apt-get install python3-bpfcc" in out
    assert "needed for: GPU activity" in out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80
    assert main(["doctor", "--json"]) == 3
    assert json.loads(capsys.readouterr().out) == DIAGNOSIS


def test_doctor_of_a_good_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A host that can run gives status 0, whatever status the doctor itself had."""
    good = {**DIAGNOSIS, "can_run": True}
    use_doctor(monkeypatch, tmp_path, f"print({json.dumps(good)!r}); raise SystemExit(3)")
    assert main(["doctor"]) == 0
    assert "This host can run whyidle." in capsys.readouterr().out
    use_doctor(monkeypatch, tmp_path, f"print({json.dumps({**good, 'served': True})!r})")
    assert main(["doctor"]) == 0
    assert "The service answers you" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ImportError('no such thing')", "ended with status 1: ImportError: no such thing"),
        ("print('{}')", "ended with status 0"),
        ("print('[1]')", "ended with status 0"),
        ('print(\'{"can_run": true, "checks": [1]}\')', "unexpected answer"),
    ],
)
def test_doctor_that_fails(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    code: str,
    words: str,
) -> None:
    """A doctor that says nothing usable is an error with status 1, its last words, and what to do."""
    use_doctor(monkeypatch, tmp_path, code)
    assert main(["doctor"]) == 1
    assert words in capsys.readouterr().err
