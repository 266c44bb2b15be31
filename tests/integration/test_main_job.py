"""The main job, whole: a real agent with a real model, a real slow server, real probes, a true verdict."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import report_schema

from harness import Program, wait_until
from harness_cli import BIN, Daemon, SearchServer, load, whyidle
from whyidle_wire.records import Finish, Observe, Observing, Progress, Report

pytestmark = [pytest.mark.bpf, pytest.mark.model]
pytest.importorskip("llama_cpp", reason="the reference agent needs llama-cpp-python", exc_type=ImportError)

LATENCY_S = 0.25


class Run(NamedTuple):
    report: dict[str, Any]
    stats: dict[str, Any]
    held: list[float]
    port: int
    text: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("main")
    with SearchServer(folder, LATENCY_S) as server:
        done = whyidle(
            *("run", "--json", folder / "report.json", "--", BIN / "whyidle-agent", "run", "--seed", "1"),
            *("--search-url", server.url, "--loops", "4", "--workdir", folder / "work"),
            *("--stats", folder / "stats.json"),
        )
        assert done.returncode == 0, done.stderr
        report, stats = load(folder / "report.json"), load(folder / "stats.json")
        yield Run(report, stats, server.held_s(), server.port, done.stdout)


def test_report_obeys_the_contract(run: Run) -> None:
    """Every field of the contract is there, with its type, and the sums hold."""
    report_schema.check(run.report)


def test_first_finding_is_the_blocking_search(run: Run) -> None:
    """The first finding names the thread, the call, the peer, how often, how long, and what to do."""
    first = run.report["findings"][0]
    assert first["kind"] == "blocking_network_call"
    assert first["pid"] == first["tid"] == run.report["target"]["pid"]
    assert first["peer"]["address"] == "127.0.0.1"
    assert first["peer"]["port"] == run.port
    assert first["count"] == len(run.held) > 0
    wall_s, (engine,) = run.report["target"]["duration_s"], run.report["engines"]
    share, idle = first["engine_idle_s"] / wall_s, engine["idle_s"] / wall_s
    assert share > 0.1
    high = share >= 0.25 or (
        idle >= 0.25 and first["share_of_idle"] >= 0.5
    )  # a slow host is long in starting
    assert first["severity"] == ("high" if high else "medium")
    assert first["confidence"] == "high"
    assert first["share_of_idle"] > 0.5
    assert 0 < first["saves_s"] < first["blocked_s"]
    assert "127.0.0.1" in first["advice"]
    assert f"127.0.0.1:{run.port}" in run.text


def test_blocked_seconds_are_the_servers(run: Run) -> None:
    """What is reported as blocked is what the server held, by its own log, within 2 %."""
    first = run.report["findings"][0]
    assert first["blocked_s"] == pytest.approx(sum(run.held), rel=0.02)


def test_what_the_fix_saves_is_predicted(run: Run) -> None:
    """All calls but one of each step could have been waited for at once, by the server's own log."""
    (found,) = run.report["what_if"]
    assert found["functions"] == ["search_web"]
    assert 2 <= found["calls"] <= len(run.held)
    together = sorted(run.held)[-found["calls"] :]
    assert found["saves_s"] == pytest.approx(sum(together) - found["runs"] * LATENCY_S, rel=0.05)
    assert found["predicted_wall_s"] == pytest.approx(found["wall_s"] - found["saves_s"])
    (engine,) = run.report["engines"]
    (then,) = found["engines"]
    observed = engine["busy_s"] + engine["idle_s"] - found["saves_s"]
    assert then["predicted_utilization"] == pytest.approx(engine["busy_s"] / observed, rel=1e-3)


def test_busy_is_what_the_agent_measured(run: Run) -> None:
    """The engine's busy time is inside what the agent itself spent around llama_decode, and most of it."""
    (engine,) = run.report["engines"]
    assert engine["calls"] == run.stats["decode_calls"]
    assert engine["busy_s"] <= run.stats["decode_s"]
    # Around each call the agent does its own Python and ctypes work: what is left is that, not a missed call.
    thread = next(t for t in run.report["threads"] if t["tid"] == run.report["target"]["pid"])
    outside = thread["states"]["running"] + thread["states"].get("runqueue", 0) - engine["busy_s"]
    assert run.stats["decode_s"] - engine["busy_s"] <= outside


def test_idle_is_explained(run: Run) -> None:
    """At least 95 % of the model's idle time has a named cause, and the causes add up to it."""
    (engine,) = run.report["engines"]
    assert engine["idle_attributed_s"] >= 0.95 * engine["idle_s"]
    assert sum(c["seconds"] for c in run.report["idle_by_cause"]) == pytest.approx(engine["idle_s"], rel=1e-3)
    top = run.report["idle_by_cause"][0]
    assert (top["state"], top["peer"]["port"]) == ("network", run.port)


def test_states_sum_to_wall(run: Run) -> None:
    """For each thread the states add up to its wall time within 0.1 %."""
    for thread in run.report["threads"]:
        assert sum(thread["states"].values()) == pytest.approx(thread["wall_s"], rel=1e-3)


def test_nothing_was_lost(run: Run) -> None:
    """At this load every event arrives."""
    assert run.report["loss"]["events_lost"] == 0


MODEL_LATE = """
import os
print("up", flush=True)
sys.stdin.readline()
import llama_cpp
model = llama_cpp.Llama(sys.argv[1], n_ctx=256, n_threads=1, verbose=False)
for _ in range(3):
    list(model("x", max_tokens=8)["choices"])
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def model_path() -> str:
    done = subprocess.run([BIN / "whyidle-agent", "model"], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def test_model_that_is_loaded_long_after_attaching(tmp_path: Path, model_path: str) -> None:
    """An engine library that a running process maps later is probed before the first call."""
    program = Program(MODEL_LATE, model_path)
    try:
        program.go()
        assert program.line() == "up"
        with Daemon(tmp_path) as daemon, daemon.client() as client:
            client.send(Observe(1, program.pid, ("python",), 0.05))
            observing = client.receive(30)
            assert isinstance(observing, Observing)
            program.go()
            for _ in range(2):
                program.go()
            seen: list[Progress] = []

            def three_gaps() -> bool:
                record = client.receive(5)
                if isinstance(record, Progress):
                    seen.append(record)
                return bool(seen and seen[-1].engine_busy_share is not None)

            wait_until(three_gaps, "the engine to be seen")
            program.go()
            assert program.join() == 0
            client.send(Finish(observing.observation, 0))
            record = client.receive(30)
            while not isinstance(record, Report):
                record = client.receive(30)
        (engine,) = record.report["engines"]
        # 3 completions of a prompt and 8 tokens: the first call of all was not missed.
        assert engine["calls"] >= 3 * 8
        assert engine["busy_s"] > 0
    finally:
        program.close()


def test_attach_to_a_running_agent(tmp_path: Path, model_path: str) -> None:
    """Attaching to an agent whose model is loaded finds its engine and its blocking search."""
    with SearchServer(tmp_path, LATENCY_S) as server:
        agent = subprocess.Popen(
            [
                BIN / "whyidle-agent",
                *("run", "--search-url", server.url, "--loops", "40", "--workdir", str(tmp_path / "work")),
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_until(
                lambda: len(server.held_s()) >= 1 if (tmp_path / "requests.jsonl").exists() else False,
                "a search",
            )
            done = whyidle("attach", str(agent.pid), "--duration", "3", "--json", tmp_path / "r.json")
            assert done.returncode == 0, done.stderr
        finally:
            agent.terminate()
            agent.wait()
    report = load(tmp_path / "r.json")
    report_schema.check(report)
    assert report["findings"][0]["kind"] == "blocking_network_call"
    assert report["findings"][0]["peer"]["port"] == server.port
    assert report["engines"][0]["busy_s"] > 0


def test_cpu_starved_is_found_and_not_confused(tmp_path: Path) -> None:
    """Four busy processes on one CPU are starved of it; nobody blames the network."""
    hog = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    script = (
        "import os, subprocess, sys; os.sched_setaffinity(0, {0}); "
        f"[p.wait() for p in [subprocess.Popen([sys.executable, '-c', {hog!r}]) for _ in range(4)]]"
    )
    done = whyidle("run", "--json", tmp_path / "r.json", "--", sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr
    report = load(tmp_path / "r.json")
    found = {(f["kind"], f["pid"]) for f in report["findings"]}
    root = report["target"]["pid"]
    children = {p["pid"] for p in report["processes"]} - {root}
    starved = {pid for kind, pid in found if kind == "cpu_starved"}
    assert starved
    assert starved <= children
    # The parent does nothing but wait for them, which is true as well; nothing else is.
    assert found - {("cpu_starved", pid) for pid in children} <= {("blocking_subprocess", root)}


def test_idle_server_is_not_blamed(tmp_path: Path) -> None:
    """A server that waits for requests, on its listening socket and on kept connections, is no bottleneck."""
    script = """
import socket, threading, time
server = socket.create_server(("127.0.0.1", 0))
def serve(c):
    while c.recv(64): c.send(b"pong")
def accept():
    while True: threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
clients = [socket.create_connection(server.getsockname()) for _ in range(3)]
for _ in range(4):
    for c in clients: c.send(b"ping"); c.recv(64)
    time.sleep(0.3)
"""
    done = whyidle("run", "--json", tmp_path / "r.json", "--", sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr
    assert [f for f in load(tmp_path / "r.json")["findings"] if f["kind"] == "blocking_network_call"] == []


def test_status_of_the_command_is_passed_on(tmp_path: Path) -> None:
    """whyidle run ends with the command's own status, also when a signal killed it."""
    assert whyidle("run", "--json", tmp_path / "a", "--", "/bin/sh", "-c", "exit 7").returncode == 7
    assert whyidle("run", "--json", tmp_path / "b", "--", "/bin/sh", "-c", "kill -9 $$").returncode == 137
    assert json.loads((tmp_path / "b").read_text())["target"]["exit_status"] == 137
