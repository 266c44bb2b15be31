"""What it costs to know what an event loop waits for: a reading of its tasks, and the daemon beside it."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import BIN, Row, judge, spread
from whyidle_daemon.epoll_sets import EpollSets
from whyidle_daemon.loop_reader import LoopReader
from whyidle_daemon.proc import Proc
from whyidle_daemon.pystack import StackReader
from whyidle_probes.events import NO_PEER, Glance, Wait

TASKS = 100
READINGS = 50
OBSERVED_S = 10
GOAL_TASK_US, GOAL_MORE = 300.0, 0.005

AGENT = """
import asyncio, sys
async def accept(reader, writer):
    await asyncio.sleep(1000)
async def search(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await reader.readline()
async def main():
    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    searches = [asyncio.create_task(search(port)) for _ in range(int(sys.argv[1]))]
    await asyncio.sleep(1)
    print(flush=True)
    while True:
        await asyncio.sleep(0.05)
if sys.argv[2] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


def run() -> tuple[str, list[Row]]:
    """Title and rows. Half of the tasks are the server's own, which wait for a timer."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]) as sleeper:
        try:
            alone = _daemon(sleeper.pid)
        finally:
            sleeper.kill()
    rows = [Row("daemon beside a Python that sleeps", f"{alone:.2%} of a core", "", "for comparison")]
    for loop in ("asyncio", "uvloop"):
        with subprocess.Popen(
            [sys.executable, "-c", AGENT, str(TASKS), loop], stdout=subprocess.PIPE
        ) as target:
            try:
                assert target.stdout
                target.stdout.readline()
                costs = _readings(target.pid)
                share = _daemon(target.pid)
            finally:
                target.kill()
        median = statistics.median(costs)
        rows += [
            Row(
                f"{loop}: reading a task, its socket and peer", f"{spread(costs)} µs of CPU",
                f"≤{GOAL_TASK_US:g} µs", judge(median <= GOAL_TASK_US),
            ),
            Row(
                f"{loop}: daemon beside {2 * TASKS} waiting tasks, 20 wake-ups/s", f"{share:.2%} of a core",
                f"≤{GOAL_MORE:.1%} more", judge(share <= alone + GOAL_MORE),
            ),
        ]  # fmt: skip
    return "Event loops", rows


def _readings(pid: int) -> list[float]:
    """Microseconds of CPU a task, in each reading that found them all."""
    proc = Proc()
    folder = Path(f"/proc/{pid}/fd")
    epoll = next(
        int(file.name)
        for file in folder.iterdir()
        if proc.link(pid, f"fd/{file.name}") == "anon_inode:[eventpoll]"
    )
    thread = Glance(pid, pid, 1, 0, 0, int(Wait.EPOLL), 232, epoll, NO_PEER, 0)
    found = []
    loops = LoopReader(EpollSets(proc, time.monotonic_ns), time.monotonic_ns)
    with StackReader(pid) as reader:
        while len(found) < READINGS:
            began = time.thread_time_ns()
            reading = loops.read(reader, thread)
            spent = time.thread_time_ns() - began
            if len(reading.tasks) >= 2 * TASKS:
                found.append(spent / 1000 / len(reading.tasks))
            loops.settled(pid)
    return found[1:]  # the first one learns the classes


def _daemon(pid: int) -> float:
    """The daemon's share of a core while it observes."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        subprocess.run(
            [BIN / "whyidle", "attach", str(pid), "--duration", str(OBSERVED_S), "--json", report],
            check=True,
            capture_output=True,
        )
        told = json.loads(report.read_text())
    return float(told["overhead"]["daemon_cpu_s"] / told["target"]["duration_s"])
