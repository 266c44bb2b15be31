"""What the run would have been like, had calls been issued together that queued behind one another.

Follows the thread that drives an engine (without one, a main thread) from its first instruction to its last.
Inference is not moved: the answer of each step decides the next, so steps stay in their order. Within a step,
between two inferences, the calls of one function are taken to be independent of one another (the model asked
for all of them before it saw any answer) and become as long as the longest of them; connecting stays. Calls
of different functions stay in their order, as one may need what the other found; so do waits of every other
kind and the thread's own work. What remains of it all, laid end to end, is the predicted time.

Threads that run beside one another do not add up: the target ends when the last of them does.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Any

from whyidle_daemon.findings.evidence import Evidence, seconds
from whyidle_daemon.findings.sequential_calls import Culprit, culprits, once
from whyidle_daemon.gaps import EngineActivity
from whyidle_daemon.processes import Process

MIN_RUNS = 3  # fewer do not tell how much runs differ
SIGMAS = 2.0


def what_if(evidence: Evidence) -> list[dict[str, Any]]:
    """``what_if``: one prediction for each kind of fix that would pay; see ``whyidle_wire.report.WhatIf``."""
    of_engines = list(culprits(evidence))
    found = once(of_engines)
    if not found:
        return []
    saved: dict[tuple[Process, int], int] = {}
    variance: dict[tuple[Process, int], float] = {}
    for culprit in found:
        who = (culprit.key.process, culprit.key.tid)
        saved[who] = saved.get(who, 0) + culprit.runs.saves_ns
        variance[who] = variance.get(who, 0.0) + _variance(culprit)
    for engine in evidence.engines:
        if engine.process is not None:
            for tid in engine.drivers:
                saved.setdefault((engine.process, tid), 0)
    # The target ends when the last of these threads does, and with what comes after that now.
    early = {who: _early_ns(evidence, who, ns) for who, ns in saved.items()}
    last = min(saved, key=lambda who: (saved[who] + early[who], -saved[who]))
    saves = max(0, min(saved[last] + early[last] - min(early.values()), evidence.wall_ns))
    spread = int(SIGMAS * sqrt(variance.get(last, 0.0)))
    known = sum(culprit.runs.runs for culprit in found) >= MIN_RUNS
    predicted = evidence.wall_ns - saves
    return [
        {
            "fix": "sequential_calls",
            "functions": sorted({culprit.key.function for culprit in found if culprit.key.function}),
            "runs": sum(culprit.runs.runs for culprit in found),
            "calls": sum(culprit.runs.calls for culprit in found),
            "wall_s": seconds(evidence.wall_ns),
            "predicted_wall_s": seconds(predicted),
            "predicted_wall_low_s": seconds(max(0, predicted - spread)) if known else None,
            "predicted_wall_high_s": seconds(min(evidence.wall_ns, predicted + spread)) if known else None,
            "saves_s": seconds(saves),
            "remains_s": _remains(evidence, found, last, predicted),
            "engines": [_engine(engine, of_engines) for engine in evidence.engines],
        }
    ]


def _early_ns(evidence: Evidence, who: tuple[Process, int], saved_ns: int) -> int:
    """How long before the target's end a thread was done; one that saves nothing, with its last inference."""
    ends = [
        engine.end_ns if saved_ns else next((gap.start_ns for gap in engine.gaps if gap.open), engine.end_ns)
        for engine in evidence.engines_of(*who)
    ]
    return max(0, evidence.end_ns - max(ends, default=evidence.end_ns))


def _variance(culprit: Culprit) -> float:
    """Of the sum of what the runs save, were they made again: each is one draw, the mean of all is known."""
    runs = culprit.runs
    mean = runs.saves_ns / runs.runs
    return max(0.0, runs.squares - runs.runs * mean * mean)


def _saved_on(engine: EngineActivity, found: Iterable[Culprit]) -> int:
    saves = sum(culprit.runs.saves_ns for culprit in found if culprit.engine is engine)
    return min(saves, engine.idle_ns)


def _engine(engine: EngineActivity, found: list[Culprit]) -> dict[str, Any]:
    observed = engine.busy_ns + engine.idle_ns
    left = observed - _saved_on(engine, found)
    return {
        "id": engine.id,
        "utilization": engine.busy_ns / observed if observed else None,
        "predicted_utilization": engine.busy_ns / left if left else None,
    }


def _remains(
    evidence: Evidence, found: list[Culprit], last: tuple[Process, int], predicted_ns: int
) -> dict[str, float]:
    """What the predicted time is made of: inference, the calls, and everything else."""
    engines = evidence.engines_of(*last)
    inference = min(sum(engine.busy_ns for engine in engines), predicted_ns)
    mine = [culprit.runs for culprit in found if (culprit.key.process, culprit.key.tid) == last]
    calls = min(sum(runs.total_ns - runs.saves_ns for runs in mine), predicted_ns - inference)
    return {
        "inference": seconds(inference),
        "calls": seconds(calls),
        "rest": seconds(predicted_ns - inference - calls),
    }
