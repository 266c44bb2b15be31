"""The unit's filter of system calls lets through what the daemon does, and stops what it never should do."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_metrics_endpoint import port_of, scrape

from harness import wait_until
from harness_cli import Daemon, whyidle

pytestmark = [
    pytest.mark.bpf,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="package systemd is not installed"),
]

UNIT = Path(__file__).parents[2] / "systemd" / "whyidled.service"
CONFIG = """
[metrics]
listen = "127.0.0.1:0"
[history]
part_minutes = 0.02
[discovery]
defaults = false
[[discovery.rule]]
name = "m"
command = ["*{mark}*"]
holds_gpu = false
"""
CODE = "import time\ndef nap(): time.sleep(0.02)\nwhile True: nap()"
NEVER = {"ptrace", "mount", "init_module", "kexec_load", "reboot", "swapon", "settimeofday", "iopl"}


def members(name: str) -> set[str]:
    """The system calls of a set, and of the sets in it."""
    if not name.startswith("@"):
        return {name}
    done = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", name], capture_output=True, text=True, check=True
    )
    lines = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
    words = [line for line in lines if not line.startswith("#")]
    return set().union(*(members(word) for word in words))


def allowed() -> set[str]:
    found: set[str] = set()
    for line in re.findall("^SystemCallFilter=(.*)$", UNIT.read_text(), re.MULTILINE):
        named = set().union(*(members(word) for word in line.removeprefix("~").split()))
        found = found - named if line.startswith("~") else found | named
    return found


def test_what_the_daemon_calls_is_allowed(tmp_path: Path) -> None:
    """Loading, discovering, reading stacks, recording, metrics, a reload, the end: no call is missing."""
    mark = f"mark-{tmp_path.name}"
    summary, record = tmp_path / "summary", tmp_path / "a.rec"
    prefix = ["strace", "-D", "-f", "-qq", "-c", "-o", str(summary)]
    state = tmp_path / "state"
    state.mkdir()
    with subprocess.Popen([sys.executable, "-c", CODE, mark]) as program:
        with Daemon(
            tmp_path, config=CONFIG.format(mark=mark), arguments=["--state", state], prefix=prefix
        ) as daemon:
            port = port_of(daemon)
            wait_until(lambda: scrape(port).get("whyidle_targets['m']") == 1, "the target")
            attached = whyidle(
                *("attach", program.pid, "--duration", "1", "--record", record, "--socket", daemon.socket)
            )
            assert "nap" in attached.stdout, attached.stderr
            daemon.process.send_signal(1)
            wait_until(lambda: "configuration reloaded" in daemon.said(), "the reload")
            wait_until(lambda: len(list((state / "recordings").iterdir())) >= 3, "parts of the history")
        program.kill()
    wait_until(lambda: summary.exists() and "total" in summary.read_text(), "strace's summary")
    rows = [line.split() for line in summary.read_text().splitlines()[2:]]
    called = {row[-1] for row in rows if row and re.fullmatch(r"[a-z_0-9]+", row[-1])} - {"total"}
    assert {"bpf", "epoll_wait", "sendmsg", "openat"} <= called
    assert called - allowed() == set()


def test_what_it_never_should_do_is_not() -> None:
    """Neither ptrace nor mounts nor modules, whoever took it over."""
    assert NEVER & allowed() == set()
