"""``blocking_subprocess``: a thread that matters waits for another program to end.

Grouped by thread and line; waits for what a child writes count as well, where a stack shows that
:mod:`subprocess` is what waits. Guilty is an engine's driver that left its engine idle for at least 0.1 s and
5 % of the idle time or of the run; without an engine the main thread of a Python program that waited for at
least 0.2 s, 10 % of its life and 5 % of the run. Never guilty without an engine: shells and other launchers,
which have nothing else to do, and a pool that waits for its own workers (:mod:`multiprocessing`).

The child is named when one command had most of the children's time.

**saves_s**: what can hide behind inference or can run together; without an engine all but the longest.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from whyidle_daemon.findings.blocking_disk import is_long
from whyidle_daemon.findings.evidence import Evidence, printable, say, seconds
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

NAMED_SHARE = 0.8


def find(evidence: Evidence) -> list[dict[str, Any]]:
    """One finding for each guilty thread and line."""
    parts = [part for part in waits_in(evidence, subjects(evidence), "child") if not _loops(part)]
    if evidence.engines:
        costs = [(part, idle_of(evidence, part)) for part in parts]
        return [_finding(evidence, part, idle) for part, idle in costs if idle is not None]
    return [
        _finding(evidence, part, None)
        for part in parts
        if not _has_nothing_else_to_do(part) and is_long(evidence, part)
    ]


def _loops(waiting: Waiting) -> bool:
    """An event loop's waits are another kind, or none."""
    return any(is_loops(group) for group in waiting.groups)


def _has_nothing_else_to_do(waiting: Waiting) -> bool:
    if waiting.place is not None:
        return waiting.place.role == "work"
    program = PurePath(waiting.process.command[0]).name if waiting.process.command else ""
    return not program.startswith("python")


def _finding(evidence: Evidence, waiting: Waiting, idle: Idle | None) -> dict[str, Any]:
    saves = max(savings(waiting, idle)) if idle is not None else waiting.blocked_ns - waiting.longest_ns
    child = _child(evidence, waiting)
    name = printable(child, 40) if child is not None else "its children"
    return report_of(
        evidence,
        "blocking_subprocess",
        waiting,
        idle,
        saves_s=seconds(saves),
        child=child,
        advice=(
            f"{who_waits(evidence, waiting.process, waiting.tid)}{in_function(waiting.place)} waited "
            f"{waiting.number} times, {say(waiting.blocked_ns)} in all, for {name} to end: start it early "
            "and collect the result later (asyncio.create_subprocess_exec, or Popen with a thread), or call "
            "a library in its place."
        ),
    )


def _child(evidence: Evidence, waiting: Waiting) -> str | None:
    """The command that most of the children's time was, ``None`` when there is no such."""
    first = min((group.first_ns for group in waiting.groups if group.first_ns), default=0)
    now = max((process.end_ns for process in evidence.processes), default=0)
    lives: dict[str, int] = {}
    for process in evidence.processes:
        end = process.end_ns or max(now, process.start_ns + 1)
        if process.ppid == waiting.process.pid and process.command and end > first:
            command = " ".join([PurePath(process.command[0]).name, *process.command[1:]])
            lives[command] = lives.get(command, 0) + end - process.start_ns
    best = max(lives, key=lambda command: lives[command], default=None)
    return best if best is not None and lives[best] >= NAMED_SHARE * sum(lives.values()) else None
