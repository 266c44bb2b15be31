"""Idle time is blamed on its root cause across processes, and nobody else is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import report_schema

from harness import wait_until
from harness_cli import SearchServer, load, whyidle

from .play_runner import HERE, LATENCY_S, play

pytestmark = [pytest.mark.bpf, pytest.mark.model]
ATTRIBUTED = 0.95


class Guilty(NamedTuple):
    """Who is to blame: the role's function, the function whose clock says how long, the roles on the way."""

    role: str
    function: str
    waits_of: tuple[str, str]
    way: tuple[str, ...]


CALL = "blocking_network_call"
GUILTY = {
    "one_process": Guilty("alone", "search_web", ("alone", "search_web"), ("alone",)),
    "server": Guilty("agent", "search_web", ("agent", "search_web"), ("serve", "agent")),
    "server_kept_connection": Guilty("agent", "search_web", ("agent", "search_web"), ("serve", "agent")),
    "two_agents": Guilty("agent", "search_web", ("agent", "search_web"), ("serve", "agent")),
    "subprocess": Guilty("tool", "fetch", ("tooled", "run_tool"), ("serve", "tooled", "tool")),
    "asyncio_gather": Guilty("gathering", "get", ("gathering", "get"), ("serve", "gathering")),
    "load_balancer": Guilty("agent", "search_web", ("agent", "search_web"), ("serve", "balance", "agent")),
}


@pytest.mark.parametrize("name", list(GUILTY))
def test_the_root_is_found_over_every_process(name: str, tmp_path: Path) -> None:
    """The guilty function explains as much idle time as it waited by its own clock; nobody else is blamed."""
    guilty = GUILTY[name]
    told = play(name, tmp_path)
    report_schema.check(told.report)
    engine = told.engine
    assert engine["idle_attributed_s"] >= ATTRIBUTED * engine["idle_s"]

    rows = [
        row
        for row in told.report["idle_by_cause"]
        if row["peer"] and row["peer"]["port"] == told.port and told.role(row["pid"]) == guilty.role
    ]
    assert rows[0] is told.report["idle_by_cause"][0]
    assert (rows[0]["cause"], rows[0]["function"]) == ("network", guilty.function)
    way = tuple(dict.fromkeys(told.role(link["pid"]) for link in rows[0]["chain"]))
    assert way == guilty.way

    # By its own clock it also computed and stood in the queue, and a tool had to start first.
    whose, function = guilty.waits_of
    truth = told.waits[whose][function]
    searched = sum(row["seconds"] for row in rows)
    # While it works for another agent, for the longer the slower the host, no search keeps it idle.
    others = sum(engine["busy_s"] for engine in told.report["engines"]) if name == "two_agents" else 0.0
    searches = 4 * LATENCY_S - others
    assert searched <= truth
    assert searched >= searches - told.thread(whose).get("runqueue", 0.0) - 0.01

    (blame,) = (b for b in told.blamed if b[0] == CALL)
    assert blame == (CALL, guilty.role, guilty.function)
    assert {kind for kind, _, _ in told.blamed} <= {CALL, "sequential_calls", "no_demand"}
    if len(guilty.way) > 1:
        found = next(f for f in told.report["findings"] if f["kind"] == CALL)
        assert tuple(dict.fromkeys(told.role(link["pid"]) for link in found["chain"])) == guilty.way
        assert f"{guilty.function}()" in told.text
        assert "waits for" in told.text


def test_a_server_nobody_calls_is_no_demand(tmp_path: Path) -> None:
    """Another process that waits for the web all the time has nothing to do with it."""
    told = play("nobody_calls", tmp_path)
    top = told.report["idle_by_cause"][0]
    assert (top["cause"], told.role(top["pid"])) == ("no_demand", "serve")
    assert told.engine["idle_attributed_s"] >= ATTRIBUTED * told.engine["idle_s"]
    assert {(kind, role) for kind, role, _ in told.blamed} == {("no_demand", "serve")}
    assert told.waits["wanderer"]["wait_for_task"] > LATENCY_S


def test_a_busy_server_is_the_bottleneck(tmp_path: Path) -> None:
    """Two agents that ask for more than there is: the engine is saturated, and nobody is guilty."""
    told = play("saturated", tmp_path)
    assert told.blamed_while_asked == {("engine_saturated", "serve")}
    assert told.engine["idle_attributed_s"] >= ATTRIBUTED * told.engine["idle_s"]


def test_a_recording_tells_the_same(tmp_path: Path) -> None:
    """Chains are a function of the records: the replayed report is the live one."""
    told = play("load_balancer", tmp_path)
    assert whyidle("report", told.recording, "--json", tmp_path / "again.json").returncode == 0
    again = load(tmp_path / "again.json")
    for part in ("engines", "gaps", "idle_by_cause", "findings"):
        assert again[part] == told.report[part]


def test_server_and_agent_that_are_not_related(tmp_path: Path) -> None:
    """attach SERVER AGENT: two roots, one observation, and the chain leads from one to the other."""
    stage = tmp_path / "stage"
    stage.mkdir()
    with SearchServer(tmp_path, LATENCY_S) as search:
        env = os.environ | {"WHYIDLE_SCENARIO": str(stage), "WHYIDLE_SEARCH": search.url}
        cast = [sys.executable, HERE / "cast.py"]
        server = subprocess.Popen([*cast, "serve"], env=env)
        agent = None
        try:
            wait_until((stage / "server").exists, "the server")
            agent = subprocess.Popen([*cast, "lasting"], env=env)
            wait_until(lambda: len(search.held_s()) >= 1 if search.log.exists() else False, "a search")
            done = whyidle(
                *("attach", str(server.pid), str(agent.pid), "--duration", "3", "--json", tmp_path / "r.json")
            )
        finally:
            for process in filter(None, (agent, server)):
                process.terminate()
                process.wait()
    assert done.returncode == 0, done.stderr
    report = load(tmp_path / "r.json")
    top = report["idle_by_cause"][0]
    assert (top["cause"], top["pid"], top["function"]) == ("network", agent.pid, "search_web")
    assert top["chain"][0]["pid"] == server.pid
