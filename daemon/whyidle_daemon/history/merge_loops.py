"""What event loops waited for, over several parts of the history. Pure."""

from __future__ import annotations

from typing import Any

from whyidle_daemon.loop_objects import MAX_LOOPS, MAX_TASKS

Report = dict[str, Any]


def merged_loops(parts: list[Report]) -> list[dict[str, Any]]:
    """Each loop once: times are summed, counts and longest waits are the largest, the rest is the latest."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for part in parts:
        for loop in part.get("loops", ()):
            known = found.get((loop["pid"], loop["tid"]))
            if known is None:
                found[loop["pid"], loop["tid"]] = loop
                continue
            tasks = _tasks(known["tasks"], loop["tasks"])
            found[loop["pid"], loop["tid"]] = {
                **loop,
                "waiting_s": known["waiting_s"] + loop["waiting_s"],
                "read_s": known["read_s"] + loop["read_s"],
                "tasks": tasks[:MAX_TASKS],
                "tasks_omitted": max(known["tasks_omitted"], loop["tasks_omitted"]) + len(tasks[MAX_TASKS:]),
            }
    return sorted(found.values(), key=lambda loop: -loop["waiting_s"])[:MAX_LOOPS]


def _tasks(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for task in (*before, *after):
        peer = task["peer"] and (task["peer"]["address"], task["peer"]["port"])
        key = *(task[name] for name in ("function", "file", "line", "waits_for")), peer
        known = rows.get(key, {"count": 0, "waited_s": 0.0, "longest_s": 0.0})
        rows[key] = {
            **task,
            "count": max(known["count"], task["count"]),
            "waited_s": known["waited_s"] + task["waited_s"],
            "longest_s": max(known["longest_s"], task["longest_s"]),
        }
    return sorted(
        rows.values(), key=lambda task: (task["waits_for"] == "task", -task["waited_s"] * task["count"])
    )
