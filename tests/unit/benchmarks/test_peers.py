"""The table and the plot of the peers, from made-up runs; a tool that joins a program."""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from benchmarks import peer_plot, peers
from benchmarks.peer_tools import WHYIDLE, Tool, tools, under

PROGRAM = [sys.executable, "-c", 'import sys; print("up", flush=True); print(sys.stdin.readline())']


def found(redis: float = 1.01) -> dict[str, Any]:
    """Runs in which whyidle costs 1 % and strace a factor of nine; perf is not installed."""
    names = [peer.name for peer in tools()]
    runs = {}
    for workload in ("syscalls", "switches", "redis", "agent"):
        ours = redis if workload == "redis" else 1.01
        runs[workload] = {
            "bare": [2.0, 2.2, 1.8],
            WHYIDLE: [2.0 * ours, 2.2 * ours, 1.8 * ours * 1.0001],
            names[-1]: [18.0, 20.0, 16.0],
        }
    return {
        "measured_at": "2026-01-02T03:04:05+00:00",
        "kernel": "6.18",
        "cpus": 2,
        "missing": {"perf trace -s": "not installed: apt-get install linux-perf"},
        "runs": runs,
        "memory": {WHYIDLE: [60e6, 70e6, 62e6]},
        "start_up": {WHYIDLE: [1.0, 1.2, 1.1]},
    }


def test_the_table() -> None:
    """Small slowdowns in percent, large ones as factors, what is missing with how to get it."""
    lines = {line.split(" | ")[0]: line for line in peers._table(found())}
    assert "+1.0% (+1.0% to +1.0%)" in lines[f"| {WHYIDLE}"]
    assert lines[f"| {WHYIDLE}"].endswith("| 62 MB | 1.10 s |")
    assert "| 9x (" in lines[f"| {tools()[-1].name}"]
    assert "not installed: apt-get install linux-perf" in lines["| perf trace -s"]


@pytest.mark.parametrize(("redis", "verdict"), [(1.01, "met"), (1.03, "missed")])
def test_the_verdict(redis: float, verdict: str) -> None:
    """A goal is met or missed by the numbers; a slowdown that is told from zero is missed."""
    text = "\n".join(peers._verdicts(found(redis)))
    assert f"goal ≤2 %: {verdict} by the median." in text
    assert "none that can be told from zero: missed." in text


def test_the_plot(tmp_path: Path) -> None:
    """An SVG with a row for each installed tool, the same each time."""
    for name in ("a.svg", "b.svg"):
        peer_plot.draw(found(), tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    ET.fromstring(text)
    assert all((peer.name in text) is (peer.name != "perf trace -s") for peer in tools())
    assert text == (tmp_path / "b.svg").read_text()


def test_a_program_begins_when_its_observer_is_ready(tmp_path: Path) -> None:
    """The tool is told the program's number, and ends with it."""
    code = "import sys, time; print('noise'); print('watching', sys.argv[1], flush=True); time.sleep(600)"
    joins = Tool("x", "y", "z", attach=[sys.executable, "-c", code, "PID"], ready="watching")
    with under(joins, PROGRAM, tmp_path / "log") as observed:
        assert observed.tool is not None
        assert observed.memory(PROGRAM) > 1 << 20
        observed.go()
        assert observed.process.wait() == 0
    assert observed.tool.returncode is not None


def test_a_tool_that_does_not_work_is_an_error(tmp_path: Path) -> None:
    """One that ends before it is ready, and one that does not start the program."""
    for broken in (
        Tool("x", "y", "z", attach=[sys.executable, "-c", "print('no')"], ready="watching"),
        Tool("x", "y", "z", prefix=[sys.executable, "-c", "print('no')"]),
    ):
        with pytest.raises(OSError, match=r"ended before|it said"), under(broken, PROGRAM, tmp_path / "log"):
            pass
