"""``memory_limit_near``: at this slope the memory is used up soon.

Limits are the control groups above the target's processes, the host, GPUs, and the KV cache of an engine.
Guilty is a limit whose use grows for certain and that will be reached within the time that was observed so
far (ten minutes at least), or of which 90 % are used. For the host, a process of the target must be what
grows, at half of the host's rate or more. A KV cache: full within ten inferences, or as many as there were,
or at 80 %.

**saves_s**: nothing; ``limit_at_s`` is when it is reached, from the start of the observation.
"""

from __future__ import annotations

import math
from typing import Any

from whyidle_daemon.findings.evidence import Evidence, confidence, printable
from whyidle_daemon.findings.kv_cache_growth import Filling, filling
from whyidle_daemon.findings.memory import (
    MIN_SPAN_NS,
    Growth,
    certainty,
    growing,
    in_words,
    inferring,
    loops_in,
    of_process,
    since_start,
    size,
    young,
)
from whyidle_daemon.memory import LimitSeries
from whyidle_daemon.processes import Process
from whyidle_daemon.series import NS, Trend, trend_of

HORIZON_NS = 600 * NS
NEAR = 0.9
NEAR_CACHE = 0.8
MIN_LOOPS = 10
HOST_SHARE = 0.5
ENDING_NS = 2 * NS


def find(evidence: Evidence) -> list[dict[str, Any]]:
    """One finding for the limit that is reached first, and one for each KV cache that is nearly full."""
    growths = [growth for growth in growing(evidence) if _lives(evidence, growth.process)]
    near = []
    for limit in evidence.limits:
        trend = _trend(limit, growths)
        process = growths[0].process if growths and limit.scope != "gpu" else _user(evidence)
        if trend is None or process is None:
            continue
        used = limit.points[-1][1]
        left_ns = max(0.0, (limit.limit_bytes - max(used, trend.value)) / trend.rate * NS)
        if left_ns <= max(HORIZON_NS, evidence.wall_ns) or used >= NEAR * limit.limit_bytes:
            near.append((left_ns, limit, trend, process))
    near.sort(key=lambda item: (item[0], item[1].limit_bytes))
    found = [_finding(evidence, *item) for item in near[:1]]
    return [*found, *(_cache(evidence, each) for each in filling(evidence) if _nearly_full(each))]


def _lives(evidence: Evidence, process: Process) -> bool:
    """What ended takes no more; an observation ends a moment after its processes."""
    return not process.end_ns or process.end_ns >= evidence.end_ns - ENDING_NS


def _user(evidence: Evidence) -> Process | None:
    """Whose a GPU's memory most likely is: the process that drives the busiest engine, else the first."""
    busiest = max(evidence.engines, key=lambda engine: engine.busy_ns, default=None)
    if busiest is not None and busiest.process is not None:
        return busiest.process
    return min(evidence.processes, key=lambda process: (process.start_ns, process.pid), default=None)


def _trend(limit: LimitSeries, growths: list[Growth]) -> Trend | None:
    """How the use of a limit grows, if the target is what makes it grow; a GPU's memory it holds unseen."""
    if not growths and limit.scope != "gpu":
        return None
    trend = trend_of(limit.points)
    if limit.scope == "host":
        own = growths[0].trend
        if trend is None or own.rate < HOST_SHARE * trend.rate:
            return None
        return own._replace(value=limit.points[-1][1])
    if trend is None or trend.span_ns < MIN_SPAN_NS:
        return None
    return trend


def _finding(
    evidence: Evidence, left_ns: float, limit: LimitSeries, trend: Trend, process: Process
) -> dict[str, Any]:
    used = limit.points[-1][1]
    loops = loops_in(left_ns, inferring(evidence, process))
    doubts = {"host": ["the host's memory is others' too"], "gpu": ["a GPU's memory may be others' too"]}
    doubt = young(evidence, process, trend)
    more = [doubt] if doubt is not None else []
    level, reasons = certainty(evidence, trend, [*more, *doubts.get(limit.scope, [])])
    name = {"cgroup": f"control group {printable(limit.name)}", "gpu": f"GPU {printable(limit.name)}"}
    share = used / max(1, limit.limit_bytes)
    where = name.get(limit.scope, "host")
    earliest = max(0.0, limit.limit_bytes - used) / trend.high
    latest = max(0.0, limit.limit_bytes - used) / trend.low
    return of_process(
        "memory_limit_near",
        evidence,
        process,
        severity="high" if share >= 0.75 or left_ns <= HORIZON_NS / 2 else "medium",
        confidence=level,
        confidence_reasons=reasons,
        limit={
            "scope": limit.scope,
            "name": limit.name,
            "limit_bytes": limit.limit_bytes,
            "used_bytes": used,
        },
        growth_bytes_per_s=trend.rate,
        limit_in_s=left_ns / NS,
        limit_in_inferences=loops,
        limit_at_s=since_start(evidence, left_ns),
        limit_at_earliest_s=since_start(evidence, earliest * NS),
        limit_at_latest_s=since_start(evidence, latest * NS),
        advice=(
            f"At {size(trend.rate)} a second out of memory in {in_words(left_ns, loops)}: {size(used)} of "
            f"{size(limit.limit_bytes)} ({100 * share:.0f} %) of the {where} are used. "
            + (
                "Free what the model needs no more, shorten its context, or take a smaller one."
                if limit.scope == "gpu"
                else f"Process {process.pid} grows fastest: bound what it keeps, or raise the limit in time."
            )
        ),
    )


def _nearly_full(each: Filling) -> bool:
    if each.n_ctx is None or each.loops is None:
        return False
    return each.loops <= max(MIN_LOOPS, each.known.latency.count) or each.fill >= NEAR_CACHE * each.n_ctx


def _cache(evidence: Evidence, each: Filling) -> dict[str, Any]:
    process, facts = each.engine.process, each.known.facts
    assert process is not None
    assert each.n_ctx is not None
    assert each.loops is not None
    left_ns = each.full_ns or 0.0
    level, reasons = confidence(evidence, None, [], from_totals=True)
    kv = facts.kv_bytes if facts is not None else None
    share = each.fill / each.n_ctx
    used = int(kv * min(1.0, share)) if kv is not None else None
    held = f" ({size(used)} of {size(kv)})" if kv is not None and used is not None else ""
    return of_process(
        "memory_limit_near",
        evidence,
        process,
        each.engine,
        severity="high" if share >= 0.75 else "medium",
        confidence=level,
        confidence_reasons=[f"the fill after each of {each.known.latency.count} inferences"]
        if level == "high"
        else reasons,
        count=each.known.latency.count,
        limit={"scope": "kv_cache", "name": each.engine.id, "limit_bytes": kv, "used_bytes": used},
        limit_in_s=left_ns / NS,
        limit_in_inferences=each.loops,
        limit_at_s=since_start(evidence, left_ns),
        advice=(
            f"The KV cache of {each.engine.id} is full in {in_words(left_ns, math.floor(each.loops))}: "
            f"{each.fill} of {each.n_ctx} tokens{held}. llama_decode fails then: shorten the history before, "
            "or make the context larger if memory allows."
        ),
    )
