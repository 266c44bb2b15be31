"""All waits of one thread in one line of code, and what they cost: what most detectors look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import PurePath
from typing import Any, NamedTuple

from whyidle_daemon.attribution import ThreadTime
from whyidle_daemon.findings.evidence import Evidence, confidence, finding, printable, seconds, severity
from whyidle_daemon.gaps import EngineActivity, state_of_cause
from whyidle_daemon.processes import Process
from whyidle_daemon.report import chain_objects
from whyidle_daemon.sites import Place
from whyidle_daemon.states import state_of
from whyidle_daemon.waits import WaitGroup, WaitKey
from whyidle_probes.syscalls import syscall_name

MIN_NS = 100_000_000
MIN_SHARE = 0.05


class Idle(NamedTuple):
    """What waits cost an engine."""

    engine: EngineActivity
    ns: int
    share: float


class Waiting(NamedTuple):
    """Waits of one thread. ``rest`` is time too short for slices: of ``rest_state``, with no more known."""

    process: Process
    tid: int
    groups: tuple[WaitGroup, ...]
    rest_ns: int = 0
    rest_count: int = 0
    rest_state: str | None = None

    @property
    def key(self) -> WaitKey:
        """Where most of the time went."""
        return max(self.groups, key=lambda group: group.total_ns).key

    @property
    def place(self) -> Place | None:
        """The line of code; ``None`` when no stack was read."""
        return self.key.place if self.groups else None

    @property
    def keys(self) -> frozenset[WaitKey]:
        """Of all groups."""
        return frozenset(group.key for group in self.groups)

    @property
    def blocked_ns(self) -> int:
        """All the time."""
        return sum(group.total_ns for group in self.groups) + self.rest_ns

    @property
    def longest_ns(self) -> int:
        """The longest wait."""
        return max((group.longest_ns for group in self.groups), default=0)

    @property
    def open_ns(self) -> int:
        """How long the wait has lasted that has not ended."""
        return max((group.open_ns for group in self.groups), default=0)

    @property
    def short_samples(self) -> int:
        """Stacks read in waits too short to be slices."""
        return sum(group.short_samples for group in self.groups)

    @property
    def number(self) -> int:
        """Slices, without those that only connected; the short waits if there are no others."""
        slices = sum(group.count for group in self.groups)
        connects = sum(group.connects for group in self.groups)
        return slices or connects or sum(group.short_count for group in self.groups) or self.rest_count


def grouped(
    groups: Iterable[WaitGroup], by: Callable[[WaitKey], Any] = lambda key: key.place and key.place.where
) -> list[Waiting]:
    """Groups by process, thread and what ``by`` says, by default the line of code."""
    parts: dict[tuple[Process, int, Any], list[WaitGroup]] = {}
    for group in groups:
        tid = group.key.process.thread_id(group.key.tid, group.first_ns)
        parts.setdefault((group.key.process, tid, by(group.key)), []).append(group)
    return [Waiting(process, tid, tuple(found)) for (process, tid, _), found in parts.items()]


def is_loops(group: WaitGroup) -> bool:
    """Whether an event loop waits: rightly, or else as ``event_loop_blocked``, which is another kind."""
    return group.blocks_loop or (
        group.key.place is not None and group.key.place.loop in ("waiting", "awaiting")
    )


def subjects(evidence: Evidence) -> list[ThreadTime]:
    """The threads whose waiting matters: those that drive engines; without an engine, main threads."""
    if evidence.engines:
        return [time for time in evidence.threads if evidence.engines_of(time.process, time.tid)]
    return [time for time in evidence.threads if time.leader]


def waits_in(evidence: Evidence, times: Iterable[ThreadTime], state: str) -> list[Waiting]:
    """The waits of some threads in one state, by line; they add up to the threads' own totals.

    What is too short for a slice goes to the line that dominates, else it has none.
    """
    wanted = {(time.process, time.tid): time for time in times}
    found: dict[tuple[Process, int], list[Waiting]] = {}
    groups = (group for key, group in evidence.groups.items() if key.state == state)
    for waiting in grouped(groups):
        if (waiting.process, waiting.tid) in wanted:
            found.setdefault((waiting.process, waiting.tid), []).append(waiting)
    result: list[Waiting] = []
    for who, time in wanted.items():
        parts = found.get(who, [])
        dated = sum(part.blocked_ns for part in parts)
        rest = max(0, time.states.get(state, 0) - dated)
        count = sum(n for wait, n in enumerate(time.counts) if state_of(wait) == state)
        if rest:
            home = max(parts, key=lambda part: part.short_samples, default=Waiting(*who, ()))
            if not home.short_samples:
                home = next((part for part in parts if part.blocked_ns >= 0.9 * dated), Waiting(*who, ()))
            parts = [part for part in parts if part is not home]
            parts.append(home._replace(rest_ns=rest, rest_count=count, rest_state=state))
        result += parts
    return result


def idle_of(evidence: Evidence, waiting: Waiting) -> Idle | None:
    """The engine that these waits starved the most, ``None`` if they starved none noticeably."""
    worst = most_idle_of(evidence, waiting)
    return worst if worst is not None and noticeable(evidence, worst) else None


def noticeable(evidence: Evidence, idle: Idle) -> bool:
    """Long enough for a finding."""
    return idle.ns >= MIN_NS and max(idle.share, idle.ns / max(1, evidence.wall_ns)) >= MIN_SHARE


def most_idle_of(evidence: Evidence, waiting: Waiting) -> Idle | None:
    """The engine that these waits starved the most, ``None`` if they starved none."""
    costs = []
    for engine in evidence.engines_of(waiting.process, waiting.tid):
        ns = 0
        for (wait, key), part in engine.idle_by(waiting.process, waiting.tid).items():
            rest = key is None and waiting.rest_state and state_of_cause(wait, key) == waiting.rest_state
            if rest or key in waiting.keys:
                ns += part
        costs.append(Idle(engine, ns, ns / engine.idle_ns if engine.idle_ns else 0.0))
    worst = max(costs, key=lambda cost: (cost.ns, cost.share), default=None)
    return worst if worst is not None and worst.ns else None


def savings(waiting: Waiting, idle: Idle) -> tuple[int, int]:
    """What *gather* and *overlap* would save: see ``blocking_network_call``."""
    gather = sum(idle.engine.beyond_longest.get(key, 0) for key in waiting.keys)
    overlap = max(0, min(idle.ns - min(waiting.longest_ns, idle.ns), idle.engine.busy_ns))
    return gather, overlap


def who_waits(evidence: Evidence, process: Process, tid: int) -> str:
    """The thread, for a sentence."""
    time = evidence.thread(process, tid)
    whose = ""
    if evidence.engines and all(engine.process is not process for engine in evidence.engines):
        whose = f" of {printable(program_of(process), 40)}"
    if tid == process.pid:
        return f"The main thread{whose}"
    return f"Thread {printable(time.name) if time is not None else tid}{whose}"


def program_of(process: Process) -> str:
    """What people call a process: its script rather than what interprets that."""
    names = [PurePath(word).name for word in process.command[:2] if not word.startswith("-")]
    return (names[-1] if names[:1] and names[0].startswith("python") else names[0]) if names else "?"


def in_function(place: Place | None) -> str:
    """`` in search (agent.py:12)``, or nothing."""
    if place is None:
        return ""
    file = printable(place.file.rsplit("/", 1)[-1], 40)
    line = f":{place.line}" if place.line is not None else ""
    return f" in {printable(place.function)} ({file}{line})"


def syscalls_of(waiting: Waiting) -> dict[str, tuple[int, int]]:
    """How many slices in which system call, and how long."""
    found: dict[str, tuple[int, int]] = {}
    for group in waiting.groups:
        for number, (count, ns) in group.calls.items():
            name = syscall_name(number) or "none"
            counted, spent = found.get(name, (0, 0))
            found[name] = (counted + count, spent + ns)
    return found


def report_of(
    evidence: Evidence,
    kind: str,
    waiting: Waiting,
    idle: Idle | None,
    *,
    doubts: Iterable[str] = (),
    from_totals: bool = False,
    **fields: Any,
) -> dict[str, Any]:
    """A finding of these waits; ``fields`` say the rest."""
    time = evidence.thread(waiting.process, waiting.tid)
    engine = idle.engine if idle is not None else None
    level, reasons = confidence(evidence, engine, [*doubts, *evidence.no_stack(waiting.place)], from_totals)
    calls = syscalls_of(waiting)
    cost = idle.ns if idle is not None else waiting.blocked_ns
    share, all_idle = (idle.share, idle.engine.idle_ns) if idle is not None else (0.0, 0)
    found = finding(
        kind,
        time,
        waiting.process,
        waiting.tid,
        severity=severity(cost, share, all_idle, evidence.wall_ns),
        confidence=level,
        confidence_reasons=reasons,
        **evidence.where(waiting.place),
        peer=waiting.key.peer if waiting.groups else None,
        count=waiting.number,
        blocked_s=seconds(waiting.blocked_ns),
        longest_s=seconds(waiting.longest_ns),
        open_s=seconds(waiting.open_ns) if waiting.open_ns else None,
        engine_idle_s=seconds(idle.ns) if idle is not None else None,
        share_of_idle=idle.share if idle is not None else None,
        share_of_wall=waiting.blocked_ns / max(1, evidence.wall_ns),
        syscall=max(calls, key=lambda name: (calls[name][1], name)) if calls else None,
    )
    if engine is not None:
        found["engine"] = engine.id
        chain = engine.way_to(waiting.process, waiting.tid, waiting.keys)
        if len({link.process for link in chain}) > 1:
            found["chain"] = chain_objects(chain)
    return found | fields


def wakers_of(waiting: Waiting) -> dict[int, int]:
    """The threads of the same process that ended these waits, and for how long they were waited for."""
    found: dict[int, int] = {}
    for group in waiting.groups:
        for (_, waker), ns in group.handovers.items():
            found[waker] = found.get(waker, 0) + ns
    return found
