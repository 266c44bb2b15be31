"""The demo agent with and without observation: its wall time, the daemon's cost, the verdict's truth."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import BIN, OUT, Row, alternate, judge, ratio, spread

PAIRS = 5
WALL_GOAL = 0.02
TRUTH_GOAL = 0.02
RSS_GOAL = 45e6
CPU_GOAL = 0.02


def run() -> tuple[str, list[Row]]:
    """Title and rows."""
    folder = OUT / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    log, port = folder / "requests.jsonl", folder / "port"
    for path in (log, port):
        path.unlink(missing_ok=True)
    reports: list[dict[str, Any]] = []
    held: list[float] = []
    server = subprocess.Popen(
        [BIN / "whyidle-search", "--latency", "0.5", "--port-file", port, "--requests-log", log]
    )
    try:
        while not port.exists():
            time.sleep(0.02)
        agent = [
            BIN / "whyidle-agent", "run", "--search-url", f"http://127.0.0.1:{port.read_text().strip()}",
            "--loops", "6", "--seed", "1", "--workdir", folder / "work",
        ]  # fmt: skip

        def bare() -> float:
            return _wall(agent, folder / "stats.json")

        def observed() -> float:
            before = _held(log)
            report = folder / "report.json"
            wall = _wall([BIN / "whyidle", "run", "--json", report, "--", *agent], folder / "stats.json")
            reports.append(json.loads(report.read_text()))
            held.append(_held(log) - before)
            return wall

        found = alternate({"bare": bare, "observed": observed}, PAIRS)
    finally:
        server.terminate()
        server.wait()
    return "The demo agent, observed", list(_rows(found, reports, held))


def _wall(command: list[Any], stats: Path) -> float:
    """Seconds by the agent's own clock."""
    subprocess.run([*command, "--stats", stats], stdout=subprocess.DEVNULL, check=True)
    return float(json.loads(stats.read_text())["wall_s"])


def _held(log: Path) -> float:
    if not log.exists():
        return 0.0
    return sum(json.loads(line)["held_s"] for line in log.read_text().splitlines())


def _rows(found: dict[str, list[float]], reports: list[dict[str, Any]], held: list[float]) -> list[Row]:
    slower = ratio(found["observed"], found["bare"]) - 1
    searches = [
        next(f for f in r["findings"] if f["kind"] == "blocking_network_call")["blocked_s"] for r in reports
    ]
    errors = [seen / truth - 1 for seen, truth in zip(searches, held, strict=True)]
    worst = max(errors, key=abs)
    rss = [float(r["overhead"]["daemon_rss_bytes"]) for r in reports]
    cpu = [r["overhead"]["daemon_cpu_s"] / r["target"]["duration_s"] for r in reports]
    busy = [e["busy_s"] / (e["busy_s"] + e["idle_s"]) for r in reports for e in r["engines"]]
    attributed = [e["idle_attributed_s"] / e["idle_s"] for r in reports for e in r["engines"]]
    return [
        Row(
            "agent's wall time, observed to not",
            f"{slower:+.2%}",
            f"≤{WALL_GOAL:.0%}",
            judge(slower <= WALL_GOAL),
        ),
        Row(
            "blocked seconds reported, to the server's own log",
            f"{worst:+.2%} (worst of {len(errors)})",
            f"within {TRUTH_GOAL:.0%}",
            judge(abs(worst) <= TRUTH_GOAL),
        ),
        Row(
            "daemon, resident memory",
            f"{spread([value / 1e6 for value in rss], '{:.1f}')} MB",
            f"≤{RSS_GOAL / 1e6:.0f} MB",
            judge(max(rss) <= RSS_GOAL),
        ),
        Row(
            "daemon, CPU",
            f"{spread([value * 100 for value in cpu], '{:.2f}')} % of one core",
            f"≤{CPU_GOAL:.0%}",
            judge(max(cpu) <= CPU_GOAL),
        ),
        Row("engine busy", f"{spread([b * 100 for b in busy], '{:.1f}')} %", "", ""),
        Row("engine idle with a known cause", f"{spread([a * 100 for a in attributed], '{:.2f}')} %", "", ""),
    ]
