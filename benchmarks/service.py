"""The service on an idle host and beside four agents: its cost, and how long a restart leaves it blind."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import BIN, Row, judge, say, spread
from whyidle_wire.client import Client
from whyidle_wire.records import ListTargets, TargetList

AGENTS = 4
READY_TIMEOUT_S = 60
IDLE_S, BUSY_S, RESTARTS = 30, 40, 10
IDLE_CPU, IDLE_RSS, BUSY_CPU, BUSY_RSS, RESTART_S = 0.002, 40e6, 0.01, 50e6, 2.0
# Only what this benchmark starts, whatever else runs here; discovery looks at every new process all the same.
CONFIG = """
[discovery]
defaults = false
[[discovery.rule]]
name = "benchmark"
command = ["*whyidle-agent run*--workdir {folder}*"]
{more}
"""
METRICS = '[metrics]\nlisten = "127.0.0.1:0"\n'


def run() -> tuple[str, list[Row]]:
    """Title and rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [*_idle(folder, "", ""), *_idle(folder, METRICS, ", metrics on")]
        with _agents(folder):
            rows += _beside_agents(folder)
    return "As a service", rows


class Service:
    """A daemon as systemd would start it: ready when it says so.

    Raises RuntimeError when it ends before that, TimeoutError when it says nothing for a minute.
    """

    def __init__(self, folder: Path, more: str = "", log: int = subprocess.DEVNULL) -> None:
        self.socket, state = folder / "w.sock", folder / "state"
        state.mkdir(exist_ok=True)
        cache = folder / "cache"
        cache.mkdir(mode=0o700, exist_ok=True)
        config = folder / "config.toml"
        config.write_text(CONFIG.format(folder=folder, more=more))
        notify = folder / "notify"
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.bind(str(notify))
            self.began = time.monotonic()
            self.process = subprocess.Popen(
                [
                    BIN / "whyidled",
                    "--socket",
                    self.socket,
                    "--config",
                    config,
                    "--state",
                    state,
                    "--cache",
                    cache,
                ],
                env={**os.environ, "NOTIFY_SOCKET": str(notify), "PYTHONMALLOC": "malloc"},  # as in the unit
                stderr=log,
            )
            try:
                self._wait_until_ready(channel)
            except BaseException:
                self.process.kill()
                self.process.wait()
                raise
        self.ready_s = time.monotonic() - self.began

    def _wait_until_ready(self, channel: socket.socket) -> None:
        ended = os.pidfd_open(self.process.pid)
        try:
            readable, _, _ = select.select([channel, ended], [], [], READY_TIMEOUT_S)
        finally:
            os.close(ended)
        if not readable:
            raise TimeoutError(f"whyidled was not ready after {READY_TIMEOUT_S} s")
        if channel not in readable:
            raise RuntimeError(f"whyidled ended with status {self.process.wait()} before it was ready")

    def targets(self) -> int:
        with Client.connect(self.socket) as client:
            client.handshake("benchmark")
            client.send(ListTargets(1))
            answer = client.receive(20)
            assert isinstance(answer, TargetList)
            return len(answer.targets)

    def wait_for(self, targets: int) -> float:
        """Seconds from the start of the process until so many are observed."""
        while self.targets() < targets:
            time.sleep(0.02)
        return time.monotonic() - self.began

    def cost(self, seconds: float) -> tuple[float, float]:
        """Share of a core, and the most memory in bytes, over some time from now."""
        began, before, most = time.monotonic(), self._cpu_s(), 0.0
        while time.monotonic() - began < seconds:
            most = max(most, self._rss())
            time.sleep(0.5)
        return (self._cpu_s() - before) / (time.monotonic() - began), most

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()

    def _cpu_s(self) -> float:
        """By the scheduler's own clock: a tick of 10 ms would be a sixth of what is measured."""
        fields = Path(f"/proc/{self.process.pid}/task")
        total = 0
        for task in fields.iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def _rss(self) -> float:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4096.0


def _idle(folder: Path, more: str, what: str) -> list[Row]:
    say(f"  nothing to observe for {IDLE_S} s{what}")
    service = Service(folder, more)
    try:
        service.cost(3)  # the first look at what runs is over
        cpu, rss = service.cost(IDLE_S)
    finally:
        service.end()
    memory = f"≤{IDLE_RSS / 1e6:.0f} MB", judge(rss <= IDLE_RSS)
    return [
        Row(f"idle host{what}: CPU", f"{cpu:.3%} of a core", f"≤{IDLE_CPU:.1%}", judge(cpu <= IDLE_CPU)),
        Row(f"idle host{what}: memory", f"{rss / 1e6:.1f} MB", *memory),
    ]


@contextmanager
def _agents(folder: Path) -> Iterator[None]:
    """Agents with a model each, that wait half a second for every search."""
    port = folder / "port"
    server = subprocess.Popen(
        [BIN / "whyidle-search", "--latency", "0.5", "--port-file", port], stderr=subprocess.DEVNULL
    )
    agents: list[subprocess.Popen[bytes]] = []
    try:
        while not port.exists():
            time.sleep(0.02)
        url = f"http://127.0.0.1:{port.read_text().strip()}"
        for number in range(AGENTS):
            agents.append(
                subprocess.Popen(
                    [BIN / "whyidle-agent", "run", "--search-url", url, "--loops", "100000",
                     "--seed", str(number), "--workdir", folder / f"work{number}"],
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )
            )  # fmt: skip
        yield
    finally:
        for process in (*agents, server):
            process.kill()
            process.wait()


def _beside_agents(folder: Path) -> list[Row]:
    say(f"  {AGENTS} agents for {BUSY_S} s, with history and metrics")
    service = Service(folder, METRICS)
    service.wait_for(AGENTS)
    service.cost(5)
    cpu, rss = service.cost(BUSY_S)
    ready, found = [], []
    for number in range(RESTARTS):
        say(f"  restart {number + 1}/{RESTARTS}")
        service.process.kill()
        service.process.wait()
        service = Service(folder)
        ready.append(service.ready_s)
        found.append(service.wait_for(AGENTS))
    service.end()
    shutil.rmtree(folder / "state")
    return [
        Row(f"{AGENTS} agents: CPU", f"{cpu:.2%} of a core", f"≤{BUSY_CPU:.0%}", judge(cpu <= BUSY_CPU)),
        Row(
            f"{AGENTS} agents: memory",
            f"{rss / 1e6:.1f} MB",
            f"≤{BUSY_RSS / 1e6:.0f} MB",
            judge(rss <= BUSY_RSS),
        ),
        Row(
            "restart: probes attached again (worst decides)",
            f"{spread(ready)} s",
            f"≤{RESTART_S:g} s",
            judge(max(ready) <= RESTART_S),
        ),
        Row("restart: all targets found again", f"{spread(found)} s", "", ""),
    ]
