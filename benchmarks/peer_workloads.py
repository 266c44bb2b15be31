"""What is observed: a storm of system calls, one of context switches, a Redis, the reference agent.

Each says ``up``, waits for a line, and measures itself by its own clock. What it gives grows with its cost.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import BIN, OUT, compile_c, tool
from benchmarks.peer_tools import Observed, Tool, under

CALLS, SWITCHES, REQUESTS = 6_000_000, 200_000, 150_000
LATENCY_S = 0.05  # of a search: a tenth of the demo's, so that the agent computes most of the time
HOLD = 'echo up; read go; exec "$@"'
AGENT = """
import sys
print("up", flush=True)
sys.stdin.readline()
from whyidle_agent.main import main
sys.exit(main(sys.argv[1:]))
"""


class Workload(NamedTuple):
    """``run`` gives the cost of one unit of work in ``unit`` under a tool, or bare."""

    name: str
    title: str
    unit: str
    run: Callable[[Tool | None], float]
    python: bool = False
    missing: str = ""


class Agent:
    """The reference agent; notes how much memory the tool beside it took."""

    def __init__(self, port: int, folder: Path) -> None:
        self.memory: dict[str, list[int]] = {}
        self._folder = folder
        self._stats = folder / "stats.json"
        self.command = [
            sys.executable, "-c", AGENT, "run", "--search-url", f"http://127.0.0.1:{port}", "--loops", "6",
            "--seed", "1", "--workdir", str(folder / "work"), "--stats", str(self._stats),
        ]  # fmt: skip

    def run(self, peer: Tool | None) -> float:
        """Seconds of wall time."""
        self._stats.unlink(missing_ok=True)
        with under(peer, self.command, _log(peer)) as observed:
            observed.go()
            assert observed.process.stdout
            half = 0
            for line in observed.process.stdout:
                if line.startswith("[3/"):
                    half = observed.memory(self.command) if peer is not None else 0
            _finished(observed)
        if peer is not None:
            self.memory.setdefault(peer.name, []).append(half)
        return float(json.loads(self._stats.read_text())["wall_s"])


@contextmanager
def agent(folder: Path) -> Iterator[Agent]:
    """One with a search server of its own."""
    port = folder / "port"
    server = subprocess.Popen(
        [BIN / "whyidle-search", "--latency", str(LATENCY_S), "--port-file", port], stderr=subprocess.DEVNULL
    )
    try:
        while not port.exists():
            time.sleep(0.02)
        yield Agent(int(port.read_text()), folder)
    finally:
        server.kill()
        server.wait()


def storm(peer: Tool | None) -> float:
    """Nanoseconds per getppid()."""
    calls = CALLS // (3 * peer.slow if peer and peer.slow > 1 else 1)
    command = ["sh", "-c", 'echo up; exec "$@"', "-", str(compile_c("storm")), str(calls)]
    return float(_line(peer, command, r"^([\d.]+)$"))


def switches(peer: Tool | None) -> float:
    """Microseconds per round trip of two threads through pipes: two switches each."""
    loops = str(SWITCHES // (peer.slow if peer else 1))
    # On one CPU: else it is the interrupt that wakes the other one that is measured.
    command = [
        "sh",
        "-c",
        HOLD,
        "-",
        "taskset",
        "-c",
        "0",
        "perf",
        "bench",
        "sched",
        "pipe",
        "-T",
        "-l",
        loops,
    ]
    return float(_line(peer, command, r"([\d.]+) usecs/op"))


def redis(peer: Tool | None) -> float:
    """Microseconds per request, SET and GET, of fifty clients together; the server is what is observed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    # A CPU for each of the two: whether they share one is else a throw of dice for every run.
    server = [
        "taskset",
        "-c",
        "0",
        "redis-server",
        "--port",
        port,
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    server += ["--appendonly", "no", "--dir", str(OUT)]
    requests = str(REQUESTS // (peer.slow if peer else 1))
    command = ["sh", "-c", HOLD + " >/dev/null", "-", *server]
    with under(peer, command, _log(peer)) as observed:
        observed.go()
        _connect(int(port))
        client = ["taskset", "-c", "1", "redis-benchmark", "-p", port, "--csv", "-t", "set,get", "-n"]
        # Its memory is touched, and the tool has begun: what that takes is in the last column.
        subprocess.run([*client, str(int(requests) // 3)], check=True, stdout=subprocess.DEVNULL)
        done = subprocess.run([*client, requests], check=True, capture_output=True, text=True)
        rates = [float(rate) for rate in re.findall(r'^"(?:SET|GET)","([\d.]+)"', done.stdout, re.MULTILINE)]
        subprocess.run(["redis-cli", "-p", port, "shutdown", "nosave"], check=False, capture_output=True)
    if len(rates) != 2:
        raise OSError(f"redis-benchmark said {done.stdout!r}")
    return sum(1e6 / rate for rate in rates) / 2


def start_up(peer: Tool | None) -> float:
    """Seconds until a program under the tool, or one that it joins, can begin to be observed."""
    command = [sys.executable, "-c", 'import sys; print("up", flush=True); sys.stdin.readline()']
    with under(peer, command, _log(peer)) as observed:
        observed.go()
        return observed.startup_s


def workloads(agents: Agent) -> list[Workload]:
    """All of them, in the order of the table."""
    perf = "" if tool("perf") else "not installed: apt-get install linux-perf"
    server = "" if tool("redis-server") and tool("redis-benchmark") else (
        "not installed: apt-get install redis-server redis-tools"
    )  # fmt: skip
    return [
        Workload("syscalls", "storm of system calls", "ns", storm),
        Workload("switches", "storm of context switches", "µs", switches, missing=perf),
        Workload("redis", "redis-benchmark", "µs", redis, missing=server),
        Workload("agent", "the reference agent", "s", agents.run, python=True),
    ]


def _line(peer: Tool | None, command: list[str], pattern: str) -> str:
    """Run to the end and find what the program says of itself."""
    with under(peer, command, _log(peer)) as observed:
        observed.go()
        assert observed.process.stdout
        text = observed.process.stdout.read()
        _finished(observed)
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise OSError(f"it said {text[-200:]!r}")
    return found[1]


def _finished(observed: Observed) -> None:
    if (status := observed.process.wait(timeout=60)) != 0:
        raise OSError(f"exit status {status}")


def _connect(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"PING\r\n")
                if client.recv(7) == b"+PONG\r\n":
                    return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _log(peer: Tool | None) -> Path:
    OUT.mkdir(parents=True, exist_ok=True)
    return OUT / f"{re.sub('[^a-z]+', '-', peer.name.lower()) if peer else 'bare'}.log"
