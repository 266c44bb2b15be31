"""How soon a wait that lasts is shown: from the threshold to the line that ``whyidle watch`` prints."""

from __future__ import annotations

import json
import os
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.measure import BIN, OUT, Row, compile_c, judge, observer, say
from whyidle_wire.client import Client
from whyidle_wire.records import Observe, Observing

RUNS, THRESHOLD_S, GOAL_S = 20, 1.0, 0.25
HANG_S = 1.8
# Searches that hang for a while, after a pause of varying length; prints when each began to.
SEARCHES = """
import random, socket, sys, time
def search_web(port):
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.settimeout(HANG)
        print(time.monotonic_ns(), flush=True)
        try: s.recv(1)
        except TimeoutError: pass
sys.stdin.readline()
for _ in range(RUNS):
    time.sleep(random.uniform(0.2, 0.4))
    search_web(int(sys.argv[1]))
"""
# Two threads that never stop, and a hundred that wait for work as long as they live.
BUSY = """
import threading, time
def work():
    while True:
        sum(range(20_000)); time.sleep(0.002)
for _ in range(2): threading.Thread(target=work, daemon=True).start()
for _ in range(100): threading.Thread(target=threading.Event().wait, daemon=True).start()
"""
SETTINGS = ("alone", "beside 2 busy threads and 100 idle ones", "beside 10000 threads in 500 processes")


def run() -> tuple[str, list[Row]]:
    """Title and rows."""
    rows = []
    for setting in SETTINGS:
        say(f"  {RUNS} searches that hang, {setting}")
        late = _measure(setting)
        seen = f"{len(late)} of {RUNS}"
        rows.append(
            Row(f"hung searches seen while they hang, {setting}", seen, "all", judge(len(late) == RUNS))
        )
        if late:
            worst = max(late)
            value = f"{statistics.median(late) * 1e3:.0f} ms, at most {worst * 1e3:.0f} ms"
            goal = f"≤{GOAL_S * 1e3:.0f} ms"
            rows.append(
                Row(f"from the threshold to the line, {setting}", value, goal, judge(worst <= GOAL_S))
            )
    return f"A wait that lasts longer than {THRESHOLD_S:.0f} s, in `whyidle watch`", rows


def _measure(setting: str) -> list[float]:
    """Seconds from crossing the threshold to the line, of each search that was seen while it hung."""
    folder = OUT / "stalls"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "w.sock"
    code = SEARCHES.replace("RUNS", str(RUNS)).replace("HANG", str(HANG_S))
    if setting == SETTINGS[1]:
        code = BUSY + code
    with (
        observer(path) as daemon,
        socket.create_server(("127.0.0.1", 0)) as silent,
        _program([sys.executable, "-c", code, str(silent.getsockname()[1])]) as agent,
    ):
        try:
            while not path.exists():
                time.sleep(0.05)
            with _crowd(setting) as others, Client.connect(path, 30) as client:
                client.handshake("benchmark", 60)
                for number, pid in enumerate([agent.pid, *others]):
                    client.send(Observe(number + 1, pid, ("benchmark",), 0))
                    while not isinstance(client.receive(60), Observing):
                        pass
                with _program([BIN / "whyidle", "watch", "--json", "--socket", path]) as watch:
                    return _lines(agent, watch)
        finally:
            daemon.terminate()


def _lines(agent: subprocess.Popen[bytes], watch: subprocess.Popen[bytes]) -> list[float]:
    """Read when searches begin to hang, and when the watcher says so."""
    assert agent.stdin
    assert agent.stdout
    assert watch.stdout
    time.sleep(1.0)  # the watcher has subscribed
    agent.stdin.write(b"\n")
    agent.stdin.close()
    began: list[int] = []
    late: list[float] = []
    rest = {agent.stdout: b"", watch.stdout: b""}
    while True:
        for stream in select.select(list(rest), [], [])[0]:
            now = time.monotonic_ns()
            data = os.read(stream.fileno(), 1 << 16)
            if not data:
                return late
            *lines, rest[stream] = (rest[stream] + data).split(b"\n")
            if stream is agent.stdout:
                began += map(int, lines)
                continue
            for line in lines:
                record: dict[str, Any] = json.loads(line)
                if record["record"] != "StallEvent" or record["ended"] or record["state"] != "network":
                    continue
                if record["pid"] == agent.pid and len(late) < len(began):
                    late.append((now - began[-1]) / 1e9 - THRESHOLD_S)


@contextmanager
def _program(command: list[Any]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as program:
        try:
            yield program
        finally:
            program.kill()


@contextmanager
def _crowd(setting: str) -> Iterator[list[int]]:
    """The processes to observe beside the agent."""
    if setting != SETTINGS[2]:
        yield []
        return
    seconds = int(RUNS * (HANG_S + 0.5) + 30)
    with _program([compile_c("crowd"), "500", "20", "1000", str(seconds)]) as crowd:
        assert crowd.stdin
        assert crowd.stdout
        crowd.stdout.readline()
        crowd.stdin.close()
        try:
            yield [crowd.pid]
        finally:
            subprocess.run(["pkill", "-KILL", "-P", str(crowd.pid)], check=False)
