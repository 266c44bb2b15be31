"""The endpoint of a real daemon: off unless wanted, changed by a reload, cheap however often it is asked."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness import wait_until
from harness_cli import Daemon, whyidle

pytestmark = pytest.mark.bpf

CONFIG = """
[metrics]
listen = "{listen}"
[discovery]
defaults = false
[[discovery.rule]]
name = "by mark"
command = ["*{mark}*"]
"""


def port_of(daemon: Daemon) -> int:
    pattern = re.compile(r"metrics on http://127\.0\.0\.1:(\d+)/metrics")
    wait_until(lambda: pattern.search(daemon.said()), "the endpoint")
    return int(pattern.findall(daemon.said())[-1])


def scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    return {
        f"{s.name}{sorted(s.labels.values())}": s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_scraped_a_hundred_times_a_second(tmp_path: Path) -> None:
    """The sums are made once a second, however often somebody asks: it costs a few percent, not a core."""
    mark = f"mark-{os.getpid()}-scrape"
    code = "import time\nwhile True: time.sleep(0.01)"
    with (
        subprocess.Popen([sys.executable, "-c", code, mark]) as program,
        Daemon(tmp_path, config=CONFIG.format(listen="127.0.0.1:0", mark=mark)) as daemon,
    ):
        port = port_of(daemon)
        wait_until(lambda: scrape(port).get("whyidle_targets['by mark']") == 1, "the target")
        before, began, scrapes = cpu_s(daemon.process.pid), time.monotonic(), 0
        first = scrape(port)["whyidle_state_seconds_total['by mark', 'sleep']"]
        while (elapsed := time.monotonic() - began) < 4:
            time.sleep(max(0.0, scrapes * 0.01 - elapsed))
            last = scrape(port)["whyidle_state_seconds_total['by mark', 'sleep']"]
            scrapes += 1
        spent = cpu_s(daemon.process.pid) - before
        program.kill()
        program.wait()
        assert last - first > 1
        assert scrapes > 100  # on a busy machine the scraper itself may not manage more
        # A connection and a copy take a fifth of a millisecond; the reports a hundredth of the time at most.
        assert spent <= 0.0005 * scrapes + 0.03 * elapsed + 0.05
        wait_until(lambda: "whyidle_targets['by mark']" not in scrape(port), "the end of the target")
        ended = scrape(port)["whyidle_state_seconds_total['by mark', 'sleep']"]
        assert ended >= last  # what has ended still counts


def test_off_unless_configured_and_changed_by_a_reload(tmp_path: Path) -> None:
    """No port without a line in the file; a reload opens and closes it; that one is taken is only said."""
    mark = f"mark-{os.getpid()}-reload"
    with Daemon(tmp_path, config=CONFIG.format(listen="", mark=mark)) as daemon:
        assert whyidle("ps", "--socket", daemon.socket).returncode == 0
        folder = Path(f"/proc/{daemon.process.pid}")
        table = [line.split() for line in (folder / "net/tcp").read_text().splitlines()[1:]]
        own = {str(path.readlink()) for path in (folder / "fd").iterdir() if path.is_symlink()}
        assert not [row for row in table if f"socket:[{row[9]}]" in own]
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            daemon.config.write_text(CONFIG.format(listen=f"127.0.0.1:{port}", mark=mark))
            daemon.process.send_signal(signal.SIGHUP)
            wait_until(lambda: "no metrics: cannot listen" in daemon.said(), "the complaint")
        daemon.config.write_text(CONFIG.format(listen="127.0.0.1:0", mark=mark))
        daemon.process.send_signal(signal.SIGHUP)
        port = port_of(daemon)
        assert scrape(port)["whyidle_daemon_clients[]"] == 0
        assert "libcrypto" not in (folder / "maps").read_text()  # see left_out.py
        daemon.config.write_text(CONFIG.format(listen="", mark=mark))
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: daemon.said().count("configuration reloaded") == 3, "the reload")

        def closed() -> bool:
            try:
                scrape(port)
            except (OSError, urllib.error.URLError):
                return True
            return False

        wait_until(closed, "the port to be closed")


def test_not_only_this_host_is_said(tmp_path: Path) -> None:
    """An address that others can reach is allowed, and logged as what it is."""
    with Daemon(tmp_path, config=CONFIG.format(listen="0.0.0.0:0", mark="x" * 30)) as daemon:
        wait_until(lambda: "whoever reaches 0.0.0.0 can read them" in daemon.said(), "the warning")
