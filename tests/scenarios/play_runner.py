"""Runs a scenario under ``whyidle run`` and reads what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from harness_cli import BIN, SearchServer, load

HERE = Path(__file__).parent
LATENCY_S = 0.3
BUSY_HOST = {"cpu_starved"}  # what else runs on the machine is nobody's fault


class Told(NamedTuple):
    """The report, and what the processes know themselves."""

    report: dict[str, Any]
    roles: dict[int, str]
    waits: dict[str, dict[str, float]]
    port: int
    text: str
    recording: Path

    def role(self, pid: int) -> str:
        """What a process is in its play; ``tool`` for what an agent started."""
        return self.roles.get(pid, "tool")

    @property
    def engine(self) -> dict[str, Any]:
        (engine,) = self.report["engines"]
        return dict(engine)

    @property
    def blamed(self) -> set[tuple[str, str, str | None]]:
        """Kind, role and function of every finding."""
        return {
            (found["kind"], self.role(found["pid"]), found["function"])
            for found in self.report["findings"]
            if found["kind"] not in BUSY_HOST
        }

    @property
    def blamed_while_asked(self) -> set[tuple[str, str]]:
        """Kind and role; no lack of demand that lasted no longer than nobody asked, by the asker's clock."""
        unasked_s = self.report["target"]["duration_s"] - self.waits["greedy"]["asking"]
        return {
            (found["kind"], self.role(found["pid"]))
            for found in self.report["findings"]
            if found["kind"] not in BUSY_HOST
            and not (found["kind"] == "no_demand" and found["blocked_s"] <= unasked_s)
        }

    def thread(self, role: str) -> dict[str, float]:
        """The states of a role's main thread."""
        pids = [pid for pid, name in self.roles.items() if name == role]
        return next(dict(t["states"]) for t in self.report["threads"] if t["tid"] in pids)


def play(name: str, folder: Path, environment: dict[str, str] | None = None) -> Told:
    """Run one scenario to its end, recorded; ``environment`` is added to this one."""
    stage = folder / "stage"
    stage.mkdir()
    recording = folder / "run.rec"
    with SearchServer(folder, LATENCY_S) as search:
        done = subprocess.run(
            [
                *(BIN / "whyidle", "run", "--json", folder / "r.json", "--record", recording, "--"),
                *(sys.executable, HERE / "play.py", name),
            ],
            env=os.environ
            | (environment or {})
            | {"WHYIDLE_SCENARIO": str(stage), "WHYIDLE_SEARCH": search.url},
            capture_output=True,
            text=True,
            timeout=90,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        port = search.port
    assert done.returncode == 0, done.stdout + done.stderr
    told = [json.loads(line) for line in (stage / "truth.jsonl").read_text().splitlines()]
    report = load(folder / "r.json")
    roles = {line["pid"]: line["role"] for line in told}
    for process in report["processes"]:  # servers are ended by a signal and say nothing
        words = process["command"].split()
        for at, word in enumerate(words[:-1]):
            if word.endswith("cast.py"):
                roles[process["pid"]] = words[at + 1]
            elif word.endswith("play.py"):
                roles[process["pid"]] = "play"
    waits = {line["role"]: line["waits"] for line in told}
    return Told(report, roles, waits, port, done.stdout, recording)
