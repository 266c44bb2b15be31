"""The unit files say what they should, and expose little."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from whyidle_cli.installer.install import _DROP_IN
from whyidle_cli.installer.layout import CURRENT, SERVICE, SOCKET
from whyidle_daemon import privileges
from whyidle_daemon.config import MAX_THREADS
from whyidle_probes.structs import SIZES
from whyidle_wire.client import DEFAULT_SOCKET

FOLDER = Path(__file__).parents[3] / "systemd"
MOST_EXPOSURE = 4.0

needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (package systemd)"
)


def values(unit: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", (FOLDER / unit).read_text(), re.MULTILINE)


@needs_analyze
@pytest.mark.parametrize("drop_in", ["", _DROP_IN], ids=["as shipped", "on a kernel before 6.6"])
def test_exposure(tmp_path: Path, drop_in: str) -> None:
    """``systemd-analyze security`` gives at most 4.0 of 10 (tracing daemons without hardening: 9.6)."""
    unit = tmp_path / SERVICE
    unit.write_text((FOLDER / SERVICE).read_text().replace("[Install]", drop_in + "[Install]"))
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", unit],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSURE


@needs_analyze
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    """``systemd-analyze verify`` has nothing to say about a key or a value."""
    program = tmp_path / "whyidled"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in (SERVICE, SOCKET):
        text = (FOLDER / name).read_text().replace(f"{CURRENT}/bin/whyidled", str(program))
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / SERVICE, tmp_path / SOCKET],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_each_capability_is_explained() -> None:
    """What the unit grants is what the daemon keeps and what it needs to start, each with its reason."""
    granted = set(" ".join(values(SERVICE, "CapabilityBoundingSet")).split())
    assert granted == {*privileges.KEPT, "CAP_SETPCAP", "CAP_SYS_RESOURCE"}
    comments = " ".join(
        line for line in (FOLDER / SERVICE).read_text().splitlines() if line.startswith("#   CAP_")
    )
    assert {name for name in granted if name in comments} == granted
    assert set(privileges.kept(False)) - set(privileges.KEPT) == {"CAP_SYS_ADMIN"}
    assert "CapabilityBoundingSet=CAP_SYS_ADMIN" in _DROP_IN


def test_the_pieces_fit() -> None:
    """Socket, program and directories are those that the programs use."""
    assert values(SOCKET, "ListenStream") == [str(DEFAULT_SOCKET)]
    assert values(SERVICE, "ExecStart") == [f"{CURRENT}/bin/whyidled"]
    assert values(SERVICE, "Type") == ["notify"]
    for key in ("WatchdogSec", "MemoryMax", "CPUQuota", "TasksMax", "LimitNOFILE"):
        assert values(SERVICE, key), key
    for key in ("RuntimeDirectory", "StateDirectory", "ConfigurationDirectory", "Group"):
        assert values(SERVICE, key) == ["whyidle"], key
    assert (values(SOCKET, "SocketMode"), values(SOCKET, "SocketGroup")) == (["0660"], ["whyidle"])


def test_the_most_threads_fit() -> None:
    """Into the unit's limit of memory, while bcc compiles and has made the maps as well."""
    entry = 48 + 8 + SIZES["wi_thread"] + 16  # the kernel's struct htab_elem, the key, and a bucket
    loader, daemon = 250 << 20, 60 << 20
    (limit,) = values(SERVICE, "MemoryMax")
    assert limit.endswith("M")
    assert 2 * MAX_THREADS * entry + loader + daemon <= int(limit[:-1]) << 20


def test_gpus_whose_driver_comes_later_are_seen() -> None:
    """systemd resolves names of devices once, when the service starts; a number needs no driver."""
    assert values(SERVICE, "DeviceAllow") == ["char-195 rw"]
