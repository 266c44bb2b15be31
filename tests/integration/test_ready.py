"""What the service manager is told when it is told that the daemon is ready."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from harness import PATIENCE
from harness_cli import Daemon

pytestmark = pytest.mark.bpf


def links(pid: int) -> int:
    """How many probes a process holds attached, as the kernel says."""
    found = 0
    for file in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found += "link_type:" in file.read_text()
    return found


def test_ready_comes_after_the_probes_are_attached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In that moment all that a daemon without targets ever attaches is attached, and it answers."""
    notify = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(notify))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(notify))
        channel.settimeout(60 * PATIENCE)
        with Daemon(tmp_path, wait=False) as daemon:
            said = channel.recv(4096).decode()
            attached = links(daemon.process.pid)
            assert said.startswith("READY=1\n")
            assert "STATUS=probes attached" in said
            with daemon.client():
                assert attached == links(daemon.process.pid) > 5
