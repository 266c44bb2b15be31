"""The article's leak: the same task with a memory that keeps everything, and with one that is managed.

Two hours there are two thousand steps here. whyidle sees each run from its first instruction; the agent
counts for itself, object by object, what it holds.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from whyidle_agent.experiments.observed import (
    SCHEMA,
    Observed,
    Plan,
    findings,
    folder,
    kinds,
    observe,
    save,
    table,
)
from whyidle_agent.experiments.trend import slope_of

LOOPS = 2000
WARM_UP = 0.2  # of the time, as for whyidle: what is loaded or filled once
ARTICLE = {
    "unbounded": "3.2 to 9.8 GB (3.1 times) in 2 h",
    "rate": "0.9 MB/s",
    "duplicates": "over 60 %",
    "managed": "under 5 GB (at most half)",
    "trend": "no upward trend",
}
# Short answers, one search a step, the small model: what is measured is the memory, not the model.
_OPTIONS = ("--small", "--tokens", "100", "--context", "1024", "--queries", "1")
_TTL_S = 5.0  # an hour, compressed as the two hours are


def memory(out: Path, loops: int, seed: int) -> dict[str, Any]:
    """Run the experiment, leave every file of it in `out` and return its result; raises AgentError."""
    folder(out)
    runs = {
        policy: observe(out, Plan(policy, loops, (*_OPTIONS, "--memory", policy, "--ttl", str(_TTL_S))), seed)
        for policy in ("unbounded", "managed")
    }
    return save(out, compare(runs["unbounded"], runs["managed"]) | {"loops": loops, "seed": seed})


def compare(unbounded: Observed, managed: Observed) -> dict[str, Any]:
    """Return the experiment's result as JSON."""
    return {
        "schema": SCHEMA,
        "name": "memory",
        "article": ARTICLE,
        "unbounded": _measured(unbounded),
        "managed": _measured(managed),
    }


def _measured(run: Observed) -> dict[str, Any]:
    own = run.stats["memory"]
    points = own["points"]
    seen = _largest(run.report)
    before = run.report["target"]["duration_s"] - run.stats["wall_s"]  # until the agent's clock began
    growth = next(iter(findings(run.report, "memory_growth")), None)
    trend = slope_of(seen, WARM_UP)
    held = slope_of([(at, held) for at, _, held, _ in points], WARM_UP)
    resident = slope_of([(at, own_bytes) for at, _, _, own_bytes in points], WARM_UP)
    return {
        "steps": run.stats["steps"],
        "wall_s": run.stats["wall_s"],
        "whyidle": {
            "start_bytes": _at(seen, points[0][0] - run.stats["started"] + before),
            "peak_bytes": max(value for _, value in seen),
            "trend": trend and vars(trend),
            "growth_bytes_per_s": growth and growth["growth_bytes_per_s"],
            "findings": kinds(run.report),
        },
        "agent": {
            "start_bytes": points[0][3],
            "peak_bytes": max(point[3] for point in points),
            "held_bytes": own["held_bytes"],
            "held_bytes_per_s": held and held.value,
            "resident_bytes_per_s": resident and resident.value,
            "duplicates_share": own["duplicate_bytes"] / max(1, own["held_bytes"]),
            "indexed": own["indexed"],
            "merged": own["merged"],
            "expired": own["expired"],
            "store_bytes": own["store_bytes"],
        },
    }


def _largest(report: dict[str, Any]) -> list[list[float]]:
    """Return the memory over time of the process that has most of it: seconds, bytes."""
    series = [process["points"] for process in report["memory"]["processes"] if process["points"]]
    return max(series, key=lambda points: max(value for _, value in points))


def _at(points: list[list[float]], seconds: float) -> float:
    """Return the first value that was seen at `seconds` or later."""
    return next((value for at, value in points if at >= seconds), points[-1][1])


def show(result: dict[str, Any], line: Callable[[Any], None]) -> None:
    """Hand a table of the result to `line`."""
    before, after = result["unbounded"], result["managed"]
    theirs, own = before["whyidle"], before["agent"]
    trend = after["whyidle"]["trend"]

    def flagged(run: dict[str, Any]) -> str:
        return "memory_growth" if "memory_growth" in run["whyidle"]["findings"] else "no memory_growth"

    rows = [
        (
            "unbounded, start to end",
            ARTICLE["unbounded"],
            _span(theirs["start_bytes"], theirs["peak_bytes"]) + f" in {before['wall_s']:.0f} s",
            _span(own["start_bytes"], own["peak_bytes"]),
        ),
        (
            "unbounded, growth",
            ARTICLE["rate"],
            _rate(theirs["growth_bytes_per_s"]),
            f"{_rate(own['held_bytes_per_s'])} counted, {_rate(own['resident_bytes_per_s'])} resident",
        ),
        ("of it indexed before", ARTICLE["duplicates"], "", f"{own['duplicates_share']:.0%}"),
        (
            "managed, peak",
            ARTICLE["managed"],
            f"{_size(after['whyidle']['peak_bytes'])} "
            f"({after['whyidle']['peak_bytes'] / theirs['peak_bytes']:.0%} of unbounded)",
            _size(after["agent"]["peak_bytes"]),
        ),
        (
            "managed, trend",
            ARTICLE["trend"],
            f"{_signed(trend['value'])} ({_signed(trend['low'])} to {_signed(trend['high'])})"
            if trend
            else "?",
            "",
        ),
        ("finding, unbounded", "", flagged(before), ""),
        ("finding, managed", "", flagged(after), ""),
    ]
    title = f"A memory that keeps everything, and a managed one: {before['steps']} steps each"
    table(title, ("", "article", "whyidle", "agent's own account"), rows, line)


def _span(start: float, end: float) -> str:
    return f"{_size(start)} to {_size(end)} ({end / max(1, start):.1f} times)"


def _size(value: float) -> str:
    return f"{value / 1e6:.0f} MB"


def _rate(value: float | None) -> str:
    return "not reported" if value is None else f"{value / 1e6:.3f} MB/s"


def _signed(value: float) -> str:
    return f"{value / 1e3:+.1f} kB/s"
