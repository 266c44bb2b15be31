"""``cpu_starved``: a thread that had work to do stood in the queue for a CPU.

Rests on the kernel's totals of each thread, so it needs no slices and loses nothing when slices are lost.

One finding per process, for the thread that matters most: one that drives an engine, else the main thread,
else the worst of the others (and then only if it stood for a fifth of the run: that anybody waits for it is
not known). A pool of spinning workers that push each other off the CPUs is one finding, not one per worker;
``threads`` says how many are starved, and the advice is to start fewer. ``processes`` says how many processes
had to queue.

**saves_s** is all the time that this thread stood runnable: with a CPU to itself it would have had none.
``engine_idle_s`` is the part of it in which an engine that it drives was idle; the rest slowed the calls.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from whyidle_daemon.attribution import ThreadTime
from whyidle_daemon.findings.evidence import Evidence, confidence, finding, printable, say, seconds, severity
from whyidle_daemon.processes import Process
from whyidle_probes.events import Wait

MIN_NS = 200_000_000
MIN_SHARE_OF_WORK = 0.20
MIN_SHARE_OF_WALL = 0.05
MIN_MEAN_NS = 500_000  # a wake-up alone takes a CPU up to a fifth of that, however idle the host
OTHERS_SHARE = 0.20
SELF_MADE_SHARE = 0.6
_NEIGHBOURS = 3
MAX_OTHERS = 3  # processes without an engine: a crowded host has hundreds that all say the same


def find(evidence: Evidence) -> list[dict[str, Any]]:
    """One finding for each process that had to queue: those with an engine, and the worst of the others."""
    starved: dict[Process, list[ThreadTime]] = {}
    for time in evidence.threads:
        if _is_starved(time):
            starved.setdefault(time.process, []).append(time)
    leads = [(_lead(evidence, process, times), len(times)) for process, times in starved.items()]
    found = [(lead, threads) for lead, threads in leads if lead is not None]
    driving = [item for item in found if evidence.engines_of(item[0].process, item[0].tid)]
    others = [item for item in found if item not in driving]
    others.sort(key=lambda item: (-item[0].states["runqueue"], item[0].process.pid))
    return [_finding(evidence, *item, len(found)) for item in [*driving, *others[:MAX_OTHERS]]]


def _is_starved(time: ThreadTime) -> bool:
    waited = time.states.get("runqueue", 0)
    work = waited + time.states.get("running", 0)
    if waited < MIN_MEAN_NS * time.counts[Wait.RUNQUEUE]:
        return False
    return waited >= max(MIN_NS, MIN_SHARE_OF_WALL * time.wall_ns) and waited >= MIN_SHARE_OF_WORK * work


def _lead(evidence: Evidence, process: Process, times: list[ThreadTime]) -> ThreadTime | None:
    """The thread to name, ``None`` when the process does not matter."""

    def waited(time: ThreadTime) -> int:
        return time.states["runqueue"]

    drivers = [time for time in times if evidence.engines_of(process, time.tid)]
    leaders = [time for time in times if time.leader]
    lead = max(drivers or leaders or times, key=waited)
    if not drivers and not leaders and waited(lead) < OTHERS_SHARE * evidence.wall_ns:
        return None
    return lead


def _finding(evidence: Evidence, time: ThreadTime, threads: int, processes: int) -> dict[str, Any]:
    waited = time.states["runqueue"]
    process = time.process
    engines = evidence.engines_of(process, time.tid)
    idle, engine = 0, None
    for candidate in engines:
        part = candidate.idle_by(process, time.tid).get((int(Wait.RUNQUEUE), None), 0)
        if engine is None or part > idle:
            idle, engine = part, candidate
    share = idle / engine.idle_ns if engine is not None and engine.idle_ns else 0.0
    doubts = []
    if not engines and not time.leader:
        doubts.append("neither the main thread nor an engine's: whether it delays the work is not known")
    level, reasons = confidence(evidence, engine, doubts, from_totals=True)
    neighbours = _neighbours(evidence, process)
    return finding(
        "cpu_starved",
        time,
        process,
        time.tid,
        severity=severity(waited, 0.0, 0, evidence.wall_ns),
        confidence=level,
        confidence_reasons=reasons,
        count=time.counts[Wait.RUNQUEUE],
        blocked_s=seconds(waited),
        engine_idle_s=seconds(idle) if engine is not None else None,
        share_of_idle=share if engine is not None else None,
        saves_s=seconds(waited),
        share_of_wall=waited / max(1, evidence.wall_ns),
        threads=threads,
        processes=processes,
        neighbours=[
            {"pid": other.pid, "command": " ".join(other.command), "cpu_s": seconds(ns)}
            for other, ns in neighbours
        ],
        advice=_advice(evidence, time, threads, neighbours),
    )


def _neighbours(evidence: Evidence, process: Process) -> list[tuple[Process, int]]:
    """The other observed processes that used the most CPU, at least a tenth of one."""
    cpu: dict[Process, int] = {}
    for time in evidence.threads:
        if time.process is not process:
            cpu[time.process] = cpu.get(time.process, 0) + time.states.get("running", 0)
    ranked = sorted(cpu.items(), key=lambda item: (-item[1], item[0].pid))
    return [(other, ns) for other, ns in ranked[:_NEIGHBOURS] if ns >= 0.1 * evidence.wall_ns]


def _advice(evidence: Evidence, time: ThreadTime, threads: int, neighbours: list[tuple[Process, int]]) -> str:
    waited = time.states["runqueue"]
    work = waited + time.states.get("running", 0)
    who = "The main thread" if time.leader else f"Thread {printable(time.name)}"
    lost = f"{who} had work but no CPU for {say(waited)}, {100 * waited / work:.0f} % of its working time"
    own = [other for other in evidence.threads if other.process is time.process]
    own_cpu = sum(other.states.get("running", 0) for other in own)
    cpu_time = evidence.cpus * max(1, min(time.wall_ns, evidence.wall_ns))
    if threads > 1 and own_cpu >= SELF_MADE_SHARE * cpu_time:
        return (
            f"{lost}, because {threads} threads of its own process compete for {evidence.cpus} CPUs: start "
            "fewer of them (n_threads of llama.cpp, OMP_NUM_THREADS, the size of the pool)."
        )
    if neighbours:
        used = ", ".join(f"{_name(other)} (pid {other.pid}, {say(ns)} of CPU)" for other, ns in neighbours)
        return (
            f"{lost}, while others ran on the {evidence.cpus} CPUs: {used}: give them other CPUs or a lower "
            "priority (taskset, nice), or run them at another time."
        )
    return (
        f"{lost}, and nothing that was observed used it: look for other work on these {evidence.cpus} CPUs, "
        "and check the CPUs that this process may use (taskset, cpuset)."
    )


def _name(process: Process) -> str:
    """The program's name and the start of its arguments."""
    program, *arguments = process.command or (f"process {process.pid}",)
    return printable(" ".join([PurePath(program).name or program, *arguments]), 40)
