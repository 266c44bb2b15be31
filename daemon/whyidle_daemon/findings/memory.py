"""What the findings about memory share: the trends, and what is said of them.

None of them costs time that could be summed, so ``saves_s`` is ``None``: what is lost is the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from whyidle_daemon.findings.evidence import Evidence, confidence, finding, say, seconds
from whyidle_daemon.gaps import EngineActivity
from whyidle_daemon.inferences import Inferences
from whyidle_daemon.processes import Process
from whyidle_daemon.series import NS, Point, Trend, trend_of
from whyidle_wire import report as wire

MIN_SPAN_NS = 3 * NS
MIN_BYTES = 2_000_000
MATURE_NS = 15 * NS
MATURE_INFERENCES = 20
YOUNG_SHARE = 0.5
"""Growth seen for less than both may be a warm-up that goes on, unless half as much again came of it."""
TEARDOWN_NS, TEARDOWN_SHARE = 2 * NS, 0.05
"""A process that has ended gave back what it held in its last two seconds, or in less if it was short."""
WIDE = 0.25  # of the rate: a confidence interval that is said to be wide


class Growth(NamedTuple):
    """A process that grows."""

    process: Process
    trend: Trend


def growing(evidence: Evidence) -> list[Growth]:
    """The processes of which memory grows, the fastest first."""
    found = []
    for process, points in evidence.memory.items():
        values = [value for _, value in points]
        if not values or max(values) - min(values) < MIN_BYTES:  # most: a trend costs half a millisecond
            continue
        trend = trend_of(without_teardown(process, points))
        if trend is not None and trend.span_ns >= MIN_SPAN_NS:
            found.append(Growth(process, trend))
    return sorted(found, key=lambda growth: (-growth.trend.rate, growth.process.pid))


def without_teardown(process: Process, points: Sequence[Point]) -> list[Point]:
    """What was seen of a process while it ran, not while it freed everything at its end."""
    if not process.end_ns or not points:
        return list(points)
    teardown_ns = min(TEARDOWN_NS, TEARDOWN_SHARE * (process.end_ns - points[0][0]))
    return [point for point in points if point[0] < process.end_ns - teardown_ns]


def young(evidence: Evidence, process: Process, trend: Trend) -> str | None:
    """Why growth may be a warm-up: a doubt in words, ``None`` when it was seen for long enough."""
    known = inferring(evidence, process)
    if trend.span_ns >= MATURE_NS or trend.grown >= YOUNG_SHARE * (trend.value - trend.grown):
        return None
    if known is not None and known.period_ns and trend.span_ns / known.period_ns >= MATURE_INFERENCES:
        return None
    return f"seen for only {say(trend.span_ns)}: a program that still warms up looks the same"


def inferring(evidence: Evidence, process: Process) -> Inferences | None:
    """The inferences of the busiest engine of a process, else of the target: its loops."""
    engines = [one for one in evidence.engines if one.inferences is not None and one.inferences.period_ns]
    own = [one for one in engines if one.process is process] or engines
    busiest = max(own, key=lambda engine: engine.busy_ns, default=None)
    return busiest.inferences if busiest is not None else None


def loops_in(ns: float, known: Inferences | None) -> float | None:
    """How many inferences go into a time."""
    period = known.period_ns if known is not None else None
    return ns / period if period else None


def in_words(ns: float, loops: float | None) -> str:
    """``6 inferences / 4.0 min``."""
    value = ns / NS
    if value < 100:
        time = f"{value:.0f} s"
    else:
        time = f"{value / 60:.0f} min" if value < 6000 else f"{value / 3600:.1f} h"
    return f"{loops:.0f} inferences / {time}" if loops is not None else time


def size(value: float) -> str:
    """Bytes for a sentence: ``3.2 MB``."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while abs(value) >= 1000 and len(units) > 1:
        value /= 1000
        del units[0]
    return f"{value:.0f} {units[0]}" if units[0] == "B" or value >= 100 else f"{value:.1f} {units[0]}"


def certainty(evidence: Evidence, trend: Trend, doubts: list[str]) -> tuple[wire.Confidence, list[str]]:
    """How sure a trend is."""
    if trend.high - trend.low > 2 * WIDE * trend.rate:
        doubts = [*doubts, f"the rate is between {size(trend.low)} and {size(trend.high)} a second"]
    level, reasons = confidence(evidence, None, doubts, from_totals=True)
    if level == "high":
        reasons = [
            f"{trend.samples} samples in {say(trend.span_ns)}; with 95 % the rate is between "
            f"{size(trend.low)} and {size(trend.high)} a second"
        ]
    return level, reasons


def of_process(
    kind: str, evidence: Evidence, process: Process, engine: EngineActivity | None = None, **fields: Any
) -> dict[str, Any]:
    """A finding about a process, or about the engine in it."""
    tid = process.pid
    time = evidence.thread(process, tid)
    found = finding(kind, time, process, tid, **fields)
    found["engine"] = engine.id if engine is not None else None
    return found


def since_start(evidence: Evidence, ns: float) -> float:
    """Seconds from the start of the observation to ``ns`` from now."""
    return seconds(evidence.wall_ns) + ns / NS
