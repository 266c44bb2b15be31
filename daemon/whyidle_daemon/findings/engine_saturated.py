"""``engine_saturated``: the engine itself is the bottleneck. Information: waiting for it is no mistake.

Said of an engine that was observed for at least a second and busy for 90 % of that.
"""

from __future__ import annotations

from typing import Any

from whyidle_daemon.findings.evidence import NS, Evidence, confidence, finding, say, seconds

MIN_BUSY_SHARE = 0.9
MIN_OBSERVED_NS = NS


def find(evidence: Evidence) -> list[dict[str, Any]]:
    """At most one finding for each engine."""
    found = []
    for engine in evidence.engines:
        observed = engine.busy_ns + engine.idle_ns
        if observed < MIN_OBSERVED_NS or engine.busy_ns < MIN_BUSY_SHARE * observed:
            continue
        if engine.process is None:
            continue
        tid = min(engine.drivers, default=engine.process.pid)
        level, reasons = confidence(evidence, engine, [], from_totals=True)
        found.append(
            finding(
                "engine_saturated",
                evidence.thread(engine.process, tid),
                engine.process,
                tid,
                confidence=level,
                confidence_reasons=reasons,
                count=engine.calls,
                engine_idle_s=seconds(engine.idle_ns),
                share_of_idle=0.0,
                saves_s=0.0,
                engine=engine.id,
                advice=(
                    f"The engine was busy for {say(engine.busy_ns)} of {say(observed)}: who waits for it "
                    "waits for work being done. A faster model or device, batching or fewer tokens help; "
                    "nothing around it does."
                ),
            )
        )
    return found
