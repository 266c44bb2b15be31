"""What of a report a user may see who may see his own processes only. Pure.

A tree of his may hold processes that are not his: sudo, a set-user-ID helper, a service's worker. That they
are there, and how long they took, he sees in any process list; what they were called, which hosts they
talked to and what their code is called, he does not learn here.

A tree that is wholly his is shown as it is. In any other one only what is listed here passes: a field that a
later version adds stays out until somebody has thought about it, and so does free text, which may name
anything (advice names children and neighbours).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

HIDDEN: Final = "(another user's)"
ADVICE: Final = "Part of what this is about belongs to another user: root can see the whole of it."

Own = Callable[[int], bool]
"""Whether a PID is his."""

_REPORT: Final = ("schema", "host", "loss", "overhead", "recording", "processes_omitted", "threads_omitted")
_PROCESS: Final = (
    "pid", "ppid", "cpu_s", "rss_peak_bytes", "rss_end_bytes", "start_s", "end_s", "exit_status",
)  # fmt: skip
_NOBODYS: Final = {"command": HIDDEN, "cgroup": None}
_THREAD: Final = ("pid", "tid", "wall_s", "states")
_ENGINE: Final = (
    "kind", "pid", "busy_s", "idle_s", "idle_attributed_s", "resolution_ms", "simulated", "latency_s",
    "memory_peak_bytes", "utilization_mean", "finest",
)  # fmt: skip
_GAP: Final = ("start_s", "duration_s", "open")
_CAUSE: Final = ("state", "seconds", "share", "pid", "tid")
_TARGET: Final = ("pid", "started_at", "duration_s", "exit_status", "roots")
_FINDING: Final = (
    "kind", "severity", "confidence", "confidence_reasons", "pid", "tid", "thread", "function", "file",
    "line", "stack", "count", "blocked_s", "engine_idle_s", "share_of_idle", "saves_s",
)  # fmt: skip


def redacted(report: dict[str, Any], own: Own) -> dict[str, Any]:
    """A copy of a report without what belongs to others; sums and times stay as they are.

    For a tree that is not wholly his. The report cannot tell: of many processes it leaves some out.
    """
    target = report["target"]
    engines = {
        engine["id"]: engine["id"] if _is_own(engine, own) else f"{HIDDEN} {number}"
        for number, engine in enumerate(report["engines"], 1)
    }
    return {
        **_only(report, _REPORT),
        "target": {
            **_only(target, _TARGET),
            "command": target["command"] if own(target["pid"]) else [HIDDEN],
        },
        "processes": [
            process if own(process["pid"]) else {**_only(process, _PROCESS), **_NOBODYS}
            for process in report["processes"]
        ],
        "threads": [
            {**_only(thread, _THREAD), "name": thread["name"] if own(thread["pid"]) else HIDDEN}
            for thread in report["threads"]
        ],
        "engines": [{**_only(engine, _ENGINE), "id": engines[engine["id"]]} for engine in report["engines"]],
        "gaps": [
            {
                **_only(gap, _GAP),
                "engine": engines.get(gap["engine"], HIDDEN),
                "causes": [_cause(cause, own) for cause in gap["causes"]],
            }
            for gap in report["gaps"]
        ],
        "idle_by_cause": [_cause(cause, own) for cause in report["idle_by_cause"]],
        "findings": [redacted_finding(finding) for finding in report["findings"] if _is_own(finding, own)],
    }


def redacted_finding(finding: dict[str, Any]) -> dict[str, Any]:
    """A finding of his in a tree that is not wholly his."""
    return {**_only(finding, _FINDING), "peer": _peer(finding["peer"]), "advice": ADVICE}


def _only(item: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: item[name] for name in names if name in item}


def _is_own(item: dict[str, Any], own: Own) -> bool:
    return item["pid"] is not None and own(item["pid"])


def _cause(cause: dict[str, Any], own: Own) -> dict[str, Any]:
    mine = _is_own(cause, own)
    return {
        **_only(cause, _CAUSE),
        "function": cause["function"] if mine else None,
        "peer": _peer(cause["peer"]) if mine else None,
    }


def _peer(peer: dict[str, Any] | None) -> dict[str, Any] | None:
    """Without the name: another process of the tree may have been the one that looked it up."""
    return {"host": None, "address": peer["address"], "port": peer["port"]} if peer is not None else None
