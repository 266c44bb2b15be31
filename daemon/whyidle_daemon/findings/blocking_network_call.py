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

from typing import Any, NamedTuple

from whyidle_daemon.attribution import ThreadTime
from whyidle_daemon.findings.evidence import Evidence, confidence, finding, printable, say, seconds, severity
from whyidle_daemon.gaps import EngineActivity
from whyidle_daemon.processes import Process
from whyidle_daemon.sites import Place
from whyidle_daemon.waits import WaitGroup, WaitKey
from whyidle_probes.syscalls import syscall_name

MIN_NS = 100_000_000
MIN_SHARE = 0.05
MIN_ALONE_NS = 500_000_000
MIN_ALONE_SHARE = 0.20
JOIN_SHARE = 0.8


class Calls(NamedTuple):
    """All waits of one thread for one peer."""

    process: Process
    tid: int
    groups: tuple[WaitGroup, ...]

    @property
    def key(self) -> WaitKey:
        """Where most of the time went; the peers of all are the same, by name or address."""
        return max(self.groups, key=lambda group: group.total_ns).key

    @property
    def keys(self) -> frozenset[WaitKey]:
        return frozenset(group.key for group in self.groups)

    @property
    def blocked_ns(self) -> int:
        return sum(group.total_ns for group in self.groups)

    @property
    def longest_ns(self) -> int:
        return max(group.longest_ns for group in self.groups)

    @property
    def open_ns(self) -> int:
        return max(group.open_ns for group in self.groups)

    @property
    def number(self) -> int:
        slices = sum(group.count for group in self.groups)
        connects = sum(group.connects for group in self.groups)
        return slices or connects or sum(group.short_count for group in self.groups)


class _Idle(NamedTuple):
    """What calls cost an engine."""

    engine: EngineActivity
    ns: int
    share: float


def find(evidence: Evidence) -> list[dict[str, Any]]:
    """One finding for each guilty thread and peer."""
    calls = _calls(evidence)
    if evidence.engines:
        costs = [(call, _idle(evidence, call)) for call in calls]
        return [_driver_finding(evidence, call, idle) for call, idle in costs if idle is not None]
    return _without_engine(evidence, calls)


def _calls(evidence: Evidence) -> list[Calls]:
    grouped: dict[tuple[Process, int, str | None, Place | None], list[WaitGroup]] = {}
    for key, group in evidence.groups.items():
        if key.state == "network" and key not in evidence.inbound and not (key.place and key.place.loop):
            tid = key.process.thread_id(key.tid, group.first_ns)
            grouped.setdefault((key.process, tid, key.end_text, key.place), []).append(group)
    return [Calls(process, tid, tuple(groups)) for (process, tid, *_), groups in grouped.items()]


def _idle(evidence: Evidence, calls: Calls) -> _Idle | None:
    """The engine that these calls starved the most, ``None`` if they starved none noticeably."""
    costs = []
    for engine in evidence.engines_of(calls.process, calls.tid):
        parts = engine.idle_by(calls.process, calls.tid)
        ns = sum(part for (_, key), part in parts.items() if key in calls.keys)
        share = ns / engine.idle_ns if engine.idle_ns else 0.0
        costs.append(_Idle(engine, ns, share))
    worst = max(costs, key=lambda cost: (cost.ns, cost.share), default=None)
    if worst is None or worst.ns < MIN_NS:
        return None
    return worst if max(worst.share, worst.ns / max(1, evidence.wall_ns)) >= MIN_SHARE else None


def _driver_finding(evidence: Evidence, calls: Calls, idle: _Idle) -> dict[str, Any]:
    engine = idle.engine
    gather = sum(engine.beyond_longest.get(key, 0) for key in calls.keys)
    overlap = max(0, min(idle.ns - min(calls.longest_ns, idle.ns), engine.busy_ns))
    what = f"while the engine sat idle ({100 * idle.share:.0f} % of its idle time)"
    found = _finding(evidence, calls, what, engine, (gather, overlap))
    found |= {
        "severity": severity(idle.ns, idle.share, engine.idle_ns, evidence.wall_ns),
        "engine_idle_s": seconds(idle.ns),
        "share_of_idle": idle.share,
        "saves_s": seconds(max(gather, overlap)),
        "saves_by": {"gather": seconds(gather), "overlap": seconds(overlap)},
        "engine": engine.id,
    }
    return found


def _without_engine(evidence: Evidence, calls: list[Calls]) -> list[dict[str, Any]]:
    found = []
    pools: dict[tuple[Process, str | None, Place | None], list[Calls]] = {}
    for call in calls:
        if call.blocked_ns < max(MIN_ALONE_NS, MIN_ALONE_SHARE * evidence.wall_ns):
            continue
        if call.tid == call.process.pid:
            found.append(_alone_finding(evidence, call, 1))
        elif _is_waited_for(evidence, call):
            pools.setdefault((call.process, call.key.end_text, call.key.place), []).append(call)
    for pool in pools.values():
        worst = max(pool, key=lambda call: (call.blocked_ns, -call.tid))
        found.append(_alone_finding(evidence, worst, len(pool)))
    return found


def _is_waited_for(evidence: Evidence, calls: Calls) -> bool:
    """Whether the main thread spent about as long in a join as this thread in its calls."""
    main = evidence.thread(calls.process, calls.process.pid)
    return main is not None and main.states.get("lock", 0) >= JOIN_SHARE * calls.blocked_ns


def _alone_finding(evidence: Evidence, calls: Calls, threads: int) -> dict[str, Any]:
    found = _finding(evidence, calls, "and did nothing else meanwhile", None, (1, 0))
    found |= {
        "severity": severity(calls.blocked_ns, 0.0, 0, evidence.wall_ns),
        "saves_s": seconds(calls.blocked_ns - calls.longest_ns),
        "threads": threads,
    }
    return found


def _finding(
    evidence: Evidence, calls: Calls, what: str, engine: EngineActivity | None, saves: tuple[int, int]
) -> dict[str, Any]:
    time = evidence.thread(calls.process, calls.tid)
    peer, place = calls.key.peer, calls.key.place
    doubts = [] if peer is not None else ["the other end of the socket is not known"]
    if engine is None and calls.tid != calls.process.pid:
        doubts.append("not the main thread: that anybody waits for it is likely, not seen")
    level, reasons = confidence(evidence, engine, doubts)
    by_syscall: dict[str, tuple[int, int]] = {}
    for group in calls.groups:
        for number, (count, ns) in group.calls.items():
            name = syscall_name(number) or "none"
            counted, spent = by_syscall.get(name, (0, 0))
            by_syscall[name] = (counted + count, spent + ns)
    more = any(group.more_ports for group in calls.groups)
    return finding(
        "blocking_network_call",
        time,
        calls.process,
        calls.tid,
        confidence=level,
        confidence_reasons=reasons,
        **evidence.where(place),
        peer=peer,
        count=calls.number,
        blocked_s=seconds(calls.blocked_ns),
        longest_s=seconds(calls.longest_ns),
        open_s=seconds(calls.open_ns) if calls.open_ns else None,
        share_of_wall=calls.blocked_ns / max(1, evidence.wall_ns),
        syscall=max(by_syscall, key=lambda name: by_syscall[name][1]) if by_syscall else None,
        calls={name: count for name, (count, _) in by_syscall.items()},
        **{"connections_at_least" if more else "connections": len(_ports(calls))},
        advice=_advice(calls, time, what, *saves),
    )


def _ports(calls: Calls) -> frozenset[int]:
    return frozenset().union(*(group.ports for group in calls.groups))


def _advice(calls: Calls, time: ThreadTime | None, what: str, gather: int, overlap: int) -> str:
    who = (
        "The main thread"
        if calls.tid == calls.process.pid
        else f"Thread {printable(time.name) if time is not None else calls.tid}"
    )
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
