"""The article's closing table, for an agent as it was found and as it was mended.

As found: searches one after the other, a memory that keeps everything, the whole history in the prompt. As
mended: searches together, managed memory, a summary. Both do the same number of steps.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from whyidle_agent.experiments.observed import SCHEMA, Observed, Plan, folder, kinds, observe, save, table

LOOPS = 12
LATENCY_S = 0.3
ARTICLE = {
    "engine_memory": "8 to 12 GB",
    "utilisation": "60 to 90 %",
    "peak_memory": "4 to 8 GB",
    "cpu": "70 to 100 %, several cores",
    "p95": "0.8 to 2 s",
}
_OPTIONS = ("--tokens", "540", "--queries", "7", "--observation", "1000")
_FOUND = (*_OPTIONS, "--tools", "sync", "--memory", "unbounded", "--history", "whole", "--context", "24576")
_MENDED = (*_OPTIONS, "--tools", "async", "--memory", "managed", "--context", "4096")


def closing(out: Path, loops: int, seed: int) -> dict[str, Any]:
    """Run the experiment, leave every file of it in `out` and return its result; raises AgentError."""
    folder(out)
    found = observe(out, Plan("as-found", loops, _FOUND, latency_s=LATENCY_S), seed)
    mended = observe(out, Plan("as-mended", loops, _MENDED, latency_s=LATENCY_S), seed)
    result = {
        "schema": SCHEMA,
        "name": "table",
        "article": ARTICLE,
        "before": measured(found),
        "after": measured(mended),
    }
    return save(out, result | {"loops": loops, "seed": seed, "latency_s": LATENCY_S})


def measured(run: Observed) -> dict[str, Any]:
    """Return the lines of the table for one run. The engine is the one that thinks, not the embeddings'."""
    report = run.report
    engine = max(report["engines"], key=lambda engine: engine["busy_s"])
    seen = engine["busy_s"] + engine["idle_s"]
    return {
        "wall_s": report["target"]["duration_s"],
        "engine_memory_bytes": engine["memory_peak_bytes"],
        "utilisation": engine["busy_s"] / seen if seen else None,
        "peak_memory_bytes": max(process["rss_peak_bytes"] for process in report["processes"]),
        "cpu": sum(process["cpu_s"] for process in report["processes"]) / report["target"]["duration_s"],
        "p95_s": engine["latency_s"] and engine["latency_s"]["p95"],
        "findings": kinds(report),
    }


def show(result: dict[str, Any], line: Callable[[Any], None]) -> None:
    """Hand a table of the result to `line`."""

    def both(form: Callable[[Any], str], key: str) -> tuple[str, str]:
        before, after = (result[run][key] for run in ("before", "after"))
        return tuple("?" if value is None else form(value) for value in (before, after))  # type: ignore[return-value]

    rows = [
        ("engine memory", ARTICLE["engine_memory"], *both(_size, "engine_memory_bytes")),
        ("engine utilisation", ARTICLE["utilisation"], *both("{:.0%}".format, "utilisation")),
        ("peak memory", ARTICLE["peak_memory"], *both(_size, "peak_memory_bytes")),
        ("CPU", ARTICLE["cpu"], *both("{:.0%} of a core".format, "cpu")),
        ("one inference, P95", ARTICLE["p95"], *both("{:.2f} s".format, "p95_s")),
        ("wall time", "", *both("{:.1f} s".format, "wall_s")),
    ]
    table("The article's closing table", ("", "article", "as found", "as mended"), rows, line)


def _size(value: float) -> str:
    return f"{value / 1e6:.1f} MB"
