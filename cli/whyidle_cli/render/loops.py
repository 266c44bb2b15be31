"""What event loops waited for: the tasks that waited most, a few for each loop."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, Final

from rich.text import Text

from whyidle_cli.render.text import column, peer_text, wrap
from whyidle_cli.render.units import TIMES, count, percent, seconds
from whyidle_cli.sanitize import sanitize

_MOST_LOOPS: Final = 3
_MOST_TASKS: Final = 5
_LEAST_SHARE: Final = 0.01  # of the run; a loop that waited less is not worth a line
_THINGS: Final = {
    "socket": "a socket",
    "client": "a client",
    "timer": "a timer",
    "lock": "a lock",
    "queue": "a queue",
    "thread": "a thread",
    "dns": "a look-up",
    "child": "a child process",
    "connect": "a connection",
    "task": "other tasks",
}


def loop_lines(loops: list[dict[str, Any]], duration: float, width: int) -> list[Text]:
    """A line for each loop, and one for each kind of task in it."""
    shown = [loop for loop in loops if loop["waiting_s"] > _LEAST_SHARE * duration]
    lines: list[Text] = []
    for loop in shown[:_MOST_LOOPS]:
        lines += _loop(loop, width)
    if rest := shown[_MOST_LOOPS:]:
        lines.append(Text(f"  {count(len(rest), 'more loop')}", "dim"))
    return lines


def _loop(loop: dict[str, Any], width: int) -> list[Text]:
    text = f"thread {loop['tid']} waited for {seconds(loop['waiting_s'])}"
    if loop["reason"]:
        ends = ", ".join(peer_text(peer) for peer in loop["sockets"][:_MOST_TASKS])
        text += f"; its tasks are not known: {sanitize(str(loop['reason']), 200)}"
        text += f"; connected to {ends}" if ends else ""
        return wrap(text, width, "", "  ", "    ")
    known = loop["read_s"] / loop["waiting_s"] if loop["waiting_s"] > 0 else 0.0
    tasks = [task for task in loop["tasks"] if task["waits_for"] != "task"] or loop["tasks"]
    rest = len(tasks[_MOST_TASKS:]) + loop["tasks_omitted"]
    text += f", {percent(known)} of it seen by task" + (f"; {count(rest, 'more place')}" if rest else "")
    return [*wrap(text, width, "bold", "  ", "    "), *(_task(task, width) for task in tasks[:_MOST_TASKS])]


def _task(task: dict[str, Any], width: int) -> Text:
    file = sanitize(PurePath(str(task["file"])).name, 60)
    line = f":{task['line']}" if task["line"] is not None else ""
    number = f" {TIMES}{task['count']}" if task["count"] > 1 else ""
    half = (width - 4 - 11) // 2
    peer = task["peer"]
    # By name alone, if it has one: a row is short.
    end = f"{sanitize(str(peer['host']), 60)}:{peer['port']}" if peer and peer["host"] else peer_text(peer)
    what = end or _THINGS.get(str(task["waits_for"]), "a future")
    where = column(f"{sanitize(str(task['function']), 60)}() ({file}{line}){number}", half)
    return Text.assemble("    ", where, " ", column(what, half), seconds(task["waited_s"]).rjust(10))
