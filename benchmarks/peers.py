"""``python -m benchmarks.peers`` (or ``make peers``): whyidle beside its peers, in one run on one machine.

How much slower each tool makes a storm of system calls, a storm of context switches, a Redis and the
reference agent; its memory and its start-up (whyidle's with probes that an earlier one has compiled; the
first takes as long as ``benchmarks startup`` says). Every round runs everything once, each time in another
order; what counts is the ratio to the bare run of the same round. Writes ``benchmarks/peers.json``, the plot
``benchmarks/peers.svg`` and the table in README.md. About a quarter of an hour, root.
``--again`` makes plot and table from the data that is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import peer_plot, readme, tracefs
from benchmarks.measure import judge, say
from benchmarks.pairs import Slowdown, slowdown
from benchmarks.peer_tools import WHYIDLE, Tool, tools
from benchmarks.peer_workloads import Agent, Workload, agent, start_up, workloads

PAIRS = {"syscalls": 6, "switches": 6, "redis": 24, "agent": 10}  # bare and whyidle
PEER_PAIRS = 3  # the peers: their differences are larger
START_UPS = 3
REDIS_GOAL = 1.02
DATA = Path(__file__).with_name("peers.json")
Runs = dict[str, list[float]]


def main() -> int:
    if os.geteuid() != 0:
        say("benchmarks: kernel probes need root\n  run it with sudo")
        return 3
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends too
    tracefs.mount_privately()
    # All of it, bare or observed, before what else this machine does: that disturbs, and not both alike.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    peers = tools()
    found: dict[str, Any] = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "missing": {peer.name: peer.missing for peer in peers if peer.missing},
        "runs": {},
    }
    with tempfile.TemporaryDirectory() as folder, agent(Path(folder)) as agents:
        for workload in workloads(agents):
            say(f"==> {workload.title} {workload.missing}")
            if not workload.missing:
                found["runs"][workload.name] = _measured(workload, peers)
        found["memory"] = agents.memory
        say("==> start-up")
        found["start_up"] = _start_ups(peers)
    DATA.write_text(json.dumps(found, indent=1) + "\n")
    report(found)
    return 0


def report(found: dict[str, Any]) -> None:
    """Draw the plot, print the table and put it into README.md."""
    peer_plot.draw(found, DATA.with_suffix(".svg"))
    text = "\n".join(_table(found)) + "\n\n" + "\n".join(_verdicts(found))
    text += (
        f"\n\nMeasured {found['measured_at'][:10]} on Linux {found['kernel']}, {found['cpus']} virtual CPUs, "
        "at real-time priority, by `make peers`."
    )
    print(text)
    readme.replace("peers", text)


def slowdowns(runs: Runs) -> dict[str, Slowdown]:
    """Each tool against the bare runs of the same rounds."""
    bare = runs["bare"]
    return {name: slowdown(v, bare[: len(v)]) for name, v in runs.items() if name != "bare" and len(v) > 1}


def _measured(workload: Workload, peers: list[Tool]) -> Runs:
    running: dict[str, Callable[[], float]] = {"bare": lambda: workload.run(None)}
    for peer in peers:
        if not peer.missing and (workload.python or not peer.python_only):
            running[peer.name] = lambda peer=peer: workload.run(peer)
    runs: Runs = {name: [] for name in running}
    for number in range(PAIRS[workload.name]):
        names = [name for name in running if number < PEER_PAIRS or name in ("bare", WHYIDLE)]
        first = number % len(names)
        for name in names[first:] + names[:first]:
            try:
                runs[name].append(running[name]())
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                if name in ("bare", WHYIDLE):
                    raise
                say(f"  {name} does not do it here: {error}")
                del running[name]
                continue
            say(f"  {number + 1}: {name}: {runs[name][-1]:.4g} {workload.unit}")
    return runs


def _start_ups(peers: list[Tool]) -> Runs:
    return {peer.name: [start_up(peer) for _ in range(START_UPS)] for peer in peers if not peer.missing}


def _table(found: dict[str, Any]) -> list[str]:
    columns = [w for w in _all_workloads() if w.name in found["runs"]]
    lines = [
        f"| slower by | {' | '.join(w.title for w in columns)} | memory | start-up |",
        "|---|" + "---|" * (len(columns) + 2),
        "| bare | "
        + " | ".join(f"{statistics.median(found['runs'][w.name]['bare']):.3g} {w.unit}" for w in columns)
        + " | | |",
    ]
    for peer in tools():
        cells = [_cell(slowdowns(found["runs"][w.name]).get(peer.name)) for w in columns]
        if peer.name in found["missing"]:
            cells = [found["missing"][peer.name]] + [""] * (len(columns) - 1)
        memory, start = found["memory"].get(peer.name), found["start_up"].get(peer.name)
        cells += [f"{statistics.median(memory) / 1e6:.0f} MB" if memory else ""]
        cells += [f"{statistics.median(start):.2f} s" if start else ""]
        lines.append(f"| {peer.name} | {' | '.join(cells)} |")
    return lines


def _cell(found: Slowdown | None) -> str:
    if found is None:
        return ""
    if found.high < 1.5:
        return f"{_percent(found.median)} ({_percent(found.low)} to {_percent(found.high)})"
    return f"{found.median:.3g}x ({found.low:.3g} to {found.high:.3g})"


def _percent(ratio: float) -> str:
    return f"{ratio - 1:+.1%}"


def _verdicts(found: dict[str, Any]) -> list[str]:
    lines = ["In brackets the 95 % interval of the mean.", ""]
    if "redis" in found["runs"]:
        one = slowdowns(found["runs"]["redis"])[WHYIDLE]
        lines.append(
            f"- redis-benchmark, its server observed: {_cell(one)} in {one.pairs} pairs; goal ≤2 %: "
            f"{judge(one.median <= REDIS_GOAL)} by the median"
            + (", and the interval holds the goal." if one.low <= REDIS_GOAL <= one.high else ".")
        )
    one = slowdowns(found["runs"]["agent"])[WHYIDLE]
    told = one.told_from_zero and one.low > 1
    lines.append(
        f"- the reference agent: {_cell(one)} in {one.pairs} pairs; goal: none that can be told from zero: "
        f"{judge(not told)}."
    )
    return lines


def _all_workloads() -> list[Workload]:
    return workloads(Agent(0, Path()))


if __name__ == "__main__":
    if sys.argv[1:] == ["--again"]:  # the plot and the table from the last run's data
        report(json.loads(DATA.read_text()))
    else:
        sys.exit(main())
