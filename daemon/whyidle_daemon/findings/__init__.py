"""Findings: what cost the target time, how sure that is, and what to do about it.

One module per kind, each with ``find(evidence) -> list of findings``. To add a kind: write the module, add
its ``find`` to ``DETECTORS``, and give it a test with a guilty program and a decoy that only looks guilty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from whyidle_daemon.findings import (
    blocking_disk,
    blocking_network_call,
    blocking_subprocess,
    busy_polling,
    cpu_starved,
    cpu_throttled,
    engine_saturated,
    event_loop_blocked,
    gil_contention,
    kv_cache_growth,
    lock_contention,
    memory_growth,
    memory_limit_near,
    no_demand,
    sequential_calls,
    slow_dns,
)
from whyidle_daemon.findings.evidence import SEVERITIES, Evidence

MAX_FINDINGS = 100  # nobody reads more, and a target decides how many peers it waits for

DETECTORS: tuple[Callable[[Evidence], list[dict[str, Any]]], ...] = (
    blocking_network_call.find,
    sequential_calls.find,
    event_loop_blocked.find,
    slow_dns.find,
    cpu_starved.find,
    cpu_throttled.find,
    gil_contention.find,
    lock_contention.find,
    blocking_disk.find,
    blocking_subprocess.find,
    busy_polling.find,
    no_demand.find,
    engine_saturated.find,
    memory_growth.find,
    memory_limit_near.find,
    kv_cache_growth.find,
)


def find_all(evidence: Evidence) -> list[dict[str, Any]]:
    """Every finding: first what ends the run, then the most expensive."""
    findings = [finding for detect in DETECTORS for finding in detect(evidence)]
    findings.sort(
        key=lambda finding: (
            (finding["kind"], finding["severity"]) != ("memory_limit_near", "high"),
            -max(finding["engine_idle_s"] or 0.0, finding["saves_s"] or 0.0),
            SEVERITIES.index(finding["severity"]),
            finding["kind"],
            finding["pid"],
            finding["tid"],
            str(finding["peer"]),
            str((finding["function"], finding["file"], finding["line"])),
        )
    )
    return findings[:MAX_FINDINGS]
