"""What of a report a user may see who may see his own processes only. Pure.

A tree of his may hold processes that are not his: sudo, a set-user-ID helper, a service's worker. That they
are there, and how long they took, he sees in any process list; what they were called, which hosts they
talked to and what their code is called, he does not learn here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

HIDDEN: Final = "(another user's)"

Own = Callable[[int], bool]
"""Whether a PID is his."""


def redacted(report: dict[str, Any], own: Own) -> dict[str, Any]:
    """A copy of a report without what belongs to others; sums and times stay as they are."""
    result = dict(report)
    result["target"] = _target(report["target"], own)
    result["processes"] = [
        process if own(process["pid"]) else {**process, "command": [HIDDEN], "cgroup": None}
        for process in report["processes"]
    ]
    result["threads"] = [
        thread if own(thread["pid"]) else {**thread, "name": HIDDEN} for thread in report["threads"]
    ]
    result["engines"] = [
        engine if engine["pid"] is None or own(engine["pid"]) else {**engine, "id": HIDDEN}
        for engine in report["engines"]
    ]
    hidden = {e["id"] for e in report["engines"] if e["pid"] is not None and not own(e["pid"])}
    result["gaps"] = [
        {
            **gap,
            "engine": HIDDEN if gap["engine"] in hidden else gap["engine"],
            "causes": [_cause(cause, own) for cause in gap["causes"]],
        }
        for gap in report["gaps"]
    ]
    result["idle_by_cause"] = [_cause(cause, own) for cause in report["idle_by_cause"]]
    result["findings"] = [finding for finding in report["findings"] if own(finding["pid"])]
    return result


def _target(target: dict[str, Any], own: Own) -> dict[str, Any]:
    pid = target.get("pid")
    return target if pid is None or own(pid) else {**target, "command": [HIDDEN]}


def _cause(cause: dict[str, Any], own: Own) -> dict[str, Any]:
    pid = cause.get("pid")
    return cause if pid is None or own(pid) else {**cause, "function": None, "peer": None}
