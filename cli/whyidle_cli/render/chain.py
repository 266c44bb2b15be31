"""The way of the blame, in a sentence: from the engine over other processes to what all of them wait for."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, Final

from whyidle_cli.render.text import peer_text
from whyidle_cli.sanitize import sanitize

_ENDS: Final = {
    "running": "which computes",
    "runqueue": "which waits for a CPU",
    "throttled": "which its cgroup's CPU limit holds up",
    "disk": "which waits for the disk",
    "lock": "which waits for a lock",
    "gil": "which waits for the GIL",
    "sleep": "which sleeps",
    "child": "which waits for a child",
    "local_ipc": "which waits for another local process",
    "event_loop": "which has nothing to do",
}


def chain_text(chain: list[dict[str, Any]], commands: dict[int, str], no_demand: bool = False) -> str:
    """``engine in server.py waits for agent.py (pid 7): search_web() (agent.py:51) waits for host:443``.

    Empty when the whole chain is one process: there is nothing to add to the row or finding itself.
    """
    if len({link["pid"] for link in chain}) < 2:
        return ""
    groups: list[list[dict[str, Any]]] = []
    for link in chain:
        if groups and groups[-1][-1]["pid"] == link["pid"]:
            groups[-1].append(link)
        else:
            groups.append([link])
    words = [f"engine in {_name(groups[0][0]['pid'], commands)}"]
    for group in groups[1:]:
        place = next((_place(link) for link in reversed(group) if link["function"]), "")
        words.append(_name(group[0]["pid"], commands) + (f": {place}" if place else ""))
    text = " waits for ".join(words)
    last = chain[-1]
    if no_demand:
        return f"{text}, which nobody calls"
    if last["peer"]:
        return f"{text} waits for {peer_text(last['peer'])}"
    end = _ENDS.get(str(last["state"]))
    return f"{text}, {end}" if end else text


def _name(pid: int, commands: dict[int, str]) -> str:
    name = sanitize(commands.get(pid, ""), 40)
    return f"{name} (pid {pid})" if name else f"pid {pid}"


def _place(link: dict[str, Any]) -> str:
    where = sanitize(PurePath(str(link["file"])).name, 60) if link["file"] else ""
    line = f":{link['line']}" if where and link["line"] else ""
    return f"{sanitize(str(link['function']), 60)}()" + (f" ({where}{line})" if where else "")
