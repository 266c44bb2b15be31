"""Begins the processes of a scenario, waits for its agents, ends its servers: ``play.py SCENARIO``."""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(os.environ["WHYIDLE_SCENARIO"])
CAST = Path(__file__).parent / "cast.py"
PLAYS = {
    "one_process": ([], [["alone"]], []),
    "server": (["serve"], [["agent"]], []),
    "server_kept_connection": (["serve"], [["agent", "server", "keep"]], []),
    "two_agents": (["serve"], [["agent"]], ["burst"]),
    "nobody_calls": (["serve"], [["wanderer"]], []),
    "saturated": (["serve"], [["greedy"], ["greedy"]], []),
    "subprocess": (["serve"], [["tooled"]], []),
    "asyncio_gather": (["serve"], [["gathering"]], []),
    "load_balancer": (["serve", "balance"], [["agent", "balancer"]], []),
}


def begin(*role):
    return subprocess.Popen([sys.executable, CAST, *role])


def main(scenario):
    servers, agents, others = PLAYS[scenario]
    background = [begin(role) for role in servers]
    bystanders = [begin(role) for role in others]
    working = [begin(*role) for role in agents]
    failed = sum(process.wait() for process in working)
    (FOLDER / "done").touch()
    failed += sum(process.wait() for process in bystanders)
    for process in background:
        process.terminate()
        process.wait()
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
