"""``blocking_network_call``: a thread that should feed an engine sits in a network call instead.

Grouped by thread, line of code, and remote host and port, whatever the syscalls: one HTTP request is
``connect``, then ``poll`` or ``recvfrom`` on the same socket, and the user wants one finding, not three.

**Who can be guilty.** A thread that drives an engine, for the part of its waits in which that engine was
idle. If the target has no engine at all: a main thread, or a thread that the main thread waits for. Other
threads never are: a heartbeat or a long poll beside the work costs nothing. Connections that the peer opened
are demand, not calls, and name look-ups are another kind.

**count** is the number of waits at least as long as the slice threshold, not counting the wait for the
connection itself: one per request in practice, more when an answer trickles in. ``connections`` counts
different local ports (``connections_at_least`` when there were too many to keep).

**saves_s** is the better of two fixes, and assumes that the calls do not depend on each other:

- *gather*: the calls between the same two inferences are issued together, so only the longest of each gap
  remains: the sum over all gaps of (all waits - the longest one);
- *overlap*: calls run while the model works, so that the shorter of the two hides behind the longer:
  min(waits - the longest call, the engine's busy time). The first call cannot hide behind anything.

A single call saves nothing by either. Without an engine: all but the longest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whyidle_daemon.findings.evidence import Evidence, say, seconds
from whyidle_daemon.findings.waiting import (
    Idle,
    Waiting,
    grouped,
    in_function,
    is_loops,
    most_idle_of,
    noticeable,
    report_of,
    savings,
    syscalls_of,
    who_waits,
)
from whyidle_daemon.processes import Process, successors
from whyidle_daemon.states import SELECTORS
from whyidle_daemon.waits import WaitGroup

MIN_ALONE_NS = 500_000_000
MIN_ALONE_SHARE = 0.20
JOIN_SHARE = 0.8


def find(evidence: Evidence) -> list[dict[str, Any]]:
    """One finding for each guilty thread, line of code and peer."""
    calls = grouped(
        (
            group
            for key, group in evidence.groups.items()
            if key not in evidence.inbound and _is_call(evidence, group)
        ),
        lambda key: (key.end_text, key.place and key.place.where),
    )
    if evidence.engines:
        return [
            _driver_finding(evidence, call, idle, processes)
            for call, idle, processes in _tools(evidence, calls)
            if noticeable(evidence, idle)
        ]
    return _without_engine(evidence, calls)


def _is_call(evidence: Evidence, group: WaitGroup) -> bool:
    """A loop that rightly waits starves no engine, unless a chain leads to it."""
    key = group.key
    if key.wait in SELECTORS and key.port and evidence.engines and not group.blocks_loop:
        drives = any(e.process is key.process and key.tid in e.drivers for e in evidence.engines)
        return not drives and bool(evidence.engines_of(key.process, key.tid))
    return group.key.state == "network" and not is_loops(group)


def _tools(evidence: Evidence, calls: list[Waiting]) -> Iterator[tuple[Waiting, Idle, int]]:
    """What starves an engine, and how many processes: a program that is started for each call is one."""
    first = successors(evidence.processes)
    often = {first[process] for process in first if first[process] is not process}
    tools: dict[tuple[Process, str, str], list[tuple[Waiting, Idle]]] = {}
    for call in calls:
        idle = most_idle_of(evidence, call)
        if idle is None:
            continue
        process = first.get(call.process, call.process)
        if process in often and call.tid == call.process.pid:
            tools.setdefault((process, str(call.key.peer), idle.engine.id), []).append((call, idle))
        else:
            yield call, idle, 1
    for (process, _, _), runs in tools.items():
        engine, ns = runs[0][1].engine, sum(idle.ns for _, idle in runs)
        share = ns / engine.idle_ns if engine.idle_ns else 0.0
        groups = tuple(group for call, _ in runs for group in call.groups)
        yield Waiting(process, process.pid, groups), Idle(engine, ns, share), len(runs)


def _driver_finding(evidence: Evidence, calls: Waiting, idle: Idle, processes: int) -> dict[str, Any]:
    gather, overlap = savings(calls, idle)
    what = f"while the engine sat idle ({100 * idle.share:.0f} % of its idle time)"
    found = _finding(evidence, calls, what, idle, (gather, overlap)) | {
        "saves_s": seconds(max(gather, overlap)),
        "saves_by": {"gather": seconds(gather), "overlap": seconds(overlap)},
    }
    if processes > 1:
        found["processes"] = processes
    if found["function"] is None:  # not read of the one that waited longest
        named = [group for group in calls.groups if group.key.place is not None]
        longest = max(named, key=lambda group: group.total_ns, default=None)
        found |= evidence.where(longest.key.place) if longest is not None else {}
    return found


def _without_engine(evidence: Evidence, calls: list[Waiting]) -> list[dict[str, Any]]:
    found = []
    pools: dict[tuple[Process, Any], list[Waiting]] = {}
    for call in calls:
        if call.blocked_ns < max(MIN_ALONE_NS, MIN_ALONE_SHARE * evidence.wall_ns):
            continue
        if call.tid == call.process.pid:
            found.append(_alone_finding(evidence, call, 1))
        elif _is_waited_for(evidence, call):
            where = (call.key.end_text, call.place and call.place.where)
            pools.setdefault((call.process, where), []).append(call)
    for pool in pools.values():
        worst = max(pool, key=lambda call: (call.blocked_ns, -call.tid))
        found.append(_alone_finding(evidence, worst, len(pool)))
    return found


def _is_waited_for(evidence: Evidence, calls: Waiting) -> bool:
    """Whether the main thread spent about as long in a join as this thread in its calls."""
    main = evidence.thread(calls.process, calls.process.pid)
    return main is not None and main.states.get("lock", 0) >= JOIN_SHARE * calls.blocked_ns


def _alone_finding(evidence: Evidence, calls: Waiting, threads: int) -> dict[str, Any]:
    return _finding(evidence, calls, "and did nothing else meanwhile", None, (1, 0)) | {
        "saves_s": seconds(calls.blocked_ns - calls.longest_ns),
        "threads": threads,
    }


def _finding(
    evidence: Evidence, calls: Waiting, what: str, idle: Idle | None, saves: tuple[int, int]
) -> dict[str, Any]:
    doubts = [] if calls.key.peer is not None else ["the other end of the socket is not known"]
    if idle is None and calls.tid != calls.process.pid:
        doubts.append("not the main thread: that anybody waits for it is likely, not seen")
    more = any(group.more_ports for group in calls.groups)
    ports = frozenset[int]().union(*(group.ports for group in calls.groups))
    return report_of(
        evidence,
        "blocking_network_call",
        calls,
        idle,
        doubts=doubts,
        calls={name: count for name, (count, _) in syscalls_of(calls).items()},
        advice=_advice(evidence, calls, what, *saves),
    ) | {"connections_at_least" if more else "connections": len(ports)}


def _advice(evidence: Evidence, calls: Waiting, what: str, gather: int, overlap: int) -> str:
    who = who_waits(evidence, calls.process, calls.tid) + in_function(calls.place)
    peer = calls.key.end_text or "a peer that is not known"
    if calls.number == 1:
        lasts = "has been waiting" if calls.open_ns else "waited"
        return (
            f"{who} {lasts} {say(calls.blocked_ns)} for one answer of {peer} {what}: give the call a timeout "
            "and start it early, in a thread or as an asyncio task, so that inference goes on meanwhile."
        )
    fixes = [
        "issue the calls of one step together (asyncio.gather with httpx.AsyncClient, or a thread pool)",
        "run them beside the next inference",
    ]
    if overlap > gather:
        fixes = [
            "run them beside the next inference, in a thread pool or as asyncio tasks",
            "issue them together",
        ]
    return (
        f"{who} waited {calls.number} times, {say(calls.blocked_ns)} in all, for {peer} {what}: {fixes[0]}, "
        f"{fixes[1]} where they do not depend on it, and give each a timeout."
    )
