"""The private daemon of ``whyidle run``: started by the CLI itself when no system daemon answers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from whyidle_cli import connection
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
    """A user without a daemon gets status 3 and both ways out."""
    assert main(use(monkeypatch, tmp_path, "", user=1000)) == 3
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"whyidle: no daemon answers on {tmp_path}/none.sock (no such socket)\n")
    assert "run as root" in err
    assert "systemctl start whyidled" in err
