"""Records of ``watch`` as lines of text."""

from __future__ import annotations

from typing import Any

from whyidle_cli.render.findings import place, times, title
from whyidle_cli.render.text import fit, join, peer_text
from whyidle_cli.render.units import seconds
from whyidle_cli.sanitize import sanitize
from whyidle_wire.records import FindingEvent, ProcessEvent, Record, SliceEvent, StallEvent


def finding_text(finding: dict[str, Any]) -> str:
    """``HIGH  blocking network call  MainThread/4711  recvfrom → 127.0.0.1:80  once, 1.4 s  saves …``."""
    thread = f"{sanitize(str(finding.get('thread') or '?'), 30)}/{finding['pid']}"
    saves = finding.get("saves_s")
    where = join([place(finding), peer_text(finding.get("peer"))], " → ")
    return join(
        [
            f"{sanitize(str(finding['severity']), 10).upper():<6}",
            title(finding),
            thread,
            where,
            times(finding),
            f"saves up to {seconds(saves)}" if saves else "",
        ],
        "  ",
    )


def slice_text(event: SliceEvent) -> str:
    """``  12.402 s  network  MainThread/4711  recvfrom → 127.0.0.1:80  312 ms``."""
    where = join([sanitize(event.syscall, 30), peer_text(event.peer)], " → ")
    name = f"{sanitize(event.thread, 30)}/{event.tid}"
    return join(
        [f"{event.start_s:10.3f} s", f"{fit(event.state, 10):<10}", name, where, seconds(event.duration_s)],
        "  ",
    )


def stall_text(event: StallEvent) -> str:
    """``STALL   network  python/4711  search_web (tools.py:41)  recvfrom → 127.0.0.1:80  1.0 s so far``."""
    place = ""
    if event.function:
        file = sanitize(event.file or "?", 200).rpartition("/")[2]
        place = f"{sanitize(event.function, 40)} ({file}:{event.line if event.line is not None else '?'})"
    return join(
        [
            "OVER  " if event.ended else "STALL ",
            f"{fit(event.state, 10):<10}",
            f"{sanitize(event.thread, 30)}/{event.tid}",
            place,
            join([sanitize(event.syscall, 30), peer_text(event.peer)], " → "),
            seconds(event.duration_s) + (" in all" if event.ended else " so far"),
        ],
        "  ",
    )


def process_text(event: ProcessEvent) -> str:
    """``process 4711 exec python agent.py``."""
    status = f"status {event.exit_status}" if event.exit_status is not None else ""
    words = [f"process {event.pid}", sanitize(event.what, 20), sanitize(" ".join(event.command), 120), status]
    return join(words, " ")


def stream_text(record: Record) -> str | None:
    """The line for one record; None for one that has nothing to show."""
    match record:
        case FindingEvent():
            return finding_text(record.finding)
        case StallEvent():
            return stall_text(record)
        case SliceEvent():
            return slice_text(record)
        case ProcessEvent():
            return process_text(record)
    return None
