"""``event_loop_blocked``: a synchronous call inside a running asyncio loop.

While it lasts no other task of the loop runs. Seen by the stack of the sleeping thread: a loop runs in it,
and what sleeps is not the loop's own selector. Any wait counts that the code asked for: network, look-up,
disk, lock, sleep, child, pipe; what happens *to* a thread (no CPU, no GIL, a page fault) is another kind.

Guilty are waits of at least 50 ms each, together at least 0.1 s and 5 % of the run, or 0.5 s in one piece.
Reported instead of ``blocking_network_call`` for the same wait. A loop that computes is not this, nor
one that waits in its selector.

**saves_s**: with the waits turned into awaits, what *gather* or *overlap* save (``blocking_network_call``);
without an engine all but the longest.
"""

from __future__ import annotations

from typing import Any

from whyidle_daemon.findings.evidence import Evidence, say, seconds
from whyidle_daemon.findings.waiting import (
    Waiting,
    grouped,
    idle_of,
    in_function,
    report_of,
    savings,
    who_waits,
)

MIN_NS = 100_000_000
MIN_SHARE = 0.05
MIN_LONGEST_NS = 500_000_000
_FIXES = {
    "network": "await an asyncio client (httpx.AsyncClient, aiohttp), or",
    "dns": "await loop.getaddrinfo, or",
    "sleep": "await asyncio.sleep instead, or",
    "lock": "use asyncio.Lock or asyncio.Queue between tasks, or",
    "child": "await asyncio.create_subprocess_exec, or",
    "disk": "",
    "local_ipc": "await asyncio streams, or",
}


def find(evidence: Evidence) -> list[dict[str, Any]]:
    """One finding for each line that blocks a loop, and peer."""
    blocked = grouped(
        (group for key, group in evidence.groups.items() if key.state in _FIXES and group.blocks_loop),
        lambda key: (key.place and key.place.where, key.state, key.end_text),
    )
    return [_finding(evidence, waiting) for waiting in blocked if _is_guilty(evidence, waiting)]


def _is_guilty(evidence: Evidence, waiting: Waiting) -> bool:
    ns = sum(group.long_ns for group in waiting.groups)
    if waiting.longest_ns >= MIN_LONGEST_NS:
        return True
    return ns >= max(MIN_NS, MIN_SHARE * evidence.wall_ns)


def _finding(evidence: Evidence, waiting: Waiting) -> dict[str, Any]:
    idle = idle_of(evidence, waiting)
    saves = waiting.blocked_ns - waiting.longest_ns
    doubts = []
    if idle is not None:
        saves = max(savings(waiting, idle))
    elif evidence.engines:
        doubts.append("the loop's thread drives no engine: what its tasks lost is not known")
    state = waiting.key.state
    peer = waiting.key.end_text
    what = {"network": f"for {peer or 'a peer that is not known'}", "sleep": "in a sleep"}.get(
        state, f"in state {state}"
    )
    count = sum(group.long_count for group in waiting.groups)
    return report_of(
        evidence,
        "event_loop_blocked",
        waiting,
        idle,
        doubts=doubts,
        count=count,
        saves_s=seconds(saves),
        waits_for=state,
        advice=(
            f"{who_waits(evidence, waiting.process, waiting.tid)} runs an asyncio loop and blocked it "
            f"{count} times, {say(waiting.blocked_ns)} in all,{in_function(waiting.place)}, waiting {what}: "
            f"{_FIXES[state]} move the call to a thread with asyncio.to_thread.".replace("  ", " ")
        ),
    )
