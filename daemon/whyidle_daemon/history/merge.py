"""One report over several parts of the history. Pure.

Sums are sums of the parts' sums, so the contract's equations still hold: a thread's states add up to its
time, busy and idle to the time the engine was observed. Sections that only a whole observation can have are
left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from whyidle_daemon.history.merge_engines import JOIN_S, merged_engines
from whyidle_daemon.history.merge_host import merged_loss, merged_overhead, total
from whyidle_daemon.history.merge_loops import merged_loops
from whyidle_daemon.report import MAX_GAPS, MAX_REPORTED_CAUSES

MAX_REASONS: Final = 8
_SEVERITIES: Final = ("high", "medium", "low", "info")
_CONFIDENCES: Final = ("high", "medium", "low")
_GROWTH: Final = ("memory_growth", "kv_cache_growth", "memory_limit_near")
_TIMES: Final = ("limit_at_s", "limit_at_earliest_s", "limit_at_latest_s", "full_at_s")
"""Of a finding: seconds since the observation began."""

Report = dict[str, Any]


def merged(reports: Iterable[Report]) -> Report:
    """The report over all of them; one alone is returned as it is. Raises ValueError for none."""
    parts = sorted(reports, key=_began)
    if not parts:
        raise ValueError("nothing to merge")
    if len(parts) == 1:
        return parts[0]
    start = _began(parts[0])
    offsets = [_began(part) - start for part in parts]
    engines = merged_engines(parts, offsets)
    total_idle = sum(cause["seconds"] for part in parts for cause in part["idle_by_cause"])
    return {
        "schema": parts[-1]["schema"],
        "host": parts[-1]["host"],
        "target": _target(parts, offsets),
        "parts": len(parts),
        "processes": _processes(parts, offsets),
        **_omitted(parts, "processes_omitted"),
        "threads": _threads(parts),
        **_omitted(parts, "threads_omitted"),
        "engines": engines,
        "gaps": _gaps(parts, offsets),
        "idle_by_cause": _causes(parts, total_idle),
        "findings": _findings(parts, offsets, total_idle),
        "loops": merged_loops(parts),
        "loss": merged_loss(parts, offsets),
        "overhead": merged_overhead(parts, offsets),
        "recording": _recording(parts),
    }


def _began(report: Report) -> float:
    """Seconds since 1970."""
    return datetime.fromisoformat(str(report["target"]["started_at"]).replace("Z", "+00:00")).timestamp()


def _target(parts: list[Report], offsets: list[float]) -> dict[str, Any]:
    """The process that was observed longest stands for all; ``targets`` has each."""
    targets: dict[tuple[int, str], dict[str, Any]] = {}
    for part in parts:
        target = part["target"]
        known = targets.setdefault((target["pid"], " ".join(target["command"])), dict(target))
        if known["started_at"] != target["started_at"]:
            known["duration_s"] += target["duration_s"]
            known["exit_status"] = target["exit_status"]
    longest = max(targets.values(), key=lambda target: target["duration_s"])
    ends = [offset + part["target"]["duration_s"] for offset, part in zip(offsets, parts, strict=True)]
    return {
        **longest,
        "started_at": parts[0]["target"]["started_at"],
        "duration_s": max(ends),
        "targets": list(targets.values()),
    }


def _processes(parts: list[Report], offsets: list[float]) -> list[dict[str, Any]]:
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for part, offset in zip(parts, offsets, strict=True):
        for process in part["processes"]:
            end = process.get("end_s")
            item = {
                **process,
                "start_s": process.get("start_s", 0.0) + offset,
                "end_s": end + offset if end is not None else None,
            }
            known = found.setdefault((process["pid"], process["command"]), item)
            if known is not item:
                known["cpu_s"] += item["cpu_s"]
                peaks = [x["rss_peak_bytes"] for x in (known, item) if x["rss_peak_bytes"] is not None]
                known["rss_peak_bytes"] = max(peaks, default=None)
                for name in ("rss_end_bytes", "end_s", "exit_status", "cgroup"):
                    known[name] = item.get(name, known.get(name))
    return list(found.values())


def _threads(parts: list[Report]) -> list[dict[str, Any]]:
    found: dict[tuple[int, int, str], dict[str, Any]] = {}
    for part in parts:
        for thread in part["threads"]:
            key = thread["pid"], thread["tid"], thread["name"]
            known = found.get(key)
            if known is None:
                found[key] = {**thread, "states": dict(thread["states"])}
                continue
            known["wall_s"] += thread["wall_s"]
            for state, s in thread["states"].items():
                known["states"][state] = known["states"].get(state, 0.0) + s
    return sorted(found.values(), key=lambda thread: -thread["wall_s"])


def _gaps(parts: list[Report], offsets: list[float]) -> list[dict[str, Any]]:
    whole: list[dict[str, Any]] = []
    opened: dict[int, dict[str, dict[str, Any]]] = {}  # by target and engine: what its last part left open
    for part, offset in zip(parts, offsets, strict=True):
        still: dict[str, dict[str, Any]] = {}
        left = opened.get(part["target"]["pid"], {})
        for gap in sorted(part["gaps"], key=lambda gap: gap["start_s"]):
            item = {**gap, "start_s": gap["start_s"] + offset}
            before = left.pop(gap["engine"], None)
            if before and abs(item["start_s"] - before["start_s"] - before["duration_s"]) <= JOIN_S:
                _join(before, item)
                item = before
            else:
                whole.append(item)
            if gap.get("open"):
                still[gap["engine"]] = item
        opened[part["target"]["pid"]] = still
    return sorted(whole, key=lambda gap: -gap["duration_s"])[:MAX_GAPS]


def _join(gap: dict[str, Any], following: dict[str, Any]) -> None:
    total = gap["duration_s"] + following["duration_s"]
    causes: dict[tuple[Any, ...], dict[str, Any]] = {}
    for piece in (gap, following):
        for cause in piece["causes"]:
            key = _cause_key(cause)
            share = cause["share"] * piece["duration_s"] / total if total else 0.0
            if key in causes:
                causes[key]["share"] += share
            else:
                causes[key] = {**cause, "share": share}
    gap["causes"] = sorted(causes.values(), key=lambda cause: -cause["share"])
    gap["duration_s"], gap["open"] = total, following.get("open", False)


def _causes(parts: list[Report], total_idle: float) -> list[dict[str, Any]]:
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for part in parts:
        for cause in part["idle_by_cause"]:
            known = found.setdefault(_cause_key(cause), {**cause, "seconds": 0.0})
            known["seconds"] += cause["seconds"]
    ranked = sorted(found.values(), key=lambda cause: -cause["seconds"])
    rest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for cause in ranked[MAX_REPORTED_CAUSES:]:  # the smallest lose their names, as in any report
        bare = {**cause, "function": None, "peer": None, "seconds": 0.0}
        rest.setdefault(_cause_key(bare), bare)["seconds"] += cause["seconds"]
    for cause in ranked[:MAX_REPORTED_CAUSES]:
        key = _cause_key(cause)
        cause["seconds"] += rest.pop(key)["seconds"] if key in rest else 0.0
    causes = [*ranked[:MAX_REPORTED_CAUSES], *rest.values()]
    for cause in causes:
        cause["share"] = cause["seconds"] / total_idle if total_idle else 0.0
    return sorted(causes, key=lambda cause: -cause["seconds"])


def _cause_key(cause: dict[str, Any]) -> tuple[Any, ...]:
    who = cause["pid"], cause.get("tid"), cause["function"], str(cause["peer"])
    return cause["state"], cause.get("cause"), *who


def _findings(parts: list[Report], offsets: list[float], total_idle: float) -> list[dict[str, Any]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for part, offset in zip(parts, offsets, strict=True):
        for finding in part["findings"]:
            where = [finding[name] for name in ("kind", "pid", "tid", "function", "file", "line")]
            limit = finding.get("limit") or {}
            what = finding.get("engine"), limit.get("scope"), limit.get("name")
            moved = {name: finding[name] + offset for name in _TIMES if finding.get(name) is not None}
            groups.setdefault((*where, *what, str(finding["peer"])), []).append({**finding, **moved})
    findings = [_finding(group, total_idle) for group in groups.values()]
    return sorted(findings, key=lambda f: (_SEVERITIES.index(f["severity"]), -(f["saves_s"] or 0.0)))


def _finding(group: list[dict[str, Any]], total_idle: float) -> dict[str, Any]:
    """The worst one, with the sums of all; of what says how something grows, the last one."""
    if len(group) == 1:
        worst = group[0]
        idle = worst["engine_idle_s"]
    else:
        worst = max(group, key=lambda finding: finding["blocked_s"] or 0.0)
        if worst["kind"] in _GROWTH:
            worst = group[-1]
        idle = total([finding["engine_idle_s"] for finding in group])
    reasons = dict.fromkeys(reason for finding in group for reason in finding["confidence_reasons"])
    advice = worst["advice"]
    if len(group) > 1:
        which = "last" if worst["kind"] in _GROWTH else "worst"
        advice = f"In {len(group)} parts of the history; in the {which} of them: {advice}"
    return {
        **worst,
        "severity": min((f["severity"] for f in group), key=_SEVERITIES.index),
        "confidence": max((f["confidence"] for f in group), key=_CONFIDENCES.index),
        "confidence_reasons": list(reasons)[:MAX_REASONS],
        "count": total([finding["count"] for finding in group]),
        "blocked_s": total([finding["blocked_s"] for finding in group]),
        "engine_idle_s": idle,
        "share_of_idle": idle / total_idle if idle is not None and total_idle else worst["share_of_idle"],
        "saves_s": total([finding["saves_s"] for finding in group]),
        "advice": advice,
    }


def _summed(items: list[dict[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(name for item in items for name in item)
    return {name: total([item.get(name) for item in items]) for name in names}


def _omitted(parts: list[Report], name: str) -> dict[str, Any]:
    """The key of that name, if some part has it: what old recordings were made with has none."""
    items = [part[name] for part in parts if name in part]
    found: dict[str, Any] = {}
    for key in dict.fromkeys(key for item in items for key in item):
        values = [item[key] for item in items if key in item]
        found[key] = _summed(values) if isinstance(values[0], dict) else total(values)
    return {name: found} if found else {}


def _recording(parts: list[Report]) -> dict[str, Any]:
    states = [part.get("recording") or {"complete": True} for part in parts]
    bad = [state for state in states if not state["complete"]]
    if not bad:
        return {"complete": True, "reason": None}
    return {"complete": False, "reason": f"{len(bad)} of {len(parts)} parts: {bad[-1]['reason']}"}
