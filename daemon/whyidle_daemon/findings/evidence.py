"""What every detector looks at, and the rules that all findings share."""

from __future__ import annotations

from typing import Any, NamedTuple

from whyidle_daemon.attribution import ThreadTime
from whyidle_daemon.facts import Loss
from whyidle_daemon.gaps import EngineActivity
from whyidle_daemon.lookups import LookupSums
from whyidle_daemon.memory import LimitSeries
from whyidle_daemon.processes import Process
from whyidle_daemon.sequences import Runs, RunsKey
from whyidle_daemon.series import Point
from whyidle_daemon.sites import Place, Sites
from whyidle_daemon.waits import WaitGroup, WaitKey
from whyidle_wire import report as wire

SEVERITIES = wire.SEVERITIES
NS = 1_000_000_000
_LOSS_SHARE = 0.001  # of slices, above which a finding that rests on slices is less sure
_BLIND_SHARE = 0.01
_COARSE_MS = 100.0


class Evidence(NamedTuple):
    """One observation, reduced. Times are nanoseconds; ``inbound`` are waits for demand."""

    wall_ns: int
    end_ns: int
    cpus: int
    engines: tuple[EngineActivity, ...]
    threads: tuple[ThreadTime, ...]
    groups: dict[WaitKey, WaitGroup]
    inbound: frozenset[WaitKey]
    loss: Loss
    slices: int
    dropped: int  # slices and peers that this observation had no room for
    stacks: Sites
    lookups: tuple[LookupSums, ...]
    sequences: dict[RunsKey, Runs]  # of main threads, in a target without an engine
    processes: tuple[Process, ...]
    memory: dict[Process, tuple[Point, ...]] = {}  # noqa: RUF012 (never changed)
    limits: tuple[LimitSeries, ...] = ()

    def engines_of(self, process: Process, tid: int) -> list[EngineActivity]:
        """The engines that a thread drives, or keeps from work from afar."""
        return [
            engine
            for engine in self.engines
            if (engine.process is process and tid in engine.drivers) or engine.blames(process, tid)
        ]

    def where(self, place: Place | None) -> dict[str, Any]:
        """A finding's ``function``, ``file``, ``line`` and ``stack``."""
        if place is None:
            return {}
        stack = list(self.stacks.stack(place))
        return {"function": place.function, "file": place.file, "line": place.line, "stack": stack}

    def no_stack(self, place: Place | None) -> list[str]:
        """A doubt, when stacks were read but none of this wait was."""
        return [] if place is not None or not self.stacks.seen else ["no stack of this wait was read"]

    def thread(self, process: Process, tid: int) -> ThreadTime | None:
        """The longest life of a thread, ``None`` when it is not kept."""
        return next((time for time in self.threads if time.tid == tid and time.process is process), None)


def severity(cost_ns: int, share_of_idle: float, idle_ns: int, wall_ns: int) -> wire.Severity:
    """How much of the run the cost is; or, when the engine was idle for long, of that."""
    share = cost_ns / wall_ns if wall_ns else 0.0
    if share >= 0.25 or (share_of_idle >= 0.5 and idle_ns >= 0.25 * wall_ns):
        return "high"
    return "medium" if share >= 0.10 else "low"


def confidence(
    evidence: Evidence, engine: EngineActivity | None, doubts: list[str], from_totals: bool = False
) -> tuple[wire.Confidence, list[str]]:
    """How sure a finding is, and why. One doubt makes it medium, three make it low.

    ``from_totals``: it rests on the kernel's own sums, which lost slices do not change.
    """
    loss = evidence.loss
    lost, seen = loss.slices_lost, evidence.slices + loss.slices_lost
    of_slices = [
        (
            lost > _LOSS_SHARE * seen,
            f"{lost} of {seen} waits ({100 * lost / max(1, seen):.1f} %) only summed",
        ),
        (evidence.dropped, f"{evidence.dropped} waits or peers were more than could be kept apart"),
        (loss.waits_lost, f"{loss.waits_lost} short waits lost their peer"),
        (loss.gaps_lost, f"{loss.gaps_lost} idle intervals were lost"),
    ]
    of_all = [
        (loss.control_lost, f"{loss.control_lost} process events were lost"),
        (loss.threads_lost, f"{loss.threads_lost} threads could not be followed"),
        (loss.engines_lost, f"{loss.engines_lost} engines could not be followed"),
        (loss.blind_ns > _BLIND_SHARE * evidence.wall_ns, f"nothing was seen for {say(loss.blind_ns)}"),
    ]
    checks = of_all if from_totals else [*of_slices, *of_all]
    doubts = [*doubts, *(text for holds, text in checks if holds)]
    if engine is not None and engine.resolution_ms > _COARSE_MS:
        doubts.append(f"the engine's idle time is known to {engine.resolution_ms:.0f} ms only")
    if engine is not None and engine.unseen_ns > _BLIND_SHARE * (engine.busy_ns + engine.idle_ns):
        calls = "kernel launches" if engine.kind == "cuda" else "calls of llama_decode"
        doubts.append(f"{calls} were too many to observe for {say(engine.unseen_ns)}")
    if not doubts:
        if from_totals:
            return "high", ["the kernel's own totals of the thread's time: no thread was lost"]
        if loss.slices_lost:
            return "high", [f"{lost} of {seen} waits were lost"]
        return "high", ["every wait was seen: 0 events lost"]
    return ("low" if len(doubts) >= 3 else "medium"), doubts


def seconds(ns: int) -> float:
    """Nanoseconds as seconds."""
    return ns / NS


def say(ns: int) -> str:
    """Seconds for a sentence: ``0.25 s``, ``12.3 s``."""
    value = ns / NS
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def printable(text: str, length: int = 60) -> str:
    """A target's own words, fit for the middle of a sentence: one line, no control characters, not long."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return words if len(words) <= length else words[: length - 1] + "…"


def finding(kind: str, time: ThreadTime | None, process: Process, tid: int, **fields: Any) -> dict[str, Any]:
    """A finding with the contract's fields; ``fields`` fill in the rest."""
    return {
        "kind": kind,
        "severity": "info",
        "confidence": "low",
        "confidence_reasons": [],
        "pid": process.pid,
        "tid": tid,
        "thread": time.name if time is not None else None,
        "function": None,
        "file": None,
        "line": None,
        "stack": [],
        "peer": None,
        "count": 0,
        "blocked_s": 0.0,
        "engine_idle_s": None,
        "share_of_idle": None,
        "saves_s": None,
        "advice": "",
        **fields,
    }
