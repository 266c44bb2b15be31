"""``slow_dns``: names that take long to look up.

Rests on getaddrinfo's own calls, which name the host; where none were seen (another resolver), on the waits
for a name server. Guilty is a host whose look-ups took at least 0.1 s together and 5 % of the run or of an
engine's idle time, or 0.5 s in one piece. Look-ups in one function are one finding, whatever the names;
without a function those of one name. Several threads that do so are one finding too, for the one that matters
most: an engine's driver, else the main thread, else the one that waited longest.

**engine_idle_s**: the look-ups, but no more than for how long waits for name servers kept the engine idle or,
where none was seen, waits that a resolver may be behind. **saves_s**: all but one look-up, which a cache
needs as well; for one host alone, nothing.
"""

from __future__ import annotations

from typing import Any

from whyidle_daemon.findings.evidence import Evidence, printable, say, seconds
from whyidle_daemon.findings.waiting import Idle, Waiting, grouped, in_function, report_of, who_waits
from whyidle_daemon.gaps import state_of_cause
from whyidle_daemon.lookups import LookupSums
from whyidle_daemon.processes import Process

MIN_NS = 100_000_000
MIN_SHARE = 0.05
MIN_LONGEST_NS = 500_000_000
MAX_NAMES = 16
_RESOLVERS = ("network", "local_ipc")  # what a resolver that is no name server is waited for in


def find(evidence: Evidence) -> list[dict[str, Any]]:
    """One finding for each process and function, or name; without names, for each thread and line."""
    dns = grouped(group for key, group in evidence.groups.items() if key.state == "dns")
    together: dict[tuple[Process, Any], list[LookupSums]] = {}
    for lookup in evidence.lookups:
        what = _function_of(lookup, dns) or lookup.host
        together.setdefault((lookup.process, what), []).append(lookup)
    found = []
    for lookups in together.values():
        worst = max(lookups, key=lambda each: (_rank(evidence, each), each.total_ns, -each.tid))
        total = sum(each.total_ns for each in lookups if each.tid == worst.tid)
        idle = _idle(evidence, worst.process, worst.tid, total, dns)
        if _is_slow(evidence, total, max(each.longest_ns for each in lookups), idle):
            found.append(_named(evidence, worst, lookups, dns, idle))
    seen = {(lookup.process, lookup.tid) for lookup in evidence.lookups}
    for waiting in dns:
        idle = _idle(evidence, waiting.process, waiting.tid, waiting.blocked_ns, dns)
        if (waiting.process, waiting.tid) not in seen and _is_slow(
            evidence, waiting.blocked_ns, waiting.longest_ns, idle
        ):
            found.append(_nameless(evidence, waiting, idle))
    return found


def _function_of(lookup: LookupSums, dns: list[Waiting]) -> tuple[str, str] | None:
    """The function in which a thread waited for name servers, if it was one alone."""
    mine = [each for each in dns if (each.process, each.tid) == (lookup.process, lookup.tid)]
    places = {each.place.where[:2] if each.place is not None else None for each in mine}
    return places.pop() if len(places) == 1 else None


def _rank(evidence: Evidence, lookup: LookupSums) -> int:
    if evidence.engines_of(lookup.process, lookup.tid):
        return 2
    return int(lookup.tid == lookup.process.pid)


def _idle(evidence: Evidence, process: Process, tid: int, ns: int, dns: list[Waiting]) -> Idle | None:
    """Look-ups before the first inference starved nothing, nor did those that nobody waited for."""
    seen = any((waiting.process, waiting.tid) == (process, tid) for waiting in dns)
    costs = []
    for engine in evidence.engines_of(process, tid):
        most = sum(
            part
            for (wait, key), part in engine.idle_by(process, tid).items()
            if (state := state_of_cause(wait, key)) == "dns"
            or (state in _RESOLVERS and (key is None or not seen))
        )
        part = min(ns, most, engine.idle_ns)
        if part:
            costs.append(Idle(engine, part, part / engine.idle_ns))
    return max(costs, key=lambda idle: idle.ns, default=None)


def _is_slow(evidence: Evidence, total_ns: int, longest_ns: int, idle: Idle | None) -> bool:
    if longest_ns >= MIN_LONGEST_NS:
        return True
    share = max(total_ns / max(1, evidence.wall_ns), idle.share if idle is not None else 0.0)
    return total_ns >= MIN_NS and share >= MIN_SHARE


def _doubts(evidence: Evidence, process: Process, tid: int) -> list[str]:
    if evidence.engines_of(process, tid) or tid == process.pid:
        return []
    return ["neither the main thread nor an engine's: whether it delays the work is not known"]


def _named(
    evidence: Evidence,
    worst: LookupSums,
    lookups: list[LookupSums],
    dns: list[Waiting],
    idle: Idle | None,
) -> dict[str, Any]:
    mine = [each for each in dns if (each.process, each.tid) == (worst.process, worst.tid)]
    code = max(mine, key=lambda each: each.blocked_ns, default=Waiting(worst.process, worst.tid, ()))
    count, total = sum(each.count for each in lookups), sum(each.total_ns for each in lookups)
    its = [each for each in lookups if each.tid == worst.tid]
    longest, failed = max(each.longest_ns for each in lookups), sum(each.failed for each in lookups)
    names = sorted({each.host for each in lookups}, key=lambda name: (name != worst.host, name))
    server = f" by {code.key.peer_text}" if code.groups and code.key.peer_text else ""
    fix = (
        f"{failed} of them failed: correct the name or the search list in /etc/resolv.conf"
        if failed * 2 > count
        else "keep connections open (one httpx.Client or requests.Session for all calls), or cache the "
        "answers (a local resolver such as systemd-resolved)"
    )
    return report_of(
        evidence,
        "slow_dns",
        code,
        idle,
        doubts=_doubts(evidence, worst.process, worst.tid),
        count=count,
        blocked_s=seconds(total),
        longest_s=seconds(longest),
        share_of_wall=sum(each.total_ns for each in its) / max(1, evidence.wall_ns),
        saves_s=seconds(sum(max(0, each.total_ns - each.longest_ns) for each in its)),
        host=worst.host,
        hosts=names[:MAX_NAMES],
        failed=failed,
        threads=len({each.tid for each in lookups}),
        advice=(
            f"{who_waits(evidence, worst.process, worst.tid)}{in_function(code.place)} looked up "
            f"{printable(worst.host)}{_and_others(names)}{server} {count} times, {say(total)} in all, "
            f"{say(longest)} at most: {fix}."
        ),
    )


def _and_others(names: list[str]) -> str:
    return {1: "", 2: " and one other name"}.get(len(names), f" and {len(names) - 1} other names")


def _nameless(evidence: Evidence, waiting: Waiting, idle: Idle | None) -> dict[str, Any]:
    server = waiting.key.peer_text or "a name server"
    return report_of(
        evidence,
        "slow_dns",
        waiting,
        idle,
        doubts=[
            *_doubts(evidence, waiting.process, waiting.tid),
            "the names that were looked up are not known",
        ],
        saves_s=seconds(waiting.blocked_ns - waiting.longest_ns),
        host=None,
        advice=(
            f"{who_waits(evidence, waiting.process, waiting.tid)}{in_function(waiting.place)} waited "
            f"{waiting.number} times, {say(waiting.blocked_ns)} in all, for the name server {server}: keep "
            "connections open, cache the answers, or use a quicker resolver."
        ),
    )
