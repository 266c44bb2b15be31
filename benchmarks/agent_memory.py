"""The reference agent's memory and context against the article's figures, by `whyidle-agent experiment`."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from benchmarks.measure import BIN, OUT, Row, judge, say

RATE_GOAL = 0.05
FORECAST_GOAL = 0.10


def run() -> tuple[str, list[Row]]:
    """Title and rows."""
    return "The agent's memory and context, beside the article", [
        *_memory(_experiment("memory")),
        *_context(_experiment("context")),
        *_table(_experiment("table")),
    ]


def _experiment(name: str) -> dict[str, Any]:
    say(f"  {name}")
    out = OUT / "agent-memory"
    command = [BIN / "whyidle-agent", "experiment", name, "--out", out]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    found: dict[str, Any] = json.loads((out / f"{name}.json").read_text())
    return found


def _memory(result: dict[str, Any]) -> list[Row]:
    unbounded, managed = result["unbounded"], result["managed"]
    told, own = unbounded["whyidle"]["growth_bytes_per_s"], unbounded["agent"]
    error = told / own["resident_bytes_per_s"] - 1 if told else float("nan")
    counted = told / own["held_bytes_per_s"] - 1 if told else float("nan")
    trend = managed["whyidle"]["trend"]
    flagged = "memory_growth" in managed["whyidle"]["findings"]
    return [
        Row(
            "unbounded memory: rate of growth reported, to the agent's own reading",
            f"{error:+.1%} of {own['resident_bytes_per_s'] / 1e6:.3f} MB/s "
            f"({counted:+.1%} of what it counts)",
            f"within {RATE_GOAL:.0%}",
            judge(abs(error) <= RATE_GOAL and abs(counted) <= RATE_GOAL),
        ),
        Row(
            f"managed memory: trend over {managed['steps']} steps",
            f"{trend['value'] / 1e3:+.2f} ({trend['low'] / 1e3:+.2f} to {trend['high'] / 1e3:+.2f}) kB/s",
            "interval holds 0",
            judge(trend["low"] <= 0 <= trend["high"]),
        ),
        Row("managed memory: `memory_growth`", "reported" if flagged else "none", "none", judge(not flagged)),
        Row(
            "peak, managed to unbounded (article: under 5 GB to 9.8 GB)",
            f"{managed['whyidle']['peak_bytes'] / 1e6:.0f} to "
            f"{unbounded['whyidle']['peak_bytes'] / 1e6:.0f} MB",
            "",
            "",
        ),
    ]


def _context(result: dict[str, Any]) -> list[Row]:
    forecast, last = result["forecast"], result["steps"][-1]
    error = forecast["error"]
    wanted = {"kv_cache_growth", "memory_limit_near"}
    return [
        Row(
            f"out of memory, foretold after {forecast['after_inferences']} inferences",
            "not foretold"
            if error is None
            else f"in inference {forecast['fails_at_inference']}; it was {forecast['failed_at_inference']} "
            f"({error:+.0%})",
            f"within {FORECAST_GOAL:.0%}",
            judge(error is not None and abs(error) <= FORECAST_GOAL),
        ),
        Row(
            "findings by then",
            ", ".join(f"`{kind}`" for kind in forecast["findings"]) or "none",
            "both",
            judge(wanted <= set(forecast["findings"])),
        ),
        Row("tokens (article: 28 000 after 15)", f"{last['tokens']} after {last['step']} steps", "", ""),
    ]


def _table(result: dict[str, Any]) -> list[Row]:
    def both(key: str, form: str, scale: float = 1.0) -> str:
        values = (result[run][key] for run in ("before", "after"))
        return " to ".join("?" if value is None else form.format(value * scale) for value in values)

    article = result["article"]
    return [
        Row(f"{what} (article: {article[name]}), as found to as mended", value, "", "")
        for what, name, value in (
            ("engine memory", "engine_memory", both("engine_memory_bytes", "{:.1f} MB", 1e-6)),
            ("engine utilisation", "utilisation", both("utilisation", "{:.0%}")),
            ("peak memory", "peak_memory", both("peak_memory_bytes", "{:.0f} MB", 1e-6)),
            ("CPU", "cpu", both("cpu", "{:.0%}")),
            ("one inference, P95", "p95", both("p95_s", "{:.2f} s")),
        )
    ]
