"""A waiting event loop end to end: what the report, its recording and a watcher say of it."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import Program
from harness_cli import Daemon, load, stalls, whyidle
from unit.pystack import pythons

pytestmark = pytest.mark.bpf

AGENT = """
import asyncio, sys
async def ask(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    return await asyncio.wait_for(reader.read(1), 60)
async def search_web():
    await ask(int(sys.argv[1]))
async def search_papers():
    await ask(int(sys.argv[2]))
async def spin():
    while True:
        await asyncio.sleep(0.2)
async def main():
    spinning = asyncio.create_task(spin())
    searches = asyncio.gather(search_web(), search_papers(), search_web())
    await asyncio.wait([searches], timeout=1.5)
    spinning.cancel()
    searches.cancel()
    try:
        await searches
    except asyncio.CancelledError:
        pass
asyncio.run(main())
"""


@pytest.fixture
def silent() -> Iterator[list[int]]:
    """Ports of two servers that never answer."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        yield [one.getsockname()[1], other.getsockname()[1]]


def observed(folder: Path, python: str, ports: list[int], *arguments: str | Path) -> dict[str, Any]:
    script, report = folder / "agent.py", folder / "report.json"
    script.write_text(AGENT)
    result = whyidle("run", "--json", report, *arguments, "--", python, script, *map(str, ports))
    assert result.returncode == 0, result.stderr
    return load(report)


def test_each_search_in_flight_is_told_with_its_host(tmp_path: Path, silent: list[int]) -> None:
    """Function, chain and peer of every task; the recording tells the same, and so does the text."""
    recording = tmp_path / "agent.whyidle"
    report = observed(tmp_path, sys.executable, silent, "--record", recording)
    (loop,) = report["loops"]
    assert loop["reason"] is None
    assert loop["read_s"] > 0.5 * loop["waiting_s"] > 0.5
    tasks = {(task["waits_for"], task["function"]): task for task in loop["tasks"]}
    assert {("socket", "ask"), ("timer", "spin"), ("task", "main")} <= set(tasks)
    rows = [task for task in loop["tasks"] if task["waits_for"] == "socket"]
    assert {(row["peer"]["port"], row["count"]) for row in rows if row["peer"]} == {
        (silent[0], 2),
        (silent[1], 1),
    }
    for row in rows:
        assert "ask" in row["chain"][-2]
        assert "search_" in row["chain"][-1]
    assert {finding["kind"] for finding in report["findings"]} <= {"cpu_starved"}  # of a busy host
    again = whyidle("report", recording, "--json")
    assert json.loads(again.stdout)["loops"] == report["loops"]
    text = whyidle("report", recording).stdout
    assert "EVENT LOOPS" in text
    assert f"127.0.0.1:{silent[1]}" in text


@pytest.mark.parametrize("name", ["3.8", "3.10"])
def test_a_python_whose_tasks_cannot_be_read(tmp_path: Path, silent: list[int], name: str) -> None:
    """It is said which, and whom the selector waits for."""
    report = observed(tmp_path, pythons.need(name), silent)
    (loop,) = report["loops"]
    assert loop["reason"] == f"tasks of Python {name}"
    assert (loop["tasks_total"], loop["tasks"]) == (None, [])
    assert {end["port"] for end in loop["sockets"]} == set(silent)


def test_a_search_that_hangs_in_a_loop_is_seen_while_it_hangs(tmp_path: Path) -> None:
    """The loop sleeps as it should, but the main task waits for an answer: with function and peer."""
    code = AGENT.replace("timeout=1.5", "timeout=60").replace(
        "asyncio.create_task(spin())", "asyncio.Event()"
    )
    code = code.replace("spinning.cancel()", "pass")
    with socket.create_server(("127.0.0.1", 0)) as server, Daemon(tmp_path) as daemon:
        port = server.getsockname()[1]
        program = Program(code, str(port), str(port))
        try:
            with stalls(daemon, program.pid) as next_stall:
                program.go()
                connections = [server.accept()[0] for _ in range(3)]
                stall = next_stall()
                assert program.process.poll() is None
                assert (stall.pid, stall.state, stall.function) == (program.pid, "network", "ask")
                assert stall.peer is not None
                assert stall.peer["port"] == port
                assert any("search_" in frame for frame in stall.stack)
                for connection in connections:
                    connection.send(b"x")
                    connection.close()
                while not (over := next_stall()).ended:
                    pass
                assert over.start_s == stall.start_s
        finally:
            program.close()
