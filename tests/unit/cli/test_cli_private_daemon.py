"""The private daemon of ``whyidle run``: started by the CLI itself when no system daemon answers."""

from __future__ import annotations

import grp
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import pytest

from whyidle_cli import connection, errors
from whyidle_cli.main import main

SPEAKS = """
import socket, sys
sys.path.insert(0, {here!r})
from fake_daemon import Wire
wire = Wire(socket.socket(fileno=int(sys.argv[sys.argv.index("--connection-fd") + 1])))
open({pid!r}, "w").write(str(__import__("os").getpid()))
wire.welcome()
wire.observing()
wire.report()
wire.wait_for_end()
"""


def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, *, user: int = 0) -> list[str]:
    """Make ``code`` the private daemon; returns the arguments of a run."""
    program = tmp_path / "daemon.py"
    program.write_text(code)
    monkeypatch.setattr(connection, "DAEMON", [sys.executable, str(program)])
    monkeypatch.setattr(os, "geteuid", lambda: user)
    return ["run", "--socket", str(tmp_path / "none.sock"), "--", "sh", "-c", "echo ran; exit 9"]


def test_private_daemon(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As root, without a system daemon, one is started, used, and gone afterwards."""
    here, pid = str(Path(__file__).parent), str(tmp_path / "pid")
    arguments = use(monkeypatch, tmp_path, SPEAKS.format(here=here, pid=pid))
    assert main(arguments) == 9
    out, err = capfd.readouterr()
    assert out.startswith("ran\n")
    assert "FINDINGS" in out
    assert err == ""
    assert not Path("/proc", Path(pid).read_text()).exists()


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        (
            "import sys; sys.exit('noise\\n\\nwhyidled: this kernel has no BTF\\n  boot one that has')",
            1,
            "whyidle: the private daemon ended with status 1: boot one that has\n",
        ),
        (
            "import sys; sys.stderr.write('noise\\nwhyidled: this kernel has no BTF\\n');"
            "sys.stderr.write('  boot one that has\\n'); sys.exit(3)",
            3,
            "whyidle: this kernel has no BTF\n  boot one that has\n",
        ),
        ("import sys; sys.exit(3)", 3, "whyidle: this host cannot run the daemon\n"),
        ("import os; os.kill(os.getpid(), 9)", 1, "whyidle: the private daemon ended with status 137\n"),
        (
            "raise ValueError('boom')",
            1,
            "whyidle: the private daemon ended with status 1: ValueError: boom\n",
        ),
    ],
)
def test_private_daemon_that_fails(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    code: str,
    status: int,
    message: str,
) -> None:
    """Its last words are shown, status 3 stays 3, all else is 1, and the command never runs."""
    assert main(use(monkeypatch, tmp_path, code)) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(message)
    assert len(err.splitlines()) == 2


def test_neither_root_nor_daemon(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A user without a daemon gets status 3 and both ways out, of a host with the service and without."""
    unit = tmp_path / "unit"
    monkeypatch.setattr(errors, "_UNIT", unit)
    assert main(use(monkeypatch, tmp_path, "", user=1000)) == 3
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"whyidle: no daemon answers on {tmp_path}/none.sock (no such socket)\n")
    assert "run as root" in err
    assert "sudo whyidle install" in err
    unit.touch()
    assert main(use(monkeypatch, tmp_path, "", user=1000)) == 3
    assert "systemctl status whyidled" in capfd.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can give files away")
def test_a_socket_that_is_not_for_this_user(tmp_path: Path) -> None:
    """The group to join is named, but for root's, which nobody should join."""
    socket = tmp_path / "s"
    socket.touch()
    os.chown(socket, -1, 0)
    assert errors.SocketForbidden(socket).hint == "run as root"
    group = grp.getgrall()[-1]
    os.chown(socket, -1, group.gr_gid)
    assert f"sudo usermod -aG {group.gr_name} " in errors.SocketForbidden(socket).hint


class Unending:
    """A process whose end the kernel does not let come: it holds a probe that cannot be taken off."""

    returncode: int | None = None
    signals: list[str]

    def __init__(self) -> None:
        self.signals = []

    def wait(self, timeout: float | None = None) -> int:
        assert timeout is not None, "for ever"
        raise subprocess.TimeoutExpired("whyidled", timeout)

    def kill(self) -> None:
        self.signals.append("SIGKILL")


def test_one_that_cannot_end_is_not_waited_for() -> None:
    """It is killed, and what is left of it is the kernel's; the command has its report and goes."""
    process = Unending()
    connection._end(cast("Any", process))
    assert process.signals == ["SIGKILL"]
    with tempfile.TemporaryFile() as log:
        error = connection._last_words(cast("Any", process), log)
    assert "status 137" in str(error)
