"""Whether a report tells the truth: a pure function of the two.

Seconds: within 1 % or 10 ms of the truth, whichever is larger, and what the hypervisor took meanwhile.
Findings are compared by kind, function and
port; two findings that say the same of one process are one too many. What a busy host did to a program is no
mistake: ``cpu_starved`` is accepted where the program's own account says that its threads stood in the queue.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .expect import Program

REL, ABS_S = 0.01, 0.010
EXPLAINED, NOTICED = 0.9, 0.05  # of the idle time that was waited for, by all root causes and by each
STARVED_S = 0.2  # in the run queue, by the program's own account
_AWAKE = {"running", "runqueue", "throttled"}  # as busy as the host is
_INFORMATION = {"no_demand", "engine_saturated"}


class State(NamedTuple):
    """Seconds of one thread in one state; ``others`` is where the report saw the thread instead."""

    tid: int
    state: str
    truth_s: float
    told_s: float
    others: dict[str, float]
    stolen_s: float = 0.0

    @property
    def error_s(self) -> float:
        return self.told_s - self.truth_s

    @property
    def ok(self) -> bool:
        return abs(self.error_s) <= max(ABS_S, REL * self.truth_s) + self.stolen_s


class Verdict(NamedTuple):
    """What came of one program. ``right``, ``missed`` and ``wrong`` are findings as text."""

    name: str
    pending: list[str]
    right: list[str]
    missed: list[str]
    wrong: list[str]
    kinds: tuple[int, int, int]  # right, missed, wrong if only the kind counted
    states: list[State]
    problem: str | None
    wall_s: float
    other_s: dict[str, float]
    lost: int

    @property
    def ok(self) -> bool:
        return not (self.problem or self.missed or self.wrong or any(not s.ok for s in self.states))


def compare(
    program: Program, landed: frozenset[str], truth: dict[str, Any], report: dict[str, Any]
) -> Verdict:
    """One program's truth against its report."""
    ports = {number: name for name, number in truth["ports"].items()}
    exact = "function" in landed

    def name_of(finding: dict[str, Any]) -> str | None:
        return None if finding["peer"] is None else ports.get(finding["peer"]["port"], "?")

    def same(expected: tuple[str, str | None, str | None], finding: dict[str, Any]) -> bool:
        kind, function, port = expected
        return (
            kind == finding["kind"]
            and (port is None or port == name_of(finding))
            and (not exact or function is None or function == finding["function"])
        )

    starved = max(truth["delay_s"].values(), default=0.0) >= STARVED_S
    accepted = program.also | _INFORMATION | ({"cpu_starved"} if starved else set())
    findings = report["findings"]
    right = [e for e in program.findings if any(same(e, f) for f in findings)]
    missed = [e for e in program.findings if e not in right]
    wrong, seen = [], set()
    told, untold = _causes(program, report, ports)
    for f in findings:
        key = (f["kind"], f["function"], name_of(f), f["pid"])
        expected = any(same(e, f) for e in program.findings)
        if key in seen or not (expected or f["kind"] in accepted):
            wrong.append(_text(f["kind"], f["function"], name_of(f), f["blocked_s"]))
        seen.add(key)
    return Verdict(
        program.name,
        program.pending(landed),
        [_text(*e) for e in right] + told,
        [_text(*e) for e in missed] + untold,
        wrong,
        _kinds(program, accepted, findings),
        _states(truth, report),
        None,
        sum(t["wall_s"] for t in report["threads"]),
        _others(report),
        report["loss"]["events_lost"],
    )


def failed(program: Program, landed: frozenset[str], problem: str) -> Verdict:
    """A program that could not be run or observed."""
    missed = [_text(*e) for e in program.findings]
    return Verdict(
        program.name, program.pending(landed), [], missed, [], (0, len(missed), 0), [], problem, 0.0, {}, 0
    )


def _causes(program: Program, report: dict[str, Any], ports: dict[int, str]) -> tuple[list[str], list[str]]:
    """What the event loops wait for and why the engine is idle, as text: told and not told."""
    told: list[str] = []
    untold: list[str] = []
    rows = [task for loop in report.get("loops", ()) for task in loop["tasks"]]
    seen = {(row["function"], row["waits_for"], _port(row, ports)) for row in rows}
    for function, waits_for, port in program.loops:
        (told if (function, waits_for, port) in seen else untold).append(
            _text(f"loop/{waits_for}", function, port)
        )
    shares: dict[tuple[str, str | None], float] = {}
    asleep = [cause for cause in report["idle_by_cause"] if cause["state"] not in _AWAKE]
    for cause in asleep:
        key = cause["function"], _port(cause, ports)
        shares[key] = shares.get(key, 0.0) + cause["share"]
    found = {wanted: shares.get(wanted, 0.0) for wanted in program.idle}
    whole = sum(cause["share"] for cause in asleep)
    enough = sum(found.values()) >= EXPLAINED * whole
    for (function, port), share in found.items():
        (told if enough and share >= NOTICED * whole else untold).append(_text("idle", function, port))
    return told, untold


def _port(row: dict[str, Any], ports: dict[int, str]) -> str | None:
    return None if row["peer"] is None else ports.get(row["peer"]["port"], "?")


def _text(kind: str, function: str | None, port: str | None, seconds: float | None = None) -> str:
    where = f" {function}" if function else ""
    peer = f" @{port}" if port else ""
    return f"{kind}{where}{peer}" + (f" {seconds:.2f}s" if seconds is not None else "")


def _kinds(
    program: Program, accepted: frozenset[str], findings: list[dict[str, Any]]
) -> tuple[int, int, int]:
    wanted, told = {kind for kind, _, _ in program.findings}, {f["kind"] for f in findings}
    return len(wanted & told), len(wanted - told), len(told - wanted - accepted)


def _states(truth: dict[str, Any], report: dict[str, Any]) -> list[State]:
    compared = []
    stolen = truth.get("stolen_s", 0.0)
    for text, states in truth["threads"].items():
        told: dict[str, float] = {}
        for thread in report["threads"]:
            if thread["tid"] == int(text):
                for state, seconds in thread["states"].items():
                    told[state] = told.get(state, 0.0) + seconds
        for state, seconds in states.items():
            names = state.split("|")
            others = {k: v for k, v in told.items() if k not in names and v >= ABS_S / 2}
            compared.append(
                State(int(text), state, seconds, sum(told.get(n, 0.0) for n in names), others, stolen)
            )
    return compared


def _others(report: dict[str, Any]) -> dict[str, float]:
    """Seconds in ``other``, by thread name."""
    found: dict[str, float] = {}
    for thread in report["threads"]:
        if seconds := thread["states"].get("other", 0.0):
            found[thread["name"]] = found.get(thread["name"], 0.0) + seconds
    return found
