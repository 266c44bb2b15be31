"""``cpu_throttled``: the cgroup's CPU bandwidth was used up, and its threads stood still.

Rests on the kernel's totals of each thread. Guilty is a process of which a thread was throttled for at least
0.1 s and 5 % of its life. One finding per process, for the thread that matters most: one that drives an
engine, else the main thread, else the worst. Processes without an engine: the worst three.

**saves_s**: all of it. ``engine_idle_s`` is the part in which an engine that it drives was idle.
"""

from __future__ import annotations

from typing import Any

from whyidle_daemon.attribution import ThreadTime
from whyidle_daemon.findings.evidence import Evidence, printable, say, seconds
from whyidle_daemon.findings.waiting import Idle, Waiting, report_of, waits_in, who_waits
from whyidle_daemon.processes import Process
from whyidle_probes.events import Wait

MIN_NS = 100_000_000
MIN_SHARE = 0.05
MAX_OTHERS = 3


def find(evidence: Evidence) -> list[dict[str, Any]]:
    """One finding for each throttled process that matters."""
    throttled: dict[Process, list[ThreadTime]] = {}
    for time in evidence.threads:
        if time.states.get("throttled", 0) >= max(MIN_NS, MIN_SHARE * time.wall_ns):
            throttled.setdefault(time.process, []).append(time)
    leads = [(max(times, key=lambda time: _rank(evidence, time)), len(times)) for times in throttled.values()]
    leads.sort(key=lambda item: _rank(evidence, item[0]), reverse=True)
    drivers = [item for item in leads if evidence.engines_of(item[0].process, item[0].tid)]
    others = [item for item in leads if item not in drivers]
    return [_finding(evidence, *item) for item in [*drivers, *others[:MAX_OTHERS]]]


def _rank(evidence: Evidence, time: ThreadTime) -> tuple[int, int, int]:
    drives = 2 if evidence.engines_of(time.process, time.tid) else int(time.leader)
    return drives, time.states["throttled"], -time.tid


def _finding(evidence: Evidence, time: ThreadTime, threads: int) -> dict[str, Any]:
    ns = time.states["throttled"]
    parts = waits_in(evidence, [time], "throttled")
    worst = max(parts, key=lambda part: part.blocked_ns)
    longest = max(part.longest_ns for part in parts)
    costs = []
    for engine in evidence.engines_of(time.process, time.tid):
        by = engine.idle_by(time.process, time.tid)
        part = sum(part for (wait, _), part in by.items() if wait == Wait.THROTTLED)
        costs.append(Idle(engine, part, part / engine.idle_ns if engine.idle_ns else 0.0))
    idle = max(costs, key=lambda cost: cost.ns, default=None)
    cgroup = time.process.cgroup
    name = f" of cgroup {printable(cgroup)}" if cgroup else ""
    found = report_of(
        evidence,
        "cpu_throttled",
        Waiting(time.process, time.tid, worst.groups),
        idle,
        from_totals=True,
        count=time.counts[Wait.THROTTLED],
        blocked_s=seconds(ns),
        longest_s=seconds(longest),
        share_of_wall=ns / max(1, evidence.wall_ns),
        saves_s=seconds(ns),
        threads=threads,
        cgroup=cgroup,
        advice=(
            f"{who_waits(evidence, time.process, time.tid)} stood still for {say(ns)}, "
            f"{100 * ns / max(1, time.wall_ns):.0f} % of its life, because the CPU quota{name} was used up: "
            "raise the quota (CPUQuota=, cpu.max, the CPU limit of the container), or start fewer threads."
        ),
    )
    # A thread can be throttled anywhere: no line of code is to blame.
    return found | {"function": None, "file": None, "line": None, "stack": []}
