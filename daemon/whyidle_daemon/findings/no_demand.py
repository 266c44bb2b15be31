"""``no_demand``: the engine was idle because nobody asked it for work. Information, and nobody's fault.

Said when an engine's process waited to be called, and no thread that could have called it is known, for at
least 0.1 s and 5 % of the engine's idle time.
"""

from __future__ import annotations

from typing import Any

from whyidle_daemon.findings.evidence import Evidence, confidence, finding, printable, say, seconds
from whyidle_daemon.findings.waiting import MIN_NS, MIN_SHARE, program_of


def find(evidence: Evidence) -> list[dict[str, Any]]:
    """At most one finding for each engine."""
    found = []
    for engine in evidence.engines:
        waits = {cause: ns for cause, ns in engine.idle_roots.items() if cause.nobody}
        ns = sum(waits.values())
        if ns < MIN_NS or ns < MIN_SHARE * engine.idle_ns:
            continue
        worst = max(waits, key=lambda cause: (waits[cause], cause.tid))
        level, reasons = confidence(evidence, engine, [])
        found.append(
            finding(
                "no_demand",
                evidence.thread(worst.process, worst.tid),
                worst.process,
                worst.tid,
                confidence=level,
                confidence_reasons=reasons,
                count=1,
                blocked_s=seconds(ns),
                engine_idle_s=seconds(ns),
                share_of_idle=ns / engine.idle_ns,
                saves_s=0.0,
                engine=engine.id,
                advice=(
                    f"Nobody called {printable(program_of(worst.process), 40)} for {say(ns)}: there was no "
                    "work for the engine. If an agent should have called it, observe the agent as well "
                    "(whyidle attach SERVER AGENT)."
                ),
            )
        )
    return found
