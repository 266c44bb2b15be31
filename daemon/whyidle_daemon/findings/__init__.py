"""Findings: what cost the target time, how sure that is, and what to do about it.

One module per kind, each with ``find(evidence) -> list of findings``. To add a kind: write the module, add
its ``find`` to ``DETECTORS``, and give it a test with a guilty program and a decoy that only looks guilty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from whyidle_daemon.findings import blocking_network_call, cpu_starved
from whyidle_daemon.findings.evidence import SEVERITIES, Evidence

MAX_FINDINGS = 100  # nobody reads more, and a target decides how many peers it waits for

DETECTORS: tuple[Callable[[Evidence], list[dict[str, Any]]], ...] = (
    blocking_network_call.find,
    cpu_starved.find,
)


def find_all(evidence: Evidence) -> list[dict[str, Any]]:
    """Every finding, the most expensive first."""
    findings = [finding for detect in DETECTORS for finding in detect(evidence)]
    findings.sort(
        key=lambda finding: (
            -max(finding["engine_idle_s"] or 0.0, finding["saves_s"] or 0.0),
            SEVERITIES.index(finding["severity"]),
            finding["kind"],
            finding["pid"],
            finding["tid"],
            str(finding["peer"]),
        )
    )
    return findings[:MAX_FINDINGS]
