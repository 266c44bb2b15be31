"""``memory_growth``: the memory of a process grows, and goes on growing.

Rests on memory that no file backs, so neither the page cache nor a mapped model counts. Guilty is a process
whose floor (what stays when a garbage collector has run) rises for certain after its warm-up, by at least
2 MB and 2 %, over at least 3 s, in the second half of the time as in all of it. A warm-up that levels off and
a single step are no growth. Growth by less than a half that was seen for less than 15 s and 20 inferences may
be a warm-up that goes on: it is of low severity, and low confidence says why.

**saves_s**: nothing; ``growth_bytes_per_s`` is the rate, with its 95 % confidence interval.
"""

from __future__ import annotations

from typing import Any

from whyidle_daemon.findings.evidence import Evidence, say
from whyidle_daemon.findings.kv_cache_growth import filling
from whyidle_daemon.findings.memory import (
    MIN_BYTES,
    Growth,
    certainty,
    growing,
    in_words,
    inferring,
    of_process,
    size,
    young,
)
from whyidle_daemon.series import NS

MIN_SHARE = 0.02
MAX_PROCESSES = 5


def find(evidence: Evidence) -> list[dict[str, Any]]:
    """One finding for each process that grows, at most five."""
    guilty = [
        growth
        for growth in growing(evidence)
        if growth.trend.grown >= max(MIN_BYTES, MIN_SHARE * growth.trend.value)
    ]
    return [_finding(evidence, growth) for growth in guilty[:MAX_PROCESSES]]


def _finding(evidence: Evidence, growth: Growth) -> dict[str, Any]:
    process, trend = growth
    known = inferring(evidence, process)
    period = known.period_ns if known is not None else None
    each = trend.rate * period / NS if period else None
    doubles = trend.value / trend.rate * NS
    doubt = young(evidence, process, trend)
    doubts = [doubt] if doubt is not None else []
    if any(each.engine.process is process for each in filling(evidence)):
        doubts.append("its model's context fills meanwhile, which uses memory that was reserved for it")
    level, reasons = certainty(evidence, trend, doubts)
    share = trend.grown / max(1, trend.value)
    bound = "If it goes on: bound" if doubt is not None else "Bound"
    per = f", {size(each)} per inference" if each is not None else ""
    return of_process(
        "memory_growth",
        evidence,
        process,
        severity="low" if doubt is not None or share < 0.1 else "high" if share >= 0.5 else "medium",
        confidence="low" if doubt is not None else level,
        confidence_reasons=reasons,
        growth_bytes_per_s=trend.rate,
        growth_low=trend.low,
        growth_high=trend.high,
        growth_bytes_per_inference=each,
        grown_bytes=trend.grown,
        memory_bytes=trend.value,
        advice=(
            f"Process {process.pid} grows by {size(trend.rate)} a second{per}: {size(trend.grown)} in "
            f"{say(trend.span_ns)}, to {size(trend.value)}; at this slope it is twice as large in "
            f"{in_words(doubles, None)}. {bound} what it keeps: the last N interactions, a time-to-live, "
            "duplicates merged, older ones summarised."
        ),
    )
