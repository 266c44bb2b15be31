"""``blocking_disk``: a thread that matters waits for reads, writes or flushes of files.

Grouped by thread and line. Guilty is an engine's driver whose disk waits left the engine idle for at least
0.1 s and 5 % of its idle time or of the run; without an engine a main thread that waited for at least 0.2 s,
10 % of its life and 5 % of the run. Writes that the page cache takes do not wait.

**saves_s**: what can hide behind inference (*overlap*); without an engine all but the longest.
"""

from __future__ import annotations

from typing import Any

from whyidle_daemon.findings.evidence import Evidence, say, seconds
from whyidle_daemon.findings.waiting import (
    Idle,
    Waiting,
    idle_of,
    in_function,
    is_loops,
    report_of,
    savings,
    subjects,
    waits_in,
    who_waits,
)

MIN_NS = 200_000_000
MIN_SHARE_OF_LIFE = 0.10
MIN_SHARE_OF_WALL = 0.05
_FLUSHES = frozenset({"fsync", "fdatasync", "sync_file_range", "msync", "syncfs", "sync"})


def find(evidence: Evidence) -> list[dict[str, Any]]:
    """One finding for each guilty thread and line."""
    parts = [
        part
        for part in waits_in(evidence, subjects(evidence), "disk")
        if not any(is_loops(group) for group in part.groups)
    ]
    if evidence.engines:
        costs = [(part, idle_of(evidence, part)) for part in parts]
        return [_finding(evidence, part, idle) for part, idle in costs if idle is not None]
    return [_finding(evidence, part, None) for part in parts if is_long(evidence, part)]


def is_long(evidence: Evidence, waiting: Waiting) -> bool:
    """Whether a main thread waited long enough, in a target without an engine."""
    time = evidence.thread(waiting.process, waiting.tid)
    life = MIN_SHARE_OF_LIFE * time.wall_ns if time is not None else 0.0
    return waiting.blocked_ns >= max(MIN_NS, life, MIN_SHARE_OF_WALL * evidence.wall_ns)


def _finding(evidence: Evidence, waiting: Waiting, idle: Idle | None) -> dict[str, Any]:
    saves = max(savings(waiting, idle)) if idle is not None else waiting.blocked_ns - waiting.longest_ns
    found = report_of(evidence, "blocking_disk", waiting, idle, saves_s=seconds(saves))
    flushes = found["syscall"] in _FLUSHES
    fix = (
        "flush once for many writes, or in a thread of its own"
        if flushes
        else "read ahead or write in a thread of its own, or keep the data in memory"
    )
    return found | {
        "advice": (
            f"{who_waits(evidence, waiting.process, waiting.tid)}{in_function(waiting.place)} waited "
            f"{waiting.number} times, {say(waiting.blocked_ns)} in all, for the disk"
            f"{' to flush' if flushes else ''}: {fix}."
        )
    }
