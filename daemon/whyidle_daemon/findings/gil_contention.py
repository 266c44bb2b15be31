"""``gil_contention``: threads of a Python process wait for one another to let go of the interpreter.

One finding per process. With an engine: its driver waited for the GIL for at least 0.1 s and 5 % of the
engine's idle time. Without: the main thread for at least 10 % of its life, or, if other threads do the work,
all threads together for half of the run; at least 0.2 s. A thread that only waits to be given work waits for
a lock, not for the GIL.

**saves_s**: with the other threads' work in processes, all that the named thread waited.
"""

from __future__ import annotations

from typing import Any

from whyidle_daemon.attribution import ThreadTime
from whyidle_daemon.findings.evidence import Evidence, printable, say, seconds
from whyidle_daemon.findings.waiting import (
    Idle,
    Waiting,
    idle_of,
    in_function,
    report_of,
    waits_in,
    wakers_of,
    who_waits,
)
from whyidle_daemon.processes import Process

MIN_NS = 200_000_000
MIN_SHARE = 0.10
MIN_SHARE_OF_ALL = 0.5


def find(evidence: Evidence) -> list[dict[str, Any]]:
    """One finding for each process whose threads fight for the GIL."""
    waiters: dict[Process, list[ThreadTime]] = {}
    for time in evidence.threads:
        if time.states.get("gil", 0):
            waiters.setdefault(time.process, []).append(time)
    found = []
    for times in waiters.values():
        if evidence.engines:
            parts = _parts(evidence, [t for t in times if evidence.engines_of(t.process, t.tid)])
            costs = [(part, idle_of(evidence, part)) for part in parts]
            guilty = [(part, idle) for part, idle in costs if idle is not None]
            if guilty:
                found.append(_finding(evidence, *max(guilty, key=lambda item: item[1].ns), times))
        else:
            lead = _lead(evidence, times)
            if lead is not None:
                found.append(_finding(evidence, _parts(evidence, [lead])[0], None, times))
    return found


def _lead(evidence: Evidence, times: list[ThreadTime]) -> ThreadTime | None:
    main = next((time for time in times if time.leader), None)
    if main is not None and main.states["gil"] >= max(MIN_NS, MIN_SHARE * main.wall_ns):
        return main
    total = sum(time.states["gil"] for time in times)
    if total < max(MIN_NS, MIN_SHARE_OF_ALL * evidence.wall_ns):
        return None
    return max(times, key=lambda time: (time.states["gil"], -time.tid))


def _parts(evidence: Evidence, times: list[ThreadTime]) -> list[Waiting]:
    """All waits for the GIL of each thread, wherever it was: the biggest line stands for them."""
    parts: dict[tuple[Process, int], list[Waiting]] = {}
    for part in waits_in(evidence, times, "gil"):
        parts.setdefault((part.process, part.tid), []).append(part)
    return [
        Waiting(
            *who,
            tuple(group for part in of for group in part.groups),
            sum(part.rest_ns for part in of),
            sum(part.rest_count for part in of),
            "gil",
        )
        for who, of in parts.items()
    ]


def _finding(
    evidence: Evidence, waiting: Waiting, idle: Idle | None, times: list[ThreadTime]
) -> dict[str, Any]:
    wakers = wakers_of(waiting)
    holder = max(wakers, key=lambda tid: wakers[tid], default=None)
    time = evidence.thread(waiting.process, holder) if holder is not None else None
    by = f", mostly held by thread {printable(time.name)}" if time is not None else ""
    total = sum(time.states["gil"] for time in times)
    return report_of(
        evidence,
        "gil_contention",
        waiting,
        idle,
        from_totals=True,
        saves_s=seconds(idle.ns if idle is not None else waiting.blocked_ns),
        threads=len(times),
        all_threads_s=seconds(total),
        holder=holder,
        advice=(
            f"{who_waits(evidence, waiting.process, waiting.tid)}{in_function(waiting.place)} waited "
            f"{say(waiting.blocked_ns)} for the GIL{by}, {len(times)} threads {say(total)} in all: run what "
            "computes in processes (ProcessPoolExecutor) or in code that releases the GIL."
        ),
    )
